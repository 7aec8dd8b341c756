// What must divide what: group and block sizes, packing, tensor parallelism.
// Facts: compressed-tensors.md 5.4, int4-formats.md 1.6 and 1.7, fp8 1.2.
#pragma once

#include "lib/target/engine.h"

namespace qp::target {

// Of one quantized layer whose sizes are known. Topics: input-not-aligned, output-not-aligned,
// block-rows, block-columns, group-split, zero-point-split, marlin-shape, w4afp8-shape,
// fp4-columns.
void check_division(const Layer& layer, const Scheme& scheme, const std::vector<Dims>& dims,
                    const ModelShape& model, const Options& options, Findings& findings);

// Of an unquantized linear: the ranks' parts are alike. Topics: tp-size, tp-size-fused.
void check_cuts(const Layer& layer, const std::vector<Dims>& dims, const ModelShape& model,
                const Options& options, Findings& findings);

// Of the model: heads, experts, layers. Topics: tp-heads, ep-experts, pp-layers.
void check_parallel(const Engine& engine, const ModelShape& model, const Options& options,
                    Findings& findings);

}  // namespace qp::target
