// SGLang's w8a8_int8 and w8a8_fp8: weight [N, K] and weight_scale F32 [N, 1] per linear,
// activations quantized per token at run time (reference/fp8-torchao-quark-modelslim.md 6).
#pragma once

#include "formats/format.h"

namespace qp::w8a8 {

ExportPlan plan(const Store& store, const ExportOptions& options, bool fp8);
void adopt(Model& model, const LoadOptions& options, bool fp8);
void check(const RawCheckpoint& raw, const Json& config, std::vector<Finding>& findings, bool fp8);

}  // namespace qp::w8a8
