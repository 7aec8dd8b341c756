// torchao's safetensors (0.15 to 0.18), as transformers saves and vLLM loads them: plain arrays
// under MODULE._weight_qdata .., and per tensor a JSON text in __metadata__ that names the class
// and its attributes (reference/fp8-torchao-quark-modelslim.md 3.3, 3.4).
//   Float8Tensor: E4M3 per row or tensor. Int8Tensor: INT8 per row. Int4Tensor: signed nibbles,
//   scale and float zero point transposed. IntxUnpackedToInt8Tensor: one code a byte.
#pragma once

#include "formats/format.h"

namespace qp::torchao {

// Numerics of codes whose zero points are integers, other than torchao's float ones (part_specs).
constexpr const char* kIntx = "torchao-intx";

ExportPlan plan(const Store& store, const ExportOptions& options);
void adopt(Model& model, const Json& config, const LoadOptions& options);
void check(const RawCheckpoint& raw, const Json& config, std::vector<Finding>& findings);

}  // namespace qp::torchao
