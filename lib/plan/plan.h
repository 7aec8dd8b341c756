// A resolved recipe: what happens to every tensor, and why. Nothing is read but names and shapes.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <string>
#include <vector>

#include "lib/config/recipe.h"
#include "lib/qmap/model.h"

namespace qp {

struct PlanEntry {
  const Tensor* tensor = nullptr;  // of the model, or a linear of one of its stacks
  // Whose rows are quantized, [.., out, in]: `tensor`, or it turned when it is stored [.., in, out].
  const Tensor* source = nullptr;
  ModuleInfo info;
  std::string input;       // the module that calibration knows its input by, when it is another
  int32_t scheme = -1;     // index into Plan::schemes, -1: kept as it is
  // Quantized already as a rule asks, but for its activation side, which becomes this scheme's: the
  // codes stay (`tensor` is without the parts of the old side). -1: not so. Then `scheme` is -1.
  int32_t retag = -1;
  std::string algorithm;   // empty for what is kept, unless it is edited all the same
  std::string reason;      // "rule 1 (--scheme w4a16) matches Linear", "ignored by default: ..."
  uint64_t output_bytes = 0;
};

struct Plan {
  std::vector<Scheme> schemes;
  // In the order of Model::tensors. A stack of experts that is quantized is as many entries as it
  // has linears (lib/qmap/stacks.h), but MXFP4 stacks of gpt-oss stay one: so they are published.
  std::vector<PlanEntry> entries;
  // Tensors of entries that are not the model's own.
  std::shared_ptr<std::deque<Tensor>> views = std::make_shared<std::deque<Tensor>>();
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
