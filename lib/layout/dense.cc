// dense: rows one after the other, as in the canonical form, possibly signed (compressed-tensors'
// int8, torchao's int4: two's complement). words: the same, each row filled up with zeros to whole
// 32-bit words (compressed-tensors' weight_packed, AWQ's gemv). whole_words: as many codes as fit a
// word, its top bits zero where the width does not divide 32 (compressed-tensors 0.17).
#include "lib/layout/bits.h"

namespace qp {
namespace {

using namespace layout;

// A byte of elements whose upper bits are all flipped: two's complement and back.
std::byte flip_of(const LayoutArgs& a) {
  if (!a.is_signed) return std::byte{0};
  switch (a.bits) {
    case 8: return std::byte{0x80};
    case 4: return std::byte{0x88};
    default: return std::byte{0xAA};
  }
}

bool flips(const LayoutArgs& a) {
  return a.bits == a.stored_bits && a.bias == 0 &&
         (!a.is_signed || a.bits == 8 || a.bits == 4 || a.bits == 2);
}

void copy(const LayoutArgs& a, const std::byte* in, uint64_t n, std::byte* out) {
  std::byte flip = flip_of(a);
  if (!a.is_signed) {
    if (n > 0) std::memcpy(out, in, n);
    return;
  }
  for (uint64_t i = 0; i < n; ++i) out[i] = in[i] ^ flip;
}

std::optional<uint64_t> dense_bytes(const LayoutArgs& a) {
  return flips(a) ? checked_mul(a.rows, a.row_bytes()) : std::nullopt;
}
void dense_decode(const LayoutArgs& a, const std::byte* stored, uint64_t first, uint64_t count,
                  std::byte* rows) {
  copy(a, stored + first * a.row_bytes(), count * a.row_bytes(), rows);
}
void dense_encode(const LayoutArgs& a, const std::byte* rows, uint64_t first, uint64_t count,
                  std::byte* stored) {
  copy(a, rows, count * a.row_bytes(), stored + first * a.row_bytes());
}

uint64_t stride(const LayoutArgs& a) { return ceil_div(a.row_bytes(), 4) * 4; }

std::optional<uint64_t> words_bytes(const LayoutArgs& a) {
  return flips(a) ? checked_mul(a.rows, stride(a)) : std::nullopt;
}
void words_decode(const LayoutArgs& a, const std::byte* stored, uint64_t first, uint64_t count,
                  std::byte* rows) {
  for (uint64_t r = 0; r < count; ++r) {
    copy(a, stored + (first + r) * stride(a), a.row_bytes(), rows + r * a.row_bytes());
  }
}
void words_encode(const LayoutArgs& a, const std::byte* rows, uint64_t first, uint64_t count,
                  std::byte* stored) {
  for (uint64_t r = 0; r < count; ++r) {
    std::byte* out = stored + (first + r) * stride(a);
    copy(a, rows + r * a.row_bytes(), a.row_bytes(), out);
    std::memset(out + a.row_bytes(), 0, stride(a) - a.row_bytes());
  }
}

uint64_t per_word(const LayoutArgs& a) { return 32 / static_cast<uint64_t>(a.bits); }

std::optional<uint64_t> whole_bytes(const LayoutArgs& a) {
  bool plain = a.bits == a.stored_bits && a.bias == 0 && !a.is_signed && a.bits >= 1 && a.bits <= 8;
  return plain ? words32(a.rows, ceil_div(a.cols, per_word(a))) : std::nullopt;
}
void whole_decode(const LayoutArgs& a, const std::byte* stored, uint64_t first, uint64_t count,
                  std::byte* rows) {
  uint64_t words = ceil_div(a.cols, per_word(a));
  std::memset(rows, 0, count * a.row_bytes());
  for (uint64_t r = 0; r < count; ++r) {
    for (uint64_t c = 0; c < a.cols; ++c) {
      uint32_t word = load32(stored + ((first + r) * words + c / per_word(a)) * 4);
      uint32_t shift = static_cast<uint32_t>(c % per_word(a)) * static_cast<uint32_t>(a.bits);
      set(rows + r * a.row_bytes(), c, a.bits, word >> shift & field_mask(a));
    }
  }
}
void whole_encode(const LayoutArgs& a, const std::byte* rows, uint64_t first, uint64_t count,
                  std::byte* stored) {
  uint64_t words = ceil_div(a.cols, per_word(a));
  for (uint64_t r = 0; r < count; ++r) {
    for (uint64_t w = 0; w < words; ++w) {
      uint32_t word = 0;
      for (uint64_t i = 0; i < per_word(a) && w * per_word(a) + i < a.cols; ++i) {
        word |= get(rows + r * a.row_bytes(), w * per_word(a) + i, a.bits)
                << (static_cast<uint32_t>(i) * static_cast<uint32_t>(a.bits));
      }
      store32(stored + ((first + r) * words + w) * 4, word);
    }
  }
}

}  // namespace

const Layout dense_layout = {"dense", dense_bytes, one_row, dense_decode, dense_encode, true};
const Layout words_layout = {"words", words_bytes, one_row, words_decode, words_encode, true};
const Layout whole_words_layout = {"whole_words", whole_bytes, one_row, whole_decode, whole_encode, true};

}  // namespace qp
