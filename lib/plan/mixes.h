// What the mixes of a recipe make of a model's tensors (lib/ggml/mix.h), before its rules are gone
// through.
#pragma once

#include <map>
#include <optional>
#include <string>

#include "lib/config/recipe.h"
#include "lib/qmap/model.h"

namespace qp {

struct MixChoice {
  std::optional<Scheme> scheme;  // none: it stays unquantized
  std::string why;
};
using ByRule = std::map<size_t, MixChoice>;  // by the number of the rule
struct MixChoices {
  std::map<const Tensor*, ByRule> of;
  // kv_b_proj, which llama.cpp has in two tensors (lib/qmap/latents.h).
  std::map<const Tensor*, ByRule> keys, values;
};

// Whether a rule or an ignore is about a tensor by name or kind. Defined in plan.cc.
bool reaches(const Rule& rule, const std::string& name, const ModuleInfo& info);

// Adds the choices of every rule that has a mix. Errors: limit, an architecture that llama.cpp's names
// are not known for; input, tensors that its map does not fit; usage, as ggml::choose_types.
void choose_mixes(const Model& model, const Recipe& recipe, const std::string& label, MixChoices& choices);

}  // namespace qp
