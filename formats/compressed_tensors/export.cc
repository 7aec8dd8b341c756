#include <algorithm>
#include <map>
#include <optional>
#include <set>

#include "formats/compressed_tensors/compressed_tensors.h"
#include "formats/hf/config.h"
#include "formats/hf/kv_cache.h"
#include "formats/hf/linear_writer.h"
#include "formats/hf/module_rules.h"
#include "lib/base/checked.h"
#include "lib/base/error.h"
#include "lib/model/modules.h"
#include "lib/qmap/store.h"

namespace qp::ct {
namespace {

// Scheme and g_idx of what engines join to one linear; nothing for those whose members differ.
using Wholes = std::map<std::string, std::optional<std::pair<int32_t, bool>>>;

std::pair<int32_t, bool> key_of(const Tensor& t) {
  return {t.quantized() ? t.scheme : -1, t.part(Role::g_idx) != nullptr};
}

Wholes wholes_of(const Model& m, const std::vector<ModuleInfo>& infos) {
  Wholes wholes;
  for (size_t i = 0; i < m.tensors.size(); ++i) {
    if (infos[i].whole.empty() || m.tensors[i].shape.rank() < 2) continue;
    auto [it, fresh] = wholes.try_emplace(infos[i].whole, key_of(m.tensors[i]));
    if (!fresh && it->second != key_of(m.tensors[i])) it->second.reset();
  }
  return wholes;
}

// All must be named: SGLang refuses a Linear that is neither targeted nor ignored. Its Llama, Qwen2
// and others look a joined linear up by its own name (0.5.23: no packed_modules_mapping).
std::vector<std::string> ignore_list(const Model& m, const Wholes& wholes) {
  auto names = unquantized_names(m, [](const ModuleInfo& info) -> std::string {
    if (info.kind == ModuleKind::embedding) return "";
    if (info.kind == ModuleKind::stack) return "re:" + escape_regex(info.module) + "\\..*";
    if (info.kind == ModuleKind::mtp && info.module.starts_with("mtp.")) return "re:^mtp.*";
    return info.module;
  });
  for (const auto& [whole, key] : wholes) {
    if (key && key->first < 0) names.push_back(whole);
  }
  std::ranges::sort(names);
  return names;
}

std::vector<Group> groups_of(const Model& m, const std::vector<ModuleInfo>& infos,
                             const Wholes& wholes) {
  std::map<std::pair<int32_t, bool>, std::vector<std::string>>
      names;  // by scheme, and whether there is a g_idx
  bool plain = true;
  for (size_t i = 0; i < m.tensors.size(); ++i) {
    if (!m.tensors[i].quantized()) continue;
    names[key_of(m.tensors[i])].push_back(infos[i].module);
    plain = plain && (infos[i].kind == ModuleKind::linear || infos[i].kind == ModuleKind::expert);
  }
  for (const auto& [whole, key] : wholes) {
    if (key && key->first >= 0) names[*key].push_back(whole);
  }
  std::vector<Group> groups;
  for (auto& [key, targets] : names) {
    std::ranges::sort(targets);
    groups.push_back({&m.schemes[static_cast<size_t>(key.first)], std::move(targets), key.second});
  }
  // One scheme for all: the class name says it. Otherwise exact names: disjoint under every
  // engine's own matching order (section 1.7).
  if (groups.size() == 1 && plain) groups.front().targets = {"Linear"};
  return groups;
}

// What SGLang's NPU loader of INT4 experts asks of group_1: whether activations were clipped when
// the weights were made. Known only where the source says so.
void set_use_clip(const Model& m, std::vector<Group>& groups, const ExportOptions& options) {
  bool clip = false;
  auto config = m.config.is_object() ? m.config.find("quantization_config") : m.config.end();
  if (config != m.config.end() && config->is_object() && config->contains("config_groups")) {
    const Json& from = (*config)["config_groups"];
    auto one = from.is_object() ? from.find("group_1") : from.end();
    if (one != from.end() && one->is_object()) clip = json_bool(*one, "activation_use_clip", false);
  }
  auto is_w4a8 = [](const Group& g) {
    const auto& in = g.scheme->input_activations;
    return g.scheme->code_kind() == CodeKind::integer && g.scheme->weights.num_bits == 4 && in &&
           in->type == NumType::integer && in->num_bits == 8;
  };
  auto it = std::ranges::find_if(groups, is_w4a8);
  if (it == groups.end()) return;
  if (groups.size() > 1) std::iter_swap(it, groups.begin() + 1);
  groups[std::min<size_t>(1, groups.size() - 1)].use_clip = clip;
  options.warn(
      "activation_use_clip is written for SGLang; the compressed-tensors library (transformers, "
      "vLLM) refuses unknown keys of a group");
}

// Engines look up gate, up and down of the first expert and want one scheme for all experts of a
// layer (section 1.7 of the reference).
void refuse_uneven_experts(const Store& store, const Model& m,
                           const std::vector<ModuleInfo>& infos) {
  std::map<std::string, const Tensor*> first;
  for (size_t i = 0; i < m.tensors.size(); ++i) {
    const Tensor& t = m.tensors[i];
    if (infos[i].kind != ModuleKind::expert) continue;
    auto [it, fresh] = first.emplace(infos[i].agree.substr(0, infos[i].agree.rfind('.')), &t);
    const Tensor& other = *it->second;
    bool same = t.quantized() == other.quantized();
    if (fresh || (same && (!t.quantized() || t.scheme == other.scheme))) continue;
    auto name = [&](const Tensor& x) {
      return x.quantized() ? m.schemes[static_cast<size_t>(x.scheme)].name : "unquantized";
    };
    throw limit_error("is " + name(t) + " and '" + printable(other.name) + "' is " + name(other) +
                      ": vLLM and SGLang load the experts of a layer in one scheme")
        .file(store.label())
        .tensor(t.name)
        .hint("give all experts of a layer one scheme, or use -f modelslim, which decides w13 and "
              "w2 apart");
  }
}

}  // namespace

ExportPlan plan(const Store& store, const ExportOptions& options) {
  const Model& m = store.model();
  ExportPlan out;
  std::vector<ModuleInfo> infos;
  infos.reserve(m.tensors.size());
  for (const Tensor& t : m.tensors) {
    refuse_ggml(store, t, "compressed-tensors");
    infos.push_back(classify(t.name, t.quantized() ? DType::bf16 : t.dtype, t.shape, m.config));
    if (m.kv_cache && is_kv_scale(t)) {
      keep_kv_scale(store, t, out);
    } else if (!t.quantized()) {
      keep_tensor(t, out);
    } else {
      emit_tensor(store, t, m.schemes[static_cast<size_t>(t.scheme)], out);
    }
  }
  refuse_uneven_experts(store, m, infos);
  Wholes wholes = wholes_of(m, infos);
  auto groups = groups_of(m, infos, wholes);
  if (options.target == "sglang") set_use_clip(m, groups, options);
  finish_plan(store, options, quantization_config(groups, ignore_list(m, wholes), m.kv_cache),
              out);
  return out;
}

}  // namespace qp::ct
