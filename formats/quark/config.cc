#include "formats/hf/directory.h"
#include "formats/quark/quark.h"
#include "formats/verify/listed.h"
#include "lib/base/error.h"
#include "lib/base/regex.h"

namespace qp::quark {
namespace {

struct Spec {
  std::string dtype, qscheme;
  bool dynamic = false, symmetric = true;
  int64_t group = 0;
};

Spec read_spec(const Json& j) {
  if (!j.is_object()) throw input_error("quantization_config: a tensor's spec is no object");
  auto text = [&](const char* key) {
    auto it = j.find(key);
    return it != j.end() && it->is_string() ? it->get<std::string>() : std::string();
  };
  Spec s{text("dtype"), text("qscheme")};
  auto flag = [&](const char* key, bool fallback) {
    auto it = j.find(key);
    return it != j.end() && it->is_boolean() ? it->get<bool>() : fallback;
  };
  s.dynamic = flag("is_dynamic", false);
  s.symmetric = flag("symmetric", true);
  if (auto it = j.find("group_size"); it != j.end() && it->is_number_integer()) {
    s.group = it->get<int64_t>();
  }
  return s;
}

QuantArgs args(int bits, NumType type, Strategy strategy) {
  QuantArgs a;
  a.num_bits = bits;
  a.type = type;
  a.strategy = strategy;
  return a;
}
QuantArgs mx4() {
  QuantArgs a = args(4, NumType::floating, Strategy::group);
  a.group_size = 32;
  a.scale_dtype = DType::f8_e8m0;
  return a;
}

std::string name_of_spec(const Spec& s) {
  return printable(s.dtype + " " + s.qscheme) + (s.symmetric ? "" : " asymmetric");
}

Kind kind_of(const std::vector<Spec>& w) {
  const Spec& s = w.front();
  bool tensor = s.qscheme == "per_tensor", channel = s.qscheme == "per_channel";
  if (w.size() == 2 && s.dtype == "fp8_e4m3" && tensor && w[1].dtype == "int4" &&
      w[1].qscheme == "per_channel") {
    return Kind::int4_fp8;
  }
  bool group = w.size() == 1 && s.qscheme == "per_group" && s.group > 0 && s.group <= 1 << 20;
  if (group && s.dtype == "int4" && s.symmetric) return Kind::int4_group;
  if (group && s.dtype == "uint4" && !s.symmetric) return Kind::uint4_group;
  if (w.size() == 1 && s.symmetric) {
    if (s.dtype == "fp8_e4m3" && (tensor || channel)) {
      return tensor ? Kind::fp8_tensor : Kind::fp8_channel;
    }
    if (s.dtype == "int8" && (tensor || channel)) {
      return tensor ? Kind::int8_tensor : Kind::int8_channel;
    }
    if (s.dtype == "fp4" && s.qscheme == "per_group" && s.group == 32) return Kind::mxfp4;
    if (s.dtype == "int4" && channel) return Kind::int4_channel;
  }
  throw input_error("quantization_config: weights in " + name_of_spec(s) +
                    (w.size() > 1 ? " and a second stage" : "") +
                    " are not of a kind that qpipe reads from Quark");
}

std::optional<QuantArgs> input_of(const Json* j) {
  if (j == nullptr || j->is_null()) return std::nullopt;
  Spec s = read_spec(j->is_array() && !j->empty() ? j->front() : *j);
  std::optional<QuantArgs> a;
  bool tensor = s.qscheme == "per_tensor";
  if (s.dtype == "fp8_e4m3") {
    a = args(8, NumType::floating, tensor ? Strategy::tensor : Strategy::token);
  }
  if (s.dtype == "int8") a = args(8, NumType::integer, tensor ? Strategy::tensor : Strategy::token);
  if (s.dtype == "fp4" && s.qscheme == "per_group" && s.group == 32) a = mx4();
  bool known = a && s.symmetric && (tensor || s.dynamic || s.dtype == "fp4");
  if (!known) {
    throw input_error("quantization_config: activations in " + name_of_spec(s) +
                      " are not of a kind that qpipe reads from Quark");
  }
  a->dynamic = s.dynamic ? Dynamic::yes : Dynamic::no;
  return a;
}

Scheme scheme_of(Kind kind, int64_t group, std::optional<QuantArgs> input) {
  constexpr auto F = NumType::floating, I = NumType::integer;
  Scheme s;
  s.numerics = "quark";
  s.input_activations = std::move(input);
  switch (kind) {
    case Kind::fp8_tensor: s.name = "fp8-tensor", s.weights = args(8, F, Strategy::tensor); break;
    case Kind::fp8_channel:
      s.name = "fp8-dynamic", s.weights = args(8, F, Strategy::channel);
      break;
    case Kind::int8_tensor: s.name = "int8-tensor", s.weights = args(8, I, Strategy::tensor); break;
    case Kind::int8_channel: s.name = "int8", s.weights = args(8, I, Strategy::channel); break;
    case Kind::mxfp4: s.name = "mxfp4", s.weights = mx4(); break;
    case Kind::int4_channel: s.name = "int4", s.weights = args(4, I, Strategy::channel); break;
    case Kind::int4_group:
    case Kind::uint4_group:
      s.name = kind == Kind::int4_group ? "int4" : "uint4", s.weights = args(4, I, Strategy::group);
      s.weights.group_size = static_cast<int>(group);
      s.weights.symmetric = kind == Kind::int4_group;
      break;
    case Kind::int4_fp8:
      s.name = "int4fp8", s.weights = args(4, I, Strategy::channel);
      s.weights.fp8_stage = true;
      break;
  }
  return s;
}

const Json* object(const Json& j, const char* key) {
  auto it = j.find(key);
  return it != j.end() && it->is_object() ? &*it : nullptr;
}

const Json& own_config(const Json& config, std::string_view module) {
  if (const Json* layers = object(config, "layer_quant_config")) {
    for (const auto& [pattern, layer] : layers->items()) {
      if (layer.is_object() && glob_match(pattern, module)) return layer;
    }
  }
  if (const Json* types = object(config, "layer_type_quant_config")) {
    for (const auto& [type, layer] : types->items()) {
      if (layer.is_object() && type.ends_with("Linear")) return layer;
    }
  }
  const Json* global = object(config, "global_quant_config");
  if (global == nullptr) throw input_error("quantization_config: has no 'global_quant_config'");
  return *global;
}

Json spec(const char* dtype, const char* qscheme, const char* observer, bool dynamic, Json axis,
          const char* scale_type) {
  bool mx = std::string_view(dtype) == "fp4";
  return {{"block_size", nullptr},
          {"ch_axis", std::move(axis)},
          {"dtype", dtype},
          {"enable_buffer_reuse", false},
          {"group_size", mx ? Json(32) : Json()},
          {"is_dynamic", dynamic},
          {"is_scale_quant", false},
          {"max_input_numel", 4194304},
          {"mx_element_dtype", nullptr},
          {"observer_cls", observer},
          {"qscheme", qscheme},
          {"round_method", "half_even"},
          {"scale_calculation_mode", mx ? Json("even") : Json()},
          {"scale_format", mx ? Json("e8m0") : Json()},
          {"scale_type", scale_type},
          {"symmetric", mx ? Json() : Json(true)},
          {"zero_point_type", "int32"}};
}
Json tensor_spec(const char* dtype, bool dynamic = false, const char* scale_type = "float") {
  return spec(dtype, "per_tensor", "PerTensorMinMaxObserver", dynamic, nullptr, scale_type);
}
Json channel_spec(const char* dtype, int axis = 0, bool dynamic = false,
                  const char* scale_type = "float") {
  return spec(dtype, "per_channel", "PerChannelMinMaxObserver", dynamic, axis, scale_type);
}
Json mx_spec(bool dynamic) {
  return spec("fp4", "per_group", "PerBlockMXObserver", dynamic, -1, "float");
}

}  // namespace

Layer layer_of(const Json& config, std::string_view module) {
  const Json& own = own_config(config, module);
  auto weight = own.find("weight");
  if (weight == own.end() || weight->is_null()) {
    throw input_error("quantization_config: quantizes no weights").tensor(module);
  }
  std::vector<Spec> specs;
  if (weight->is_array()) {
    for (const Json& s : *weight) specs.push_back(read_spec(s));
  } else {
    specs.push_back(read_spec(*weight));
  }
  if (specs.empty()) {
    throw input_error("quantization_config: 'weight' is an empty list").tensor(module);
  }
  auto input = own.find("input_tensors");
  Kind kind = kind_of(specs);
  return {kind, scheme_of(kind, specs[0].group, input_of(input == own.end() ? nullptr : &*input))};
}

Json output_spec() { return tensor_spec("fp8_e4m3"); }

Json layer_config(Kind kind, int group, const std::optional<QuantArgs>& input) {
  Json weight, in;
  switch (kind) {
    case Kind::fp8_tensor: weight = tensor_spec("fp8_e4m3"); break;
    case Kind::fp8_channel: weight = channel_spec("fp8_e4m3"); break;
    case Kind::int8_tensor: weight = tensor_spec("int8"); break;
    case Kind::int8_channel: weight = channel_spec("int8"); break;
    case Kind::mxfp4: weight = mx_spec(false); break;
    case Kind::int4_channel: weight = channel_spec("int4"); break;
    case Kind::int4_group:
    case Kind::uint4_group:
      weight = spec(kind == Kind::int4_group ? "int4" : "uint4", "per_group",
                    "PerGroupMinMaxObserver", false, -1, "float");
      weight["group_size"] = group;
      weight["symmetric"] = kind == Kind::int4_group;
      break;
    case Kind::int4_fp8:
      weight = Json::array(
          {tensor_spec("fp8_e4m3", false, "float32"), channel_spec("int4", 0, false, "float32")});
      break;
  }
  if (input) {
    bool dynamic = input->dynamic != Dynamic::no;
    const char* dtype = input->type == NumType::integer ? "int8" : "fp8_e4m3";
    in = input->num_bits == 4                  ? mx_spec(dynamic)
         : input->strategy == Strategy::tensor ? tensor_spec(dtype, dynamic)
                                               : channel_spec(dtype, 1, dynamic);
  }
  return {{"bias", nullptr},
          {"input_tensors", std::move(in)},
          {"output_tensors", nullptr},
          {"target_device", nullptr},
          {"weight", std::move(weight)}};
}

// qverify: engines take 'exclude' as exact names or re: patterns, and refuse a config without
// export.
void check(const RawCheckpoint& raw, const Json& config, std::vector<Finding>& findings) {
  const Json* exported = object(config, "export");
  if (exported == nullptr || !exported->contains("kv_cache_group")) {
    findings.push_back({Severity::error, "quantization-config", "",
                        "has no 'export' with 'kv_cache_group', which engines require",
                        "export the checkpoint again"});
  }
  std::vector<std::string> names;
  std::vector<Regex> patterns;
  if (auto list = config.find("exclude"); list != config.end() && list->is_array()) {
    for (const Json& name : *list) {
      if (!name.is_string()) continue;
      auto text = name.get<std::string>();
      if (text.starts_with("re:")) {
        patterns.emplace_back(text.substr(3));
      } else {
        names.push_back(std::move(text));
      }
    }
  }
  ListedRule rule;
  rule.list = "exclude";
  rule.quantized = [](const auto& module) { return module.contains("weight_scale"); };
  rule.left_out = [&](const std::string& module) {
    for (const std::string& n : names) {
      if (n == module) return true;
    }
    for (const Regex& r : patterns) {
      if (r.found_in(module)) return true;
    }
    return false;
  };
  check_listed(raw, rule, findings);
}

}  // namespace qp::quark

namespace qp {

const Format& quark_format() {
  static const Format format = {
      "quark",      "AMD Quark: FP8, MXFP4, INT8, INT4, INT4 under FP8; vLLM, SGLang",
      quark::plan,  "quark",
      quark::adopt, quark::check};
  return format;
}

}  // namespace qp
