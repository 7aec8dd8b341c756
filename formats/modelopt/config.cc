#include <algorithm>
#include <array>
#include <set>

#include "formats/hf/directory.h"
#include "formats/hf/linear_writer.h"
#include "formats/modelopt/modelopt.h"
#include "lib/base/error.h"

namespace qp::modelopt {
namespace {

// The version whose layouts and configs are written. Engines look for the producer's name.
constexpr const char* kVersion = "0.47.0";

constexpr auto kAlgorithms = std::to_array<Algorithm>({
    {Kind::fp8, "FP8"},
    {Kind::fp8_channel, "FP8_PER_CHANNEL_PER_TOKEN"},
    {Kind::fp8_block, "fp8_pb_wo"},
    {Kind::nvfp4, "NVFP4", true},
    {Kind::nvfp4_awq, "NVFP4_AWQ", true, true},
    {Kind::w4a16_nvfp4, "W4A16_NVFP4", true},
    {Kind::w4a8_nvfp4, "W4A8_NVFP4_FP8", true},
    {Kind::int4_awq, "W4A16_AWQ", true, true},
    {Kind::w4a8_awq, "W4A8_AWQ", true, true},
    {Kind::int8_static, "W8A8_SQ_PER_CHANNEL"},
    {Kind::int8_weight, "W8A16"},
    {Kind::mxfp4, "mxfp4"},
    {Kind::w4a8_mxfp4, "W4A8_MXFP4_FP8", true},
    {Kind::mxfp8, "MXFP8", true},
});

bool same_word(std::string_view a, std::string_view b) {
  auto lower = [](char c) { return c >= 'A' && c <= 'Z' ? char(c + 32) : c; };
  return std::ranges::equal(a, b, [&](char x, char y) { return lower(x) == lower(y); });
}

QuantArgs args(int bits, NumType type, Strategy strategy, int group = 0,
               std::optional<DType> scale = {}) {
  QuantArgs a;
  a.num_bits = bits;
  a.type = type;
  a.strategy = strategy;
  a.group_size = group;
  a.scale_dtype = scale;
  return a;
}
QuantArgs as(Dynamic dynamic, QuantArgs a) {
  a.dynamic = dynamic;
  return a;
}

Entry read_entry(const Json& j, const std::string& algo) {
  auto found = std::ranges::find_if(kAlgorithms,
                                    [&](const Algorithm& a) { return same_word(a.name, algo); });
  if (found == kAlgorithms.end()) {
    throw input_error("quantization config: quant_algo '" + printable(algo) +
                      "' is not one that qpipe reads");
  }
  int64_t group = json_int(j, "group_size", 0);
  if (group < 0 || group > (1 << 20)) {
    throw input_error("quantization config: 'group_size' is " + std::to_string(group));
  }
  return {found->kind, static_cast<int>(group)};
}

const Json* member(const Json& j, const char* key) {
  auto it = j.find(key);
  return it == j.end() || it->is_null() ? nullptr : &*it;
}

std::string read_kv_cache(const Json& j) {
  const Json* v = member(j, "kv_cache_quant_algo");
  if (v == nullptr) v = member(j, "kv_cache_scheme");
  if (v == nullptr) return "";
  if (v->is_object()) {
    bool eight = json_int(*v, "num_bits", 0) == 8;
    std::string type = json_string(*v, "type", "float");
    if (eight && (type == "float" || type == "int")) return type == "float" ? "FP8" : "INT8";
  } else if (v->is_string()) {
    for (const char* known : {"FP8", "INT8", "NVFP4", "NVFP4_AFFINE"}) {
      if (same_word(v->get<std::string>(), known)) return known;
    }
  }
  throw input_error("quantization config: the KV cache's scheme " + printable(v->dump()) +
                    " is not one that qpipe reads");
}

// One group of config_groups, as ModelOpt's convert_hf_quant_config_format spells it.
Json group_config(const Json& entry) {
  auto side = [](int bits, const char* type, int group) {
    Json j = {{"dynamic", false}, {"num_bits", bits}, {"type", type}};
    if (group > 0) j["group_size"] = group;
    return j;
  };
  std::string algo = entry["quant_algo"];
  int group = entry.contains("group_size") ? entry["group_size"].get<int>() : 0;
  Json g;
  auto both = [&](Json input, Json weights) {
    g["input_activations"] = std::move(input);
    g["weights"] = std::move(weights);
  };
  auto channel = [](Json j) {
    j["strategy"] = "channel";
    return j;
  };
  if (algo == "FP8") {
    both(side(8, "float", 0), side(8, "float", 0));
  } else if (algo == "FP8_PER_CHANNEL_PER_TOKEN") {
    both(side(8, "float", 0), channel(side(8, "float", 0)));
  } else if (algo == "NVFP4") {
    both(side(4, "float", group), side(4, "float", group));
  } else if (algo == "W4A16_AWQ") {
    g["weights"] = side(4, "int", group);
  } else if (algo == "W4A16_NVFP4") {
    g["weights"] = side(4, "float", group);
  } else if (algo == "NVFP4_AWQ" || algo == "W4A8_AWQ") {
    both(side(8, "float", group), side(4, "float", group));
  } else if (algo == "W8A16") {
    g["weights"] = side(8, "int", 0);
  } else if (algo == "W8A8_SQ_PER_CHANNEL") {
    both(side(8, "int", 0), channel(side(8, "int", 0)));
  } else if (algo == "W4A8_NVFP4_FP8" || algo == "W4A8_MXFP4_FP8") {
    both(side(8, "float", 0), side(4, "float", group));
  } else if (algo == "MXFP8") {
    both(side(8, "float", group), side(8, "float", group));
  } else {
    g["quant_algo"] = algo;
  }
  return g;
}

}  // namespace

std::span<const Algorithm> algorithms() { return kAlgorithms; }
const Algorithm& algorithm(Kind kind) {
  return *std::ranges::find(kAlgorithms, kind, &Algorithm::kind);
}

Scheme scheme_of(Entry e, bool static_input) {
  using enum Strategy;
  constexpr auto F = NumType::floating, I = NumType::integer;
  Scheme s;
  s.numerics = "modelopt";
  s.name = algorithm(e.kind).name;
  QuantArgs fp8_input = as(static_input ? Dynamic::no : Dynamic::yes, args(8, F, tensor));
  auto nvfp4 = args(4, F, tensor_group, e.group, DType::f8_e4m3);
  auto mx = [](int bits) { return args(bits, F, group, 32, DType::f8_e8m0); };
  switch (e.kind) {
    case Kind::fp8: s.weights = args(8, F, tensor), s.input_activations = fp8_input; break;
    case Kind::fp8_channel:
      s.weights = args(8, F, channel);
      s.input_activations = as(Dynamic::yes, args(8, F, token));
      break;
    case Kind::fp8_block:
      s.weights = args(8, F, block);
      s.weights.block_rows = s.weights.block_cols = 128;
      break;
    case Kind::nvfp4:
    case Kind::nvfp4_awq: s.weights = nvfp4, s.input_activations = as(Dynamic::local, nvfp4); break;
    case Kind::w4a16_nvfp4: s.weights = nvfp4; break;
    case Kind::w4a8_nvfp4: s.weights = nvfp4, s.input_activations = fp8_input; break;
    case Kind::int4_awq: s.weights = args(4, I, group, e.group); break;
    case Kind::w4a8_awq:
      s.weights = args(4, I, group, e.group), s.input_activations = fp8_input;
      break;
    case Kind::int8_static:
      s.weights = args(8, I, channel), s.input_activations = args(8, I, tensor);
      break;
    case Kind::int8_weight: s.weights = args(8, I, channel); break;
    case Kind::mxfp4: s.weights = mx(4), s.input_activations = as(Dynamic::yes, mx(4)); break;
    case Kind::w4a8_mxfp4: s.weights = mx(4), s.input_activations = fp8_input; break;
    case Kind::mxfp8: s.weights = mx(8), s.input_activations = as(Dynamic::yes, mx(8)); break;
  }
  return s;
}

const Entry* Config::find(std::string_view module) const {
  if (all) return &*all;
  for (std::string name(module); !name.empty();) {
    if (auto it = layers.find(name); it != layers.end()) return &it->second;
    auto dot = name.rfind('.');
    name.resize(dot == std::string::npos ? 0 : dot);
  }
  return nullptr;
}

Config read_config(const Json& json) {
  const Json* inner = member(json, "quantization");
  const Json& j = inner != nullptr ? *inner : json;
  if (!j.is_object()) throw input_error("quantization config: 'quantization' is no object");
  Config c;
  std::string algo = json_string(j, "quant_algo", "");
  if (algo.empty() && !(j.contains("quant_algo") && !read_kv_cache(j).empty())) {
    throw input_error("quantization config: has no 'quant_algo'");
  }
  if (same_word(algo, "MIXED_PRECISION")) {
    const Json* layers = member(j, "quantized_layers");
    if (layers == nullptr || !layers->is_object()) {
      throw input_error("quantization config: MIXED_PRECISION without 'quantized_layers'");
    }
    for (const auto& [name, layer] : layers->items()) {
      if (!layer.is_object()) {
        throw input_error("quantization config: quantized_layers '" + printable(name) +
                          "' is no object");
      }
      c.layers.emplace(name, read_entry(layer, json_string(layer, "quant_algo", "")));
    }
  } else if (!algo.empty()) {
    c.all = read_entry(j, algo);
  }
  for (const char* key : {"exclude_modules", "ignore"}) {
    const Json* list = member(j, key);
    if (list == nullptr) continue;
    if (!list->is_array()) {
      throw input_error("quantization config: '" + std::string(key) + "' is no list");
    }
    for (const Json& name : *list) {
      if (name.is_string()) c.exclude.push_back(name.get<std::string>());
    }
  }
  c.kv_cache = read_kv_cache(j);
  return c;
}

bool excluded(const Config& config, std::string_view module) {
  auto fits = [](std::string_view pattern, std::string_view name) {
    if (names_module(pattern, name) || glob_match(pattern, name)) return true;
    for (std::string_view rest = name; !rest.empty();) {
      auto dot = std::min(rest.find('.'), rest.size());
      if (glob_match(pattern, rest.substr(0, dot))) return true;
      rest.remove_prefix(std::min(dot + 1, rest.size()));
    }
    return false;
  };
  constexpr std::string_view kText = "language_model.";
  return std::ranges::any_of(config.exclude, [&](const std::string& p) {
    return fits(p, module) || (module.starts_with(kText) && fits(p, module.substr(kText.size())));
  });
}

std::vector<std::string> exclude_patterns(const std::vector<std::string>& unquantized,
                                          std::vector<std::string> quantized) {
  std::ranges::sort(quantized);
  auto safe = [&](std::string_view prefix) {
    auto it = std::ranges::lower_bound(quantized, prefix);
    return it == quantized.end() || !it->starts_with(prefix);
  };
  std::set<std::string> out;
  for (const std::string& name : unquantized) {
    std::string found = name;
    for (size_t dot = name.find('.'); dot != std::string::npos; dot = name.find('.', dot + 1)) {
      if (safe(name.substr(0, dot))) {
        found = name.substr(0, dot) + "*";
        break;
      }
      if (safe(name.substr(0, dot + 1))) {
        found = name.substr(0, dot + 1) + "*";
        break;
      }
    }
    out.insert(found);
  }
  return {out.begin(), out.end()};
}

Json hf_quant_config(const std::vector<std::pair<std::string, Entry>>& layers,
                     const std::vector<std::string>& exclude, const std::string& kv_cache) {
  auto add = [](Json& j, const Entry& e) {
    const Algorithm& a = algorithm(e.kind);
    if (a.group_size) j["group_size"] = e.group;
    if (a.awq_keys) j["has_zero_point"] = false, j["pre_quant_scale"] = true;
  };
  Json q;
  bool uniform =
      std::ranges::all_of(layers, [&](const auto& l) { return l.second == layers.front().second; });
  q["quant_algo"] = nullptr;
  if (!layers.empty()) {
    q["quant_algo"] = uniform ? algorithm(layers.front().second.kind).name : "MIXED_PRECISION";
  }
  q["kv_cache_quant_algo"] = nullptr;
  if (!kv_cache.empty()) q["kv_cache_quant_algo"] = kv_cache;
  if (uniform) {
    if (!layers.empty()) add(q, layers.front().second);
    q["exclude_modules"] = exclude;
  } else {
    Json all = Json::object();
    auto& object = all.get_ref<Json::object_t&>();  // appended: an ordered object searches linearly
    for (const auto& [name, entry] : layers) {
      Json one = {{"quant_algo", algorithm(entry.kind).name}};
      add(one, entry);
      object.emplace_back(name, std::move(one));
    }
    q["quantized_layers"] = std::move(all);
  }
  return {{"producer", {{"name", "modelopt"}, {"version", kVersion}}},
          {"quantization", std::move(q)}};
}

Json quantization_config(const Json& hf) {
  const Json& q = hf["quantization"];
  std::string algo = q["quant_algo"].is_string() ? q["quant_algo"].get<std::string>() : "";
  Json out;
  if (algo == "FP8" || algo == "NVFP4" || algo == "W4A16_NVFP4") {
    Json g = group_config(q);
    g["targets"] = {"Linear"};
    out["config_groups"] = {{"group_0", std::move(g)}};
  } else if (algo == "MIXED_PRECISION") {
    std::vector<std::pair<const Json*, std::vector<std::string>>> groups;
    for (const auto& layer : q["quantized_layers"].items()) {
      const Json& entry = layer.value();
      auto it = std::ranges::find_if(groups, [&](const auto& g) { return *g.first == entry; });
      if (it == groups.end()) it = groups.insert(it, {&entry, {}});
      it->second.push_back(layer.key());
    }
    Json all = Json::object();
    for (size_t i = 0; i < groups.size(); ++i) {
      Json g = group_config(*groups[i].first);
      std::ranges::sort(groups[i].second);
      g["targets"] = groups[i].second;
      all["group_" + std::to_string(i)] = std::move(g);
    }
    out["config_groups"] = std::move(all);
    out["quantized_layers"] = q["quantized_layers"];
  }
  out["ignore"] = q.contains("exclude_modules") ? q["exclude_modules"] : Json::array();
  if (!algo.empty()) out["quant_algo"] = algo;
  const Json& kv = q["kv_cache_quant_algo"];
  if (kv.is_string()) {
    out["kv_cache_scheme"] = kv;
    if (kv == "FP8") {
      out["kv_cache_scheme"] = {{"dynamic", false}, {"num_bits", 8}, {"type", "float"}};
    }
  }
  out["producer"] = hf["producer"];
  out["quant_method"] = "modelopt";
  return out;
}

}  // namespace qp::modelopt

namespace qp {

const Format& modelopt_format() {
  static const Format format = {
      "modelopt",
      "NVIDIA ModelOpt's unified checkpoint: FP8, NVFP4, MX, AWQ, INT8; vLLM, SGLang, TensorRT-LLM",
      modelopt::plan,
      "modelopt",
      modelopt::adopt,
      modelopt::check};
  return format;
}

}  // namespace qp
