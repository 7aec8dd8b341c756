// Writing: the stored tensors of one quantized tensor.
#include <span>

#include "formats/compressed_tensors/compressed_tensors.h"
#include "formats/hf/second_stage.h"
#include "lib/base/checked.h"
#include "lib/base/error.h"
#include "lib/qmap/rows.h"
#include "lib/qmap/store.h"

namespace qp::ct {
namespace {

// Why this family cannot hold a tensor, or "".
std::string why_not(const Tensor& t, const Scheme& s) {
  if (s.code_kind() == CodeKind::codebook) return "has codes of a codebook";
  if (s.weights.strategy == Strategy::flat) return "has scales that cross its rows";
  if (s.weights.type == NumType::floating && !s.weights.symmetric) return "has float codes with zero points";
  if (t.part(Role::offset) != nullptr) return "has float zero points";
  if (t.part(Role::pre_scale) != nullptr) return "has a pre_quant_scale of its inputs";
  if (t.part(Role::nested_scale) != nullptr) return "has quantized scales";
  if (s.weights.amax_scale) return "has scales that are 127 times too large (bitsandbytes' SCB)";
  const Part* two = t.part(Role::scale_2);
  if (two != nullptr && s.scale_kind() != ScaleKind::e4m3_global) return "has two stages of scales";
  if (two != nullptr && two->shape.elements() != 1) return "has a second scale per row";
  if (s.scale_kind() == ScaleKind::e4m3_global && s.weights.group_size != 16) {
    return "has E4M3 scales of " + std::to_string(s.weights.group_size) + " columns (NVFP4's are of 16)";
  }
  if (t.part(Role::g_idx) != nullptr && s.weights.strategy != Strategy::group) return "has a g_idx without groups";
  return "";
}

float number_of(const Store& store, const Part& p) {
  RowScratch scratch;
  return *RowSource(store, p).get_f32(0, 1, scratch, true);
}

class Emitter {
 public:
  Emitter(const Store& store, const Tensor& t, const Scheme& s, ExportPlan& plan)
      : store_(store), t_(t), s_(s), plan_(plan) {
    prefix_ = t.name;
    if (prefix_.ends_with(".weight")) prefix_.resize(prefix_.size() - 7);
    rows_ = t.shape.rows();
    cols_ = t.shape.cols();
  }

  void emit() {
    if (std::string why = why_not(t_, s_); !why.empty()) {
      throw limit_error(why + ", which compressed-tensors cannot hold")
          .tensor(t_.name)
          .hint("choose another format, or load it with qload --dequantize and quantize it again");
    }
    std::string_view format = format_of(s_);
    size_t before = plan_.tensors.size();
    if (format == "pack-quantized") {
      pack_quantized();
    } else if (format == "int-quantized") {
      int_quantized();
    } else if (format == "mxfp4-pack-quantized" || format == "nvfp4-pack-quantized") {
      add("weight_packed", Role::codes, DType::u8, Shape{rows_, cols_ / 2});
      bool mx = format.front() == 'm';
      scale(mx ? DType::u8 : DType::f8_e4m3);
      if (!mx) global_scale();
    } else {
      add("weight", Role::codes, DType::f8_e4m3, t_.shape);
      scale(s_.scale_kind() == ScaleKind::e8m0 ? DType::u8 : scale_dtype());
    }
    if (t_.part(Role::g_idx) != nullptr) add("weight_g_idx", Role::g_idx, DType::i32, Shape{cols_});
    inputs();
    std::string names;
    for (size_t i = before; i < plan_.tensors.size(); ++i) {
      names += (names.empty() ? "" : " ") + plan_.tensors[i].name;
    }
    plan_.ledger.push_back({t_.name, "quantized", names});
  }

 private:
  OutTensor& add(const std::string& suffix, Role role, DType dtype, const Shape& shape) {
    const Part* p = t_.part(role);
    if (p == nullptr) {
      throw limit_error("has no " + std::string(name_of(role)) + ", which its scheme needs here")
          .tensor(t_.name)
          .hint("calibrate the model, or choose a scheme without static activations");
    }
    OutTensor& out = plan_.tensors.emplace_back();
    out.name = prefix_ + "." + suffix;
    out.dtype = dtype;
    out.shape = shape;
    out.part = p;
    return out;
  }
  template <class T>
  void add_value(const std::string& suffix, DType dtype, const Shape& shape, std::span<const T> values) {
    OutTensor& out = plan_.tensors.emplace_back();
    out.name = prefix_ + "." + suffix;
    out.dtype = dtype;
    out.shape = shape;
    auto bytes = std::as_bytes(values);
    out.value.assign(bytes.begin(), bytes.end());
  }

  // Scales keep their dtype: engines convert.
  DType scale_dtype() const {
    const Part* p = t_.part(Role::scale);
    return p == nullptr ? t_.dtype : p->dtype;
  }
  void scale(DType dtype) {
    add("weight_scale", Role::scale, dtype, scale_shape(s_.weights, t_.shape));
  }

  void int_quantized() {
    int bits = s_.weights.num_bits;
    lay_out(add("weight", Role::codes, DType::i8, t_.shape), bits == 8 ? dense_layout : bytes_layout,
            {.rows = rows_, .cols = cols_, .bits = bits, .is_signed = true});
    scale(scale_dtype());
    if (!s_.weights.symmetric) plain_zero_point();
  }
  void plain_zero_point() {
    Shape shape = scale_shape(s_.weights, t_.shape);
    lay_out(add("weight_zero_point", Role::zero_point, DType::i8, shape), bytes_layout,
            {.rows = shape.rows(), .cols = shape.cols(), .bias = uint64_t{1} << (s_.weights.num_bits - 1)});
  }

  void pack_quantized() {
    auto bits = static_cast<uint64_t>(s_.weights.num_bits);
    uint64_t words = ceil_div(cols_ * bits, 32);
    OutTensor& packed = add("weight_packed", Role::codes, DType::i32, Shape{rows_, words});
    int width = s_.weights.num_bits;
    if (packed.part->shape.cols() != words * 4) {
      lay_out(packed, words_layout, {.rows = rows_, .cols = cols_, .bits = width, .stored_bits = width});
    }
    scale(scale_dtype());
    const uint64_t dims[2] = {rows_, cols_};
    add_value("weight_shape", DType::i64, Shape{2}, std::span<const uint64_t>(dims));
    if (s_.weights.symmetric) return;
    if (s_.weights.strategy == Strategy::tensor) return plain_zero_point();
    uint64_t groups = scale_shape(s_.weights, t_.shape).cols();
    lay_out(add("weight_zero_point", Role::zero_point, DType::i32, Shape{ceil_div(rows_ * bits, 32), groups}),
            packed_rows_layout, {.rows = rows_, .cols = groups, .stored_bits = width});
  }

  void global_scale() {
    if (t_.part(Role::scale_2) == nullptr) {
      add("weight_global_scale", Role::global_scale, DType::f32, Shape{1});
      return;
    }
    float global = other_second_stage(store_, t_);
    add_value("weight_global_scale", DType::f32, Shape{1}, std::span<const float>(&global, 1));
  }

  void inputs() {
    if (!s_.input_activations || s_.input_activations->dynamic == Dynamic::yes) return;
    const Part* scale = t_.part(Role::input_scale);
    if (s_.input_activations->dynamic == Dynamic::no) {
      add("input_scale", Role::input_scale, scale ? scale->dtype : DType::f32, Shape{1});
      if (!s_.input_activations->symmetric) add("input_zero_point", Role::input_zero_point, DType::i8, Shape{1});
    } else if (t_.part(Role::input_global_scale) == nullptr && scale != nullptr) {
      float global = reciprocal(number_of(store_, *scale));
      add_value("input_global_scale", DType::f32, Shape{1}, std::span<const float>(&global, 1));
    } else {
      add("input_global_scale", Role::input_global_scale, DType::f32, Shape{1});
    }
  }

  static void lay_out(OutTensor& out, const Layout& layout, const LayoutArgs& args) {
    out.layout = &layout;
    out.layout_args = args;
  }

  const Store& store_;
  const Tensor& t_;
  const Scheme& s_;
  ExportPlan& plan_;
  std::string prefix_;
  uint64_t rows_, cols_;
};

}  // namespace

void emit_tensor(const Store& store, const Tensor& tensor, const Scheme& scheme, ExportPlan& plan) {
  Emitter(store, tensor, scheme, plan).emit();
}

}  // namespace qp::ct
