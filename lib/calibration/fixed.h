// Sums that do not depend on the order of their terms: signed 128-bit numbers of 2^-64.
#pragma once

#include <cmath>
#include <cstdint>

namespace qp {

using Fixed = __int128;
static_assert(sizeof(Fixed) == 16);

// The largest sum that is held; squares of activations stay far below.
constexpr double kFixedLimit = 4.6e18;

inline Fixed to_fixed(double x) { return static_cast<Fixed>(std::ldexp(x, 64)); }
inline double from_fixed(Fixed x) { return std::ldexp(static_cast<double>(x), -64); }

}  // namespace qp
