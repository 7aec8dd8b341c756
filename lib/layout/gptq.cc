// GPTQ (reference/int4-formats.md 1.1). gptq: qweight, [K * b / 32, N] words; since codes of a
// column are one little-endian stream along K, these are the canonical rows' words, transposed; so
// for 3 bits too. Codes of a column fill whole words. gptq_zeros: qzeros, [G, ceil(N * b / 32)], fields along N, bias 1 for v1.
// gptq_zeros_word: v1 as GPTQModel writes it for 2, 4, 8 bits, where the 1 is taken from whole words
// and a zero point of 0 borrows from its neighbour.
#include "lib/layout/transpose.h"

namespace qp {
namespace {

using namespace layout;

std::optional<uint64_t> bytes(const LayoutArgs& a) {
  bool plain = a.bits == a.stored_bits && a.bias == 0 && !a.is_signed;
  if (!plain || a.bits < 2 || a.bits > 8 || a.row_bytes() % 4 != 0) return std::nullopt;
  if (a.cols * static_cast<uint64_t>(a.bits) % 32 != 0) return std::nullopt;
  return words32(words_of(a.cols, a.bits), a.rows);
}
void decode(const LayoutArgs& a, const std::byte* stored, uint64_t first, uint64_t count,
            std::byte* rows) {
  transpose<uint32_t>(stored + first * 4, a.rows * 4, a.row_bytes() / 4, count, rows, a.row_bytes());
}
void encode(const LayoutArgs& a, const std::byte* rows, uint64_t first, uint64_t count,
            std::byte* stored) {
  transpose<uint32_t>(rows, a.row_bytes(), count, a.row_bytes() / 4, stored + first * 4, a.rows * 4);
}

// The matrix of zero points is [N, G] bytes.
uint64_t line_bytes(const LayoutArgs& a) { return *words_of(a.rows, a.stored_bits) * 4; }

std::optional<uint64_t> zeros_bytes(const LayoutArgs& a) {
  if (a.bits != 8 || a.stored_bits < 2 || a.stored_bits > 8 || a.is_signed || a.bias > 1) return std::nullopt;
  return words32(words_of(a.rows, a.stored_bits), a.cols);
}
void zeros_decode(const LayoutArgs& a, const std::byte* stored, uint64_t first, uint64_t count,
                  std::byte* rows) {
  for (uint64_t g = 0; g < a.cols; ++g) {
    const std::byte* line = stored + g * line_bytes(a);
    for (uint64_t r = 0; r < count; ++r) {
      rows[r * a.cols + g] = static_cast<std::byte>(from_field(a, get(line, first + r, a.stored_bits)));
    }
  }
}
void zeros_encode(const LayoutArgs& a, const std::byte* rows, uint64_t first, uint64_t count,
                  std::byte* stored) {
  std::memset(stored, 0, *zeros_bytes(a));
  for (uint64_t g = 0; g < a.cols; ++g) {
    std::byte* line = stored + g * line_bytes(a);
    for (uint64_t r = 0; r < count; ++r) {
      set(line, first + r, a.stored_bits, to_field(a, std::to_integer<uint32_t>(rows[r * a.cols + g])));
    }
  }
}

// 1 in every field of a word.
uint32_t ones(int bits) {
  uint32_t word = 0;
  for (int at = 0; at < 32; at += bits) word |= uint32_t{1} << at;
  return word;
}

std::optional<uint64_t> word_bytes(const LayoutArgs& a) {
  bool even = a.stored_bits == 2 || a.stored_bits == 4 || a.stored_bits == 8;
  return even && a.bias == 0 ? zeros_bytes(a) : std::nullopt;
}
void word_decode(const LayoutArgs& a, const std::byte* stored, uint64_t first, uint64_t count,
                 std::byte* rows) {
  auto per_word = static_cast<uint64_t>(32 / a.stored_bits);
  for (uint64_t g = 0; g < a.cols; ++g) {
    for (uint64_t r = 0; r < count; ++r) {
      uint64_t n = first + r;
      uint32_t word = load32(stored + g * line_bytes(a) + n / per_word * 4) + ones(a.stored_bits);
      uint32_t field = word >> (n % per_word * static_cast<uint64_t>(a.stored_bits)) & field_mask(a);
      rows[r * a.cols + g] = static_cast<std::byte>(field);
    }
  }
}
void word_encode(const LayoutArgs& a, const std::byte* rows, uint64_t first, uint64_t count,
                 std::byte* stored) {
  zeros_encode(a, rows, first, count, stored);
  uint64_t n = *zeros_bytes(a) / 4;
  for (uint64_t i = 0; i < n; ++i) store32(stored + 4 * i, load32(stored + 4 * i) - ones(a.stored_bits));
}

}  // namespace

const Layout gptq_layout = {"gptq", bytes, one_row, decode, encode};
const Layout gptq_zeros_layout = {"gptq_zeros", zeros_bytes, all_rows, zeros_decode, zeros_encode};
const Layout gptq_zeros_word_layout = {"gptq_zeros_word", word_bytes, all_rows, word_decode, word_encode};

}  // namespace qp
