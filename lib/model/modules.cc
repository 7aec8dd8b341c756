#include "lib/model/modules.h"

#include <strings.h>

#include <algorithm>
#include <array>
#include <charconv>

namespace qp {
namespace {

constexpr std::array<std::string_view, 13> kKindNames = {
    "Linear", "Expert", "ExpertStack", "Embedding",    "Head", "Norm", "Router",
    "Vision", "Conv",   "MTP",         "Conditioning", "Bias", "Other"};
constexpr std::array<ModuleKind, 13> kKinds = {
    ModuleKind::linear, ModuleKind::expert, ModuleKind::stack,  ModuleKind::embedding,
    ModuleKind::head,   ModuleKind::norm,   ModuleKind::router, ModuleKind::vision,
    ModuleKind::conv,   ModuleKind::mtp,    ModuleKind::conditioning,
    ModuleKind::bias,   ModuleKind::other};

// A dotted name matches a row when one of its components equals (or, with a leading '*', ends
// with) the word. First row wins.
struct NameRow {
  std::string_view word;
  ModuleKind kind;
};
constexpr NameRow kByComponent[] = {
    {"vision_tower", ModuleKind::vision},      {"vision_model", ModuleKind::vision},
    {"visual", ModuleKind::vision},            {"vision_embed_tokens", ModuleKind::vision},
    {"multi_modal_projector", ModuleKind::vision}, {"mm_projector", ModuleKind::vision},
    {"vision_encoder", ModuleKind::vision},    {"audio_tower", ModuleKind::vision},
    {"embed_vision", ModuleKind::vision},      {"embed_audio", ModuleKind::vision},
    {"connector", ModuleKind::vision},         {"patch_embed", ModuleKind::vision},
    {"mtp", ModuleKind::mtp},                  {"mtp_layers", ModuleKind::mtp},
    {"eh_proj", ModuleKind::mtp},              {"shared_head", ModuleKind::mtp},
    {"embed_tokens", ModuleKind::embedding},   {"wte", ModuleKind::embedding},
    {"wpe", ModuleKind::embedding},            {"word_embeddings", ModuleKind::embedding},
    {"tok_embeddings", ModuleKind::embedding}, {"embed_positions", ModuleKind::embedding},
    {"token_embd", ModuleKind::embedding},     {"embed_tokens_per_layer", ModuleKind::embedding},
    {"lm_head", ModuleKind::head},             {"embed_out", ModuleKind::head},
    {"output_layer", ModuleKind::head},        {"score", ModuleKind::head},
    {"router", ModuleKind::router},            {"shared_expert_gate", ModuleKind::router},
    {"ffn_gate_inp", ModuleKind::router},      {"wg", ModuleKind::router},
    {"*norm", ModuleKind::norm},               {"*layernorm", ModuleKind::norm},
    {"ln_f", ModuleKind::norm},                {"ln_1", ModuleKind::norm},
    {"ln_2", ModuleKind::norm},
};

// A module called plain "gate" is a router when it sits under one of these.
constexpr std::string_view kRouterParents[] = {"mlp", "block_sparse_moe", "feed_forward", "ffn", "moe"};

// Projections the engines fuse: members, the name of the group, and what engines call the whole.
struct FusedRow {
  std::string_view member;
  std::string_view group;
  std::string_view whole;
};
constexpr FusedRow kFused[] = {
    {"q_proj", "qkv", "qkv_proj"},
    {"k_proj", "qkv", "qkv_proj"},
    {"v_proj", "qkv", "qkv_proj"},
    {"gate_proj", "gate_up", "gate_up_proj"},
    {"up_proj", "gate_up", "gate_up_proj"},
    {"w1", "w13", "gate_up_proj"},
    {"w3", "w13", "gate_up_proj"},
    {"q_a_proj", "qkv_a", "fused_qkv_a_proj_with_mqa"},
    {"kv_a_proj_with_mqa", "qkv_a", "fused_qkv_a_proj_with_mqa"},
    {"in_proj_qkv", "in_proj", "in_proj_qkvz"},
    {"in_proj_z", "in_proj", "in_proj_qkvz"},
    {"in_proj_b", "in_proj_ba", "in_proj_ba"},
    {"in_proj_a", "in_proj_ba", "in_proj_ba"},
};

bool component_is(std::string_view component, std::string_view word) {
  if (word.front() == '*') return component.ends_with(word.substr(1));
  return component == word;
}

template <class Visit>
void each_component(std::string_view name, Visit visit) {
  while (!name.empty()) {
    auto dot = name.find('.');
    visit(name.substr(0, dot));
    if (dot == std::string_view::npos) break;
    name.remove_prefix(dot + 1);
  }
}

std::string_view last_component(std::string_view name) {
  auto dot = name.rfind('.');
  return dot == std::string_view::npos ? name : name.substr(dot + 1);
}
std::string_view parent_of(std::string_view name) {
  auto dot = name.rfind('.');
  return dot == std::string_view::npos ? std::string_view() : name.substr(0, dot);
}

// "model.layers.61.…" -> 61, or -1.
int64_t layer_number(std::string_view name) {
  auto at = name.find("layers.");
  if (at == std::string_view::npos || (at > 0 && name[at - 1] != '.')) return -1;
  int64_t n = -1;
  std::from_chars(name.data() + at + 7, name.data() + name.size(), n);
  return n;
}

int64_t layer_count(const Json& config) {
  const Json* c = &config;
  if (config.is_object() && config.contains("text_config")) c = &config.at("text_config");
  if (!c->is_object()) return -1;
  auto it = c->find("num_hidden_layers");
  return it != c->end() && it->is_number_integer() ? it->get<int64_t>() : -1;
}

bool is_gpt2(const Json& config) {
  return config.is_object() && config.contains("model_type") && config["model_type"] == "gpt2";
}

std::optional<ModuleKind> kind_by_component(std::string_view module) {
  std::optional<ModuleKind> kind;
  for (const NameRow& row : kByComponent) {
    each_component(module, [&](std::string_view c) {
      if (!kind && component_is(c, row.word)) kind = row.kind;
    });
    if (kind) return kind;
  }
  return std::nullopt;
}

bool is_number(std::string_view s) {
  return !s.empty() && s.find_first_not_of("0123456789") == s.npos;
}

// What in a diffusion transformer is no linear of its blocks: everything outside its lists of blocks
// ("x_embedder", "proj_out", "condition_embedder.text_embedder.linear_1"), and what scales and
// shifts by the timestep inside them ("norm1.linear", "img_mod.1", "adaLN_modulation.1").
bool is_conditioning(std::string_view module) {
  auto dot = module.find('.');
  if (dot == module.npos) return true;
  std::string_view list = module.substr(0, dot), rest = module.substr(dot + 1);
  if (!is_number(rest.substr(0, rest.find('.')))) return true;
  auto has = [](std::string_view s, std::string_view part) { return s.find(part) != s.npos; };
  if (has(list, "embed") || has(list, "proj")) return true;
  bool modulation = false;
  each_component(rest, [&](std::string_view c) {
    modulation |= c.starts_with("norm") || c.ends_with("norm") || c.ends_with("_mod") ||
                  has(c, "modulation") || has(c, "adaln") || has(c, "time_emb");
  });
  return modulation;
}

ModuleKind diffusion_kind(std::string_view name, std::string_view module, const Shape& shape) {
  if (shape.rank() < 2) {
    return name.find("norm") != name.npos ? ModuleKind::norm : ModuleKind::bias;
  }
  if (!name.ends_with(".weight")) return ModuleKind::other;
  if (shape.rank() > 2) return ModuleKind::conv;
  if (is_conditioning(module)) return ModuleKind::conditioning;
  if (last_component(module) == "gate") return ModuleKind::router;
  return module.find(".experts.") != module.npos ? ModuleKind::expert : ModuleKind::linear;
}

ModuleKind kind_of(std::string_view name, std::string_view module, DType dtype, const Shape& shape,
                   const Json& config) {
  if (!is_float(dtype)) return ModuleKind::other;
  auto slash = module.rfind('/');
  if (slash != module.npos) return diffusion_kind(name, module.substr(slash + 1), shape);
  if (is_diffusion_model(config)) return diffusion_kind(name, module, shape);
  auto by_name = kind_by_component(module);
  if (by_name == ModuleKind::vision) return *by_name;  // towers count their layers on their own
  int64_t layers = layer_count(config);
  if (layers > 0 && layer_number(name) >= layers) return ModuleKind::mtp;
  if (by_name && *by_name != ModuleKind::norm) return *by_name;
  if (shape.rank() < 2) return by_name ? ModuleKind::norm : ModuleKind::bias;
  bool in_experts = module.find("experts.") != std::string_view::npos ||
                    last_component(parent_of(module)) == "experts";
  if (shape.rank() == 3 && in_experts) return ModuleKind::stack;
  if (!name.ends_with(".weight")) return ModuleKind::other;
  if (by_name) return *by_name;
  std::string_view last = last_component(module), parent = last_component(parent_of(module));
  if (last == "gate" && std::ranges::find(kRouterParents, parent) != std::end(kRouterParents)) {
    return ModuleKind::router;
  }
  if (shape.rank() > 2) return ModuleKind::conv;
  return in_experts ? ModuleKind::expert : ModuleKind::linear;
}

}  // namespace

std::string_view name_of(ModuleKind kind) { return kKindNames[static_cast<size_t>(kind)]; }
std::span<const ModuleKind> all_kinds() { return kKinds; }
std::optional<ModuleKind> kind_from_name(std::string_view name) {
  for (ModuleKind kind : kKinds) {
    std::string_view k = name_of(kind);
    if (k.size() == name.size() && strncasecmp(k.data(), name.data(), k.size()) == 0) return kind;
  }
  return std::nullopt;
}

bool is_diffusion_model(const Json& config) {
  return config.is_object() && config.contains("_class_name");
}

ModuleInfo classify(std::string_view name, DType dtype, const Shape& shape, const Json& config) {
  ModuleInfo info;
  std::string_view module = name;
  if (module.ends_with(".weight")) module.remove_suffix(7);
  info.module = module;
  info.kind = kind_of(name, module, dtype, shape, config);
  if (info.kind != ModuleKind::linear && info.kind != ModuleKind::expert) return info;
  std::string_view last = last_component(module);
  std::string parent(parent_of(module));
  info.transposed = is_gpt2(config) && last.starts_with("c_");
  for (const FusedRow& row : kFused) {
    if (row.member != last) continue;
    info.fused = parent + "." + std::string(row.group);
    if (info.kind == ModuleKind::linear) info.whole = parent + "." + std::string(row.whole);
  }
  info.agree = info.fused;
  if (info.kind == ModuleKind::expert) {
    // "…experts.17.down_proj": every expert of the layer, gate and up together, down apart.
    auto at = module.find("experts.");
    bool down = last == "down_proj" || last == "w2";
    info.agree = std::string(module.substr(0, at)) + "experts." + (down ? "w2" : "w13");
  }
  return info;
}

std::string_view layer_prefix(std::string_view name) {
  for (size_t at = 0, end; at < name.size(); at = end + 1) {
    end = std::min(name.find('.', at), name.size());
    std::string_view word = name.substr(at, end - at);
    if (is_number(word)) return name.substr(0, end);
  }
  return {};
}

}  // namespace qp
