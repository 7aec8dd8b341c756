// AWQ's gemm version (reference/int4-formats.md 1.3). awq: qweight, [K, N * b / 32] words along N:
// field i of word c has output channel 8c + order[i] (4 bits); 8-bit words (4 channels) are in
// plain order. awq_zeros: qzeros, the same with groups for K.
#include <array>

#include "lib/layout/bits.h"

namespace qp {
namespace {

using namespace layout;

constexpr std::array<uint64_t, 8> kOrder = {0, 2, 4, 6, 1, 3, 5, 7};

uint64_t per_word(const LayoutArgs& a) { return static_cast<uint64_t>(32 / a.stored_bits); }
uint64_t channel(const LayoutArgs& a, uint64_t field) { return a.stored_bits == 4 ? kOrder[field] : field; }

bool holds(const LayoutArgs& a) {
  bool width = a.stored_bits == 4 || a.stored_bits == 8;
  return width && a.bias == 0 && !a.is_signed && a.rows % (a.stored_bits == 4 ? 8u : 4u) == 0;
}

std::optional<uint64_t> bytes(const LayoutArgs& a) {
  if (!holds(a) || a.bits != a.stored_bits) return std::nullopt;
  return words32(a.cols, words_of(a.rows, a.bits));
}

// Eight words of eight nibbles each as an 8x8 matrix, transposed; `Lanes` of them side by side.
constexpr uint64_t kLanes = 16;
using Block = std::array<std::array<uint32_t, kLanes>, 8>;
void transpose_nibbles(Block& b) {
  auto swap = [&](uint64_t distance, int shift, uint32_t mask) {
    for (uint64_t i = 0; i < 8; ++i) {
      if ((i & distance) != 0) continue;
      for (uint64_t l = 0; l < kLanes; ++l) {
        uint32_t t = ((b[i][l] >> shift) ^ b[i + distance][l]) & mask;
        b[i][l] ^= t << shift;
        b[i + distance][l] ^= t;
      }
    }
  };
  swap(4, 16, 0x0000FFFF);
  swap(2, 8, 0x00FF00FF);
  swap(1, 4, 0x0F0F0F0F);
}

// Nibbles in the order of channels to the order in which the word has them, and back.
uint32_t interleave(uint32_t w) {
  uint32_t out = 0;
  for (uint64_t i = 0; i < 8; ++i) out |= (w >> (4 * kOrder[i]) & 15) << (4 * i);
  return out;
}
uint32_t deinterleave(uint32_t w) {
  uint32_t out = 0;
  for (uint64_t i = 0; i < 8; ++i) out |= (w >> (4 * i) & 15) << (4 * kOrder[i]);
  return out;
}

// 8 rows from `first` on, canonical words to stored words or back, 16 words of a row at a time.
template <bool Encode>
void block4(const LayoutArgs& a, uint64_t first, std::byte* rows, std::byte* stored) {
  uint64_t words = a.cols / 8, line = a.rows / 8 * 4, at = first / 8 * 4;
  for (uint64_t w = 0; w < words; w += kLanes) {
    uint64_t n = std::min(kLanes, words - w);
    Block b{};
    for (uint64_t r = 0; r < 8; ++r) {
      if (Encode) {
        std::memcpy(b[r].data(), rows + r * a.row_bytes() + w * 4, n * 4);
        continue;
      }
      for (uint64_t l = 0; l < n; ++l) {
        b[r][l] = deinterleave(load32(stored + ((w + l) * 8 + r) * line + at));
      }
    }
    transpose_nibbles(b);
    for (uint64_t r = 0; r < 8; ++r) {
      if (!Encode) {
        std::memcpy(rows + r * a.row_bytes() + w * 4, b[r].data(), n * 4);
        continue;
      }
      for (uint64_t l = 0; l < n; ++l) {
        store32(stored + ((w + l) * 8 + r) * line + at, interleave(b[r][l]));
      }
    }
  }
}

// Any row, one element at a time.
void decode_row(const LayoutArgs& a, const std::byte* stored, uint64_t r, std::byte* row) {
  uint64_t line = a.rows / per_word(a) * 4, in = r % per_word(a), field = 0;
  while (channel(a, field) != in) ++field;
  for (uint64_t k = 0; k < a.cols; ++k) {
    uint32_t w = load32(stored + k * line + r / per_word(a) * 4);
    set(row, k, a.bits, w >> (field * static_cast<uint64_t>(a.stored_bits)) & field_mask(a));
  }
}

void decode(const LayoutArgs& a, const std::byte* stored, uint64_t first, uint64_t count,
            std::byte* rows) {
  uint64_t r = first, end = first + count;
  bool blocks = a.bits == 4 && a.cols % 8 == 0;
  while (r < end) {
    std::byte* to = rows + (r - first) * a.row_bytes();
    if (blocks && r % 8 == 0 && end - r >= 8) {
      // Rows are written only: the cast serves both directions of one template.
      block4<false>(a, r, to, const_cast<std::byte*>(stored));
      r += 8;
    } else {
      if (a.row_bytes() > 0) to[a.row_bytes() - 1] = std::byte{0};
      decode_row(a, stored, r++, to);
    }
  }
}

void encode(const LayoutArgs& a, const std::byte* rows, uint64_t first, uint64_t count,
            std::byte* stored) {
  uint64_t unit = per_word(a), line = a.rows / unit * 4;
  bool blocks = a.bits == 4 && a.cols % 8 == 0;
  for (uint64_t r = 0; r < count; r += unit) {
    const std::byte* from = rows + r * a.row_bytes();
    if (blocks) {
      block4<true>(a, first + r, const_cast<std::byte*>(from), stored);
      continue;
    }
    for (uint64_t k = 0; k < a.cols; ++k) {
      uint32_t w = 0;
      for (uint64_t i = 0; i < unit; ++i) {
        w |= get(from + channel(a, i) * a.row_bytes(), k, a.bits) << (i * static_cast<uint64_t>(a.stored_bits));
      }
      store32(stored + k * line + (first + r) / unit * 4, w);
    }
  }
}

std::optional<uint64_t> zeros_bytes(const LayoutArgs& a) {
  if (!holds(a) || a.bits != 8) return std::nullopt;
  return words32(a.cols, words_of(a.rows, a.stored_bits));
}

uint64_t unit(const LayoutArgs& a) { return per_word(a); }

}  // namespace

const Layout awq_layout = {"awq", bytes, unit, decode, encode};
const Layout awq_zeros_layout = {"awq_zeros", zeros_bytes, unit, decode, encode};

}  // namespace qp
