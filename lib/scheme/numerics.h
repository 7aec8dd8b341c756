// How a reference turns ranges into scales and zero points: scalar formulas, one scale at a time.
// `compressed-tensors` (0.18, torch CPU, oneshot): every step is rounded to the dtype of the
// weight; reference/compressed-tensors.md section 4.
#pragma once

#include <span>

#include "lib/scheme/scheme.h"
#include "lib/tensor/dtype.h"

namespace qp::numerics {

// x rounded to a source dtype (BF16, F16 or F32), to nearest even, as f32.
float round_to(DType dtype, float x);

// Machine epsilon of the dtype: what a scale of zero becomes.
float zero_scale(DType dtype);

// Symmetric: amax / (half the code range), rounded; 0 becomes zero_scale().
float scale_of(const QuantArgs& weights, DType source, float amax);
// The same of many: scale[i] from amax[i]; the two may be one.
void scales_of(const QuantArgs& weights, DType source, std::span<const float> amax, float* scale);

struct ScaleZero {
  float scale;
  float zero_point;  // signed domain: [-2^(b-1), 2^(b-1) - 1]
};
// Asymmetric integers, from lo <= 0 <= hi.
ScaleZero scale_zero_of(const QuantArgs& weights, DType source, float lo, float hi);

// NVFP4's weight_global_scale from the amax of all fused tensors: reciprocal, then times 2688,
// each rounded to the dtype; NaN or infinite becomes 1.
float global_scale_of(DType source, float amax);

}  // namespace qp::numerics
