// AWQ's gemm version (reference/int4-formats.md 1.3). awq: qweight, [K, N * b / 32] words along N:
// field i of word c has output channel 8c + order[i] (4 bits); 8-bit words (4 channels) are in
// plain order. awq_zeros: qzeros, the same with groups for K. Quark's int4 groups are signed.
#include <algorithm>
#include <array>

#include "lib/layout/bits.h"

namespace qp {
namespace {

using namespace layout;

constexpr std::array<uint64_t, 8> kOrder = {0, 2, 4, 6, 1, 3, 5, 7};

uint64_t per_word(const LayoutArgs& a) { return static_cast<uint64_t>(32 / a.stored_bits); }
uint64_t channel(const LayoutArgs& a, uint64_t field) {
  return a.stored_bits == 4 ? kOrder[field] : field;
}

bool holds(const LayoutArgs& a) {
  bool width = a.stored_bits == 4 || a.stored_bits == 8;
  return width && a.bias == 0 && a.rows % (a.stored_bits == 4 ? 8u : 4u) == 0;
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

// Nibbles 0 .. 7 become 0, 2, 4, 6, 1, 3, 5, 7 (kOrder), and back.
uint32_t even_nibbles(uint32_t w) {
  w &= 0x0F0F0F0F;
  w = (w | w >> 4) & 0x00FF00FF;
  return (w | w >> 8) & 0xFFFF;
}
uint32_t spread_nibbles(uint32_t w) {
  w = (w | w << 8) & 0x00FF00FF;
  return (w | w << 4) & 0x0F0F0F0F;
}
void interleave(Block& b) {
  for (auto& words : b) {
    for (uint32_t& w : words) w = even_nibbles(w) | even_nibbles(w >> 4) << 16;
  }
}
void deinterleave(Block& b) {
  for (auto& words : b) {
    for (uint32_t& w : words) w = spread_nibbles(w & 0xFFFF) | spread_nibbles(w >> 16) << 4;
  }
}

// Up to 64 rows, whole eights of them, from `first` on: eight neighbours of a stored line at a
// time, so that lines are touched in pieces of 32 bytes.
constexpr uint64_t kTogether = 64;
void encode4(const LayoutArgs& a, uint64_t first, uint64_t count, const std::byte* rows,
             std::byte* stored) {
  uint64_t words = a.cols / 8, line = a.rows / 8 * 4, eights = count / 8;
  uint32_t tile[8 * kLanes][kTogether / 8];
  for (uint64_t w = 0; w < words; w += kLanes) {
    uint64_t n = std::min(kLanes, words - w);
    for (uint64_t e = 0; e < eights; ++e) {
      Block b{};
      for (uint64_t r = 0; r < 8; ++r) {
        std::memcpy(b[r].data(), rows + (e * 8 + r) * a.row_bytes() + w * 4, n * 4);
      }
      transpose_nibbles(b);
      interleave(b);
      for (uint64_t l = 0; l < n; ++l) {
        for (uint64_t r = 0; r < 8; ++r) tile[l * 8 + r][e] = b[r][l];
      }
    }
    for (uint64_t i = 0; i < n * 8; ++i) {
      std::memcpy(stored + (w * 8 + i) * line + first / 8 * 4, tile[i], eights * 4);
    }
  }
}

void decode4(const LayoutArgs& a, uint64_t first, uint64_t count, const std::byte* stored,
             std::byte* rows) {
  uint64_t words = a.cols / 8, line = a.rows / 8 * 4, eights = count / 8;
  uint32_t tile[8 * kLanes][kTogether / 8];
  for (uint64_t w = 0; w < words; w += kLanes) {
    uint64_t n = std::min(kLanes, words - w);
    for (uint64_t i = 0; i < n * 8; ++i) {
      std::memcpy(tile[i], stored + (w * 8 + i) * line + first / 8 * 4, eights * 4);
    }
    for (uint64_t e = 0; e < eights; ++e) {
      Block b{};
      for (uint64_t l = 0; l < n; ++l) {
        for (uint64_t r = 0; r < 8; ++r) b[r][l] = tile[l * 8 + r][e];
      }
      deinterleave(b);
      transpose_nibbles(b);
      for (uint64_t r = 0; r < 8; ++r) {
        std::memcpy(rows + (e * 8 + r) * a.row_bytes() + w * 4, b[r].data(), n * 4);
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

void decode_all(const LayoutArgs& a, const std::byte* stored, uint64_t first, uint64_t count,
                std::byte* rows) {
  uint64_t r = first, end = first + count;
  bool blocks = a.bits == 4 && a.cols % 8 == 0;
  while (r < end) {
    std::byte* to = rows + (r - first) * a.row_bytes();
    if (blocks && r % 8 == 0 && end - r >= 8) {
      uint64_t n = std::min(kTogether, (end - r) / 8 * 8);
      decode4(a, r, n, stored, to);
      r += n;
    } else {
      if (a.row_bytes() > 0) to[a.row_bytes() - 1] = std::byte{0};
      decode_row(a, stored, r++, to);
    }
  }
}

void encode_all(const LayoutArgs& a, const std::byte* rows, uint64_t first, uint64_t count,
                std::byte* stored) {
  uint64_t unit = per_word(a), line = a.rows / unit * 4;
  bool blocks = a.bits == 4 && a.cols % 8 == 0;
  if (blocks) {
    for (uint64_t r = 0; r < count; r += kTogether) {
      encode4(a, first + r, std::min(kTogether, count - r), rows + r * a.row_bytes(), stored);
    }
    return;
  }
  for (uint64_t r = 0; r < count; r += unit) {
    const std::byte* from = rows + r * a.row_bytes();
    for (uint64_t k = 0; k < a.cols; ++k) {
      uint32_t w = 0;
      for (uint64_t i = 0; i < unit; ++i) {
        w |= get(from + channel(a, i) * a.row_bytes(), k, a.bits)
             << (i * static_cast<uint64_t>(a.stored_bits));
      }
      store32(stored + k * line + (first + r) / unit * 4, w);
    }
  }
}

// The upper bit of every field: two's complement (Quark's int4 groups) and back.
std::byte flip(const LayoutArgs& a) { return std::byte(a.stored_bits == 4 ? 0x88 : 0x80); }

void decode(const LayoutArgs& a, const std::byte* stored, uint64_t first, uint64_t count,
            std::byte* rows) {
  decode_all(a, stored, first, count, rows);
  if (!a.is_signed) return;
  uint64_t n = a.row_bytes();
  for (uint64_t i = 0; i < count * n; ++i) {
    bool half = a.bits == 4 && a.cols % 2 != 0 && i % n == n - 1;
    rows[i] ^= half ? std::byte{0x08} : flip(a);
  }
}

void encode(const LayoutArgs& a, const std::byte* rows, uint64_t first, uint64_t count,
            std::byte* stored) {
  encode_all(a, rows, first, count, stored);
  if (!a.is_signed) return;
  uint64_t unit = per_word(a), line = a.rows / unit * 4;
  for (uint64_t k = 0; k < a.cols; ++k) {
    std::byte* at = stored + k * line + first / unit * 4;
    for (uint64_t i = 0; i < ceil_div(count, unit) * 4; ++i) at[i] ^= flip(a);
  }
}

std::optional<uint64_t> zeros_bytes(const LayoutArgs& a) {
  if (!holds(a) || a.bits != 8 || a.is_signed) return std::nullopt;
  return words32(a.cols, words_of(a.rows, a.stored_bits));
}

uint64_t unit(const LayoutArgs& a) { return per_word(a); }

}  // namespace

const Layout awq_layout = {"awq", bytes, unit, decode, encode};
const Layout awq_zeros_layout = {"awq_zeros", zeros_bytes, unit, decode, encode};

}  // namespace qp
