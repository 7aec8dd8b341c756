// bitsandbytes, Quark, ModelSlim, and methods that are taken as they lie.
// Facts: int4-formats.md 1.4; fp8-torchao-quark-modelslim.md 4 and 5.
#include <algorithm>
#include <memory>

#include "lib/base/error.h"
#include "lib/target/methods/methods.h"

namespace qp::target {
namespace {

const StoredModule* stored(const Shard& s, const Layers& layers) {
  return s.module == Shard::kAbsent ? nullptr : &layers.modules[s.module];
}

std::optional<Scheme> quark_scheme(const Json& spec, Findings& findings, const std::string& name) {
  if (!spec.is_object() || !spec.contains("weight") || spec["weight"].is_null())
    return std::nullopt;
  const Json& w = spec["weight"];
  Scheme s;
  bool has_input = spec.contains("input_tensors") && spec["input_tensors"].is_object();
  s.static_in = has_input && !bool_at(spec["input_tensors"], {"is_dynamic"}).value_or(false);
  std::string type = text_at(w, {"dtype"}), how = text_at(w, {"qscheme"});
  if (type == "fp8_e4m3" && (how == "per_tensor" || how == "per_channel")) {
    s.bits = 8;
    s.params = how == "per_tensor" ? "fp8-tensor" : "quark-fp8-channel";
    s.support = "quark-fp8";
    return s;
  }
  if ((type == "fp4" || type == "mx") && how == "per_group" &&
      int_at(w, {"group_size"}).value_or(0) == 32) {
    s.bits = 4;
    s.params = "quark-mxfp4";
    s.support = "quark-mxfp4";
    s.static_in = s.static_in && text_at(spec["input_tensors"], {"dtype"}) == "fp8_e4m3";
    return s;
  }
  findings.add("quark-scheme", name,
               "weights are " + (w.is_array() ? std::string("two-stage") : type + " " + how), type);
  return std::nullopt;
}

}  // namespace

Chooser choose_bitsandbytes(Context& c, const Method&) {
  if (c.options.tp > 1) c.findings.add("bnb-tp", "", "--tp is " + std::to_string(c.options.tp));
  return [&c](const Layer& layer) -> std::optional<Scheme> {
    Scheme four, eight;
    four.params = four.support = "bnb4";
    four.bits = 4;
    eight.params = eight.support = "bnb8";
    eight.bits = 8;
    // What a linear is, the names of its tensors tell.
    for (const Shard& s : layer.shards) {
      const StoredModule* m = stored(s, c.layers);
      if (m == nullptr) continue;
      if (m->find("weight.absmax")) return four;
      if (m->find("SCB")) return eight;
    }
    return std::nullopt;
  };
}

Chooser choose_quark(Context& c, const Method& method) {
  const Json& q = c.checkpoint.quant;
  if (!q.contains("export") || !q["export"].is_object()) {
    c.findings.add("quark-export", "", "the config has no 'export'", "export");
  } else if (!q["export"].contains("kv_cache_group")) {
    c.findings.add("quark-export", "", "'export' has no 'kv_cache_group'", "kv_cache_group");
  }
  auto left = std::make_shared<NameList>(method.left_out,
                                         strings_of(q.contains("exclude") ? q["exclude"] : Json()));
  std::optional<Scheme> global;
  if (q.contains("global_quant_config"))
    global = quark_scheme(q["global_quant_config"], c.findings, "global_quant_config");
  // A model with experts stops at whichever of its layers comes first.
  if (!global && c.model.experts > 0)
    c.findings.add("quark-scheme-experts", "global_quant_config", "is no scheme of experts");
  return [&c, left, global](const Layer& layer) -> std::optional<Scheme> {
    if (layer.part == Part::embedding) return std::nullopt;
    return agreed(layer, c.findings,
                  [&](const std::string& n) { return left->covers(n) ? std::nullopt : global; });
  };
}

Chooser choose_modelslim(Context& c, const Method&) {
  return [&c](const Layer& layer) -> std::optional<Scheme> {
    if (layer.part == Part::embedding) return std::nullopt;
    const Json& q = c.checkpoint.quant;
    auto of = [&](const std::string& name) -> std::optional<Scheme> {
      auto it = q.find(name + ".weight");
      if (it == q.end() || !it->is_string()) return std::nullopt;
      std::string label = it->get<std::string>();
      if (label == "FLOAT") return std::nullopt;
      Scheme s;
      s.bits = label.starts_with("W4") ? 4 : 8;
      if (label == "W8A8") s.params = "modelslim-static";
      if (label == "W8A8_DYNAMIC" || label == "W4A4_DYNAMIC") s.params = "modelslim-dynamic";
      if (label == "W4A8_DYNAMIC") s.params = "modelslim-w4a8";
      if (label == "W8A8_MXFP8") s.params = "modelopt-mxfp8";
      if (s.params.empty()) {
        c.findings.add("modelslim-label", name, "its label is " + printable(label), label);
        return std::nullopt;
      }
      s.support = label == "W8A8"           ? "W8A8"
                  : label == "W8A8_DYNAMIC" ? "W8A8_DYNAMIC"
                  : label == "W4A4_DYNAMIC" ? "W4A4_DYNAMIC"
                  : label == "W8A8_MXFP8"   ? "W8A8_MXFP8"
                                            : "W4A8_DYNAMIC";
      return s;
    };
    if (layer.part != Part::experts) return agreed(layer, c.findings, of);
    return layer.shards.empty() ? std::nullopt : of(layer.shards.front().name);
  };
}

Chooser choose_as_stored(Context& c, const Method& method) {
  c.findings.add("not-replayed", "",
                 "the tensors of " + std::string(method.name) +
                     " are not held against what the engine expects");
  return nullptr;
}

}  // namespace qp::target
