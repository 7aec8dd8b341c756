// NVFP4's second stage in the other convention: global_scale divides (compressed-tensors), scale_2
// multiplies (ModelOpt and others). Codes and E4M3 scales are the same in both.
#pragma once

#include "formats/format.h"

namespace qp {

// What stands for the tensor's scale_2 or global_scale in the other convention: its reciprocal, or
// a neighbour of it, such that every weight, rounded to the model's dtype, stays the same number.
// Errors: limit, when there is none.
float other_second_stage(const Store& store, const Tensor& tensor);

// The same for the activations' input_global_scale or input_scale, which no weight depends on: the
// reciprocal, or a neighbour of it whose own reciprocal is `x` again.
float reciprocal(float x);

}  // namespace qp
