// Modules that frameworks build as Linear but that are stored unquantized: full paths, sorted, with
// the head even where it is tied and has no tensor.
#pragma once

#include <string>
#include <vector>

#include "lib/qmap/model.h"

namespace qp {

std::vector<std::string> plain_linears(const Model& model);

}  // namespace qp
