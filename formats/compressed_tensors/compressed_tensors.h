// compressed-tensors (vLLM project, llm-compressor): shared by its writer and its reader.
// Reference: reference/compressed-tensors.md.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "formats/format.h"
#include "lib/scheme/scheme.h"

namespace qp::ct {

// CompressionFormat of a scheme, by the library's own inference (section 3.1).
std::string_view format_of(const Scheme& scheme);

// QuantizationArgs as the library serializes them: without keys at their default.
Json args_json(const QuantArgs& args, bool weights);

// quantization_config for schemes used by these targets.
struct Group {
  const Scheme* scheme;
  std::vector<std::string> targets;
  bool act_order = false;                // its modules have a weight_g_idx
  std::optional<bool> use_clip = {};     // SGLang's activation_use_clip (NPU, INT4 experts)
};
Json quantization_config(const std::vector<Group>& groups, const std::vector<std::string>& ignore,
                         const std::optional<QuantArgs>& kv_cache = {});

// The KV cache (section 1.9, 3.11). Reading: Model::kv_cache, its scales under their canonical names
// as F32. Errors: input. Writing: the scales of the plan in the model's dtype where it holds them.
void adopt_kv_cache(Model& model, const Json& config, const LoadOptions& options);
void keep_kv_scale(const Store& store, const Tensor& tensor, ExportPlan& plan);

// Adds the stored tensors of a quantized tensor to the plan. Errors: limit (what cannot be held).
void emit_tensor(const Store& store, const Tensor& tensor, const Scheme& scheme, ExportPlan& plan);

ExportPlan plan(const Store& store, const ExportOptions& options);
void adopt(Model& model, const Json& config, const LoadOptions& options);
void check(const RawCheckpoint& raw, const Json& config, std::vector<Finding>& findings);

}  // namespace qp::ct
