// Intel's auto-round (reference/int4-formats.md 1.5): shared by its reader and its writer.
#pragma once

#include <string>
#include <string_view>

#include "formats/format.h"

namespace qp::auto_round {

// How the tensors of a checkpoint lie.
enum class Packing {
  gptq,            // "auto_round:auto_gptq": GPTQ's layout, zero points less one, no g_idx
  gptq_v2,         // "auto_round", "auto_round:gptqmodel": the same, zero points as they are
  awq,             // "auto_round:auto_awq": AWQ's gemm layout
  llm_compressor,  // "auto_round:llm_compressor": compressed-tensors' MXFP4, MXFP8, NVFP4
  fp8_static  // "auto_round:fp8_static": FP8 per row or tensor, activations per tensor; read only
};
std::string_view name_of(Packing packing);
// Old spellings, too. Errors: input, naming one that is not read.
Packing packing_from_config(const Json& config);

ExportPlan plan(const Store& store, const ExportOptions& options);
void adopt(Model& model, const Json& config, const LoadOptions& options);

}  // namespace qp::auto_round
