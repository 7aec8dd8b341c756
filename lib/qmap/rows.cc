#include "lib/qmap/rows.h"

#include <cmath>
#include <cstring>

#include "lib/base/error.h"
#include "lib/kernels/ggml.h"
#include "lib/kernels/kernels.h"
#include "lib/qmap/decode.h"
#include "lib/tensor/minifloat.h"

namespace qp {
namespace {

kernels::Src src_of(DType dtype) {
  if (dtype == DType::bf16) return kernels::Src::bf16;
  return dtype == DType::f16 ? kernels::Src::f16 : kernels::Src::f32;
}

const Part& main_part(const Tensor& t) {
  const Part* p = t.part(t.scheme >= 0 ? Role::codes : t.ggml.empty() ? Role::data : Role::blocks);
  if (p == nullptr) throw defect_error("has no data").tensor(t.name);
  return *p;
}

// n scale bytes of a part as f32.
void scales_to_f32(DType dtype, const std::byte* in, uint64_t n, float* out) {
  switch (dtype) {
    case DType::bf16:
    case DType::f16:
    case DType::f32: kernels::active().to_f32(src_of(dtype), in, n, out); return;
    case DType::f8_e4m3:
      for (uint64_t i = 0; i < n; ++i) out[i] = e4m3_to_f32(std::to_integer<uint8_t>(in[i]));
      return;
    default:
      for (uint64_t i = 0; i < n; ++i) {
        out[i] = std::ldexp(1.0f, std::to_integer<int>(in[i]) - 127);
      }
      return;
  }
}

}  // namespace

RowSource::RowSource(const Store& store, const Part& part)
    : store_(store), part_(&part), dtype_(part.dtype), rows_(part.shape.rows()),
      cols_(part.shape.cols()), row_bytes_(qp::row_bytes(part)) {}

RowSource::RowSource(const Store& store, const Tensor& t)
    : store_(store), part_(&main_part(t)), dtype_(t.dtype), rows_(t.shape.rows()),
      cols_(t.shape.cols()), row_bytes_(0) {
  if (t.scheme >= 0 || !t.ggml.empty()) tensor_ = &t;
  if (!t.ggml.empty()) {
    dtype_ = DType::f32;
    const GgmlType* type = ggml_type(t.ggml);
    if (type == nullptr || type->dequantize == nullptr) {
      throw input_error("is " + t.ggml + ", which this version cannot decode").tensor(t.name);
    }
  }
  row_bytes_ = cols_ * dtype_bits(dtype_) / 8;
}

const std::byte* RowSource::get(uint64_t first, uint64_t count, RowScratch& s) const {
  if (tensor_ == nullptr) return store_.rows(*part_, first, count, s.bytes);
  dequantize(first, count, s);
  if (dtype_ == DType::f32) return reinterpret_cast<const std::byte*>(s.values.data());
  s.bytes.resize(count * row_bytes_);
  kernels::active().from_f32(src_of(dtype_), s.values.data(), count * cols_, s.bytes.data());
  return s.bytes.data();
}

const float* RowSource::get_f32(uint64_t first, uint64_t count, RowScratch& s, bool exact) const {
  uint64_t n = count * cols_;
  if (tensor_ != nullptr && (exact || dtype_ == DType::f32)) {
    dequantize(first, count, s);
    return s.values.data();
  }
  const std::byte* in = get(first, count, s);
  s.values.resize(n);
  if (dtype_ == DType::f64) {
    for (uint64_t i = 0; i < n; ++i) {
      double v;
      std::memcpy(&v, in + 8 * i, 8);
      s.values[i] = static_cast<float>(v);
    }
  } else {
    kernels::active().to_f32(src_of(dtype_), in, n, s.values.data());
  }
  return s.values.data();
}

void RowSource::drop(uint64_t first, uint64_t count) const { store_.drop(*part_, first, count); }

// scratch.scale and scratch.zero for one row of a quantized tensor.
void RowSource::row_scales(uint64_t row, RowScratch& s) const {
  const Scheme& scheme = store_.model().schemes[static_cast<size_t>(tensor_->scheme)];
  const Part& scale = *tensor_->part(Role::scale);
  uint64_t scale_row = row;
  if (scheme.weights.strategy == Strategy::tensor) scale_row = 0;
  if (scheme.weights.strategy == Strategy::block) {
    scale_row = row / static_cast<uint64_t>(scheme.weights.block_rows);
  }
  uint64_t groups = scale.shape.cols();
  s.scale.resize(groups);
  scales_to_f32(scale.dtype, store_.rows(scale, scale_row, 1, s.aux), groups, s.scale.data());
  if (const Part* g = tensor_->part(Role::global_scale)) {
    float global;
    std::memcpy(&global, store_.rows(*g, 0, 1, s.aux), 4);
    for (float& v : s.scale) v /= global;
  }
  s.zero.clear();
  if (const Part* z = tensor_->part(Role::zero_point)) {
    auto offset = static_cast<float>(1 << (scheme.weights.num_bits - 1));
    const std::byte* in = store_.rows(*z, scale_row, 1, s.aux);
    for (uint64_t g = 0; g < groups; ++g) {
      s.zero.push_back(static_cast<float>(std::to_integer<int>(in[g])) - offset);
    }
  }
}

void RowSource::dequantize(uint64_t first, uint64_t count, RowScratch& s) const {
  s.values.resize(count * cols_);
  const std::byte* codes = store_.rows(*part_, first, count, s.codes);
  uint64_t per_row = qp::row_bytes(*part_);
  const auto& k = kernels::active();
  const GgmlType* ggml = tensor_->ggml.empty() ? nullptr : ggml_type(tensor_->ggml);
  const Scheme* scheme =
      ggml ? nullptr : &store_.model().schemes[static_cast<size_t>(tensor_->scheme)];
  for (uint64_t i = 0; i < count; ++i) {
    const auto* in = reinterpret_cast<const uint8_t*>(codes + i * per_row);
    float* out = s.values.data() + i * cols_;
    if (ggml != nullptr) {
      ggml->dequantize(in, cols_, out);
      continue;
    }
    row_scales(first + i, s);
    uint64_t group = scheme->group_of(cols_);
    switch (scheme->code_kind()) {
      case CodeKind::integer:
        k.int_values(in, cols_, group, s.scale.data(), s.zero.empty() ? nullptr : s.zero.data(),
                     scheme->weights.num_bits, out);
        break;
      case CodeKind::e4m3: k.e4m3_values(in, cols_, group, s.scale.data(), out); break;
      case CodeKind::e2m1: k.e2m1_values(in, cols_, group, s.scale.data(), out); break;
    }
  }
}

}  // namespace qp
