// How checkpoints arrange codes, zero points and scales that the canonical form (design.md,
// section 3) keeps as plain rows. A layout is a bijection between both, read by qload (decode) and
// written by qexport (encode): one file each, one line in layouts.def.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string_view>

namespace qp {

// What is arranged: a matrix of unsigned elements whose canonical rows are little-endian bit streams,
// each starting on a byte: element c of a row is bits [c * bits, (c + 1) * bits).
struct LayoutArgs {
  uint64_t rows = 0, cols = 0;
  int bits = 8;            // of an element in its canonical row
  int stored_bits = 8;     // of an element as stored; zero points are bytes here, fields there
  uint64_t bias = 0;       // element = stored field + bias
  bool is_signed = false;  // stored as two's complement: the element less half its range
  bool operator==(const LayoutArgs&) const = default;

  uint64_t row_bytes() const { return (cols * static_cast<uint64_t>(bits) + 7) / 8; }
};

struct Layout {
  std::string_view name;  // on disk in qmaps: never rename
  // Bytes of the whole matrix as stored, or nothing when this layout cannot hold it.
  std::optional<uint64_t> (*stored_bytes)(const LayoutArgs&);
  // encode() takes whole multiples of this many rows, but for the last ones: others share bytes.
  uint64_t (*row_unit)(const LayoutArgs&);
  // Rows [first, first + count) from and to the whole stored matrix. `rows` is dense, row_bytes()
  // each. encode() writes exactly the bytes that belong to these rows, padding included; rows of
  // different units may be encoded at the same time.
  void (*decode)(const LayoutArgs&, const std::byte* stored, uint64_t first, uint64_t count,
                 std::byte* rows);
  void (*encode)(const LayoutArgs&, const std::byte* rows, uint64_t first, uint64_t count,
                 std::byte* stored);
  // Rows are stored in their order, units one after the other: encoding some rows of a matrix is
  // encoding a matrix of them.
  bool contiguous = false;
};

const Layout* find_layout(std::string_view name);  // null when unknown
std::span<const Layout* const> layouts();

#define QP_LAYOUT(id) extern const Layout id##_layout;
#include "lib/layout/layouts.def"
#undef QP_LAYOUT

}  // namespace qp
