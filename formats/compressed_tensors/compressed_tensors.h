// compressed-tensors (vLLM project, llm-compressor): shared by its writer and its reader.
// Reference: reference/compressed-tensors.md.
#pragma once

#include <string>
#include <string_view>

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
};
Json quantization_config(const std::vector<Group>& groups, const std::vector<std::string>& ignore);

ExportPlan plan(const Store& store, const ExportOptions& options);
void adopt(Model& model, const Json& config, const LoadOptions& options);
void check(const RawCheckpoint& raw, const Json& config, std::vector<Finding>& findings);

}  // namespace qp::ct
