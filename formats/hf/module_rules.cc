#include "formats/hf/module_rules.h"

#include <algorithm>
#include <map>
#include <set>
#include <string_view>

namespace qp {
namespace {

// Groups of ModuleInfo::fused as checkpoints spell their members and engines the whole.
struct Fused {
  std::string_view group, members;
};
constexpr Fused kFused[] = {
    {"qkv", "q_proj|k_proj|v_proj|qkv_proj"},
    {"gate_up", "gate_proj|up_proj|gate_up_proj"},
    {"qkv_a", "q_a_proj|kv_a_proj_with_mqa|fused_qkv_a_proj_with_mqa"},
    {"in_proj", "in_proj_qkv|in_proj_z|in_proj_qkvz"},
    {"in_proj_ba", "in_proj_b|in_proj_a|in_proj_ba"},
};

// A set of modules that a rule speaks of at once; `layer` is its number where it has one.
struct Unit {
  std::string before, layer, after;  // pattern = before + layer + after
  std::set<int32_t> choices;
  std::vector<const ModuleChoice*> members;
};

std::string_view tail(std::string_view name) {
  auto dot = name.rfind('.');
  return dot == std::string_view::npos ? name : name.substr(dot + 1);
}
std::string head(std::string_view name) {
  auto dot = name.rfind('.');
  return std::string(dot == std::string_view::npos ? std::string_view() : name.substr(0, dot));
}

// The component of a name that makes it another modality's: "visual", "vision_tower".
std::string tower_of(std::string_view name) {
  for (std::string_view rest = name; !rest.empty();) {
    auto dot = rest.find('.');
    std::string word(rest.substr(0, dot));
    if (classify(word + ".weight", DType::bf16, Shape{1, 1}, Json()).kind == ModuleKind::vision)
      return word;
    rest = dot == std::string_view::npos ? std::string_view() : rest.substr(dot + 1);
  }
  return std::string(name);
}

// Splits a name at its layer's number and escapes both sides. "a.3.b" -> "a\.", "3", "\.b".
void place(Unit& u, std::string_view name, std::string_view after_pattern) {
  std::string_view prefix = layer_prefix(name);
  if (prefix.empty()) {
    u.before = escape_regex(name);
  } else {
    u.layer = tail(prefix);
    u.before = escape_regex(prefix.substr(0, prefix.size() - u.layer.size()));
    u.after = escape_regex(name.substr(prefix.size()));
  }
  u.after += after_pattern;
}

std::pair<std::string, Unit> unit_of(const ModuleChoice& m) {
  Unit u;
  const std::string& name = m.info.module;
  if (m.info.kind == ModuleKind::vision) {
    u.before = "(.*\\.)?" + escape_regex(tower_of(name)) + "(\\..*)?";
    return {u.before, u};
  }
  if (m.info.kind == ModuleKind::expert) {  // w13 or w2 of all experts of a layer
    auto at = name.rfind(".experts.");
    std::string_view last = tail(name);
    bool down = last == "down_proj" || last == "w2";
    bool letters = last.starts_with('w');
    std::string members = letters ? (down ? "w2" : "(w1|w3)")
                          : down  ? "down_proj"
                                  : "(gate_proj|up_proj)";
    place(u, name.substr(0, at + 8), "\\.\\d+\\." + members);
    return {m.info.agree, u};
  }
  if (m.info.kind == ModuleKind::stack) {
    place(u, name, "(\\..*)?");
    return {name, u};
  }
  if (!m.info.fused.empty()) {
    std::string_view group = tail(m.info.fused);
    for (const Fused& f : kFused) {
      if (f.group != group) continue;
      place(u, head(name), "\\.(" + std::string(f.members) + ")");
      return {m.info.fused, u};
    }
  }
  place(u, name, "");
  return {name, u};
}

std::string joined(const std::vector<std::string>& words) {
  std::string out;
  for (const std::string& w : words) out += (out.empty() ? "" : "|") + w;
  return words.size() == 1 ? out : "(" + out + ")";
}

}  // namespace

std::string escape_regex(std::string_view text) {
  std::string out;
  for (char c : text) {
    if (std::string_view(".^$*+?()[]{}|\\").find(c) != std::string_view::npos) out += '\\';
    out += c;
  }
  return out;
}

std::vector<ModuleChoice> module_choices(const Model& model) {
  std::vector<ModuleChoice> out;
  for (const Tensor& t : model.tensors) {
    ModuleInfo info = classify(t.name, t.dtype, t.shape, model.config);
    bool matrix = t.quantized() || (t.name.ends_with(".weight") && t.shape.rank() == 2);
    if (info.kind == ModuleKind::stack &&
        !t.quantized()) {  // the module is the stack of all experts
      if (auto at = info.module.rfind(".experts"); at != std::string::npos)
        info.module.resize(at + 8);
      matrix = true;
    }
    bool other = info.kind == ModuleKind::embedding || info.kind == ModuleKind::norm ||
                 info.kind == ModuleKind::conv || info.kind == ModuleKind::bias;
    if (!matrix || (other && !t.quantized())) continue;
    out.push_back({std::move(info), t.quantized() ? t.scheme : -1});
  }
  return out;
}

std::vector<ModuleChoice> module_choices(const Model& model, const std::vector<Json>& settings,
                                         std::vector<Json>& kinds) {
  std::vector<ModuleChoice> out = module_choices(model);
  size_t next = 0;
  for (ModuleChoice& c : out) {
    if (c.choice < 0) continue;
    const Json& mine = settings.at(next++);
    auto it = std::ranges::find(kinds, mine);
    c.choice = static_cast<int32_t>(it - kinds.begin());
    if (it == kinds.end()) kinds.push_back(mine);
  }
  return out;
}

int32_t most_common(const std::vector<ModuleChoice>& modules) {
  std::map<int32_t, uint64_t> count;
  for (const ModuleChoice& m : modules) {
    if (m.choice >= 0) ++count[m.choice];
  }
  int32_t best = -1;
  for (auto [choice, n] : count) {
    if (best < 0 || n > count[best]) best = choice;
  }
  return best;
}

std::vector<ModuleRule> module_rules(const std::vector<ModuleChoice>& modules, int32_t common) {
  std::map<std::string, Unit> units;
  for (const ModuleChoice& m : modules) {
    auto [key, made] = unit_of(m);
    Unit& u = units.try_emplace(key, made).first->second;
    u.choices.insert(m.choice);
    u.members.push_back(&m);
  }
  // By what is the same in every layer: the numbers of those of one choice.
  struct Family {
    std::map<int32_t, std::vector<std::string>> layers;
  };
  std::map<std::pair<std::string, std::string>, Family> families;
  auto add = [&](const Unit& u, int32_t choice) {
    families[{u.before, u.after}].layers[choice].push_back(u.layer);
  };
  for (auto& [key, u] : units) {
    if (u.choices.size() == 1) {
      add(u, *u.choices.begin());
      continue;
    }
    for (const ModuleChoice* m : u.members) {  // the members differ: each by itself
      Unit one;
      place(one, m->info.module, "");
      add(one, m->choice);
    }
  }
  std::vector<ModuleRule> rules;
  for (auto& [name, family] : families) {
    for (auto& [choice, layers] : family.layers) {
      if (choice == common) continue;
      std::ranges::sort(layers, [](const std::string& a, const std::string& b) {
        return a.size() != b.size() ? a.size() < b.size() : a < b;
      });
      bool numbered = !layers.front().empty();
      std::string number = !numbered                                        ? ""
                           : family.layers.size() == 1 && layers.size() > 1 ? "\\d+"
                                                                            : joined(layers);
      rules.push_back({name.first + number + name.second, choice});
    }
  }
  std::stable_partition(rules.begin(), rules.end(),
                        [](const ModuleRule& r) { return r.choice < 0; });
  return rules;
}

std::vector<std::string> substrings(const std::vector<ModuleChoice>& modules,
                                    std::vector<std::string>& missed) {
  std::vector<std::string> quantized, out;
  for (const ModuleChoice& m : modules) {
    if (m.choice >= 0) quantized.push_back(m.info.module);
  }
  auto hits = [&](const std::string& text) {
    return std::ranges::any_of(
        quantized, [&](const std::string& q) { return q.find(text) != std::string::npos; });
  };
  for (const ModuleChoice& m : modules) {
    const std::string& name = m.info.module;
    bool said = m.choice >= 0 || std::ranges::any_of(out, [&](const std::string& s) {
                  return name.find(s) != std::string::npos;
                });
    if (said) continue;
    std::string last(tail(name)), two = std::string(tail(head(name))) + "." + last;
    std::vector<std::string> tries = {last, two, name};
    if (m.info.kind == ModuleKind::vision) tries.insert(tries.begin(), tower_of(name));
    auto fits = std::ranges::find_if(tries, [&](const std::string& t) { return !hits(t); });
    if (fits == tries.end()) {
      missed.push_back(name);
    } else {
      out.push_back(*fits);
    }
  }
  return out;
}

}  // namespace qp
