#include "lib/target/second_stage.h"

#include <cstdio>
#include <map>
#include <string>

namespace qp::target {
namespace {

struct Stored {
  float value;
  std::string_view name;  // of the tensor
};

std::optional<Stored> stored(const Context& c, const Shard& s, std::string_view suffix) {
  if (s.module == Shard::kAbsent) return std::nullopt;
  auto i = c.layers.modules[s.module].find(suffix);
  if (!i) return std::nullopt;
  auto value = c.checkpoint.scalar(*i);
  if (!value) return std::nullopt;
  return Stored{*value, c.checkpoint.tensors[*i].name};
}

std::string number(float x) {
  char text[32];
  std::snprintf(text, sizeof text, "%.9g", static_cast<double>(x));
  return text;
}

}  // namespace

void check_second_stage(Context& c, const Layer& layer, const Scheme& scheme) {
  bool modelopt = scheme.params.starts_with("modelopt-nvfp4"),
       experts = layer.part == Part::experts;
  if (!c.checkpoint.scalar || layer.shards.size() < 2 || (!modelopt && scheme.params != "ct-nvfp4"))
    return;
  bool a16 = scheme.support == "nvfp4a16" && c.findings.knows("global-scales-a16");
  std::string_view suffix = modelopt ? "weight_scale_2" : "weight_global_scale";
  std::string_view topic = modelopt && experts ? "global-scales-experts-modelopt"
                           : modelopt          ? "global-scales-modelopt"
                           : experts           ? "global-scales-experts"
                           : a16               ? "global-scales-a16"
                                               : "global-scales";
  std::map<int32_t, Stored> first;  // of each expert; -1: of the linear
  for (const Shard& s : layer.shards) {
    if (experts && s.split != Split::column) continue;  // down is alone
    auto found = stored(c, s, suffix);
    if (!found) continue;
    auto [it, fresh] = first.try_emplace(s.expert, *found);
    if (fresh || it->second.value == found->value) continue;
    c.findings.add(topic, found->name,
                   "is " + number(found->value) + ", and " + std::string(it->second.name) + " is " +
                       number(it->second.value));
    return;
  }
}

}  // namespace qp::target
