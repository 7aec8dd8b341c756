// AMD Quark's checkpoints, quant_method "quark" (reference/fp8-torchao-quark-modelslim.md 4).
#pragma once

#include <string_view>

#include "formats/format.h"

namespace qp {
struct RawCheckpoint;
struct Finding;
}  // namespace qp

namespace qp::quark {

// What is read and written; `int4_fp8` has two stages, INT4 per row under FP8 per tensor.
enum class Kind : uint8_t {
  fp8_tensor,
  fp8_channel,
  int8_tensor,
  int8_channel,
  mxfp4,
  int4_channel,
  int4_group,
  uint4_group,
  int4_fp8
};

struct Layer {
  Kind kind;
  Scheme scheme;
};
// The layer's own config: layer_quant_config by pattern, layer_type_quant_config, global. Errors:
// input, naming what is not read.
Layer layer_of(const Json& config, std::string_view module);

// global_quant_config's object for a kind of weights, in groups or not, and an input.
Json layer_config(Kind kind, int group, const std::optional<QuantArgs>& input);
Json output_spec();  // FP8 per tensor: the KV cache

ExportPlan plan(const Store& store, const ExportOptions& options);
void adopt(Model& model, const Json& config, const LoadOptions& options);
void check(const RawCheckpoint& raw, const Json& config, std::vector<Finding>& findings);

}  // namespace qp::quark
