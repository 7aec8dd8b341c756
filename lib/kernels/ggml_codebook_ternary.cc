// IQ1_S, IQ1_M: points of a lattice of -1, 0, 1, all shifted by 1/8 up or down.
#include <algorithm>

#include "lib/kernels/ggml_codebook_block.h"
#include "lib/kernels/ggml_codebook_search.h"

namespace qp {
namespace {

using kernels::Codebook;

constexpr float kShift = 0.125f;
float shift_of(int down, size_t group) {
  return (down >> (group != 0 ? 1 : 0) & 1) != 0 ? -kShift : kShift;
}

// Element e of a point as a number.
float number(uint32_t code, size_t e, float shift) {
  return static_cast<float>(static_cast<int>(code >> (2 * e) & 3) - 1) + shift;
}

struct Fit {
  float scale = 0;
  int down = 0;            // as in kernels::Split
  uint16_t codes[4] = {};  // 0 is on the book, and the first point
};

// The points of a sub-block of n elements.
template <size_t n>
Fit fit(const kernels::CodebookTable& kernels, const Codebook& book, const float* x,
        const float* w) {
  kernels::Split split = (n == 32 ? kernels.split_32 : kernels.split_16)(x, w);
  if (!split.found) return {};
  Fit out{split.scale, split.down, {}};
  for (size_t k = 0; k < n / 8; ++k) out.codes[k] = split.codes[k];
  bool off = false;
  for (size_t k = 0; k < n / 8; ++k) {
    if (book.on_book(out.codes[k])) continue;
    off = true;
    float shift = n == 32 ? shift_of(out.down, 0) : shift_of(out.down, k);
    out.codes[k] =
        kernels.nearest_ternary(book, out.codes[k], x + 8 * k, w + 8 * k, out.scale, shift);
  }
  if (!off) return out;
  float qx = 0, q2 = 0;
  for (size_t i = 0; i < n; ++i) {
    float q = number(out.codes[i / 8], i % 8,
                     n == 32 ? shift_of(out.down, 0) : shift_of(out.down, i / 8));
    qx += w[i] * q * x[i];
    q2 += w[i] * q * q;
  }
  if (qx > 0 && q2 > 0) out.scale = qx / q2;
  return out;
}

// All sub-blocks; the largest of their scales.
template <size_t n>
float fit_block(const float* x, const float* w, float least, Fit (&fits)[kSuper / n]) {
  const kernels::CodebookTable& kernels = kernels::codebook_kernels();
  const Codebook& book = kernels::codebook(kernels::Book::iq1);
  float most = 0;
  for (size_t p = 0; p < kSuper / n; ++p) {
    float largest = 0;
    for (size_t i = 0; i < n; ++i) largest = std::max(largest, std::fabs(x[p * n + i]));
    fits[p] = {};
    if (largest < least) continue;
    fits[p] = fit<n>(kernels, book, x + p * n, w + p * n);
    most = most > fits[p].scale ? most : fits[p].scale;
  }
  return most;
}

uint32_t index_of(uint16_t code) { return kernels::codebook(kernels::Book::iq1).index(code); }

void iq1_s(const float* x, float squares, const float* importance, uint8_t* out) {
  kernels::WeighedBlock weighed;
  kernels::codebook_kernels().weigh(x, importance, 2 * squares / kSuper, 0, false, &weighed);
  const float* w = weighed.w;
  Fit fits[8];
  float most = fit_block<32>(x, w, 1e-12f, fits);
  float d = most / 15, id = 1 / d;
  if (most != 0) store_little(out, f32_to_f16(d * 1.125f));
  for (size_t p = 0; p < 8; ++p) {
    uint32_t high = 0;
    for (size_t k = 0; k < 4; ++k) {
      uint32_t index = index_of(fits[p].codes[k]);
      out[2 + 4 * p + k] = static_cast<uint8_t>(index);
      high |= index >> 8 << (3 * k);
    }
    if (most != 0) {
      high |= scale_code(id, fits[p].scale, 7) << 12 | (fits[p].down != 0 ? 0x8000u : 0);
    }
    store_little(out + 34 + 2 * p, static_cast<uint16_t>(high));
  }
}

void iq1_m(const float* x, float squares, const float* importance, uint8_t* out) {
  kernels::WeighedBlock weighed;
  kernels::codebook_kernels().weigh(x, importance, 2 * squares / kSuper, 0, false, &weighed);
  const float* w = weighed.w;
  Fit fits[16];
  float most = fit_block<16>(x, w, 1e-7f, fits);
  for (size_t p = 0; p < 16; ++p) {
    for (size_t k = 0; k < 2; ++k) {
      uint32_t index = index_of(fits[p].codes[k]);
      out[2 * p + k] = static_cast<uint8_t>(index);
      out[32 + p] |= static_cast<uint8_t>(index >> 8 << (4 * k));
    }
  }
  if (most == 0) return;
  float d = most / 15, id = 1 / d, qx = 0, q2 = 0;
  uint32_t scales[4] = {};
  for (size_t p = 0; p < 16; ++p) {
    uint32_t code = scale_code(id, fits[p].scale, 7);
    scales[p / 4] |= code << (3 * (p % 4));
    out[32 + p] |= static_cast<uint8_t>((fits[p].down & 1) << 3 | (fits[p].down & 2) << 6);
    for (size_t i = 0; i < 16; ++i) {
      float q = number(fits[p].codes[i / 8], i % 8, shift_of(fits[p].down, i / 8)) *
                static_cast<float>(2 * code + 1);
      float own = w[16 * p + i];
      qx += own * q * x[16 * p + i];
      q2 += own * q * q;
    }
  }
  if (q2 > 0) d = qx / q2;
  uint32_t bits = f32_to_f16(d * 1.1125f);
  for (size_t k = 0; k < 4; ++k) {
    store_little(out + 48 + 2 * k, static_cast<uint16_t>(scales[k] | (bits >> (4 * k) & 15) << 12));
  }
}

}  // namespace

const QuantizeRows kQuantizeIq1S = quantize_blocks<50, iq1_s>,
                   kQuantizeIq1M = quantize_blocks<56, iq1_m>;

}  // namespace qp
