// Reading. F8_E4M3FNUZ weights (AMD's older arithmetic: the same bytes mean half the value, and
// 0x7F is a number) have no place in the canonical form, whose codes are E4M3FN: they are refused.
#include <algorithm>

#include "formats/fp8/fp8.h"
#include "formats/hf/kv_cache.h"
#include "formats/hf/modules.h"
#include "lib/base/checked.h"
#include "lib/base/error.h"

namespace qp::fp8 {
namespace {

constexpr std::string_view kRoot[] = {"weight"};
// weight_scale_inv multiplies, whatever its name says; "scale" is DeepSeek-V4's; "activation_scale"
// and "input_scale_ub" are transformers'.
constexpr std::string_view kParts[] = {"weight_scale_inv", "weight_scale",     "scale",
                                       "input_scale",      "activation_scale", "input_scale_ub"};
constexpr std::string_view kScales[] = {"weight_scale_inv", "weight_scale", "scale"};

class Adopter {
 public:
  Adopter(Model& model, const Json& config, const LoadOptions& options)
      : m_(model), options_(options), block_(block_size(config)) {
    std::string scheme = json_string(config, "activation_scheme", "dynamic");
    if (scheme != "dynamic" && scheme != "static") {
      throw input_error(
          "quantization_config: 'activation_scheme' (expected dynamic or static, found '" +
          printable(scheme) + "')");
    }
    static_ = scheme == "static";
    if (static_ && block_) {
      throw input_error("quantization_config: static activations do not go with weight_block_size");
    }
  }

  void run() {
    if (adopt_kv_scales(m_, "k_scale", "v_scale", options_) && !options_.dequantize) {
      m_.kv_cache = fp8_kv_cache();
    }
    assemble(m_, {kRoot, kParts}, [this](const RawModule& m) { return build(m); });
    for (const Tensor& t : m_.tensors) refuse_without_scale(t);
    m_.format = options_.dequantize ? "safetensors" : "fp8";
  }

 private:
  static void refuse_without_scale(const Tensor& t) {
    if (t.scheme >= 0 || t.shape.rank() < 2) return;
    if (t.dtype == DType::f8_e4m3 || t.dtype == DType::f8_e5m2) {
      throw input_error("is " + std::string(dtype_name(t.dtype)) +
                        " without a weight_scale_inv or weight_scale")
          .tensor(t.name);
    }
    if (t.dtype == DType::f8_e4m3fnuz) {
      throw input_error(
          "is F8_E4M3FNUZ, whose bytes mean other numbers than F8_E4M3's and which qpipe does not "
          "read")
          .tensor(t.name)
          .hint("fetch the E4M3FN version of the model");
    }
  }

  Tensor build(const RawModule& m) {
    const Tensor& w = m.at("weight");
    refuse_fnuz(w);
    std::string_view name;
    for (std::string_view s : kScales) {
      if (m.has(s)) {
        name = name.empty()
                   ? s
                   : (m.fail("has two scales, " + std::string(name) + " and " + std::string(s)), s);
      }
    }
    if (name.empty()) return {};
    if (w.shape.rank() != 2) m.fail("its weight is no matrix");
    Tensor t;
    t.dtype = model_dtype(m_);
    bool packed = w.dtype == DType::i8 || w.dtype == DType::u8;  // DeepSeek-V4's experts
    if (!packed && w.dtype != DType::f8_e4m3) {
      m.fail("has a scale, but its weight is " + std::string(dtype_name(w.dtype)));
    }
    uint64_t rows = w.shape[0], cols = w.shape[1] * (packed ? 2 : 1);
    t.shape = Shape{rows, cols};
    Part codes = m.part("weight", Role::codes, w.dtype, w.shape);
    codes.dtype = DType::u8;
    codes.decode = nullptr;
    t.parts.push_back(std::move(codes));
    Scheme s = packed ? mx_scheme(4) : scheme_of(m, name, t.shape);
    t.parts.push_back(scale(m, name, s, t.shape));
    if (s.input_activations && s.input_activations->dynamic == Dynamic::no) {
      t.parts.push_back(m.float_part(m.has("activation_scale") ? "activation_scale" : "input_scale",
                                     Role::input_scale, Shape{1}));
    }
    t.scheme = m_.scheme_index(s);
    finish_quantized(t, options_, "fp8");
    return t;
  }

  static void refuse_fnuz(const Tensor& w) {
    if (w.dtype == DType::f8_e4m3fnuz) refuse_without_scale(w);
  }

  // What the scale's shape and dtype say, held against the config.
  Scheme scheme_of(const RawModule& m, std::string_view name, const Shape& shape) {
    const Tensor& scale = m.at(name);
    bool bytes = scale.dtype == DType::u8 || scale.dtype == DType::f8_e8m0;
    if (bytes && scale.shape == Shape{shape[0], ceil_div(shape[1], 32)} &&
        (!block_ || *block_ == std::pair(1, 32))) {
      return mx_scheme(8);
    }
    if (block_) return block_scheme(block_->first, block_->second, bytes);
    if (scale.shape.elements() == 1) return tensor_scheme(static_);
    if (scale.shape.elements() == shape[0]) return channel_scheme();
    m.fail("its " + std::string(name) + " " + scale.shape.str() + " is no scale of " + shape.str() +
           " without a weight_block_size");
  }

  Part scale(const RawModule& m, std::string_view name, const Scheme& s, const Shape& shape) {
    Shape want = scale_shape(s.weights, shape);
    if (s.scale_kind() != ScaleKind::e8m0) return m.float_part(name, Role::scale, want);
    Part p =
        m.part(name, Role::scale, m.at(name).dtype == DType::u8 ? DType::u8 : DType::f8_e8m0, want);
    p.dtype = DType::f8_e8m0;
    return p;
  }

  Model& m_;
  const LoadOptions& options_;
  std::optional<std::pair<int, int>> block_;
  bool static_ = false;
};

QuantArgs fp8_args(Strategy strategy, Dynamic dynamic = Dynamic::no) {
  QuantArgs a;
  a.type = NumType::floating;
  a.strategy = strategy;
  a.dynamic = dynamic;
  return a;
}

Scheme make(const char* name, const char* numerics, QuantArgs weights, QuantArgs input) {
  Scheme s;
  s.name = name;
  s.numerics = numerics;
  s.weights = weights;
  s.input_activations = input;
  return s;
}

}  // namespace

Scheme block_scheme(int rows, int cols, bool e8m0) {
  QuantArgs w = fp8_args(Strategy::block), in = fp8_args(Strategy::group, Dynamic::yes);
  w.block_rows = rows;
  w.block_cols = cols;
  if (e8m0) w.scale_dtype = DType::f8_e8m0;
  in.group_size = cols;
  return make("fp8-block", "deepgemm", w, in);
}
Scheme tensor_scheme(bool is_static) {
  return make(is_static ? "fp8-static" : "fp8-tensor", "deepgemm", fp8_args(Strategy::tensor),
              fp8_args(Strategy::tensor, is_static ? Dynamic::no : Dynamic::yes));
}
Scheme channel_scheme() {
  return make("fp8-dynamic", "deepgemm", fp8_args(Strategy::channel),
              fp8_args(Strategy::token, Dynamic::yes));
}
Scheme mx_scheme(int bits) {
  QuantArgs w = fp8_args(Strategy::group), in;
  w.num_bits = bits;
  w.group_size = 32;
  w.scale_dtype = DType::f8_e8m0;
  in = w;
  in.dynamic = Dynamic::yes;
  in.num_bits = 8;
  return make(bits == 8 ? "mxfp8" : "mxfp4", "deepgemm", w, in);
}

std::optional<std::pair<int, int>> block_size(const Json& config) {
  auto it = config.find("weight_block_size");
  if (it == config.end() || it->is_null()) return std::nullopt;
  auto number = [](const Json& j) {
    return j.is_number_integer() && j.get<int64_t>() > 0 && j.get<int64_t>() <= (1 << 20);
  };
  if (!it->is_array() || it->size() != 2 || !number((*it)[0]) || !number((*it)[1])) {
    throw input_error("quantization_config: 'weight_block_size' is no pair of positive numbers");
  }
  return std::pair((*it)[0].get<int>(), (*it)[1].get<int>());
}

void adopt(Model& model, const Json& config, const LoadOptions& options) {
  Adopter(model, config, options).run();
}

}  // namespace qp::fp8

namespace qp {

const Format& fp8_format() {
  static const Format format = {
      "fp8",
      "DeepSeek-style FP8: blocks, one scale per tensor, MXFP8; vLLM, SGLang, transformers",
      fp8::plan,
      "fp8 mxfp8 fbgemm_fp8",
      fp8::adopt,
      fp8::check};
  return format;
}

}  // namespace qp
