// Which modules of a model are quantized and how, said as rules for a config: exceptions from what
// most modules are, as patterns over names.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "lib/model/modules.h"
#include "lib/qmap/model.h"

namespace qp {

// One weight that engines build as a linear layer, or could.
struct ModuleChoice {
  ModuleInfo info;
  int32_t choice = -1;  // whatever the writer numbers its settings by; -1: not quantized
};

struct ModuleRule {
  // Regular expression without anchors that fits the whole name of the modules it means and of no
  // other. Members that engines fuse (q, k, v) come with the fused name; layers are merged.
  std::string pattern;
  int32_t choice = -1;
};

// Every matrix of the model that is a linear layer to some engine: quantized or not, routers,
// towers of other modalities and the head included; embeddings, norms and convolutions not. choice
// is the tensor's scheme.
std::vector<ModuleChoice> module_choices(const Model& model);

// The choice that most modules have, but for -1; -1 when nothing is quantized.
int32_t most_common(const std::vector<ModuleChoice>& modules);

// module_choices() with the number of each module's settings in `kinds`, which gets those that
// differ. settings: of the quantized tensors, in their order.
std::vector<ModuleChoice> module_choices(const Model& model, const std::vector<Json>& settings,
                                         std::vector<Json>& kinds);

// Rules for all that differ from `common`, in the order of names; those of choice -1 come first.
std::vector<ModuleRule> module_rules(const std::vector<ModuleChoice>& modules, int32_t common);

// Names of modules that are not quantized for lists matched by substring (AWQ's
// modules_to_not_convert): as short as no quantized module contains them. `missed` gets those that
// cannot be said that way.
std::vector<std::string> substrings(const std::vector<ModuleChoice>& modules,
                                    std::vector<std::string>& missed);

// Regular expression characters of a name escaped.
std::string escape_regex(std::string_view text);

}  // namespace qp
