#include <algorithm>

#include "formats/hf/config.h"
#include "formats/hf/kv_cache.h"
#include "formats/hf/linear_writer.h"
#include "formats/hf/second_stage.h"
#include "formats/modelopt/modelopt.h"
#include "lib/base/error.h"
#include "lib/qmap/store.h"

namespace qp::modelopt {
namespace {

constexpr const char* kOthers = "use -f compressed-tensors, which holds it";

// What ModelOpt calls this scheme. Errors: limit.
Entry entry_of(const LinearWriter& w) {
  const QuantArgs& a = w.scheme.weights;
  const auto& in = w.scheme.input_activations;
  bool fp8_in =
      in && in->type == NumType::floating && in->num_bits == 8 && in->strategy == Strategy::tensor;
  bool plain = a.symmetric && !a.amax_scale;
  switch (w.scheme.code_kind()) {
    case CodeKind::e4m3:
      if (a.strategy == Strategy::tensor) return {Kind::fp8, 0};
      if (a.strategy == Strategy::channel) return {Kind::fp8_channel, 0};
      if (a.strategy == Strategy::block && a.block_rows == 128 && a.block_cols == 128) {
        return {Kind::fp8_block, 0};
      }
      if (w.scheme.scale_kind() == ScaleKind::e8m0 && a.group_size == 32) return {Kind::mxfp8, 32};
      break;
    case CodeKind::e2m1:
      if (w.scheme.scale_kind() == ScaleKind::e4m3_global) {
        return {!in ? Kind::w4a16_nvfp4 : fp8_in ? Kind::w4a8_nvfp4 : Kind::nvfp4, a.group_size};
      }
      if (a.group_size == 32) return {fp8_in ? Kind::w4a8_mxfp4 : Kind::mxfp4, 32};
      break;
    case CodeKind::integer:
      if (!plain) break;
      if (a.num_bits == 4 && a.strategy == Strategy::group && (!in || fp8_in)) {
        return {fp8_in ? Kind::w4a8_awq : Kind::int4_awq, a.group_size};
      }
      if (a.num_bits != 8 || a.strategy != Strategy::channel) break;
      if (!in) return {Kind::int8_weight, 0};
      if (in->type == NumType::integer && in->num_bits == 8 && in->dynamic == Dynamic::no &&
          in->symmetric) {
        return {Kind::int8_static, 0};
      }
      break;
    case CodeKind::codebook: break;
  }
  w.refuse("is " + (w.scheme.name.empty() ? "quantized" : w.scheme.name) +
               ", for which ModelOpt has no quant_algo",
           kOthers);
}

bool wants_input_scale(Kind k) {
  return k == Kind::fp8 || k == Kind::nvfp4 || k == Kind::nvfp4_awq || k == Kind::w4a8_nvfp4 ||
         k == Kind::w4a8_awq || k == Kind::int8_static;
}

class Planner {
 public:
  explicit Planner(const Store& store) : store_(store), m_(store.model()) {}

  ExportPlan run(const ExportOptions& options) {
    name_layers();
    size_t at = 0;
    for (const Tensor& t : m_.tensors) {
      if (t.quantized()) {
        add(t, layers_[at++].second);
      } else {
        keep_tensor(t, out_);
        if (is_kv_scale(t)) keep_kv_scale(t);
      }
    }
    Json hf = hf_config();
    bool any = !layers_.empty() || m_.kv_cache;
    finish_plan(store_, options, any ? quantization_config(hf) : Json(), out_);
    if (any) out_.files.push_back({"hf_quant_config.json", hf.dump(4)});
    return std::move(out_);
  }

 private:
  void name_layers() {
    bool awq = false;
    for (const Tensor& t : m_.tensors) {
      refuse_ggml(store_, t, "modelopt");
      if (!t.quantized()) continue;
      ExportPlan scratch;
      LinearWriter w(store_, t, scratch);
      if (t.shape.rank() != 2) {
        w.refuse(
            "is a stack of experts in one tensor, which this version does not write for ModelOpt",
            kOthers);
      }
      layers_.emplace_back(w.module, entry_of(w));
      awq = awq || (layers_.back().second.kind == Kind::nvfp4 && w.has(Role::pre_scale));
    }
    for (auto& [name, e] : layers_) {
      if (awq && e.kind == Kind::nvfp4) e.kind = Kind::nvfp4_awq;
    }
  }

  void add(const Tensor& t, const Entry& e) {
    LinearWriter w(store_, t, out_);
    w.refuse_roles(
        {Role::zero_point, Role::g_idx, Role::input_zero_point, Role::offset, Role::nested_scale},
        "modelopt");
    bool awq = e.kind == Kind::nvfp4_awq || e.kind == Kind::int4_awq || e.kind == Kind::w4a8_awq ||
               e.kind == Kind::int8_static;
    if (!awq) w.refuse_roles({Role::pre_scale}, algorithm(e.kind).name);
    if (w.has(Role::scale_2) && w.scheme.scale_kind() != ScaleKind::e4m3_global) {
      w.refuse_roles({Role::scale_2}, "modelopt");
    }
    codes(w, e.kind);
    scales(w, e.kind);
    input_scale(w, e.kind);
    if (w.has(Role::pre_scale)) w.part_as_is("pre_quant_scale", Role::pre_scale, Shape{w.cols});
    w.finish();
  }

  static void codes(LinearWriter& w, Kind kind) {
    switch (kind) {
      case Kind::int8_static:
      case Kind::int8_weight:
        w.laid_out("weight", Role::codes, DType::i8, w.tensor.shape, dense_layout,
                   {.is_signed = true});
        return;
      case Kind::int4_awq:
      case Kind::w4a8_awq:
        if (w.rows % 2 != 0) {
          w.refuse("has an odd number of rows, which ModelOpt's INT4 cannot pack", kOthers);
        }
        w.laid_out("weight", Role::codes, DType::u8, Shape{w.rows / 2, w.cols}, row_pairs_layout,
                   {.is_signed = true});
        return;
      default: break;
    }
    if (w.scheme.code_kind() == CodeKind::e4m3) {
      w.part("weight", Role::codes, DType::f8_e4m3, w.tensor.shape);
    } else {
      w.part("weight", Role::codes, DType::u8, Shape{w.rows, w.cols / 2});
    }
  }

  void scales(LinearWriter& w, Kind kind) {
    Shape shape = scale_shape(w.scheme.weights, w.tensor.shape);
    if (w.scheme.scale_kind() == ScaleKind::e8m0) {
      if (kind == Kind::fp8_block) {
        w.scale_f32("weight_scale", Shape{shape[0], 1, shape[1], 1});
      } else {
        w.part("weight_scale", Role::scale, DType::u8, shape);
      }
    } else if (w.scheme.scale_kind() == ScaleKind::e4m3_global) {
      w.part("weight_scale", Role::scale, DType::f8_e4m3, shape);
      if (w.has(Role::scale_2)) {
        w.part("weight_scale_2", Role::scale_2, DType::f32, Shape{});
      } else {
        w.scalar("weight_scale_2", other_second_stage(store_, w.tensor), Shape{});
      }
    } else {
      if (kind == Kind::fp8) shape = Shape{};
      if (kind == Kind::fp8_channel || kind == Kind::int8_static || kind == Kind::int8_weight) {
        shape = Shape{w.rows};
      }
      if (kind == Kind::fp8_block) shape = Shape{shape[0], 1, shape[1], 1};
      w.scale_f32("weight_scale", shape);
    }
    if (kind != Kind::w4a8_awq) {
      w.refuse_roles({Role::requantize_scale}, algorithm(kind).name);
    } else if (w.has(Role::requantize_scale)) {
      w.part("weight_scale_2", Role::requantize_scale, DType::f32, Shape{});
    } else {
      w.refuse("has no scale for the FP8 stage of its weights",
               "quantize it with -s w4a8-awq and ModelOpt's numerics");
    }
  }

  static void input_scale(LinearWriter& w, Kind kind) {
    if (w.has(Role::input_scale)) {
      if (!wants_input_scale(kind) && kind != Kind::w4a8_mxfp4) {
        w.refuse_roles({Role::input_scale}, algorithm(kind).name);
      }
      w.part("input_scale", Role::input_scale, DType::f32, Shape{});
    } else if (w.has(Role::input_global_scale)) {
      if (!wants_input_scale(kind)) {
        w.refuse_roles({Role::input_global_scale}, algorithm(kind).name);
      }
      w.scalar("input_scale", reciprocal(w.read_scalar(Role::input_global_scale)), Shape{});
    } else if (wants_input_scale(kind)) {
      w.refuse(
          "has no scale of its activations, which " + std::string(algorithm(kind).name) + " needs",
          kind == Kind::fp8 ? "calibrate the model (qcalibrate) and quantize with a static scheme, "
                              "or use -s fp8-dynamic"
                            : "calibrate the model (qcalibrate), or use a weight-only scheme");
    }
  }

  void keep_kv_scale(const Tensor& t) {
    OutTensor& out = out_.tensors.back();
    out.name = kv_scale_name(t, "k_scale", "v_scale");
    out.dtype = DType::f32;
    out.shape = Shape{};
    out_.ledger.back() = {t.name, "renamed", out.name};
  }

  std::string kv_cache() const {
    if (!m_.kv_cache) return "";
    const QuantArgs& a = *m_.kv_cache;
    if (a.num_bits == 4) return a.symmetric ? "NVFP4" : "NVFP4_AFFINE";
    return a.type == NumType::integer ? "INT8" : "FP8";
  }

  Json hf_config() const {
    std::vector<std::string> quantized;
    for (const auto& [name, entry] : layers_) quantized.push_back(name);
    return hf_quant_config(layers_, exclude_patterns(unquantized_linears(m_, true), quantized),
                           kv_cache());
  }

  const Store& store_;
  const Model& m_;
  ExportPlan out_;
  std::vector<std::pair<std::string, Entry>> layers_;  // as quantized tensors come
};

}  // namespace

ExportPlan plan(const Store& store, const ExportOptions& options) {
  return Planner(store).run(options);
}

}  // namespace qp::modelopt
