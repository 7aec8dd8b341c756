// A resolved recipe: what happens to every tensor, and why. Nothing is read but names and shapes.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "lib/config/recipe.h"
#include "lib/qmap/model.h"

namespace qp {

struct PlanEntry {
  const Tensor* tensor = nullptr;
  ModuleInfo info;
  int32_t scheme = -1;     // index into Plan::schemes, -1: kept as it is
  std::string algorithm;
  std::string reason;      // "rule 1 (--scheme w4a16) matches Linear", "ignored by default: ..."
  uint64_t output_bytes = 0;
};

struct Plan {
  std::vector<Scheme> schemes;
  std::vector<PlanEntry> entries;  // in the order of Model::tensors
  std::vector<std::string> warnings;
  uint64_t input_bytes = 0, output_bytes = 0;
  uint64_t quantized_params = 0, kept_params = 0;
  size_t quantized = 0;
};

// Errors: usage (a shape a scheme cannot hold, fused groups that disagree, unknown algorithm),
// limit (a tensor is already quantized).
Plan make_plan(const Model& model, const Recipe& recipe, const std::string& label);

// The plan as a recipe with one rule per tensor.
Json to_json(const Plan& plan, const Hash128& source);

}  // namespace qp
