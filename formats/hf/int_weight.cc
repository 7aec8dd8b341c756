#include "formats/hf/int_weight.h"

#include <algorithm>
#include <array>
#include <cstring>

#include "lib/base/checked.h"
#include "lib/base/error.h"
#include "lib/layout/bits.h"
#include "lib/model/modules.h"
#include "lib/qmap/store.h"

namespace qp {
namespace {

constexpr std::array kHeld = {Role::codes, Role::scale, Role::zero_point, Role::g_idx};

}  // namespace

IntWeight::IntWeight(const Store& store, const Tensor& t, const ExportOptions& options,
                     std::string_view family)
    : tensor_(t), label_(store.label()), family_(family), module_(t.name), rows_(t.shape.rows()),
      cols_(t.shape.cols()) {
  if (module_.ends_with(".weight")) module_.resize(module_.size() - 7);
  if (!t.ggml.empty())
    refuse("is " + t.ggml, "load it with qload --dequantize and quantize it again");
  const Scheme& s = store.model().schemes[static_cast<size_t>(t.scheme)];
  check_form(s);
  stored_bits_ = bits_ = s.weights.num_bits;
  symmetric_ = s.weights.symmetric;
  group_ =
      s.weights.strategy == Strategy::group ? static_cast<uint64_t>(s.weights.group_size) : 0;
  g_idx_ = t.part(Role::g_idx);
  widen(options);
  groups_ = group_ == 0 ? 1 : ceil_div(cols_, group_);
  ModuleInfo info = classify(t.name, t.dtype, t.shape, store.model().config);
  if (info.kind == ModuleKind::embedding)
    refuse("is a quantized embedding", "leave it unquantized with --ignore " + info.module);
}

void IntWeight::refuse(const std::string& why, const std::string& hint) const {
  throw limit_error(why + ", which " + family_ + " cannot hold")
      .file(label_)
      .tensor(tensor_.name)
      .hint(hint);
}

void IntWeight::check_form(const Scheme& s) const {
  const std::string again =
      "choose a format that keeps it (-f compressed-tensors), or load it with qload "
      "--dequantize and quantize it again";
  if (s.code_kind() != CodeKind::integer) refuse("has no integer codes", again);
  if (s.input_activations) refuse("is quantized with its activations", again);
  if (s.weights.strategy != Strategy::group && s.weights.strategy != Strategy::channel) {
    refuse("has one scale per " + std::string(name_of(s.weights.strategy)), again);
  }
  if (tensor_.shape.rank() != 2)
    refuse("has " + std::to_string(tensor_.shape.rank()) + " dimensions",
           "leave it unquantized with --ignore");
  for (const Part& p : tensor_.parts) {
    if (std::ranges::find(kHeld, p.role) == kHeld.end())
      refuse("has a " + std::string(name_of(p.role)), again);
  }
  const Part* scale = tensor_.part(Role::scale);
  if (scale == nullptr || !is_float(scale->dtype) || s.weights.amax_scale)
    refuse("has scales that are no plain floats", again);
}

// Codes widened: every value stays the same.
void IntWeight::widen(const ExportOptions& options) {
  if (options.num_bits == 0 || options.num_bits == bits_) return;
  if (options.num_bits < bits_) {
    refuse("has " + std::to_string(bits_) + "-bit codes and --num-bits asks for fewer",
           "widening is exact, narrowing is not");
  }
  bits_ = options.num_bits;
}

OutTensor IntWeight::named(const std::string& suffix, DType dtype, const Shape& shape) const {
  OutTensor out;
  out.name = module_ + "." + suffix;
  out.dtype = dtype;
  out.shape = shape;
  return out;
}

OutTensor IntWeight::codes(const std::string& suffix, DType dtype, const Shape& shape,
                           const Layout& layout) const {
  OutTensor out = named(suffix, dtype, shape);
  out.part = tensor_.part(Role::codes);
  out.layout = &layout;
  out.layout_args = {.rows = rows_, .cols = cols_, .bits = bits_, .stored_bits = bits_};
  if (layout.stored_bytes(out.layout_args) != byte_size(dtype, shape)) {
    refuse("is [" + std::to_string(rows_) + ", " + std::to_string(cols_) + "], whose " +
               std::to_string(bits_) + "-bit codes do not fill whole words",
           "leave it unquantized with --ignore");
  }
  if (bits_ == stored_bits_) return out;
  uint64_t from = (cols_ * static_cast<uint64_t>(stored_bits_) + 7) / 8,
           to = out.layout_args.row_bytes(), cols = cols_;
  // A symmetric code's centre moves with its range; a zero point stays where it is.
  uint32_t shift = symmetric_ ? (1u << (bits_ - 1)) - (1u << (stored_bits_ - 1)) : 0;
  out.relaid_row_bytes = to;
  out.relay = [from, to, cols, shift, narrow = stored_bits_, wide = bits_](
                  const std::byte* rows, uint64_t, uint64_t count, std::byte* made) {
    std::memset(made, 0, count * to);
    for (uint64_t r = 0; r < count; ++r) {
      for (uint64_t c = 0; c < cols; ++c) {
        layout::set(made + r * to, c, wide, layout::get(rows + r * from, c, narrow) + shift);
      }
    }
  };
  return out;
}

OutTensor IntWeight::scales(const std::string& suffix) const {
  OutTensor out = named(suffix, DType::f16, Shape{groups_, rows_});
  out.part = tensor_.part(Role::scale);
  out.layout = &transposed_layout;
  out.layout_args = {.rows = rows_, .cols = groups_, .bits = 16, .stored_bits = 16};
  return out;
}

OutTensor IntWeight::zeros(const std::string& suffix, const Shape& shape, const Layout& layout,
                           uint64_t bias) const {
  OutTensor out = named(suffix, DType::i32, shape);
  out.layout = &layout;
  out.layout_args = {.rows = rows_, .cols = groups_, .bits = 8, .stored_bits = bits_, .bias = bias};
  if (layout.stored_bytes(out.layout_args) != byte_size(out.dtype, shape)) {
    refuse("has " + std::to_string(rows_) + " rows, whose " + std::to_string(bits_) +
               "-bit zero points do not fill whole words",
           "leave it unquantized with --ignore");
  }
  out.part = tensor_.part(symmetric_ ? Role::scale : Role::zero_point);
  if (!symmetric_) return out;
  out.relaid_row_bytes = groups_;
  auto centre = static_cast<int>(1u << (bits_ - 1));  // the rows of the scales only count
  out.relay = [centre, n = groups_](const std::byte*, uint64_t, uint64_t count, std::byte* made) {
    std::memset(made, centre, count * n);
  };
  return out;
}

OutTensor IntWeight::group_index(const std::string& suffix) const {
  OutTensor out = named(suffix, DType::i32, Shape{cols_});
  if (g_idx_ != nullptr) {
    out.part = g_idx_;
    return out;
  }
  out.make_value = [cols = cols_, group = group_ == 0 ? std::max<uint64_t>(cols_, 1) : group_] {
    std::vector<std::byte> bytes(cols * 4);
    for (uint64_t c = 0; c < cols; ++c)
      layout::store32(&bytes[c * 4], static_cast<uint32_t>(c / group));
    return bytes;
  };
  return out;
}

void refuse_kv_cache(const Store& store, std::string_view family) {
  if (!store.model().kv_cache) return;
  throw limit_error("has scales of a quantized KV cache, which " + std::string(family) +
                    " cannot hold")
      .file(store.label())
      .hint("choose -f compressed-tensors or -f modelopt, or quantize without a KV-cache scheme");
}

}  // namespace qp
