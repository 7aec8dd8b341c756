// IQ2_XXS, IQ2_XS, IQ2_S, IQ3_XXS, IQ3_S: sizes are points of a lattice of odd numbers, signs
// apart.
#include <limits>

#include "lib/kernels/ggml_codebook_block.h"
#include "lib/kernels/ggml_codebook_search.h"

namespace qp {
namespace {

using kernels::Again;
using kernels::Book;

struct LatticeType {
  Book book;
  size_t part;       // elements of a sub-block
  bool even;         // each 8 have an even number of signs set, of which 7 are stored
  bool fit_largest;  // the largest number a sub-block can have is found first, not taken from it
  kernels::LatticeSearch search;
  float least;  // a sub-block without a size of at least this is zero
  float mean_factor;
  float mean_part;  // of the mean square in the weights without importance
};

constexpr LatticeType kIq2Xxs = {Book::iq2_xxs,         32,     true, true,
                                 {6, 0.1f, Again::all}, 1e-15f, 1,    0};
constexpr LatticeType kIq2Xs = {Book::iq2_xs, 16, true, false, {9, 0.1f, Again::off_book},
                                1e-15f,       1,  0};
constexpr LatticeType kIq2S = {Book::iq2_s, 16, false, false, {9, 0.1f, Again::off_book},
                               1e-8f,       2,  0.25f};
constexpr LatticeType kIq3Xxs = {Book::iq3_xxs, 32, true, false, {15, 0.2f, Again::off_book},
                                 1e-8f,         2,  0};
constexpr LatticeType kIq3S = {Book::iq3_s,
                               32,
                               false,
                               false,
                               {9, 0.2f, Again::all_if_off_book},
                               std::numeric_limits<float>::denorm_min(),
                               2,
                               0};

struct LatticeBlock {
  float scale[16] = {};  // of the sub-blocks
  bool zero[16] = {};
  uint32_t signs[32] = {};  // of 8 elements
  uint32_t index[64] = {};  // of the points
  float largest = 0;        // scale
};

LatticeBlock fit(const LatticeType& type, const float* x, float squares, const float* importance) {
  const kernels::CodebookTable& kernels = kernels::codebook_kernels();
  const kernels::Codebook& book = kernels::codebook(type.book);
  const size_t eights = type.part / 8, points = type.part / static_cast<size_t>(book.elements);
  kernels::WeighedBlock weighed;
  kernels.weigh(x, importance, type.mean_factor * squares / kSuper, type.mean_part, type.even,
                &weighed);
  LatticeBlock block;
  for (size_t p = 0; p < kSuper / type.part; ++p) {
    const float *size = weighed.size + p * type.part, *w = weighed.w + p * type.part;
    float largest = size[0];
    for (size_t i = 1; i < type.part; ++i) largest = largest > size[i] ? largest : size[i];
    block.zero[p] = largest < type.least;
    if (block.zero[p]) continue;
    float scale = largest / static_cast<float>(book.elements == 8 ? 5 : 15);
    if (type.fit_largest) {
      scale = kernels.positive_scale(size, w);
      largest = scale * 3;
      block.zero[p] = largest <= 0;
      if (block.zero[p]) continue;
    }
    kernels::LatticeFit found = kernels.fit(
        book, type.search, size, w, weighed.root + p * type.part, type.part, largest, scale);
    const bool negative = found.scale < 0;
    block.scale[p] = negative ? -found.scale : found.scale;
    for (size_t k = p * eights; k < (p + 1) * eights; ++k) {
      uint32_t signs = weighed.signs[k];
      block.signs[k] = (negative ? ~signs : signs) & (type.even ? 127 : 255);
    }
    for (size_t k = 0; k < points; ++k) block.index[p * points + k] = book.index(found.codes[k]);
    block.largest = block.largest > block.scale[p] ? block.largest : block.scale[p];
  }
  return block;
}

// The scale of the block, and the codes of those of its sub-blocks. `fudge`: what ggml multiplies
// the stored scale by.
void put_scale(const LatticeBlock& block, float fudge, uint8_t* out, uint32_t (&codes)[16]) {
  float d = block.largest / 31, id = 1 / d;
  store_little(out, f32_to_f16(d * fudge));
  for (size_t p = 0; p < 16; ++p) codes[p] = scale_code(id, block.scale[p], 15);
}

void put_nibbles(const uint32_t* codes, size_t n, uint8_t* out) {
  for (size_t p = 0; p < n; p += 2) out[p / 2] = static_cast<uint8_t>(codes[p] | codes[p + 1] << 4);
}

void iq2_xxs(const float* x, float squares, const float* importance, uint8_t* out) {
  LatticeBlock block = fit(kIq2Xxs, x, squares, importance);
  if (block.largest == 0) return;
  uint32_t codes[16];
  put_scale(block, 1, out, codes);
  for (size_t p = 0; p < 8; ++p) {
    uint32_t points = 0, signs = codes[p] << 28;
    for (size_t k = 0; k < 4; ++k) {
      points |= block.index[4 * p + k] << (8 * k);
      signs |= block.signs[4 * p + k] << (7 * k);
    }
    store_little(out + 2 + 8 * p, points);
    store_little(out + 6 + 8 * p, signs);
  }
}

void iq2_xs(const float* x, float squares, const float* importance, uint8_t* out) {
  LatticeBlock block = fit(kIq2Xs, x, squares, importance);
  if (block.largest == 0) return;
  uint32_t codes[16];
  put_scale(block, 1, out, codes);
  for (size_t k = 0; k < 32; ++k) {
    store_little(out + 2 + 2 * k, static_cast<uint16_t>(block.index[k] | block.signs[k] << 9));
  }
  put_nibbles(codes, 16, out + 66);
}

void iq2_s(const float* x, float squares, const float* importance, uint8_t* out) {
  LatticeBlock block = fit(kIq2S, x, squares, importance);
  for (size_t k = 0; k < 32; ++k) {
    out[2 + k] = static_cast<uint8_t>(block.index[k]);
    out[34 + k] = static_cast<uint8_t>(block.signs[k]);
    out[66 + k / 4] |= static_cast<uint8_t>(block.index[k] >> 8 << (2 * (k % 4)));
  }
  if (block.largest == 0) return;
  uint32_t codes[16];
  put_scale(block, 0.9875f, out, codes);
  put_nibbles(codes, 16, out + 74);
}

void iq3_xxs(const float* x, float squares, const float* importance, uint8_t* out) {
  LatticeBlock block = fit(kIq3Xxs, x, squares, importance);
  if (block.largest == 0) return;
  uint32_t codes[16];
  put_scale(block, 1.0125f, out, codes);
  for (size_t k = 0; k < 64; ++k) out[2 + k] = static_cast<uint8_t>(block.index[k]);
  for (size_t p = 0; p < 8; ++p) {
    uint32_t signs = codes[p] << 28;
    for (size_t k = 0; k < 4; ++k) signs |= block.signs[4 * p + k] << (7 * k);
    store_little(out + 66 + 4 * p, signs);
  }
}

void iq3_s(const float* x, float squares, const float* importance, uint8_t* out) {
  LatticeBlock block = fit(kIq3S, x, squares, importance);
  // ggml does not move on in points and signs after a sub-block of zeros: those of the sub-blocks
  // after it are stored too early (but not their high bits and scales), and the last ones are zero.
  size_t place = 0;
  for (size_t p = 0; p < 8; ++p) {
    if (block.zero[p]) continue;
    for (size_t k = 0; k < 8; ++k) {
      out[2 + 8 * place + k] = static_cast<uint8_t>(block.index[8 * p + k]);
      out[66 + p] |= static_cast<uint8_t>(block.index[8 * p + k] >> 8 << k);
    }
    for (size_t k = 0; k < 4; ++k) {
      out[74 + 4 * place + k] = static_cast<uint8_t>(block.signs[4 * p + k]);
    }
    ++place;
  }
  if (block.largest == 0) return;
  uint32_t codes[16];
  put_scale(block, 1.033f, out, codes);
  put_nibbles(codes, 8, out + 106);
}

}  // namespace

const QuantizeRows kQuantizeIq2Xxs = quantize_blocks<66, iq2_xxs>,
                   kQuantizeIq2Xs = quantize_blocks<74, iq2_xs>,
                   kQuantizeIq2S = quantize_blocks<82, iq2_s>,
                   kQuantizeIq3Xxs = quantize_blocks<98, iq3_xxs>,
                   kQuantizeIq3S = quantize_blocks<110, iq3_s>;

}  // namespace qp
