#include "formats/compressed_tensors/targets.h"

#include <algorithm>
#include <string_view>

#include "lib/base/error.h"

namespace qp::ct {

std::vector<ConfigGroup> read_groups(const Json& config) {
  std::vector<ConfigGroup> groups;
  auto it = config.find("config_groups");
  if (it == config.end() || !it->is_object()) throw input_error("quantization_config has no 'config_groups'");
  std::string common = json_string(config, "format", "");
  for (const auto& [name, g] : it->items()) {
    if (!g.is_object() || !g.contains("weights") || g["weights"].is_null()) continue;
    ConfigGroup group;
    group.scheme = scheme_from_json(g);
    group.format = json_string(g, "format", common);
    for (const Json& t : g.value("targets", Json::array())) {
      if (t.is_string()) group.targets.push_back(t.get<std::string>());
    }
    group.scheme.name = group.format;
    groups.push_back(std::move(group));
  }
  return groups;
}

Targets::Targets(const std::vector<ConfigGroup>& groups) {
  for (size_t i = 0; i < groups.size(); ++i) {
    for (const std::string& target : groups[i].targets) {
      if (target.starts_with("re:")) {
        patterns_.emplace_back(Regex(std::string_view(target).substr(3)), i);
      } else {
        names_[target] = i;
      }
    }
  }
}

std::optional<size_t> Targets::find(const std::string& module, const ModuleInfo& info) const {
  if (auto it = names_.find(module); it != names_.end()) return it->second;
  for (const auto& [regex, group] : patterns_) {
    if (regex.matches_start(module)) return group;
  }
  bool embedding = info.kind == ModuleKind::embedding;
  auto it = names_.find(embedding ? "Embedding" : "Linear");
  return it == names_.end() ? std::nullopt : std::optional<size_t>(it->second);
}

Ignore::Ignore(const Json& config) {
  auto it = config.find("ignore");
  if (it == config.end() || !it->is_array()) return;
  for (const Json& entry : *it) {
    if (!entry.is_string()) continue;
    std::string text = entry.get<std::string>();
    if (text.starts_with("re:")) {
      patterns_.emplace_back(std::string_view(text).substr(3));
    } else {
      names_.insert(std::move(text));
    }
  }
}

bool Ignore::operator()(const std::string& module, const ModuleInfo& info) const {
  if (names_.contains(module)) return true;
  if (names_.contains(info.kind == ModuleKind::embedding ? "Embedding" : "Linear")) return true;
  return std::ranges::any_of(patterns_, [&](const Regex& r) { return r.matches_start(module); });
}

}  // namespace qp::ct
