#include <algorithm>
#include <map>
#include <set>

#include "formats/compressed_tensors/compressed_tensors.h"
#include "formats/hf/config.h"
#include "formats/hf/kv_cache.h"
#include "lib/base/checked.h"
#include "lib/base/error.h"
#include "lib/model/modules.h"
#include "lib/qmap/store.h"

namespace qp::ct {
namespace {

// ---- config

std::string escape_regex(std::string_view text) {
  std::string out;
  for (char c : text) {
    if (std::string_view(".^$*+?()[]{}|\\").find(c) != std::string_view::npos) out += '\\';
    out += c;
  }
  return out;
}

// Modules the engines build as Linear but that are stored unquantized: all must be named
// (SGLang refuses a Linear that is neither targeted nor ignored).
std::vector<std::string> ignore_list(const Model& m, const std::vector<ModuleInfo>& infos) {
  std::vector<std::string> out;
  bool head = false, mtp_prefix = false;
  for (size_t i = 0; i < m.tensors.size(); ++i) {
    const Tensor& t = m.tensors[i];
    const ModuleInfo& info = infos[i];
    if (info.kind == ModuleKind::head) head = true;
    if (t.quantized() || !t.name.ends_with(".weight") || t.shape.rank() < 2) {
      if (info.kind == ModuleKind::stack) {
        auto at = info.module.rfind('.');
        out.push_back("re:" + escape_regex(info.module.substr(0, at)) + "\\..*");
      }
      continue;
    }
    if (info.kind == ModuleKind::embedding || info.kind == ModuleKind::conv) continue;
    if (info.kind == ModuleKind::mtp && t.name.starts_with("mtp.")) {
      if (!mtp_prefix) out.push_back("re:^mtp.*");
      mtp_prefix = true;
    } else {
      out.push_back(info.module);
    }
  }
  // A tied head has no tensor, yet it is a Linear to transformers.
  if (!head && !is_diffusion_model(m.config)) out.push_back("lm_head");
  std::ranges::sort(out);
  out.erase(std::unique(out.begin(), out.end()), out.end());
  return out;
}

std::vector<Group> groups_of(const Model& m, const std::vector<ModuleInfo>& infos) {
  std::map<std::pair<int32_t, bool>, std::vector<std::string>> names;  // by scheme, and whether there is a g_idx
  bool plain = true;
  for (size_t i = 0; i < m.tensors.size(); ++i) {
    if (!m.tensors[i].quantized()) continue;
    names[{m.tensors[i].scheme, m.tensors[i].part(Role::g_idx) != nullptr}].push_back(infos[i].module);
    plain = plain && (infos[i].kind == ModuleKind::linear || infos[i].kind == ModuleKind::expert);
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
  options.warn("activation_use_clip is written for SGLang; the compressed-tensors library (transformers, vLLM) refuses unknown keys of a group");
}

void refuse_tied_head(const Store& store, const Model& m, const std::vector<ModuleInfo>& infos) {
  if (!m.config.is_object() || !json_bool(m.config, "tie_word_embeddings", false)) return;
  for (size_t i = 0; i < m.tensors.size(); ++i) {
    if (m.tensors[i].quantized() && infos[i].kind == ModuleKind::head) {
      throw limit_error("is tied to the embedding: engines would not load a quantized head")
          .file(store.label())
          .tensor(m.tensors[i].name)
          .hint("leave it out with --ignore " + infos[i].module);
    }
  }
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
    if (!t.ggml.empty()) {
      throw limit_error("is " + t.ggml + ", which compressed-tensors cannot hold")
          .file(store.label())
          .tensor(t.name)
          .hint("load it with qload --dequantize and quantize it again");
    }
    infos.push_back(classify(t.name, t.quantized() ? DType::bf16 : t.dtype, t.shape, m.config));
    if (m.kv_cache && is_kv_scale(t)) {
      keep_kv_scale(store, t, out);
    } else if (!t.quantized()) {
      keep_tensor(t, out);
    } else {
      emit_tensor(store, t, m.schemes[static_cast<size_t>(t.scheme)], out);
    }
  }
  refuse_tied_head(store, m, infos);
  refuse_uneven_experts(store, m, infos);
  keep_companions(m, out);
  if (m.config.is_null()) {
    options.warn("the source has no config.json: the one written holds only quantization_config");
  }
  auto groups = groups_of(m, infos);
  if (options.target == "sglang") set_use_clip(m, groups, options);
  if (groups.empty()) {
    options.warn("nothing is quantized; -f safetensors writes the same without quantization_config");
  }
  Json config = unquantized_config_json(m);
  config["quantization_config"] = quantization_config(groups, ignore_list(m, infos), m.kv_cache);
  out.config = config_text(config);
  return out;
}

}  // namespace qp::ct
