// high_nibble: bitsandbytes' 4-bit codes, the matrix one stream, the even element in the high nibble
// (reference/int4-formats.md 1.4). bytes: one code a byte, of whatever width (torchao's
// IntxUnpackedToInt8, ModelSlim's W4A4), or signed zero points. reordered: Quark's 8 nibbles a word along K, nibble i
// holding element order[i] (reference/fp8-torchao-quark-modelslim.md 4.2).
#include <array>
#include <string>

#include "lib/base/error.h"
#include "lib/layout/bits.h"

namespace qp {
namespace {

using namespace layout;

std::optional<uint64_t> high_bytes(const LayoutArgs& a) {
  if (a.bits != 4 || a.stored_bits != 4 || a.bias != 0 || a.is_signed || a.cols % 2 != 0) return std::nullopt;
  return checked_mul(a.rows, a.row_bytes());
}
void swap_nibbles(const std::byte* in, uint64_t n, std::byte* out) {
  for (uint64_t i = 0; i < n; ++i) out[i] = in[i] >> 4 | in[i] << 4;
}
void high_decode(const LayoutArgs& a, const std::byte* stored, uint64_t first, uint64_t count,
                 std::byte* rows) {
  swap_nibbles(stored + first * a.row_bytes(), count * a.row_bytes(), rows);
}
void high_encode(const LayoutArgs& a, const std::byte* rows, uint64_t first, uint64_t count,
                 std::byte* stored) {
  swap_nibbles(rows, count * a.row_bytes(), stored + first * a.row_bytes());
}

// A byte holds the element less the bias (two's complement of `bits` when signed, sign-extended). One
// that does not fit would become another element: the width is not what the config says.
std::optional<uint64_t> bytes_bytes(const LayoutArgs& a) {
  if (a.bits < 2 || a.bits > 8 || a.stored_bits != 8) return std::nullopt;
  return checked_mul(a.rows, a.cols);
}
uint32_t offset_of(const LayoutArgs& a) {
  return (a.is_signed ? 1u << (a.bits - 1) : 0) + static_cast<uint32_t>(a.bias);
}
void bytes_decode(const LayoutArgs& a, const std::byte* stored, uint64_t first, uint64_t count,
                  std::byte* rows) {
  uint32_t mask = (1u << a.bits) - 1, centre = offset_of(a);
  for (uint64_t r = 0; r < count; ++r) {
    const std::byte* in = stored + (first + r) * a.cols;
    std::byte* row = rows + r * a.row_bytes();
    std::memset(row, 0, a.row_bytes());
    uint32_t all = 0;
    for (uint64_t c = 0; c < a.cols; ++c) {
      uint32_t v = (std::to_integer<uint32_t>(in[c]) + centre) & 0xff;
      all |= v;
      set(row, c, a.bits, v & mask);
    }
    if (all > mask) {
      throw input_error("holds values that do not fit " + std::to_string(a.bits) + " bits (first in row " +
                        std::to_string(first + r) + ")")
          .hint("does the config's number of bits lie?");
    }
  }
}
void bytes_encode(const LayoutArgs& a, const std::byte* rows, uint64_t first, uint64_t count,
                  std::byte* stored) {
  uint32_t centre = offset_of(a);
  for (uint64_t r = 0; r < count; ++r) {
    std::byte* out = stored + (first + r) * a.cols;
    const std::byte* row = rows + r * a.row_bytes();
    for (uint64_t c = 0; c < a.cols; ++c) out[c] = static_cast<std::byte>(get(row, c, a.bits) - centre);
  }
}

constexpr std::array<int, 8> kOrder = {0, 2, 4, 6, 1, 3, 5, 7};

std::optional<uint64_t> reordered_bytes(const LayoutArgs& a) {
  if (a.bits != 4 || a.stored_bits != 4 || a.bias != 0 || a.cols % 8 != 0) return std::nullopt;
  return checked_mul(a.rows, a.row_bytes());
}
void reordered_decode(const LayoutArgs& a, const std::byte* stored, uint64_t first, uint64_t count,
                      std::byte* rows) {
  uint32_t flip = half(a) * 0x11111111u;
  stored += first * a.row_bytes();
  for (uint64_t at = 0; at < count * a.row_bytes(); at += 4) {
    uint32_t in = load32(stored + at), out = 0;
    for (size_t i = 0; i < 8; ++i) out |= (in >> (4 * i) & 15) << (4 * kOrder[i]);
    store32(rows + at, out ^ flip);
  }
}
void reordered_encode(const LayoutArgs& a, const std::byte* rows, uint64_t first, uint64_t count,
                      std::byte* stored) {
  uint32_t flip = half(a) * 0x11111111u;
  stored += first * a.row_bytes();
  for (uint64_t at = 0; at < count * a.row_bytes(); at += 4) {
    uint32_t in = load32(rows + at), out = 0;
    for (size_t i = 0; i < 8; ++i) out |= (in >> (4 * kOrder[i]) & 15) << (4 * i);
    store32(stored + at, out ^ flip);
  }
}

}  // namespace

const Layout high_nibble_layout = {"high_nibble", high_bytes, one_row, high_decode, high_encode, true};
const Layout bytes_layout = {"bytes", bytes_bytes, one_row, bytes_decode, bytes_encode, true};
const Layout reordered_layout = {"reordered", reordered_bytes, one_row, reordered_decode, reordered_encode, true};

}  // namespace qp
