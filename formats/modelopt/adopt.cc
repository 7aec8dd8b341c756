#include <algorithm>

#include "formats/hf/kv_cache.h"
#include "formats/hf/modules.h"
#include "formats/modelopt/modelopt.h"
#include "lib/base/checked.h"
#include "lib/base/error.h"

namespace qp::modelopt {
namespace {

constexpr std::string_view kRoot[] = {"weight"};
constexpr std::string_view kParts[] = {"weight_scale", "weight_scale_2", "input_scale",
                                       "pre_quant_scale"};
constexpr std::string_view kKeep[] = {"k_bias", "v_bias"};  // of an affine KV cache

class Adopter {
 public:
  Adopter(Model& model, const Json& config, const LoadOptions& options)
      : m_(model), options_(options), config_(read_config(config)) {}

  void run() {
    adopt_kv_scales(m_, "k_scale", "v_scale", options_);
    if (!options_.dequantize) set_kv_cache();
    assemble(m_, {kRoot, kParts, kKeep}, [this](const RawModule& m) { return build(m); });
    for (const Tensor& t : m_.tensors) refuse_leftover(t);
    m_.format = options_.dequantize ? "safetensors" : "modelopt";
  }

 private:
  void set_kv_cache() {
    if (config_.kv_cache.empty()) return;
    QuantArgs a = fp8_kv_cache();
    if (config_.kv_cache == "INT8") a.type = NumType::integer;
    if (config_.kv_cache.starts_with("NVFP4")) {
      a.num_bits = 4;
      a.strategy = Strategy::tensor_group;
      a.group_size = 16;
      a.scale_dtype = DType::f8_e4m3;
      a.symmetric = config_.kv_cache == "NVFP4";
    }
    m_.kv_cache = a;
  }

  // Codes whose module has no scale, and stacks of experts, which this version does not regroup.
  static void refuse_leftover(const Tensor& t) {
    if (t.scheme >= 0) return;
    bool stack = t.name.ends_with("_weight_scale") || t.name.ends_with("_weight_scale_2");
    bool codes = t.shape.rank() >= 2 &&
                 (t.dtype == DType::u8 || t.dtype == DType::f8_e4m3 || t.dtype == DType::i8);
    if (stack || codes) {
      throw input_error(
          stack ? "belongs to a stack of experts in one tensor, which qpipe does not read yet"
                : "is " + std::string(dtype_name(t.dtype)) + ", but its module has no weight_scale")
          .tensor(t.name);
    }
  }

  Tensor build(const RawModule& m) {
    if (!m.has("weight_scale")) {
      for (std::string_view s : kParts) {
        if (m.has(s)) m.fail("has a " + std::string(s) + " but no weight_scale");
      }
      return {};
    }
    const Entry* declared = config_.find(m.name);
    if (declared == nullptr) m.fail("has a weight_scale, but quantized_layers does not name it");
    const Tensor& w = m.at("weight");
    if (w.shape.rank() != 2) m.fail("its weight is no matrix");
    Entry e = *declared;
    Tensor t;
    t.dtype = model_dtype(m_);
    t.shape = Shape{w.shape[0], w.shape[1]};
    t.parts.push_back(codes(m, e.kind, t.shape));
    if (algorithm(e.kind).group_size || e.kind == Kind::mxfp4) e.group = group_of(m, e, t.shape[1]);
    bool static_input = e.kind != Kind::w4a8_mxfp4 || m.has("input_scale");
    Scheme s = scheme_of(e, static_input);
    add_scales(m, e, s, t);
    bool wants_input = s.input_activations && s.input_activations->dynamic != Dynamic::yes;
    if (wants_input) t.parts.push_back(m.float_part("input_scale", Role::input_scale, Shape{1}));
    if (!wants_input && m.has("input_scale")) {
      m.fail("has an input_scale, which " + s.name + " does not have");
    }
    if (m.has("pre_quant_scale")) {
      t.parts.push_back(m.float_part("pre_quant_scale", Role::pre_scale, Shape{t.shape[1]}));
    }
    t.scheme = m_.scheme_index(s);
    finish_quantized(t, options_, "modelopt " + s.name);
    return t;
  }

  // Corrects the shape to that of the matrix.
  static Part codes(const RawModule& m, Kind kind, Shape& shape) {
    Shape stored = shape;
    switch (kind) {
      case Kind::fp8:
      case Kind::fp8_channel:
      case Kind::fp8_block:
      case Kind::mxfp8: break;
      case Kind::int8_static:
      case Kind::int8_weight:
        return m.laid_out("weight", Role::codes, DType::i8, stored, dense_layout,
                          {.rows = shape[0], .cols = shape[1], .is_signed = true});
      case Kind::int4_awq:
      case Kind::w4a8_awq:
        shape[0] *= 2;
        return m.laid_out(
            "weight", Role::codes, DType::u8, stored, row_pairs_layout,
            {.rows = shape[0], .cols = shape[1], .bits = 4, .stored_bits = 4, .is_signed = true});
      default: shape[1] *= 2; return m.part("weight", Role::codes, DType::u8, stored);
    }
    Part p = m.part("weight", Role::codes, DType::f8_e4m3, stored);
    p.dtype = DType::u8;
    return p;
  }

  static int group_of(const RawModule& m, const Entry& e, uint64_t cols) {
    const Shape& scale = m.at("weight_scale").shape;
    uint64_t groups = scale.cols();
    bool fits = groups > 0 && cols % groups == 0 && cols / groups <= (1 << 20);
    if (!fits || (e.group > 0 && cols / groups != static_cast<uint64_t>(e.group))) {
      m.fail("its weight_scale " + scale.str() + " does not fit rows of " + std::to_string(cols) +
             (e.group > 0 ? " in groups of " + std::to_string(e.group) : ""));
    }
    return static_cast<int>(cols / groups);
  }

  static void add_scales(const RawModule& m, const Entry& e, const Scheme& s, Tensor& t) {
    Shape want = scale_shape(s.weights, t.shape);
    if (s.scale_kind() == ScaleKind::source) {
      t.parts.push_back(m.float_part("weight_scale", Role::scale, want));
    } else {
      bool mx = s.scale_kind() == ScaleKind::e8m0;
      Part p = m.part("weight_scale", Role::scale, mx ? DType::u8 : DType::f8_e4m3, want);
      p.dtype = mx ? DType::f8_e8m0 : DType::f8_e4m3;
      t.parts.push_back(p);
    }
    bool two = s.scale_kind() == ScaleKind::e4m3_global, requantize = e.kind == Kind::w4a8_awq;
    if (two || requantize) {
      t.parts.push_back(
          m.float_part("weight_scale_2", two ? Role::scale_2 : Role::requantize_scale, Shape{1}));
    } else if (m.has("weight_scale_2")) {
      m.fail("has a weight_scale_2, which " + s.name + " does not have");
    }
  }

  Model& m_;
  const LoadOptions& options_;
  Config config_;
};

}  // namespace

void adopt(Model& model, const Json& config, const LoadOptions& options) {
  Adopter(model, config, options).run();
}

}  // namespace qp::modelopt
