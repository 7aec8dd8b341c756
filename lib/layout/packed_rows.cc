// packed_rows: [ceil(rows * b / 32), cols] 32-bit words; column c is one bit stream along the rows.
// The zero points of compressed-tensors (reference/compressed-tensors.md 3.6).
#include "lib/layout/bits.h"

namespace qp {
namespace {

using namespace layout;

std::optional<uint64_t> bytes(const LayoutArgs& a) {
  if (a.bits != 8 || a.stored_bits < 1 || a.stored_bits > 8) return std::nullopt;
  return words32(words_of(a.rows, a.stored_bits), a.cols);
}

void decode(const LayoutArgs& a, const std::byte* stored, uint64_t first, uint64_t count,
            std::byte* rows) {
  auto bits = static_cast<uint64_t>(a.stored_bits);
  for (uint64_t r = first; r < first + count; ++r) {
    uint64_t w = r * bits / 32, shift = r * bits % 32;
    for (uint64_t c = 0; c < a.cols; ++c) {
      uint64_t v = load32(stored + (w * a.cols + c) * 4) >> shift;
      if (shift + bits > 32) v |= uint64_t{load32(stored + ((w + 1) * a.cols + c) * 4)} << (32 - shift);
      *rows++ = static_cast<std::byte>(from_field(a, static_cast<uint32_t>(v) & field_mask(a)));
    }
  }
}

void encode(const LayoutArgs& a, const std::byte* rows, uint64_t first, uint64_t count,
            std::byte* stored) {
  auto bits = static_cast<uint64_t>(a.stored_bits);
  std::memset(stored, 0, *bytes(a));
  for (uint64_t r = first; r < first + count; ++r) {
    uint64_t w = r * bits / 32, shift = r * bits % 32;
    for (uint64_t c = 0; c < a.cols; ++c) {
      uint64_t v = uint64_t{to_field(a, std::to_integer<uint32_t>(*rows++))} << shift;
      for (uint64_t k = w; v != 0; ++k, v >>= 32) {
        std::byte* at = stored + (k * a.cols + c) * 4;
        store32(at, load32(at) | static_cast<uint32_t>(v));
      }
    }
  }
}

}  // namespace

const Layout packed_rows_layout = {"packed_rows", bytes, all_rows, decode, encode};

}  // namespace qp
