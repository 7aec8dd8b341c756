// row_pairs: 4-bit, [N / 2, K] bytes, row 2i in the low nibbles and row 2i + 1 in the high ones:
// ModelOpt's INT4 (reference/modelopt.md 1.7), ModelSlim's W4A8 (signed, both).
#include "lib/layout/bits.h"

namespace qp {
namespace {

using namespace layout;

std::optional<uint64_t> bytes(const LayoutArgs& a) {
  if (a.bits != 4 || a.stored_bits != 4 || a.bias != 0 || a.rows % 2 != 0) return std::nullopt;
  return checked_mul(a.rows / 2, a.cols);
}

void decode(const LayoutArgs& a, const std::byte* stored, uint64_t first, uint64_t count,
            std::byte* rows) {
  auto flip = static_cast<std::byte>(half(a) * 0x11);
  for (uint64_t r = first; r < first + count; ++r) {
    std::byte* row = rows + (r - first) * a.row_bytes();
    const std::byte* in = stored + r / 2 * a.cols;
    int shift = r % 2 == 0 ? 0 : 4;
    for (uint64_t c = 0; c < a.cols; c += 2) {
      std::byte low = in[c] >> shift & std::byte{15};
      std::byte high = c + 1 < a.cols ? in[c + 1] >> shift << 4 : std::byte{0};
      std::byte both = (low | high) ^ flip;
      row[c / 2] = c + 1 < a.cols ? both : both & std::byte{15};
    }
  }
}

void encode(const LayoutArgs& a, const std::byte* rows, uint64_t first, uint64_t count,
            std::byte* stored) {
  auto flip = static_cast<std::byte>(half(a) * 0x11);
  for (uint64_t r = 0; r < count; r += 2) {
    const std::byte *even = rows + r * a.row_bytes(), *odd = even + a.row_bytes();
    std::byte* out = stored + (first + r) / 2 * a.cols;
    for (uint64_t c = 0; c < a.cols; ++c) {
      int shift = c % 2 == 0 ? 0 : 4;
      out[c] = ((even[c / 2] >> shift & std::byte{15}) | odd[c / 2] >> shift << 4) ^ flip;
    }
  }
}
uint64_t unit(const LayoutArgs&) { return 2; }

}  // namespace

const Layout row_pairs_layout = {"row_pairs", bytes, unit, decode, encode, true};

}  // namespace qp
