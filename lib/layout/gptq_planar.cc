// gptq_planar: GPTQModel's `gptq_p` (reference/int4-formats.md 1.1): of every 32 codes of a column
// come b words, the code cut into planes of 4, 2 or 1 bits, low plane first; [K * b / 32, N] words.
// gptq_planar_zeros: qzeros of the same, [G, N * b / 32], 32 channels to b words side by side.
#include <array>

#include "lib/layout/bits.h"

namespace qp {
namespace {

using namespace layout;

struct Planes {
  int n;
  std::array<int, 3> width;
};
Planes planes_of(int bits) {
  switch (bits) {
    case 3: return {2, {2, 1, 0}};
    case 5: return {2, {4, 1, 0}};
    case 6: return {2, {4, 2, 0}};
    case 7: return {3, {4, 2, 1}};
    default: return {1, {bits, 0, 0}};
  }
}

std::optional<uint64_t> bytes(const LayoutArgs& a) {
  bool plain = a.bits == a.stored_bits && a.bias == 0 && !a.is_signed;
  if (!plain || a.bits < 2 || a.bits > 8 || a.cols % 32 != 0) return std::nullopt;
  return words32(words_of(a.cols, a.bits), a.rows);
}

// Calls f(code, row of words, shift, width, shift in the code) for each piece of 32 codes.
template <class F>
void each_piece(int bits, F f) {
  Planes p = planes_of(bits);
  int word = 0, low = 0;
  for (int k = 0; k < p.n; ++k) {
    int width = p.width[static_cast<size_t>(k)], per_word = 32 / width;
    for (int code = 0; code < 32; ++code) {
      f(static_cast<uint64_t>(code), static_cast<uint64_t>(word + code / per_word),
        code % per_word * width, width, low);
    }
    word += width;
    low += width;
  }
}

void decode(const LayoutArgs& a, const std::byte* stored, uint64_t first, uint64_t count,
            std::byte* rows) {
  auto bits = static_cast<uint64_t>(a.bits);
  for (uint64_t r = 0; r < count; ++r) {
    std::byte* row = rows + r * a.row_bytes();
    for (uint64_t k = 0; k < a.cols; k += 32) {
      uint32_t codes[32] = {};
      each_piece(a.bits, [&](uint64_t code, uint64_t word, int shift, int width, int low) {
        uint32_t w = load32(stored + ((k * bits / 32 + word) * a.rows + first + r) * 4);
        codes[code] |= (w >> shift & ((1u << width) - 1)) << low;
      });
      for (uint64_t i = 0; i < 32; ++i) set(row, k + i, a.bits, codes[i]);
    }
  }
}

void encode(const LayoutArgs& a, const std::byte* rows, uint64_t first, uint64_t count,
            std::byte* stored) {
  auto bits = static_cast<uint64_t>(a.bits);
  for (uint64_t r = 0; r < count; ++r) {
    const std::byte* row = rows + r * a.row_bytes();
    for (uint64_t k = 0; k < a.cols; k += 32) {
      uint32_t words[8] = {};
      each_piece(a.bits, [&](uint64_t code, uint64_t word, int shift, int width, int low) {
        words[word] |= (get(row, k + code, a.bits) >> low & ((1u << width) - 1)) << shift;
      });
      for (uint64_t w = 0; w < bits; ++w) {
        store32(stored + ((k * bits / 32 + w) * a.rows + first + r) * 4, words[w]);
      }
    }
  }
}

// The matrix of zero points is [N, G] bytes.
std::optional<uint64_t> zeros_bytes(const LayoutArgs& a) {
  bool plain = a.bits == 8 && a.bias == 0 && !a.is_signed && a.stored_bits >= 2 && a.stored_bits <= 8;
  if (!plain || a.rows % 32 != 0) return std::nullopt;
  return words32(words_of(a.rows, a.stored_bits), a.cols);
}
std::byte* zeros_block(const LayoutArgs& a, std::byte* stored, uint64_t group, uint64_t row) {
  auto bits = static_cast<uint64_t>(a.stored_bits);
  return stored + (group * (a.rows / 32) + row / 32) * bits * 4;
}
void zeros_decode(const LayoutArgs& a, const std::byte* stored, uint64_t first, uint64_t count,
                  std::byte* rows) {
  std::memset(rows, 0, count * a.cols);
  uint64_t begin = first / 32 * 32;
  for (uint64_t g = 0; g < a.cols; ++g) {
    for (uint64_t n = begin; n < first + count; n += 32) {
      const std::byte* words = zeros_block(a, const_cast<std::byte*>(stored), g, n);  // only read
      each_piece(a.stored_bits, [&](uint64_t code, uint64_t word, int shift, int width, int low) {
        if (n + code < first || n + code >= first + count) return;
        uint32_t piece = (load32(words + word * 4) >> shift & ((1u << width) - 1)) << low;
        rows[(n + code - first) * a.cols + g] |= static_cast<std::byte>(piece);
      });
    }
  }
}
void zeros_encode(const LayoutArgs& a, const std::byte* rows, uint64_t first, uint64_t count,
                  std::byte* stored) {
  for (uint64_t g = 0; g < a.cols; ++g) {
    for (uint64_t n = 0; n < count; n += 32) {
      std::byte* words = zeros_block(a, stored, g, first + n);
      uint32_t made[8] = {};
      each_piece(a.stored_bits, [&](uint64_t code, uint64_t word, int shift, int width, int low) {
        auto z = std::to_integer<uint32_t>(rows[(n + code) * a.cols + g]);
        made[word] |= (z >> low & ((1u << width) - 1)) << shift;
      });
      for (uint64_t w = 0; w < static_cast<uint64_t>(a.stored_bits); ++w) store32(words + w * 4, made[w]);
    }
  }
}
uint64_t zeros_unit(const LayoutArgs&) { return 32; }

}  // namespace

const Layout gptq_planar_zeros_layout = {"gptq_planar_zeros", zeros_bytes, zeros_unit, zeros_decode, zeros_encode};
const Layout gptq_planar_layout = {"gptq_planar", bytes, one_row, decode, encode};

}  // namespace qp
