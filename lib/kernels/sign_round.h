// Learned rounding of the weights of one group of one row (SignRound: Cheng et al., "Optimize
// Weight Rounding via Signed Gradient Descent"; reference/int4-formats.md 2.6): each weight has a
// shift v, in steps of its grid, that is added before it is rounded. The gradient of rounding is
// taken as 1.
//
// One source, sign_round.inc, compiled for each instruction set; all give the same bits. As in
// kernels.h: no allocation, no exceptions, no threads.
#pragma once

#include "lib/kernels/lanes.h"

namespace qp::kernels {

// t = w / scale + zero + v * (distance of the grid's numbers at w / scale; 1 for integers);
// q = t to the nearest number, `within` where that is none beyond the last (clamped);
// value (q - zero) * scale. A scale of 0 gives q = zero, and is never within.
struct SignRoundTable {
  // Of n weights: q, and the values; either may be null.
  void (*values)(Rounding, const float* w, const float* v, size_t n, float scale, float zero,
                 float* q, float* value) noexcept;
  // From gradients g of the values: v -= rate * sign(g) where within; sums[0] = sum g * d value /
  // d scale at a fixed zero, g * (q - zero - (within ? w / scale : 0)); sums[1] = sum g where not
  // within. Lanes of 16 columns are summed apart, and folded in one order.
  void (*step)(Rounding, const float* w, const float* g, size_t n, float scale, float zero,
               float rate, float* v, float* sums) noexcept;
};

// The table of active().
const SignRoundTable& sign_round();

}  // namespace qp::kernels
