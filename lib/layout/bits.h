// Elements of little-endian bit streams, and what layouts share.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>

#include "lib/base/checked.h"
#include "lib/layout/layout.h"

namespace qp::layout {

inline uint32_t load32(const std::byte* at) {
  uint32_t v;
  std::memcpy(&v, at, 4);
  return v;
}
inline void store32(std::byte* at, uint32_t v) { std::memcpy(at, &v, 4); }

// Element i of a stream of `bits` (1..32) wide elements. Touches no byte outside the element.
inline uint32_t get(const std::byte* row, uint64_t i, int bits) {
  uint64_t at = i * static_cast<uint64_t>(bits), byte = at / 8, value = 0;
  auto shift = static_cast<int>(at % 8);
  for (int have = 0; have < shift + bits; have += 8) {
    value |= std::to_integer<uint64_t>(row[byte++]) << have;
  }
  return static_cast<uint32_t>(value >> shift & ((uint64_t{1} << bits) - 1));
}
// Sets it; the bytes around must hold what they are to hold.
inline void set(std::byte* row, uint64_t i, int bits, uint32_t element) {
  uint64_t at = i * static_cast<uint64_t>(bits), byte = at / 8;
  auto shift = static_cast<int>(at % 8);
  uint64_t mask = ((uint64_t{1} << bits) - 1) << shift, value = uint64_t{element} << shift & mask;
  for (int have = 0; have < shift + bits; have += 8, ++byte) {
    auto keep = ~static_cast<std::byte>(mask >> have);
    row[byte] = (row[byte] & keep) | static_cast<std::byte>(value >> have);
  }
}

// Between an element and the field that stores it.
inline uint32_t half(const LayoutArgs& a) {
  return a.is_signed ? uint32_t{1} << (a.stored_bits - 1) : 0;
}
inline uint32_t field_mask(const LayoutArgs& a) {
  return static_cast<uint32_t>((uint64_t{1} << a.stored_bits) - 1);
}
inline uint32_t to_field(const LayoutArgs& a, uint32_t element) {
  return ((element - static_cast<uint32_t>(a.bias)) ^ half(a)) & field_mask(a);
}
// The sum is not cut: a v1 zero point of 16 is one that 4 bits cannot hold.
inline uint32_t from_field(const LayoutArgs& a, uint32_t field) {
  return (field ^ half(a)) + static_cast<uint32_t>(a.bias);
}

// A layout of 4-bit codes that says only where each stands: nibble Place(args, row, col) of the
// stored matrix. The layout's decode and encode.
template <uint64_t (*Place)(const LayoutArgs&, uint64_t row, uint64_t col)>
struct Nibbles {
  static void decode(const LayoutArgs& a, const std::byte* stored, uint64_t first, uint64_t count,
                     std::byte* rows) {
    for (uint64_t r = 0; r < count; ++r) {
      std::byte* row = rows + r * a.row_bytes();
      for (uint64_t c = 0; c < a.cols; ++c) set(row, c, 4, get(stored, Place(a, first + r, c), 4));
    }
  }
  static void encode(const LayoutArgs& a, const std::byte* rows, uint64_t first, uint64_t count,
                     std::byte* stored) {
    for (uint64_t r = 0; r < count; ++r) {
      const std::byte* row = rows + r * a.row_bytes();
      for (uint64_t c = 0; c < a.cols; ++c) set(stored, Place(a, first + r, c), 4, get(row, c, 4));
    }
  }
};
// Whether the codes are 4 bits as they are, which is all that Nibbles arranges.
inline bool plain_nibbles(const LayoutArgs& a) {
  return a.bits == 4 && a.stored_bits == 4 && a.bias == 0 && !a.is_signed;
}

// Bytes of rows x words 32-bit words; nothing on overflow.
inline std::optional<uint64_t> words32(std::optional<uint64_t> rows,
                                       std::optional<uint64_t> words) {
  auto n = rows && words ? checked_mul(*rows, *words) : std::nullopt;
  return n ? checked_mul(*n, 4) : std::nullopt;
}
// ceil(elements * bits / 32), and nothing on overflow.
inline std::optional<uint64_t> words_of(uint64_t elements, int bits) {
  auto n = checked_mul(elements, static_cast<uint64_t>(bits));
  return n ? std::optional(ceil_div(*n, 32)) : std::nullopt;
}

inline uint64_t one_row(const LayoutArgs&) { return 1; }
inline uint64_t all_rows(const LayoutArgs& a) { return a.rows == 0 ? 1 : a.rows; }

}  // namespace qp::layout
