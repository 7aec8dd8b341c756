// Reading: the packing says the layout, extra_config what differs from module to module.
#include <algorithm>
#include <initializer_list>
#include <optional>
#include <utility>
#include <vector>

#include "formats/auto_round/auto_round.h"
#include "formats/hf/int_modules.h"
#include "formats/hf/quant_config.h"
#include "lib/base/error.h"
#include "lib/base/regex.h"

namespace qp::auto_round {
namespace {

constexpr std::string_view kFloatRoot[] = {"weight_packed", "weight"};
constexpr std::string_view kFloatParts[] = {"weight_scale", "weight_global_scale",
                                            "input_global_scale"};
constexpr std::string_view kFp8Root[] = {"weight"};
constexpr std::string_view kFp8Parts[] = {"weight_scale", "input_scale"};

// What the config says of one module.
struct Settings {
  int64_t bits = 4, group_size = 128, act_bits = 16;
  bool sym = true;
  std::string data_type = "int";
};

struct Exception {
  std::string name;
  std::optional<Regex> pattern;  // names with special characters are patterns
  const Json* values;
};

void apply(Settings& s, const Json& j) {
  if (auto v = int_of(j, {"bits"})) s.bits = *v;
  if (auto v = j.find("group_size"); v != j.end() && v->is_number_integer())
    s.group_size = v->get<int64_t>();
  if (auto v = int_of(j, {"act_bits"})) s.act_bits = *v;
  if (auto v = bool_of(j, {"sym"})) s.sym = *v;
  if (auto v = string_of(j, {"data_type"}); !v.empty()) s.data_type = v;
}

class Adopter {
 public:
  Adopter(Model& model, const Json& q, const LoadOptions& options)
      : m_(model), options_(options), packing_(packing_from_config(q)) {
    check_second_config(q);
    if (!int_of(q, {"bits"})) throw input_error("the quantization config has no 'bits'");
    apply(common_, q);
    auto extra = q.find("extra_config");
    if (extra == q.end() || extra->is_null()) return;
    if (!extra->is_object())
      throw input_error("'extra_config' of the quantization config is no object");
    for (const auto& [name, values] : extra->items()) {
      if (!values.is_object())
        throw input_error(
            "'extra_config' of the quantization config has an entry that is no object");
      bool pattern = name.find_first_of("*+?^$()[]{}|\\") != std::string::npos;
      exceptions_.push_back({name, pattern ? std::optional<Regex>(name) : std::nullopt, &values});
    }
  }

  void run() {
    if (packing_ == Packing::llm_compressor) {
      assemble(m_, {kFloatRoot, kFloatParts}, [this](const RawModule& m) { return read_float(m); });
    } else if (packing_ == Packing::fp8_static) {
      assemble(m_, {kFp8Root, kFp8Parts}, [this](const RawModule& m) { return read_fp8(m); });
    } else {
      assemble(m_, {kIntRoot, kIntParts}, [this](const RawModule& m) { return read_int(m); });
    }
    m_.format = options_.dequantize ? "safetensors" : "auto-round";
  }

 private:
  // quantization_config.json must say the same.
  void check_second_config(const Json& q) const {
    constexpr std::string_view kFile = "quantization_config.json";
    Json other = companion_json(m_, kFile);
    if (!other.is_object()) return;
    for (const char* key :
         {"bits", "group_size", "sym", "data_type", "packing_format", "extra_config"}) {
      if (q.contains(key) && other.contains(key) && q.at(key) != other.at(key))
        contradiction(key, kFile);
    }
  }

  Settings settings_of(const RawModule& m) const {
    Settings s = common_;
    const Exception* found = nullptr;
    for (const Exception& e : exceptions_) {
      if (e.name == m.name) found = &e;
    }
    for (const Exception& e : exceptions_) {
      if (found == nullptr && e.pattern && e.pattern->found_in(m.name)) found = &e;
    }
    if (found != nullptr) apply(s, *found->values);
    if (s.bits >= 16)
      m.fail("is quantized, but extra_config gives it " + std::to_string(s.bits) + " bits");
    return s;
  }

  Tensor read_int(const RawModule& m) {
    Settings s = settings_of(m);
    if (s.data_type != "int")
      m.fail("has data_type " + printable(s.data_type) + " in packing " +
             std::string(name_of(packing_)) + " (expected int)");
    if (s.bits < 2 || s.bits > 8)
      m.fail("has " + std::to_string(s.bits) + "-bit codes (expected 2 to 8)");
    if (s.act_bits < 16)
      m.fail("quantizes its activations to " + std::to_string(s.act_bits) +
             " bits, which this version does not read");
    IntArgs args{static_cast<int>(s.bits), s.group_size, s.sym};
    if (packing_ == Packing::awq) return read_awq(m_, m, {.args = args}, "auto-round", options_);
    GptqStored stored;
    stored.args = args;
    stored.zeros = packing_ == Packing::gptq ? GptqStored::Zeros::v1 : GptqStored::Zeros::v2;
    stored.needs_g_idx = false;
    return read_gptq(m_, m, stored, "auto-round", options_);
  }

  // Scheme of MXFP4, MXFP8 and NVFP4. Its second stage is divided, as in compressed-tensors.
  Scheme float_scheme(const RawModule& m, const Settings& s) const {
    bool nv = s.data_type.starts_with("nv_fp"), mx = s.data_type.starts_with("mx_fp");
    if (!(mx && (s.bits == 4 || s.bits == 8)) && !(nv && s.bits == 4)) {
      m.fail("is " + printable(s.data_type) + " of " + std::to_string(s.bits) +
             " bits, which this version does not read (expected mx_fp of 4 or 8, nv_fp of 4)");
    }
    int64_t group = nv ? 16 : 32;
    if (s.group_size != group)
      m.fail("has groups of " + std::to_string(s.group_size) + " (expected " +
             std::to_string(group) + ")");
    Scheme scheme;
    scheme.name = (nv ? "nvfp" : "mxfp") + std::to_string(s.bits);
    scheme.weights.num_bits = static_cast<int>(s.bits);
    scheme.weights.type = NumType::floating;
    scheme.weights.strategy = nv ? Strategy::tensor_group : Strategy::group;
    scheme.weights.group_size = static_cast<int>(group);
    scheme.weights.scale_dtype = nv ? DType::f8_e4m3 : DType::f8_e8m0;
    if (s.act_bits >= 16) return scheme;
    if (s.act_bits != s.bits)
      m.fail("quantizes its activations to " + std::to_string(s.act_bits) +
             " bits, which this version does not read");
    scheme.input_activations = scheme.weights;
    scheme.input_activations->dynamic = nv ? Dynamic::local : Dynamic::yes;
    return scheme;
  }

  Tensor read_float(const RawModule& m) {
    if (!m.has("weight_scale")) {
      if (m.has("weight_packed")) m.fail("has no weight_scale");
      return {};
    }
    Scheme scheme = float_scheme(m, settings_of(m));
    bool packed = scheme.weights.num_bits == 4;
    std::string_view root = packed ? "weight_packed" : "weight";
    const Tensor& raw = m.at(root);
    if (raw.shape.rank() != 2 || raw.shape[1] > uint64_t{1} << 40)
      m.fail("its " + std::string(root) + " is no matrix (found " + raw.shape.str() + ")");
    Tensor t;
    t.scheme = m_.scheme_index(scheme);
    t.dtype = model_dtype(m_);
    t.shape = Shape{raw.shape[0], raw.shape[1] * (packed ? 2 : 1)};
    Part codes = m.part(root, Role::codes, packed ? DType::u8 : DType::f8_e4m3, raw.shape);
    codes.dtype = DType::u8;
    t.parts.push_back(std::move(codes));
    for (const PartSpec& spec : part_specs(scheme, t.shape, t.dtype)) {
      if (spec.role == Role::scale) {
        DType stored = spec.dtype == DType::f8_e8m0 ? DType::u8 : spec.dtype;
        Part p = m.part("weight_scale", Role::scale, stored, spec.shape);
        p.dtype = spec.dtype;
        t.parts.push_back(std::move(p));
      }
      if (spec.role == Role::global_scale)
        t.parts.push_back(m.float_part("weight_global_scale", Role::global_scale, Shape{1}));
    }
    if (scheme.input_activations && scheme.input_activations->dynamic == Dynamic::local) {
      t.parts.push_back(m.float_part("input_global_scale", Role::input_global_scale, Shape{1}));
    } else if (m.has("input_global_scale")) {
      m.fail(
          "has an input_global_scale, but its config does not quantize its activations with one");
    }
    finish_quantized(t, options_, "auto-round");
    return t;
  }

  Tensor read_fp8(const RawModule& m) {
    const Tensor& raw = m.at("weight");
    if (!m.has("weight_scale")) {
      if (raw.dtype == DType::f8_e4m3) m.fail("has no weight_scale");
      return {};
    }
    Settings s = settings_of(m);
    if (s.data_type != "fp" || s.bits != 8 || s.act_bits != 8) {
      m.fail("is " + printable(s.data_type) + " of " + std::to_string(s.bits) +
             " bits in packing " + std::string(name_of(packing_)) +
             " (expected fp of 8, activations too)");
    }
    if (raw.shape.rank() != 2) m.fail("its weight is no matrix (found " + raw.shape.str() + ")");
    bool whole = m.at("weight_scale").shape.elements() == 1 && raw.shape[0] != 1;
    Scheme scheme;
    scheme.name = "fp8-static";
    scheme.weights.type = NumType::floating;
    scheme.weights.strategy = Strategy::tensor;
    scheme.input_activations = scheme.weights;
    if (!whole) scheme.weights.strategy = Strategy::channel;
    Tensor t;
    t.scheme = m_.scheme_index(scheme);
    t.dtype = model_dtype(m_);
    t.shape = raw.shape;
    Part codes = m.part("weight", Role::codes, DType::f8_e4m3, raw.shape);
    codes.dtype = DType::u8;
    t.parts.push_back(std::move(codes));
    t.parts.push_back(
        m.float_part("weight_scale", Role::scale, scale_shape(scheme.weights, t.shape)));
    t.parts.push_back(m.float_part("input_scale", Role::input_scale, Shape{1}));
    finish_quantized(t, options_, "auto-round");
    return t;
  }

  Model& m_;
  const LoadOptions& options_;
  Packing packing_;
  Settings common_;
  std::vector<Exception> exceptions_;
};

}  // namespace

std::string_view name_of(Packing packing) {
  switch (packing) {
    case Packing::gptq: return "auto_round:auto_gptq";
    case Packing::gptq_v2: return "auto_round";
    case Packing::awq: return "auto_round:auto_awq";
    case Packing::fp8_static: return "auto_round:fp8_static";
    case Packing::llm_compressor: break;
  }
  return "auto_round:llm_compressor";
}

Packing packing_from_config(const Json& q) {
  std::string p = string_of(q, {"packing_format", "backend"});
  auto is = [&](std::initializer_list<std::string_view> names) {
    return std::find(names.begin(), names.end(), p) != names.end();
  };
  if (is({"auto_round", "auto_round:auto_round", "auto_round:gptqmodel"})) return Packing::gptq_v2;
  if (is({"", "auto", "gptq", "auto_gptq", "auto_round:gptq", "auto_round:auto_gptq"}) ||
      p.find("exllama") != p.npos)
    return Packing::gptq;
  if (is({"awq", "auto_awq", "auto_round:awq", "auto_round:auto_awq"})) return Packing::awq;
  if (is({"llm_compressor", "auto_round:llm_compressor"})) return Packing::llm_compressor;
  if (is({"fp8_static", "auto_round:fp8_static"})) return Packing::fp8_static;
  throw input_error("has packing_format '" + printable(p) + "', which this version does not read")
      .hint(
          "expected auto_round:auto_gptq, auto_round:auto_awq, auto_round, "
          "auto_round:llm_compressor or auto_round:fp8_static");
}

void adopt(Model& model, const Json& q, const LoadOptions& options) {
  Adopter(model, q, options).run();
}

}  // namespace qp::auto_round
