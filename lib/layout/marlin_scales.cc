// marlin_scales: the scales beside codes in layout marlin, 16-bit floats [K / g, N] whose columns are
// permuted in runs of 64, or of 32 where one group is the whole row (reference/int4-formats.md 1.6).
#include <array>

#include "lib/layout/bits.h"

namespace qp {
namespace {

using namespace layout;

uint64_t run(const LayoutArgs& a) { return a.cols == 1 ? 32 : 64; }

// The column that entry i of a run holds.
uint64_t column(const LayoutArgs& a, uint64_t i) {
  constexpr std::array<uint64_t, 8> kSingle = {0, 1, 8, 9, 16, 17, 24, 25};
  return a.cols == 1 ? 2 * (i / 8) + kSingle[i % 8] : i / 8 + 8 * (i % 8);
}

std::optional<uint64_t> bytes(const LayoutArgs& a) {
  bool plain = a.bits == 16 && a.stored_bits == 16 && a.bias == 0 && !a.is_signed;
  if (!plain || a.rows % run(a) != 0) return std::nullopt;
  return checked_mul(a.rows, a.row_bytes());
}

// Where the scale of (row, group) stands, in elements.
uint64_t place(const LayoutArgs& a, uint64_t row, uint64_t group) {
  uint64_t in = row % run(a), i = 0;
  while (column(a, i) != in) ++i;
  return group * a.rows + row - in + i;
}

void decode(const LayoutArgs& a, const std::byte* stored, uint64_t first, uint64_t count,
            std::byte* rows) {
  for (uint64_t r = 0; r < count; ++r) {
    for (uint64_t g = 0; g < a.cols; ++g) {
      std::memcpy(rows + (r * a.cols + g) * 2, stored + place(a, first + r, g) * 2, 2);
    }
  }
}
void encode(const LayoutArgs& a, const std::byte* rows, uint64_t first, uint64_t count,
            std::byte* stored) {
  for (uint64_t r = 0; r < count; ++r) {
    for (uint64_t g = 0; g < a.cols; ++g) {
      std::memcpy(stored + place(a, first + r, g) * 2, rows + (r * a.cols + g) * 2, 2);
    }
  }
}

}  // namespace

const Layout marlin_scales_layout = {"marlin_scales", bytes, one_row, decode, encode};

}  // namespace qp
