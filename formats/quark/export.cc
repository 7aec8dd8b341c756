#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>

#include "formats/hf/config.h"
#include "formats/hf/kv_cache.h"
#include "formats/hf/linear_writer.h"
#include "formats/quark/quark.h"
#include "lib/base/error.h"
#include "lib/qmap/decode.h"
#include "lib/qmap/store.h"

namespace qp::quark {
namespace {

constexpr const char* kOthers = "use -f compressed-tensors, which holds it";

Kind kind_of(const LinearWriter& w) {
  const QuantArgs& a = w.scheme.weights;
  bool tensor = a.strategy == Strategy::tensor, channel = a.strategy == Strategy::channel;
  switch (w.scheme.code_kind()) {
    case CodeKind::e4m3:
      if (tensor || channel) return tensor ? Kind::fp8_tensor : Kind::fp8_channel;
      break;
    case CodeKind::e2m1:
      if (w.scheme.scale_kind() == ScaleKind::e8m0 && a.group_size == 32) return Kind::mxfp4;
      break;
    case CodeKind::integer:
      if (a.amax_scale) break;
      if (a.num_bits == 4 && a.strategy == Strategy::group && !w.scheme.input_activations &&
          w.rows % 8 == 0 && w.cols % static_cast<uint64_t>(a.group_size) == 0) {
        return a.symmetric ? Kind::int4_group : Kind::uint4_group;
      }
      if (!a.symmetric) break;
      if (a.num_bits == 8 && (tensor || channel)) {
        return tensor ? Kind::int8_tensor : Kind::int8_channel;
      }
      if (a.num_bits == 4 && channel && w.cols % 8 == 0) {
        return w.has(Role::scale_2) || w.scheme.input_activations ? Kind::int4_fp8
                                                                  : Kind::int4_channel;
      }
      break;
    case CodeKind::codebook: break;
  }
  w.refuse("is " + (w.scheme.name.empty() ? "quantized" : w.scheme.name) +
               ", for which Quark's writer has no kind",
           kOthers);
}

struct Use {
  Kind kind;
  int group;
  std::optional<QuantArgs> input;
  bool operator==(const Use&) const = default;
};

class Planner {
 public:
  explicit Planner(const Store& store) : store_(store), m_(store.model()) {}

  ExportPlan run(const ExportOptions& options) {
    for (const Tensor& t : m_.tensors) {
      refuse_ggml(store_, t, "quark");
      if (t.quantized()) {
        add(t);
        continue;
      }
      keep_tensor(t, out_);
      if (is_kv_scale(t)) {
        OutTensor& out = out_.tensors.back();
        out.name = kv_scale_name(t, "output_scale", "output_scale");
        out_.ledger.back() = {t.name, "renamed", out.name};
      }
    }
    finish_plan(store_, options, quantization_config(), out_);
    return std::move(out_);
  }

 private:
  void add(const Tensor& t) {
    LinearWriter w(store_, t, out_);
    if (t.shape.rank() != 2) {
      w.refuse("is a stack of experts in one tensor, which this version does not write for Quark",
               kOthers);
    }
    Use use{kind_of(w), w.scheme.weights.group_size, w.scheme.input_activations};
    if (use.kind != Kind::uint4_group) w.refuse_roles({Role::zero_point}, "quark");
    w.refuse_roles({Role::pre_scale, Role::offset, Role::global_scale, Role::requantize_scale,
                    Role::g_idx, Role::input_global_scale, Role::input_zero_point},
                   "quark");
    if (use.kind != Kind::int4_fp8) w.refuse_roles({Role::scale_2}, "quark");
    layers_.emplace_back(w.module, use);
    Shape per_row{w.rows};
    switch (use.kind) {
      case Kind::mxfp4:
        w.part("weight", Role::codes, DType::u8, Shape{w.rows, w.cols / 2});
        w.part("weight_scale", Role::scale, DType::u8, scale_shape(w.scheme.weights, t.shape));
        break;
      case Kind::fp8_tensor:
      case Kind::fp8_channel:
        w.part("weight", Role::codes, DType::f8_e4m3, t.shape);
        scale(w, use.kind == Kind::fp8_tensor ? Shape{} : per_row);
        break;
      case Kind::int8_tensor:
      case Kind::int8_channel:
        w.laid_out("weight", Role::codes, DType::i8, t.shape, dense_layout, {.is_signed = true});
        scale(w, use.kind == Kind::int8_tensor ? Shape{} : per_row);
        zeros(w.module + ".weight_zero_point", DType::i8,
              use.kind == Kind::int8_tensor ? Shape{} : per_row);
        break;
      case Kind::int4_channel:
        w.laid_out("weight", Role::codes, DType::i32, Shape{w.rows, w.cols / 8}, reordered_layout,
                   {.is_signed = true});
        scale(w, per_row);
        packed_zeros(w, "weight_zero_point");
        break;
      case Kind::int4_group:
      case Kind::uint4_group: int4_group(w); break;
      case Kind::int4_fp8: int4_fp8(w); break;
    }
    input_scale(w, use);
    w.finish();
  }

  // Quark's own files have the model's dtype, but for INT8.
  DType scale_dtype(const LinearWriter& w) const {
    const Part& p = *w.tensor.part(Role::scale);
    if (w.tensor.dtype != DType::bf16 || w.scheme.weights.num_bits != 4) {
      return p.dtype == DType::bf16 ? DType::bf16 : DType::f32;
    }
    std::vector<std::byte> stored = store_.read(p);
    size_t n = stored.size() * 8 / dtype_bits(p.dtype);
    std::vector<float> exact(n), rounded(n);
    std::vector<std::byte> half(n * 2);
    cast_floats(p.dtype, stored.data(), n, DType::f32, reinterpret_cast<std::byte*>(exact.data()));
    cast_floats(p.dtype, stored.data(), n, DType::bf16, half.data());
    cast_floats(DType::bf16, half.data(), n, DType::f32,
                reinterpret_cast<std::byte*>(rounded.data()));
    return exact == rounded ? DType::bf16 : DType::f32;
  }
  void scale(LinearWriter& w, const Shape& shape) const {
    if (DType dtype = scale_dtype(w); dtype == DType::bf16) {
      w.part("weight_scale", Role::scale, dtype, shape);
    } else {
      w.scale_f32("weight_scale", shape);
    }
  }

  void int4_group(LinearWriter& w) {
    bool zeros_stored = w.has(Role::zero_point);
    uint64_t groups = w.cols / static_cast<uint64_t>(w.scheme.weights.group_size),
             words = w.rows / 8;
    w.laid_out("weight", Role::codes, DType::i32, Shape{w.cols, words}, awq_layout,
               {.is_signed = !zeros_stored});
    OutTensor& scale = w.part("weight_scale", Role::scale, scale_dtype(w), Shape{groups, w.rows});
    auto bits = static_cast<int>(dtype_bits(scale.dtype));
    scale.layout = &transposed_layout;
    scale.layout_args = {.rows = w.rows, .cols = groups, .bits = bits, .stored_bits = bits};
    if (!zeros_stored) {
      return zeros(w.module + ".weight_zero_point", DType::i32, Shape{groups, words});
    }
    OutTensor& zero =
        w.part("weight_zero_point", Role::zero_point, DType::i32, Shape{groups, words});
    zero.layout = &awq_zeros_layout;
    zero.layout_args = {.rows = w.rows, .cols = groups, .stored_bits = 4};
  }

  void int4_fp8(LinearWriter& w) {
    w.laid_out("weight", Role::codes, DType::i32, Shape{w.rows, w.cols / 8}, reordered_layout,
               {.is_signed = true});
    packed_zeros(w, "weight_zero_point_2");
    if (w.has(Role::scale_2)) {
      w.part("weight_scale", Role::scale_2, DType::f32, Shape{});
      w.scale_f32("weight_scale_2", Shape{w.rows});
      return;
    }
    // One stage becomes two without rounding: a power of two under which the INT4 values fill
    // E4M3's range, and the scales divided by it.
    const Part& p = *w.tensor.part(Role::scale);
    std::vector<std::byte> bytes = store_.read(p);
    std::vector<float> scale(w.rows);
    cast_floats(p.dtype, bytes.data(), w.rows, DType::f32,
                reinterpret_cast<std::byte*>(scale.data()));
    float most = 0, code = 7;
    for (float s : scale) {
      most = std::max(most, std::fabs(s));
      if (s < 0) code = 8;  // the lowest is used, too
    }
    int e = 0;
    std::frexp(most * code / 448, &e);
    w.scalar("weight_scale", std::ldexp(1.0f, e), Shape{});
    OutTensor& out = w.scale_f32("weight_scale_2", Shape{w.rows});
    out.relaid_row_bytes = 4;
    out.relay = [e](const std::byte* in, uint64_t, uint64_t count, std::byte* to) {
      for (uint64_t i = 0; i < count; ++i) {
        float v;
        std::memcpy(&v, in + 4 * i, 4);
        v = std::ldexp(v, -e);
        std::memcpy(to + 4 * i, &v, 4);
      }
    };
  }

  void input_scale(LinearWriter& w, const Use& use) {
    bool wants = use.input && use.input->dynamic == Dynamic::no;
    if (!wants) return w.refuse_roles({Role::input_scale}, "quark with these activations");
    if (!w.has(Role::input_scale)) {
      w.refuse("has no scale of its activations, which its scheme needs",
               "calibrate the model (qcalibrate)");
    }
    w.part("input_scale", Role::input_scale, DType::f32, Shape{});
    if (use.input->type == NumType::integer) {
      zeros(w.module + ".input_zero_point", DType::i8, Shape{});
    }
  }

  // Eight rows a word, as its own writer has them.
  void packed_zeros(const LinearWriter& w, const char* suffix) {
    if (w.rows % 8 == 0) zeros(w.module + "." + suffix, DType::i32, Shape{w.rows / 8});
  }
  void zeros(const std::string& name, DType dtype, const Shape& shape) {
    OutTensor& out = out_.tensors.emplace_back();
    out.name = name;
    out.dtype = dtype;
    out.shape = shape;
    out.value.resize(byte_size(dtype, shape).value());
  }

  // The use of most layers is the global one; others are named.
  Use most() const {
    std::vector<std::pair<Use, size_t>> counts;
    for (const auto& [name, use] : layers_) {
      auto it = std::ranges::find(counts, use, &std::pair<Use, size_t>::first);
      if (it == counts.end()) it = counts.insert(it, {use, 0});
      ++it->second;
    }
    return std::ranges::max_element(counts, {}, &std::pair<Use, size_t>::second)->first;
  }

  Json quantization_config() const {
    Json layers = Json::object(), kv = Json::object(), global;
    Json group = Json::array();
    if (!layers_.empty()) {
      Use common = most();
      global = layer_config(common.kind, common.group, common.input);
      for (const auto& [name, use] : layers_) {
        if (use != common) layers[name] = layer_config(use.kind, use.group, use.input);
      }
      if (m_.kv_cache) add_kv_cache(common, layers, kv, group);
    }
    return {{"algo_config", nullptr},
            {"exclude", unquantized_linears(m_)},
            {"export",
             {{"kv_cache_group", group},
              {"min_kv_scale", 0.0},
              {"pack_method", "reorder"},
              {"weight_format", "real_quantized"},
              {"weight_merge_groups", nullptr}}},
            {"global_quant_config", global},
            {"kv_cache_post_rope", false},
            {"kv_cache_quant_config", kv},
            {"layer_quant_config", layers},
            {"layer_type_quant_config", Json::object()},
            {"quant_method", "quark"},
            {"quant_mode", "eager_mode"},
            {"softmax_quant_spec", nullptr},
            {"version", "0.13"}};
  }

  void add_kv_cache(const Use& common, Json& layers, Json& kv, Json& group) const {
    bool fp8 = m_.kv_cache->type == NumType::floating && m_.kv_cache->num_bits == 8;
    bool uniform = std::ranges::all_of(layers_, [&](const auto& l) {
      return l.second == common || !(l.first.ends_with("k_proj") || l.first.ends_with("v_proj"));
    });
    if (!fp8 || !uniform) {
      throw limit_error(fp8 ? "quantizes k_proj and v_proj in several ways, which Quark cannot say "
                              "beside a quantized KV cache"
                            : "has a KV cache that is not FP8, which Quark cannot hold")
          .file(store_.label())
          .hint(kOthers);
    }
    for (const char* pattern : {"*k_proj", "*v_proj"}) {
      Json one = layer_config(common.kind, common.group, common.input);
      one["output_tensors"] = output_spec();
      layers[pattern] = kv[pattern] = one;
      group.push_back(pattern);
    }
  }

  const Store& store_;
  const Model& m_;
  ExportPlan out_;
  std::vector<std::pair<std::string, Use>> layers_;
};

}  // namespace

ExportPlan plan(const Store& store, const ExportOptions& options) {
  return Planner(store).run(options);
}

}  // namespace qp::quark
