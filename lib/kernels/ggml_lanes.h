// The quantizers of ggml's types with scales per group, compiled for each instruction set from one
// source (ggml_lanes.inc): a block of ggml in each lane of a vector.
#pragma once

#include "lib/kernels/ggml_quantize.h"

namespace qp {

struct GgmlScaledTable {
  GgmlQuantizer rows[18];
};

}  // namespace qp
