#include "formats/hf/w8a8.h"

#include "formats/hf/config.h"
#include "formats/hf/kv_cache.h"
#include "formats/hf/linear_writer.h"
#include "formats/hf/modules.h"
#include "formats/verify/listed.h"
#include "lib/base/error.h"
#include "lib/qmap/store.h"

namespace qp {
namespace {

constexpr std::string_view kRoot[] = {"weight"};
constexpr std::string_view kParts[] = {"weight_scale"};

Scheme scheme(bool fp8) {
  Scheme s;
  s.name = fp8 ? "fp8-dynamic" : "int8";
  s.weights.type = fp8 ? NumType::floating : NumType::integer;
  s.weights.strategy = Strategy::channel;
  s.input_activations = s.weights;
  s.input_activations->strategy = Strategy::token;
  s.input_activations->dynamic = Dynamic::yes;
  return s;
}

class Planner {
 public:
  Planner(const Store& store, bool fp8)
      : store_(store), m_(store.model()), fp8_(fp8), name_(fp8 ? "w8a8_fp8" : "w8a8_int8") {}

  ExportPlan run(const ExportOptions& options) {
    for (const Tensor& t : m_.tensors) {
      refuse_ggml(store_, t, name_);
      if (t.quantized()) {
        add(t, options);
      } else {
        refuse_plain_linear(t);
        keep_tensor(t, out_);
      }
    }
    Json q = {{"is_dynamic", true}};
    // SGLang looks for the entries as parts of names: only full paths are safe.
    if (!fp8_) q["ignore"] = unquantized_linears(m_);
    q["quant_method"] = name_;
    finish_plan(store_, options, q, out_);
    return std::move(out_);
  }

 private:
  void add(const Tensor& t, const ExportOptions& options) {
    LinearWriter w(store_, t, out_);
    const QuantArgs& a = w.scheme.weights;
    CodeKind want = fp8_ ? CodeKind::e4m3 : CodeKind::integer;
    bool fits = w.scheme.code_kind() == want && a.num_bits == 8 && a.symmetric && !a.amax_scale &&
                t.shape.rank() == 2 && w.scheme.scale_kind() == ScaleKind::source &&
                (a.strategy == Strategy::channel || a.strategy == Strategy::tensor);
    if (!fits) {
      w.refuse("is " + w.scheme.name + ", which " + name_ + " cannot hold (expected " +
                   (fp8_ ? "FP8" : "symmetric INT8") + " with one scale per row)",
               fp8_ ? "quantize with -s fp8-dynamic, or use -f compressed-tensors"
                    : "quantize with -s int8, or use -f compressed-tensors");
    }
    w.refuse_roles({Role::input_scale, Role::input_zero_point, Role::pre_scale, Role::zero_point,
                    Role::scale_2},
                   name_);
    if (!w.scheme.input_activations && !warned_) {
      options.warn(name_ + " quantizes activations per token at run time, which the scheme of '" +
                   t.name + "' does not say");
      warned_ = true;
    }
    if (fp8_) {
      w.part("weight", Role::codes, DType::f8_e4m3, t.shape);
    } else {
      w.laid_out("weight", Role::codes, DType::i8, t.shape, dense_layout, {.is_signed = true});
    }
    w.scale_f32("weight_scale", Shape{w.rows, 1});
    w.finish();
  }

  void refuse_plain_linear(const Tensor& t) const {
    ModuleInfo info = classify(t.name, t.dtype, t.shape, m_.config);
    if (!fp8_ || (info.kind != ModuleKind::linear && info.kind != ModuleKind::expert)) return;
    throw limit_error("is not quantized, and w8a8_fp8 has no way to leave a linear out")
        .file(store_.label())
        .tensor(t.name)
        .hint("quantize every linear, or use -f compressed-tensors");
  }

  const Store& store_;
  const Model& m_;
  bool fp8_;
  std::string name_;
  ExportPlan out_;
  bool warned_ = false;
};

}  // namespace

namespace w8a8 {

void adopt(Model& model, const LoadOptions& options, bool fp8) {
  DType stored = fp8 ? DType::f8_e4m3 : DType::i8;
  if (adopt_kv_scales(model, "k_scale", "v_scale", options) && !options.dequantize) {
    model.kv_cache = fp8_kv_cache();
  }
  assemble(model, {kRoot, kParts}, [&](const RawModule& m) -> Tensor {
    const Tensor& w = m.at("weight");
    if (!m.has("weight_scale")) {
      if (w.dtype == stored) m.fail("has no weight_scale");
      return {};
    }
    if (w.shape.rank() != 2) m.fail("its weight is no matrix");
    Tensor t;
    t.dtype = model_dtype(model);
    t.shape = w.shape;
    if (fp8) {
      t.parts.push_back(m.part("weight", Role::codes, stored, w.shape));
      t.parts.back().dtype = DType::u8;
    } else {
      t.parts.push_back(m.laid_out("weight", Role::codes, stored, w.shape, dense_layout,
                                   {.rows = w.shape[0], .cols = w.shape[1], .is_signed = true}));
    }
    t.parts.push_back(m.float_part("weight_scale", Role::scale, Shape{w.shape[0], 1}));
    t.scheme = model.scheme_index(scheme(fp8));
    finish_quantized(t, options, fp8 ? "w8a8_fp8" : "w8a8_int8");
    return t;
  });
  model.format = options.dequantize ? "safetensors" : fp8 ? "w8a8_fp8" : "w8a8_int8";
}

ExportPlan plan(const Store& store, const ExportOptions& options, bool fp8) {
  return Planner(store, fp8).run(options);
}

void check(const RawCheckpoint& raw, const Json& config, std::vector<Finding>& findings, bool fp8) {
  ListedRule rule;
  rule.list = fp8 ? "(w8a8_fp8 has none)" : "ignore";
  rule.quantized = [](const auto& module) { return module.contains("weight_scale"); };
  rule.left_out = [&](const std::string& module) {
    auto list = config.find("ignore");
    if (fp8 || list == config.end() || !list->is_array()) return false;
    for (const Json& name : *list) {
      if (name.is_string() && module.find(name.get<std::string>()) != std::string::npos) {
        return true;
      }
    }
    return false;
  };
  check_listed(raw, rule, findings);
}

}  // namespace w8a8
}  // namespace qp
