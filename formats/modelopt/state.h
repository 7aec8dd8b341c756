// What ModelOpt's saved state (mto.save, `modelopt_state.pth`) knows of activations, as a
// calibration: reference/modelopt.md 3.1.
#pragma once

#include <string>
#include <vector>

#include "lib/qmap/model.h"

namespace qp::modelopt {

// The ranges (_amax) of input quantizers and of the KV cache's, so that static schemes need no
// qcalibrate. No code of the file runs. Its weights are not taken: they are those of `tensors`,
// whose names and shapes are compared. `nothing` is an empty extent: there are no sums per channel.
// Errors: input (no such state, another model's, ranges that are no numbers), limit (AWQ or
// SmoothQuant changed the weights: pre_quant_scale).
Calibration read_state(const std::string& path, const std::vector<Tensor>& tensors,
                       const Extent& nothing);

}  // namespace qp::modelopt
