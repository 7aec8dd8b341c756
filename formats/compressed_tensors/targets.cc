#include "formats/compressed_tensors/targets.h"

#include <algorithm>
#include <string_view>

#include "formats/compressed_tensors/compressed_tensors.h"
#include "lib/base/error.h"

namespace qp::ct {
namespace {

constexpr std::string_view kParts[] = {"weight_scale", "weight_shape", "weight_zero_point",
                                       "weight_global_scale", "weight_g_idx", "input_scale",
                                       "input_zero_point", "input_global_scale"};

void refuse_sparse(std::string_view format) {
  if (format != "marlin-24" && !format.starts_with("sparse-")) return;
  throw limit_error("is in the format " + printable(format) + ", which compressed-tensors itself dropped in 0.15")
      .hint("decompress it with compressed-tensors before 0.15 first");
}

// What a group's format string means for its scheme; nothing when the two contradict each other.
// A format that says nothing of its own leaves it to the library's inference.
std::optional<Stored> stored_as(const Scheme& s, std::string_view format) {
  CodeKind kind = s.code_kind();
  if (format.empty() || format == "mixed-precision" || format == "fakequant" || format == "dense") {
    format = format_of(s);
  }
  bool integer = kind == CodeKind::integer;
  if (format == "pack-quantized" && integer) return Stored::words;
  if (format == "int-quantized" && integer) return Stored::bytes;
  if (format == "naive-quantized" && integer) return Stored::bytes;
  bool fp8 = format == "naive-quantized" || format == "float-quantized" || format == "mxfp8-quantized";
  if (fp8 && kind == CodeKind::e4m3) return Stored::floats;
  bool fp4 = format == "nvfp4-pack-quantized" || format == "mxfp4-pack-quantized";
  if (fp4 && kind == CodeKind::e2m1) return Stored::nibbles;
  return std::nullopt;
}

}  // namespace

DType ConfigGroup::dtype() const {
  switch (stored) {
    case Stored::words: return DType::i32;
    case Stored::bytes: return DType::i8;
    case Stored::nibbles: return DType::u8;
    case Stored::floats: break;
  }
  return DType::f8_e4m3;
}

std::span<const std::string_view> part_suffixes() { return kParts; }

std::vector<ConfigGroup> read_groups(const Json& config) {
  std::vector<ConfigGroup> groups;
  if (auto sparse = config.find("sparsity_config"); sparse != config.end() && sparse->is_object()) {
    refuse_sparse(json_string(*sparse, "format", ""));
  }
  auto it = config.find("config_groups");
  if (it == config.end() || !it->is_object()) throw input_error("quantization_config has no 'config_groups'");
  std::string common = json_string(config, "format", "");
  for (const auto& [name, g] : it->items()) {
    if (!g.is_object() || !g.contains("weights") || g["weights"].is_null()) continue;
    ConfigGroup group;
    group.scheme = scheme_from_json(g);
    group.format = json_string(g, "format", common);
    if (group.format.empty()) group.format = common;
    refuse_sparse(group.format);
    auto stored = stored_as(group.scheme, group.format);
    if (!stored) {
      throw input_error("config group '" + printable(name) + "' has format '" + printable(group.format) +
                        "', which cannot hold its weights");
    }
    group.stored = *stored;
    if (g.contains("output_activations") && !g["output_activations"].is_null()) {
      throw limit_error("config group '" + printable(name) + "' quantizes outputs, which qpipe cannot hold");
    }
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
