#include "lib/eval/act_quant.h"

#include <algorithm>
#include <cmath>

#include "lib/base/parallel.h"
#include "lib/kernels/kernels.h"
#include "lib/qmap/rows.h"
#include "lib/scheme/numerics.h"

namespace qp {
namespace {

using kernels::Src;

ScaleKind scale_kind(const QuantArgs& args) {
  Scheme s;
  s.weights = args;
  return s.scale_kind();
}

std::string label(const QuantArgs& a) {
  std::string out(name_of(a.type));
  out += std::to_string(a.num_bits) + " per " + std::string(name_of(a.strategy));
  if (a.group_size > 0) out += " of " + std::to_string(a.group_size);
  if (!a.symmetric) out += ", asymmetric";
  return out + (a.dynamic == Dynamic::no ? ", static" : ", dynamic");
}

std::vector<float> floats_of(const Store& store, const Part& part) {
  RowScratch scratch;
  RowSource source(store, part);
  const float* x = source.get_f32(0, source.rows(), scratch, false);
  return {x, x + source.rows() * source.cols()};
}

float number_of(const Store& store, const Part& part) { return floats_of(store, part).at(0); }

// Why these activations cannot be simulated, or "".
std::string why_not(const Tensor& t, const QuantArgs& a) {
  bool known = a.type == NumType::integer ? a.num_bits >= 2 && a.num_bits <= 8
                                          : a.num_bits == 4 || a.num_bits == 8;
  if (!known) return std::string(name_of(a.type)) + std::to_string(a.num_bits) + " activations";
  bool grouped = a.strategy == Strategy::group || a.strategy == Strategy::tensor_group;
  if (a.strategy == Strategy::channel || a.strategy == Strategy::block || (grouped && a.group_size <= 0)) {
    return "activations per " + std::string(name_of(a.strategy));
  }
  if (a.dynamic == Dynamic::no && (t.part(Role::input_scale) == nullptr || !a.symmetric)) {
    return "static activations without an input_scale";
  }
  if (a.strategy == Strategy::tensor_group && t.part(Role::input_global_scale) == nullptr &&
      t.part(Role::input_scale) == nullptr) {
    return "activations without a global scale";
  }
  return "";
}

}  // namespace

// Quantizes and dequantizes rows; one per thread.
class ActivationQuant::Rows {
 public:
  Rows(const Entry& entry, DType dtype, size_t cols)
      : e_(entry), src_(dtype == DType::bf16 ? Src::bf16 : Src::f32), dtype_(dtype), cols_(cols),
        in_(cols), scaled_(entry.pre_scale.size()), codes_(cols) {
    bool grouped = e_.args.group_size > 0;
    group_ = grouped ? static_cast<size_t>(e_.args.group_size) : cols;
    groups_ = (cols + group_ - 1) / group_;
    for (auto* v : {&hi_, &lo_, &scale_, &zero_}) v->resize(groups_);
  }

  void load(const float* x) {
    if (!e_.pre_scale.empty()) {
      for (size_t c = 0; c < cols_; ++c) scaled_[c] = x[c] * e_.pre_scale[c];
      x = scaled_.data();
    }
    k_.from_f32(src_, x, cols_, in_.data());
  }
  void range() {
    if (e_.args.symmetric) return k_.group_absmax(src_, in_.data(), cols_, group_, hi_.data());
    k_.group_minmax(src_, in_.data(), cols_, group_, lo_.data(), hi_.data());
  }
  // Scales from the range: the row's own, or one for all rows.
  void scales() {
    const QuantArgs& a = e_.args;
    for (size_t g = 0; g < groups_; ++g) {
      zero_[g] = 0;
      if (a.dynamic == Dynamic::no) {
        scale_[g] = e_.scale;
      } else if (!a.symmetric) {
        numerics::ScaleZero sz = numerics::scale_zero_of(rules_, a, dtype_, lo_[g], hi_[g]);
        scale_[g] = sz.scale;
        zero_[g] = sz.zero_point;
      } else {
        scale_[g] = numerics::scale_of(rules_, a, dtype_, hi_[g]);
      }
    }
    if (a.dynamic == Dynamic::no) return;
    if (scale_kind(a) == ScaleKind::e4m3_global) {
      k_.nvfp4_scales(src_, hi_.data(), groups_, e_.global, codes_.data(), scale_.data());
    } else if (scale_kind(a) == ScaleKind::e8m0) {
      k_.mx_scales(src_, hi_.data(), groups_, a.num_bits == 4 ? 2 : 8, codes_.data(), scale_.data());
    }
  }
  void convert(float* out) {
    const QuantArgs& a = e_.args;
    uint8_t* codes = codes_.data();
    const float* scale = scale_.data();
    if (a.type == NumType::integer) {
      const float* zero = a.symmetric ? nullptr : zero_.data();
      k_.int_codes(src_, in_.data(), cols_, group_, scale, zero, a.num_bits, codes);
      k_.int_values(codes, cols_, group_, scale, zero, a.num_bits, out);
    } else if (a.num_bits == 8) {
      k_.e4m3_codes(src_, in_.data(), cols_, group_, scale, false, codes);
      k_.e4m3_values(codes, cols_, group_, scale, out);
    } else {
      bool rounds = scale_kind(a) != ScaleKind::e4m3_global;  // its scale is f32, and so is x / it
      k_.e2m1_codes(src_, in_.data(), cols_, group_, scale, rounds, codes);
      k_.e2m1_values(codes, cols_, group_, scale, out);
    }
    k_.from_f32(src_, out, cols_, in_.data());
    k_.to_f32(src_, in_.data(), cols_, out);
    for (size_t c = 0; c < e_.pre_scale.size(); ++c) {
      out[c] = e_.pre_scale[c] == 0 ? 0 : out[c] / e_.pre_scale[c];
    }
  }
  void set_range(float lo, float hi) { lo_[0] = lo, hi_[0] = hi; }
  float lo() const { return lo_[0]; }
  float hi() const { return hi_[0]; }

 private:
  const kernels::Table& k_ = kernels::active();
  const numerics::Rules& rules_ = numerics::rules("compressed-tensors");
  const Entry& e_;
  Src src_;
  DType dtype_;
  size_t cols_, group_ = 0, groups_ = 0;
  std::vector<float> in_;  // of the dtype
  std::vector<float> scaled_;
  std::vector<uint8_t> codes_;
  std::vector<float> hi_, lo_, scale_, zero_;
};

ActivationQuant::ActivationQuant(const Store& store, gemm::Precision precision)
    : dtype_(precision == gemm::Precision::bf16 ? DType::bf16 : DType::f32) {
  const Model& m = store.model();
  for (const Tensor& t : m.tensors) {
    if (t.scheme < 0 || t.dequantize) continue;
    const Scheme& scheme = m.schemes[static_cast<size_t>(t.scheme)];
    if (scheme.input_activations) add(store, t, *scheme.input_activations);
  }
}

void ActivationQuant::add(const Store& store, const Tensor& t, const QuantArgs& args) {
  if (std::string why = why_not(t, args); !why.empty()) {
    ++refused_[why];
    return;
  }
  Entry e{args};
  if (const Part* p = t.part(Role::input_scale)) {
    e.scale = number_of(store, *p);
    e.global = 1.0f / e.scale;
  }
  if (const Part* p = t.part(Role::input_global_scale)) e.global = number_of(store, *p);
  if (const Part* p = t.part(Role::pre_scale)) e.pre_scale = floats_of(store, *p);
  std::string module = t.name;
  if (module.ends_with(".weight")) module.resize(module.size() - 7);
  entries_.emplace(std::move(module), e);
  ++simulated_[label(args)];
  per_tensor_ |= args.strategy == Strategy::tensor && args.dynamic != Dynamic::no;
}

std::vector<std::pair<std::string, size_t>> ActivationQuant::simulated() const {
  return {simulated_.begin(), simulated_.end()};
}

std::vector<std::string> ActivationQuant::not_simulated() const {
  std::vector<std::string> out;
  for (const auto& [why, n] : refused_) out.push_back(why + " (" + std::to_string(n) + " linears)");
  return out;
}

engine::ConstMatrix ActivationQuant::before(const engine::LinearUse& linear, engine::ConstMatrix x,
                                            std::span<const uint32_t>, std::vector<float>&) {
  auto it = entries_.find(linear.module);
  if (it == entries_.end() && linear.module.ends_with("]")) {  // an expert of a stack
    it = entries_.find(linear.module.substr(0, linear.module.rfind('[')));
  }
  if (it == entries_.end() || x.rows == 0) {
    last_input_.clear();
    return x;
  }
  const Entry& e = it->second;
  bool shared = linear.module != linear.input && linear.input == last_input_ &&
                x.data == last_data_ && e == last_entry_;
  engine::ConstMatrix out{last_.data(), x.rows, x.cols};
  if (shared) return out;
  if (last_.size() < x.rows * x.cols) last_.resize(x.rows * x.cols);
  out.data = last_.data();
  last_input_ = linear.input;
  last_data_ = x.data;
  last_entry_ = e;
  std::vector<Rows> work(static_cast<size_t>(threads()), Rows(e, dtype_, x.cols));
  bool whole = e.args.strategy == Strategy::tensor && e.args.dynamic != Dynamic::no;
  float lo = 0, hi = 0;
  if (whole) {
    for (size_t r = 0; r < x.rows; ++r) {
      work[0].load(x.row(r));
      work[0].range();
      lo = std::min(lo, work[0].lo());
      hi = std::max(hi, work[0].hi());
    }
  }
  constexpr size_t kRows = 16;
  parallel_for((x.rows + kRows - 1) / kRows, [&](size_t b, int worker) {
    Rows& w = work[static_cast<size_t>(worker)];
    for (size_t r = b * kRows; r < std::min(x.rows, (b + 1) * kRows); ++r) {
      w.load(x.row(r));
      if (whole) {
        w.set_range(lo, hi);
      } else {
        w.range();
      }
      w.scales();
      w.convert(last_.data() + r * x.cols);
    }
  });
  return out;
}

}  // namespace qp
