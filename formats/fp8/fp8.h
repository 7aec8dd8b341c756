// quant_method "fp8" (DeepSeek's blocks, one scale per tensor), "mxfp8" and "fbgemm_fp8".
// Tensors and config: reference/fp8-torchao-quark-modelslim.md 1.
#pragma once

#include "formats/format.h"

namespace qp {
struct RawCheckpoint;
struct Finding;
}  // namespace qp

namespace qp::fp8 {

ExportPlan plan(const Store& store, const ExportOptions& options);
void adopt(Model& model, const Json& config, const LoadOptions& options);
void check(const RawCheckpoint& raw, const Json& config, std::vector<Finding>& findings);

// [rows, cols] of weight_block_size, or nothing. Errors: input, when it is no pair of numbers.
std::optional<std::pair<int, int>> block_size(const Json& config);

// The schemes of this family, as adopt() names them.
Scheme block_scheme(int rows, int cols, bool e8m0);
Scheme tensor_scheme(bool is_static);
Scheme channel_scheme();
Scheme mx_scheme(int bits);  // MXFP8, MXFP4

}  // namespace qp::fp8
