// A whole matrix in f32, for algorithms that work on all of it.
#pragma once

#include <vector>

#include "lib/qmap/store.h"

namespace qp {

// [rows, cols]. Errors: input (NaN or Inf in the weights).
std::vector<float> read_matrix(const Store& store, const Tensor& tensor);

}  // namespace qp
