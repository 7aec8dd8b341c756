#include "lib/algorithm/rtn.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <mutex>

#include "lib/algorithm/codebook.h"
#include "lib/base/checked.h"
#include "lib/base/error.h"
#include "lib/kernels/source.h"
#include "lib/qmap/row_jobs.h"
#include "lib/scheme/numerics.h"

namespace qp {
namespace {

// Nibbles of 8 become 0.
void drop_negative_zeros(std::span<uint8_t> codes) {
  for (uint8_t& both : codes) {
    if ((both & 0x0F) == 0x08) both &= 0xF0;
    if ((both & 0xF0) == 0x80) both &= 0x0F;
  }
}

}  // namespace

float tensor_absmax(const Store& store, const Tensor& t) {
  RowSource source(store, t);
  std::mutex mutex;
  float amax = 0;
  for_row_chunks(
      source, Quantizer::kChunkBytes,
      [&](const RowChunk& c) {
        float m = 0;
        uint64_t n = c.count * source.cols();
        kernels::active().group_absmax(*kernel_source(t.dtype), c.rows.data(), n, std::max<uint64_t>(n, 1), &m);
        if (!std::isfinite(m)) refuse_nonfinite(store, t, c.first);
        std::lock_guard lock(mutex);
        amax = std::max(amax, m);
      },
      nullptr);
  return amax;
}

RtnQuantizer::~RtnQuantizer() = default;

RtnQuantizer::RtnQuantizer(const Store& store, const Tensor& t, const Scheme& scheme, float range)
    : store_(store), t_(t), scheme_(scheme), w_(scheme.weights), rules_(numerics::rules(scheme.numerics)), k_(kernels::active()),
      cols_(t.shape.cols()), group_(scheme.group_of(cols_)), groups_(ceil_div(cols_, group_)),
      code_bytes_(ceil_div(cols_ * static_cast<uint64_t>(w_.num_bits), 8)),
      source_bytes_(cols_ * dtype_bits(t.dtype) / 8) {
  if (scheme.code_kind() == CodeKind::codebook) {
    codebook_ = std::make_unique<CodebookQuantizer>(t, scheme);
    return;
  }
  Shape scales = scale_shape(w_, t.shape);
  scale_.resize(*scales.elements());
  if (!w_.symmetric) zero_.resize(scale_.size());
  bool floats = w_.type == NumType::floating && scheme.scale_kind() == ScaleKind::source;
  bool integers = scheme.code_kind() == CodeKind::integer;
  if (rules_.apply == numerics::Apply::by_ratio && floats) ratio_.resize(scale_.size());
  if (rules_.integers_half_away && integers) ratio_.resize(scale_.size());
  if (scheme.scale_kind() != ScaleKind::source) small_codes_.resize(scale_.size());
  if (scheme.scale_kind() == ScaleKind::e4m3_global) {
    global_ = numerics::second_stage_of(rules_, t.dtype, range);
  } else if (w_.strategy == Strategy::tensor) {
    set_tensor_scale(range);
  }
  if (w_.fp8_stage) global_ = range > 0 ? range / 448.0f : 1.0f;
}

void RtnQuantizer::chunk(const std::byte* rows, uint64_t first, uint64_t count, RowsScratch& w) {
  w.codes.resize(count * code_bytes_);
  if (codebook_) {
    w.values.resize(count * cols_);
    k_.to_f32(*kernel_source(t_.dtype), rows, count * cols_, w.values.data());
    if (!codebook_->chunk(w.values, first, reinterpret_cast<uint8_t*>(w.codes.data()))) refuse_nonfinite(store_, t_, first);
    return;
  }
  if (w_.strategy == Strategy::block) {
    for (uint64_t r = 0; r < count; r += static_cast<uint64_t>(w_.block_rows)) {
      block_scales(rows, first, r, count, w);
    }
  }
  for (uint64_t r = 0; r < count; ++r) {
    const std::byte* row = rows + r * source_bytes_;
    auto* out = reinterpret_cast<uint8_t*>(w.codes.data() + r * code_bytes_);
    if (rules_.name == "torchao" && !w_.symmetric) {
      tinygemm(row, first + r, w, out);
      continue;
    }
    const float* scale = row_scales(row, first + r, w);
    codes(row, scale, w_.symmetric ? nullptr : w.zero.data(), w, out);
  }
}

SmallParts RtnQuantizer::finish() const {
  SmallParts parts;
  if (codebook_) {
    codebook_->finish(parts);
    return parts;
  }
  if (rules_.name != "torchao" || w_.symmetric) {
    return encode_small_parts(scheme_, rules_, t_.dtype, scale_, zero_, small_codes_, global_);
  }
  for (const auto& [numbers, role] : {std::pair(&scale_, Role::scale), std::pair(&zero_, Role::offset)}) {
    std::vector<std::byte> bytes(numbers->size() * dtype_bits(t_.dtype) / 8);
    k_.from_f32(*kernel_source(t_.dtype), numbers->data(), numbers->size(), bytes.data());
    if (role == Role::scale) parts.scale = std::move(bytes);
    else parts.others.emplace_back(role, std::move(bytes));
  }
  return parts;
}

void RtnQuantizer::set_tensor_scale(float range) {
  if (w_.symmetric) {
    set_scales({&range, 1}, scale_.data());
  } else {
    throw usage_error("asymmetric weights per tensor are not supported")
        .hint("use --group-size channel");
  }
}

// Scales of one row; for strategies whose scales span rows they are already known.
const float* RtnQuantizer::row_scales(const std::byte* row, uint64_t r, RowsScratch& w) {
  if (w_.strategy == Strategy::tensor) return scale_.data();
  if (w_.strategy == Strategy::block) {
    return &scale_[r / static_cast<uint64_t>(w_.block_rows) * groups_];
  }
  float* scale = &scale_[r * groups_];
  w.hi.resize(groups_);
  if (!w_.symmetric) {
    w.lo.resize(groups_);
    w.zero.resize(groups_);
    k_.group_minmax(*kernel_source(t_.dtype), row, cols_, group_, w.lo.data(), w.hi.data());
    for (uint64_t g = 0; g < groups_; ++g) {
      if (!std::isfinite(w.lo[g]) || !std::isfinite(w.hi[g])) refuse_nonfinite(store_, t_, r);
      auto sz = numerics::scale_zero_of(rules_, w_, t_.dtype, w.lo[g], w.hi[g]);
      if (!std::isfinite(sz.scale)) refuse_overflow(store_, t_, r);
      scale[g] = sz.scale;
      w.zero[g] = zero_[r * groups_ + g] = sz.zero_point;
    }
    return scale;
  }
  k_.group_absmax(*kernel_source(t_.dtype), row, cols_, group_, w.hi.data());
  for (uint64_t g = 0; g < groups_; ++g) {
    if (!std::isfinite(w.hi[g])) refuse_nonfinite(store_, t_, r);
  }
  switch (scheme_.scale_kind()) {
    case ScaleKind::e4m3_global:
      w.scale.resize(groups_);
      if (rules_.f32) {
        numerics::nvfp4_scales(w.hi, global_, &small_codes_[r * groups_], w.scale.data());
      } else {
        k_.nvfp4_scales(*kernel_source(t_.dtype), w.hi.data(), groups_, global_,
                        &small_codes_[r * groups_], w.scale.data());
      }
      return w.scale.data();
    case ScaleKind::e8m0:
      w.scale.resize(groups_);
      mx_scales(r, w);
      for (uint64_t g = 0; g < groups_; ++g) {
        if (small_codes_[r * groups_ + g] == 255) refuse_overflow(store_, t_, r);
      }
      return w.scale.data();
    case ScaleKind::source: break;
  }
  set_scales(w.hi, scale);
  return scale;
}

void RtnQuantizer::block_scales(const std::byte* rows, uint64_t first, uint64_t r, uint64_t count,
                                RowsScratch& w) {
  auto height = static_cast<uint64_t>(w_.block_rows);
  uint64_t end = std::min(r + height, count);
  float* scale = &scale_[(first + r) / height * groups_];
  w.hi.resize(groups_);
  std::fill_n(scale, groups_, 0.0f);
  for (uint64_t i = r; i < end; ++i) {
    k_.group_absmax(*kernel_source(t_.dtype), rows + i * source_bytes_, cols_, group_, w.hi.data());
    for (uint64_t g = 0; g < groups_; ++g) {
      if (!std::isfinite(w.hi[g])) refuse_nonfinite(store_, t_, first + i);
      scale[g] = std::max(scale[g], w.hi[g]);
    }
  }
  set_scales({scale, groups_}, scale);
}

// Scales from ranges; `scale` points into scale_, and the two may be one.
void RtnQuantizer::set_scales(std::span<const float> amax, float* scale) {
  if (!ratio_.empty()) {
    for (size_t i = 0; i < amax.size(); ++i) ratio_[static_cast<size_t>(scale - scale_.data()) + i] = numerics::ratio_of(rules_, w_, amax[i]);
  }
  if (w_.amax_scale) {  // bitsandbytes takes its weights as F16; a row of zeros has a scale of 0
    for (size_t i = 0; i < amax.size(); ++i) scale[i] = numerics::round_to(DType::f16, amax[i]);
    return;
  }
  numerics::scales_of(rules_, w_, t_.dtype, amax, scale);
}

void RtnQuantizer::mx_scales(uint64_t r, RowsScratch& w) {
  int emax = w_.num_bits == 4 ? 2 : 8;
  uint8_t* code = &small_codes_[r * groups_];
  if (rules_.mx == numerics::MxScale::carry) {
    k_.mx_scales(*kernel_source(numerics::in_f32(rules_, w_) ? DType::f32 : t_.dtype), w.hi.data(), groups_,
                 emax, code, w.scale.data());
  } else {
    numerics::mx_scales(rules_, w.hi, emax, code, w.scale.data());
  }
}

void RtnQuantizer::codes(const std::byte* row, const float* scale, const float* zero, RowsScratch& w,
                         uint8_t* out) const {
  if (!numerics::in_f32(rules_, w_)) return codes_of(*kernel_source(t_.dtype), row, scale, zero, out);
  if (w_.amax_scale) {  // bitsandbytes: the weight times 127 / SCB
    w.values.resize(cols_);
    k_.to_f32(*kernel_source(t_.dtype), row, cols_, w.values.data());
    float factor = *scale == 0 ? 0.0f : 1.0f / *scale * 127.0f, one = 1.0f;  // as torch divides 127
    for (float& v : w.values) v = numerics::round_to(DType::f16, v) * factor;
    k_.int_codes(kernels::Src::f32, w.values.data(), cols_, cols_, &one, nullptr, 8, out);
    return;
  }
  bool floats = w_.type == NumType::floating && scheme_.scale_kind() == ScaleKind::source;
  bool divides = rules_.apply == numerics::Apply::divide;
  if (floats && divides && rules_.tensor_in_source && w_.strategy == Strategy::tensor) {
    return codes_of(*kernel_source(t_.dtype), row, scale, zero, out);
  }
  if (floats && !divides) {
    const float* x = scaled(row, scale, w);
    w.factor.assign(groups_, 1.0f);
    return codes_of(kernels::Src::f32, x, w.factor.data(), zero, out);
  }
  w.values.resize(cols_);
  k_.to_f32(*kernel_source(t_.dtype), row, cols_, w.values.data());
  if (rules_.mxfp4_ties_to_zero && scheme_.code_kind() == CodeKind::e2m1 && scheme_.scale_kind() == ScaleKind::e8m0) {
    for (uint64_t c = 0; c < cols_; c += 2) {
      uint8_t low = numerics::e2m1_ties_to_zero(w.values[c] / scale[c / group_]);
      uint8_t high = numerics::e2m1_ties_to_zero(w.values[c + 1] / scale[(c + 1) / group_]);
      out[c / 2] = static_cast<uint8_t>(low | high << 4);
    }
    return;
  }
  if (rules_.integers_half_away && scheme_.code_kind() == CodeKind::integer) {
    const float* x = scaled(row, scale, w);
    for (float& v : w.values) v = std::round(v);
    w.factor.assign(groups_, 1.0f);
    return codes_of(kernels::Src::f32, x, w.factor.data(), zero, out);
  }
  if (rules_.integers_by_inverse && !w_.fp8_stage && scheme_.code_kind() == CodeKind::integer) {
    for (uint64_t c = 0; c < cols_; ++c) w.values[c] *= 1.0f / scale[c / group_];
    w.factor.assign(groups_, 1.0f);
    scale = w.factor.data();
  }
  codes_of(kernels::Src::f32, w.values.data(), scale, zero, out);
}

// torchao's plain int4: a group's own least weight and range in F32, the zero point in the middle.
void RtnQuantizer::tinygemm(const std::byte* row, uint64_t r, RowsScratch& w, uint8_t* out) {
  w.values.resize(cols_);
  k_.to_f32(*kernel_source(t_.dtype), row, cols_, w.values.data());
  std::fill_n(out, code_bytes_, uint8_t{0});
  float top = static_cast<float>((1 << w_.num_bits) - 1);
  for (uint64_t g = 0; g < groups_; ++g) {
    std::span<const float> x(w.values.data() + g * group_, std::min(group_, cols_ - g * group_));
    float lo = x[0], hi = x[0];
    for (float v : x) {
      if (!std::isfinite(v)) refuse_nonfinite(store_, t_, r);
      lo = std::min(lo, v);
      hi = std::max(hi, v);
    }
    float scale = std::max(hi - lo, 1e-6f) / top;
    scale_[r * groups_ + g] = scale;
    zero_[r * groups_ + g] = lo + scale * static_cast<float>(1 << (w_.num_bits - 1));
    for (uint64_t i = 0; i < x.size(); ++i) {
      auto code = static_cast<unsigned>(std::clamp(std::nearbyint((x[i] - lo) / scale), 0.0f, top));
      uint64_t at = (g * group_ + i) * static_cast<uint64_t>(w_.num_bits);
      out[at / 8] = static_cast<uint8_t>(out[at / 8] | code << (at % 8));
    }
  }
}

// The row times what the rules multiply it with.
const float* RtnQuantizer::scaled(const std::byte* row, const float* scale, RowsScratch& w) const {
  bool in_source = rules_.tensor_in_source && w_.strategy == Strategy::tensor;
  w.values.resize(cols_);
  k_.to_f32(*kernel_source(t_.dtype), row, cols_, w.values.data());
  for (uint64_t c = 0; c < cols_; c += group_) {
    const float* s = scale + c / group_;
    float factor = ratio_.empty() ? 1.0f / *s : ratio_[static_cast<size_t>(s - scale_.data())];
    uint64_t end = std::min(cols_, c + group_);
    for (uint64_t i = c; i < end; ++i) w.values[i] *= factor;
  }
  if (in_source) {
    for (float& v : w.values) v = numerics::round_to(t_.dtype, v);
  }
  return w.values.data();
}

void RtnQuantizer::codes_of(kernels::Src src, const void* row, const float* scale, const float* zero,
                            uint8_t* out) const {
  switch (scheme_.code_kind()) {
    case CodeKind::integer: k_.int_codes(src, row, cols_, group_, scale, zero, w_.num_bits, out); return;
    case CodeKind::e4m3: k_.e4m3_codes(src, row, cols_, group_, scale, rules_.drop_negative_zero, out); return;
    case CodeKind::e2m1:
      k_.e2m1_codes(src, row, cols_, group_, scale, scheme_.scale_kind() == ScaleKind::e8m0, out);
      if (rules_.fp4_without_negative_zero) drop_negative_zeros({out, code_bytes_});
      return;
    case CodeKind::codebook: throw defect_error("codebook schemes are not rounded to nearest").tensor(t_.name);
  }
}

}  // namespace qp
