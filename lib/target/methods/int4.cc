// GPTQ, AWQ and auto-round. Facts: reference/int4-formats.md 1.2 to 1.7.
#include <algorithm>
#include <memory>

#include "lib/base/error.h"
#include "lib/target/methods/methods.h"

namespace qp::target {
namespace {

// Shards of a layer, or experts, that are stored quantized.
bool stored_packed(const Layer& layer, const Layers& layers) {
  return std::ranges::any_of(layer.shards, [&](const Shard& s) {
    return s.module != Shard::kAbsent && layers.modules[s.module].find("qweight").has_value();
  });
}

bool marlin_group(uint64_t g) { return g == 0 || g == 32 || g == 64 || g == 128; }

// "gptq-marlin", "gptq-plain": which of an engine's kernels takes it.
void name_gptq(Scheme& s) {
  s.params = "gptq";
  bool type = s.symmetric && (s.bits == 4 || s.bits == 8);
  s.support = type && marlin_group(s.group) ? "gptq-marlin" : type ? "gptq-group" : "gptq-plain";
}

void name_awq(Scheme& s, bool zero_point) {
  s.params = "awq";
  s.support = zero_point && s.bits == 4 ? "awq" : s.bits == 4 ? "awq-no-zeros" : "awq-bits";
}

uint64_t group_of(const Json& q, std::initializer_list<const char*> keys) {
  int64_t g = int_at(q, keys).value_or(-1);
  return g > 0 ? static_cast<uint64_t>(g) : 0;
}

int bits_of(const Json& q, std::initializer_list<const char*> keys) {
  return static_cast<int>(std::clamp<int64_t>(int_at(q, keys).value_or(4), 1, 32));
}

struct Override {
  bool negative;
  Regex pattern;
  Json values;
};

std::vector<Override> read_dynamic(const Json& q, Findings& findings) {
  std::vector<Override> out;
  auto it = q.find("dynamic");
  if (it == q.end() || !it->is_object()) return out;
  for (const auto& [key, value] : it->items()) {
    bool negative = key.starts_with("-:");
    std::string text = negative || key.starts_with("+:") ? key.substr(2) : key;
    try {
      out.push_back({negative, Regex(text), value});
    } catch (const Error&) {
      findings.add("bad-pattern", key, "is no regular expression");
    }
  }
  return out;
}

struct Gptq {
  Context& context;
  Scheme base;
  bool head = false, by_list = false, by_storage = false;
  NameList list;
  std::vector<Override> dynamic;

  std::optional<Scheme> choose(const Layer& layer) const {
    if (layer.part == Part::head && !head) return std::nullopt;
    if (layer.part == Part::embedding) return std::nullopt;
    if (by_list && layer.part != Part::head && !list.covers(layer.name) && !any_member(layer))
      return std::nullopt;
    if (by_storage && !stored_packed(layer, context.layers)) return std::nullopt;
    Scheme s = base;
    for (const Override& o : dynamic) {
      if (!o.pattern.matches_start(layer.name)) continue;
      if (o.negative) return std::nullopt;
      s.bits = bits_of(o.values.contains("bits") ? o.values : Json{{"bits", base.bits}}, {"bits"});
      if (o.values.contains("group_size")) s.group = group_of(o.values, {"group_size"});
      s.symmetric = bool_at(o.values, {"sym"}).value_or(base.symmetric);
      s.act_order = bool_at(o.values, {"desc_act"}).value_or(base.act_order);
      name_gptq(s);
      break;
    }
    return s;
  }
  bool any_member(const Layer& layer) const {
    return std::ranges::any_of(layer.shards, [&](const Shard& s) { return list.covers(s.name); });
  }
};

std::vector<std::string> flat_strings(const Json& list) {
  std::vector<std::string> out = strings_of(list);
  if (!list.is_array()) return out;
  for (const Json& inner : list) std::ranges::copy(strings_of(inner), std::back_inserter(out));
  return out;
}

// Lists that engines match by substring; where there is none, newer vLLM looks at the dtypes.
struct Skip {
  NameList list;
  bool by_storage = false;
};

}  // namespace

Chooser choose_gptq(Context& c, const Method& method) {
  const Json& q = c.checkpoint.quant;
  auto g = std::make_shared<Gptq>(Gptq{c, {}, false, false, false, {}, {}});
  g->base.bits = bits_of(q, {"bits", "w_bit", "wbits"});
  g->base.group = group_of(q, {"group_size", "q_group_size"});
  g->base.symmetric = bool_at(q, {"sym"}).value_or(true);
  g->base.act_order = bool_at(q, {"desc_act"}).value_or(false);
  name_gptq(g->base);
  g->head = bool_at(q, {"lm_head"}).value_or(false);
  for (const char* key : {"desc_act", "sym"}) {
    if (q.contains(key)) continue;
    if (c.engine.name == "sglang") g->base.support = "gptq-plain";
    c.findings.add("gptq-missing-key", "", "the config has no '" + std::string(key) + "'", key);
  }
  if (g->base.act_order && g->base.group > 0)
    c.findings.add("gptq-act-order", "", "desc_act is true, in groups");
  std::string stored = text_at(q, {"checkpoint_format", "format"});
  if (stored == "marlin" || bool_at(q, {"is_marlin_format"}).value_or(false)) {
    c.findings.add("gptq-marlin-format", "", "checkpoint_format is marlin");
  } else if (!stored.empty() && stored != "gptq" && stored != "gptq_v2") {
    c.findings.add("gptq-format", "", "checkpoint_format is " + printable(stored));
  }
  if (stored == "gptq_v2") c.findings.add("gptq-v2", "", "checkpoint_format is gptq_v2");
  if (const Json* list = list_at(q, {"modules_in_block_to_quantize"});
      list != nullptr && c.engine.name != "sglang") {
    g->by_list = true;
    g->list = NameList(Dialect::substring, flat_strings(*list));
  } else {
    g->by_storage = c.engine.name != "sglang";
  }
  g->dynamic = read_dynamic(q, c.findings);
  if (!g->dynamic.empty()) c.findings.add("gptq-dynamic-ignored", "", "the config has 'dynamic'");
  (void)method;
  return [g](const Layer& layer) { return g->choose(layer); };
}

Chooser choose_awq(Context& c, const Method& method) {
  const Json& q = c.checkpoint.quant;
  Scheme s;
  s.bits = bits_of(q, {"bits", "w_bit"});
  s.group = group_of(q, {"group_size", "q_group_size"});
  auto zero_point = bool_at(q, {"zero_point"});
  if (!zero_point)
    c.findings.add("awq-missing-key", "", "the config has no 'zero_point'", "zero_point");
  name_awq(s, zero_point.value_or(true));
  std::string version = text_at(q, {"version"});
  if (!version.empty() && version != "gemm")
    c.findings.add("awq-version", "", "version is " + printable(version), version);
  bool head = bool_at(q, {"lm_head"}).value_or(false);
  auto skip = std::make_shared<Skip>();
  const Json* list = list_at(q, {"modules_to_not_convert"});
  if (list != nullptr) skip->list = NameList(method.left_out, strings_of(*list));
  skip->by_storage = list == nullptr && c.engine.name != "sglang";
  return [&c, s, head, skip](const Layer& layer) -> std::optional<Scheme> {
    if (layer.part == Part::embedding || (layer.part == Part::head && !head)) return std::nullopt;
    if (skip->by_storage && !stored_packed(layer, c.layers)) return std::nullopt;
    if (layer.part == Part::experts)
      return skip->list.covers(layer.name) ? std::nullopt : std::optional(s);
    return agreed(layer, c.findings, [&](const std::string& n) {
      return skip->list.covers(n) ? std::nullopt : std::optional(s);
    });
  };
}

namespace {

bool is_regex(std::string_view key) { return key.find_first_of("*+?^$()[]{}|\\") != key.npos; }

struct AutoRound {
  struct Extra {
    std::string name;
    std::optional<Regex> pattern;
    Json values;
  };
  Context& context;
  Scheme base;
  bool awq = false, full_match = false, mxfp = false;
  NameList blocks;
  std::vector<Extra> extras;

  std::optional<Scheme> of(const std::string& name, bool head) const {
    const Extra* extra = nullptr;
    for (const Extra& e : extras) {
      bool hit =
          e.name == name ||
          (e.pattern && (full_match ? e.pattern->matches_start(name) : e.pattern->found_in(name)));
      if (hit) {
        extra = &e;
        break;
      }
    }
    bool inside = blocks.empty() ? !head : blocks.covers(name);
    if (extra == nullptr && !inside) return std::nullopt;
    Scheme s = base;
    if (extra != nullptr) {
      s.bits = bits_of(extra->values.contains("bits") ? extra->values : Json{{"bits", base.bits}},
                       {"bits"});
      if (s.bits >= 16) return std::nullopt;
      if (extra->values.contains("group_size")) s.group = group_of(extra->values, {"group_size"});
      s.symmetric = bool_at(extra->values, {"sym"}).value_or(base.symmetric);
    }
    if (mxfp) {
      s.params = s.bits == 4 ? "ct-mxfp4" : "ct-mxfp8";
      s.support = s.bits == 4 ? "mxfp4" : "mxfp8";
      return s;
    }
    awq ? name_awq(s, true) : name_gptq(s);
    bool vllm = context.engine.name == "vllm";
    bool low = s.bits == 2 || s.bits == 3 || s.bits == 5 || s.bits == 6 || s.bits == 7;
    if (vllm && low) s.support = "inc-low";
    if (vllm && s.support == "gptq-plain") s.support = "inc-plain";
    // SGLang chooses a kernel for each layer here, and for the whole model under quant_method gptq.
    if (full_match && s.support != "gptq-marlin" && !awq) s.support = "auto-gptq-plain";
    return s;
  }
};

}  // namespace

Chooser choose_auto_round(Context& c, const Method& method) {
  const Json& q = c.checkpoint.quant;
  auto a = std::make_shared<AutoRound>(AutoRound{c, {}, false, false, false, {}, {}});
  a->base.bits = bits_of(q, {"bits"});
  a->base.group = group_of(q, {"group_size"});
  a->base.symmetric = bool_at(q, {"sym"}).value_or(true);
  a->full_match = c.engine.name == "sglang";
  std::string packing = text_at(q, {"packing_format"});
  a->awq = packing.ends_with("awq");
  bool readable = packing == "auto_round:auto_gptq" || packing == "auto_round:auto_awq" ||
                  packing == "auto_round:gptq" || packing == "auto_round:awq";
  std::string type = text_at(q, {"data_type"});
  bool compressor = c.engine.name == "vllm" && packing == "auto_round:llm_compressor";
  a->mxfp = compressor && type.starts_with("mx_fp") && a->base.group == 32 && a->base.symmetric;
  if (!readable && !a->mxfp)
    c.findings.add("auto-round-packing", "", "packing_format is '" + printable(packing) + "'",
                   packing);
  if (!type.empty() && type != "int" && !a->mxfp)
    c.findings.add("auto-round-data-type", "", "data_type is " + printable(type), type);
  bool qwen_vl = c.model.architecture.starts_with("Qwen2_5_VL");
  if (qwen_vl && !a->awq)
    c.findings.add("qwen2-5-vl-auto-gptq", "", "Qwen2.5-VL in auto_round:auto_gptq");
  std::vector<std::string> blocks = q.contains("block_name_to_quantize")
                                        ? strings_of(q["block_name_to_quantize"])
                                        : std::vector<std::string>{};
  std::string text = text_at(q, {"block_name_to_quantize"});
  for (size_t at = 0; at < text.size();) {
    size_t end = std::min(text.find(',', at), text.size());
    blocks.push_back(text.substr(at, end - at));
    at = end + 1;
  }
  a->blocks = NameList(Dialect::prefix, blocks);
  if (auto extra = q.find("extra_config"); extra != q.end() && extra->is_object()) {
    for (const auto& [key, value] : extra->items()) {
      try {
        std::optional<Regex> pattern;
        if (is_regex(key)) pattern.emplace(a->full_match ? key + "$" : key);
        a->extras.push_back({key, std::move(pattern), value});
      } catch (const Error&) {
        c.findings.add("bad-pattern", key, "is no regular expression");
      }
    }
  }
  (void)method;
  return [a](const Layer& layer) -> std::optional<Scheme> {
    if (layer.part == Part::embedding) return std::nullopt;
    bool head = layer.part == Part::head;
    return agreed(
        layer, a->context.findings, [&](const std::string& n) { return a->of(n, head); },
        "inc-disagree");
  };
}

}  // namespace qp::target
