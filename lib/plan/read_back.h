// The recipe that a quantized checkpoint follows, to be applied to another.
#pragma once

#include "lib/base/json.h"
#include "lib/qmap/model.h"

namespace qp {

// A rule for each scheme, with the names of its tensors; what no rule names stays unquantized.
Json recipe_of(const Model& model);

}  // namespace qp
