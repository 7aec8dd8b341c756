// A whole matrix in f32, for algorithms that work on all of it.
#pragma once

#include <map>
#include <string_view>
#include <vector>

#include "lib/qmap/store.h"

namespace qp {

// [rows, cols]. Errors: input (NaN or Inf in the weights).
std::vector<float> read_matrix(const Store& store, const Tensor& tensor);

// The pre_scale of matrices that are not quantized yet (lib/transform: their values are data *
// pre_scale), by name. The codes of such a matrix are those of its data.
std::map<std::string_view, const Part*> pre_scales(const Model& model);

}  // namespace qp
