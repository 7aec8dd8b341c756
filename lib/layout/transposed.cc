// transposed: [cols, rows] of whole bytes: the scales of GPTQ and AWQ ([K/g, N]), stacked experts.
#include <algorithm>

#include "lib/layout/transpose.h"

namespace qp {
namespace {

using namespace layout;

std::optional<uint64_t> bytes(const LayoutArgs& a) {
  bool whole = a.bits == 8 || a.bits == 16 || a.bits == 32;
  if (!whole || a.bits != a.stored_bits || a.bias != 0 || a.is_signed) return std::nullopt;
  return checked_mul(a.rows, a.row_bytes());
}

template <class T>
void decode_as(const LayoutArgs& a, const std::byte* stored, uint64_t first, uint64_t count,
               std::byte* rows) {
  transpose<T>(stored + first * sizeof(T), a.rows * sizeof(T), a.cols, count, rows,
               a.cols * sizeof(T));
}
template <class T>
void encode_as(const LayoutArgs& a, const std::byte* rows, uint64_t first, uint64_t count,
               std::byte* stored) {
  transpose<T>(rows, a.cols * sizeof(T), count, a.cols, stored + first * sizeof(T),
               a.rows * sizeof(T));
}

void decode(const LayoutArgs& a, const std::byte* stored, uint64_t first, uint64_t count,
            std::byte* rows) {
  auto as = a.bits == 8 ? decode_as<uint8_t> : a.bits == 16 ? decode_as<uint16_t> : decode_as<uint32_t>;
  as(a, stored, first, count, rows);
}
void encode(const LayoutArgs& a, const std::byte* rows, uint64_t first, uint64_t count,
            std::byte* stored) {
  auto as = a.bits == 8 ? encode_as<uint8_t> : a.bits == 16 ? encode_as<uint16_t> : encode_as<uint32_t>;
  as(a, rows, first, count, stored);
}

}  // namespace

const Layout transposed_layout = {"transposed", bytes, one_row, decode, encode};

}  // namespace qp
