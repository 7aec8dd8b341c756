// gptq_planar: GPTQModel's `gptq_p` (reference/int4-formats.md 1.1): of every 32 codes of a column
// come b words, the code cut into planes of 4, 2 or 1 bits, low plane first; [K * b / 32, N] words.
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

}  // namespace

const Layout gptq_planar_layout = {"gptq_planar", bytes, one_row, decode, encode};

}  // namespace qp
