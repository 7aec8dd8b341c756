// What makes two inputs the same: names, shapes, dtypes, sizes and places of the data inside
// their files, not where the files lie.
#pragma once

#include "lib/qmap/model.h"

namespace qp {

Hash128 identity(const Model& model);

}  // namespace qp
