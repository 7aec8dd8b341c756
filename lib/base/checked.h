// Arithmetic on sizes that come from files: overflow is reported, never wrapped.
#pragma once

#include <cstdint>
#include <optional>

namespace qp {

inline std::optional<uint64_t> checked_add(uint64_t a, uint64_t b) {
  uint64_t r;
  if (__builtin_add_overflow(a, b, &r)) return std::nullopt;
  return r;
}
inline std::optional<uint64_t> checked_mul(uint64_t a, uint64_t b) {
  uint64_t r;
  if (__builtin_mul_overflow(a, b, &r)) return std::nullopt;
  return r;
}
inline uint64_t ceil_div(uint64_t a, uint64_t b) { return a / b + (a % b != 0); }
// `unit` is a power of two.
inline uint64_t round_up(uint64_t a, uint64_t unit) { return (a + unit - 1) & ~(unit - 1); }

}  // namespace qp
