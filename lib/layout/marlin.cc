// marlin: 4-bit codes as Marlin's kernel wants them, which AutoGPTQ and AutoAWQ once stored: I32
// [K / 16, 2 N] (reference/int4-formats.md 1.6). 16 x 16 tiles of [K, N], 1024 entries (four tiles
// along N) permuted, 8 consecutive ones to a word, the first lowest.
#include <array>

#include "lib/layout/bits.h"

namespace qp {
namespace {

using namespace layout;

// Entry j of a permuted chunk is entry perm[j] of the chunk: tile * 256 + row * 16 + column.
std::array<uint16_t, 1024> permutation() {
  constexpr std::array<size_t, 8> kInterleave = {0, 2, 4, 6, 1, 3, 5, 7};
  std::array<uint16_t, 1024> plain{}, out{};
  size_t n = 0;
  for (size_t i = 0; i < 32; ++i) {
    std::array<size_t, 8> one{};
    size_t m = 0, col = i / 4;
    for (size_t block : {0u, 1u}) {
      for (size_t row : {2 * (i % 4), 2 * (i % 4) + 1, 2 * (i % 4 + 4), 2 * (i % 4 + 4) + 1}) {
        one[m++] = 16 * row + col + 8 * block;
      }
    }
    for (size_t j = 0; j < 4; ++j) {
      for (size_t p : one) plain[n++] = static_cast<uint16_t>(p + 256 * j);
    }
  }
  for (size_t i = 0; i < 1024; ++i) out[i] = plain[i / 8 * 8 + kInterleave[i % 8]];
  return out;
}

// Where entry (row, column) of four tiles stands in the permuted chunk.
const std::array<uint16_t, 1024>& inverse() {
  static const std::array<uint16_t, 1024> table = [] {
    std::array<uint16_t, 1024> perm = permutation(), t{};
    for (size_t i = 0; i < 1024; ++i) t[perm[i]] = static_cast<uint16_t>(i);
    return t;
  }();
  return table;
}

std::optional<uint64_t> bytes(const LayoutArgs& a) {
  if (!plain_nibbles(a) || a.rows % 64 != 0 || a.cols % 16 != 0) return std::nullopt;
  return checked_mul(a.rows, a.row_bytes());
}

// The nibble of the stored matrix that holds output channel n, input k.
uint64_t place(const LayoutArgs& a, uint64_t n, uint64_t k) {
  uint64_t line = k / 16 * 16 * a.rows, chunk = n / 64 * 1024;
  return line + chunk + inverse()[n % 64 / 16 * 256 + k % 16 * 16 + n % 16];
}

uint64_t unit(const LayoutArgs&) { return 64; }

}  // namespace

const Layout marlin_layout = {"marlin", bytes, unit, Nibbles<place>::decode,
                              Nibbles<place>::encode};

}  // namespace qp
