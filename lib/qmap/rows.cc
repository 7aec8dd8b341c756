#include "lib/qmap/rows.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>

#include "lib/base/checked.h"
#include "lib/base/error.h"
#include "lib/base/parallel.h"
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
  if (t.scheme >= 0 || !t.ggml.empty() || t.part(Role::pre_scale) != nullptr) tensor_ = &t;
  if (!t.ggml.empty()) {
    if (!t.dequantize) dtype_ = DType::f32;
    const GgmlType* type = ggml_type(t.ggml);
    if (type == nullptr || ggml_decoder(type->id) == nullptr) {
      throw input_error("is " + t.ggml + ", which this version cannot decode").tensor(t.name);
    }
  }
  row_bytes_ = cols_ * dtype_bits(dtype_) / 8;
  coded_cols_ = t.coded_shape().cols();
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

void RowSource::drop(uint64_t first, uint64_t count) const {
  if (tensor_ == nullptr || !tensor_->transposed) return store_.drop(*part_, first, count);
  // A matrix is needed until its last column was.
  uint64_t matrices = (first + count) / std::max<uint64_t>(coded_cols_, 1);
  store_.drop(*part_, 0, matrices * cols_);
}

namespace {

// The row of the scales' part that holds those of a row of the matrix.
uint64_t scale_row(const QuantArgs& w, uint64_t row) {
  if (w.strategy == Strategy::tensor) return 0;
  if (w.strategy == Strategy::block) return row / static_cast<uint64_t>(w.block_rows);
  return row;
}

}  // namespace

// Fills scratch.scale, .zero and .offset for one row; returns the columns that share one of them.
uint64_t RowSource::row_scales(uint64_t row, RowScratch& s) const {
  const Scheme& scheme = store_.model().schemes[static_cast<size_t>(tensor_->scheme)];
  stored_scales(scheme, row, s);
  second_stage(row, s);
  return spread(scheme, row, s);
}

void RowSource::stored_scales(const Scheme& scheme, uint64_t row, RowScratch& s) const {
  const QuantArgs& w = scheme.weights;
  const Part& scale = *tensor_->part(Role::scale);
  uint64_t at = scale_row(w, row), groups = scale.shape.cols(), first = 0;
  if (w.strategy == Strategy::flat) {  // the part is one row
    auto size = static_cast<uint64_t>(w.group_size);
    at = 0;
    first = row * coded_cols_ / size;
    groups = ceil_div((row + 1) * coded_cols_, size) - first;
  }
  s.scale.resize(groups);
  if (tensor_->part(Role::nested_scale) != nullptr) {
    nested_scales(scale, at * groups + first, groups, s);
  } else {
    const std::byte* in = store_.rows(scale, at, 1, s.aux);
    scales_to_f32(scale.dtype, in + first * dtype_bits(scale.dtype) / 8, groups, s.scale.data());
  }
  s.zero.clear();
  if (const Part* z = tensor_->part(Role::zero_point)) {
    auto centre = static_cast<float>(1 << (w.num_bits - 1));
    const std::byte* in = store_.rows(*z, at, 1, s.aux);
    for (uint64_t g = 0; g < groups; ++g) {
      s.zero.push_back(static_cast<float>(std::to_integer<int>(in[g])) - centre);
    }
  }
  s.offset.clear();
  if (const Part* o = tensor_->part(Role::offset)) {
    s.offset.resize(groups);
    scales_to_f32(o->dtype, store_.rows(*o, at, 1, s.aux), groups, s.offset.data());
  }
}

void RowSource::nested_scales(const Part& scale, uint64_t first, uint64_t n, RowScratch& s) const {
  float table[256], offset = 0;
  std::memcpy(table, store_.rows(*tensor_->part(Role::nested_codebook), 0, 1, s.aux), sizeof table);
  if (const Part* o = tensor_->part(Role::nested_offset)) {
    std::memcpy(&offset, store_.rows(*o, 0, 1, s.aux), 4);
  }
  const Part& nested = *tensor_->part(Role::nested_scale);
  const std::byte* index = store_.rows(scale, 0, 1, s.aux) + first;
  std::vector<std::byte> more;
  const std::byte* outer = store_.rows(nested, 0, 1, more);
  for (uint64_t i = 0; i < n; ++i) {
    float m;
    std::memcpy(&m, outer + (first + i) / 256 * 4, 4);
    s.scale[i] = table[std::to_integer<size_t>(index[i])] * m + offset;
  }
}

void RowSource::second_stage(uint64_t row, RowScratch& s) const {
  float v = 0;
  if (const Part* g = tensor_->part(Role::global_scale)) {
    std::memcpy(&v, store_.rows(*g, 0, 1, s.aux), 4);
    for (float& x : s.scale) x /= v;
  }
  if (const Part* two = tensor_->part(Role::scale_2)) {
    uint64_t at = two->shape.rows() > 1 ? row : 0;
    scales_to_f32(two->dtype, store_.rows(*two, at, 1, s.aux), 1, &v);
    for (float& x : s.scale) x *= v;
  }
}

// Groups that do not lie side by side in the row become groups of one column.
uint64_t RowSource::spread(const Scheme& scheme, uint64_t row, RowScratch& s) const {
  const Part* g_idx = tensor_->part(Role::g_idx);
  uint64_t group = scheme.group_of(coded_cols_);
  bool across = scheme.weights.strategy == Strategy::flat && coded_cols_ % group != 0;
  if (g_idx == nullptr && !across) return group;
  uint64_t start = across ? row * coded_cols_ % group : 0;
  std::vector<uint32_t> index(coded_cols_);
  for (uint64_t c = 0; c < coded_cols_; ++c) index[c] = static_cast<uint32_t>((start + c) / group);
  if (g_idx != nullptr) std::memcpy(index.data(), store_.rows(*g_idx, 0, 1, s.aux), coded_cols_ * 4);
  for (std::vector<float>* v : {&s.scale, &s.zero, &s.offset}) {
    if (v->empty()) continue;
    std::vector<float> wide(coded_cols_);
    for (uint64_t c = 0; c < coded_cols_; ++c) {
      if (index[c] >= v->size()) throw input_error("its g_idx names group " + std::to_string(index[c]) + " of " + std::to_string(v->size())).tensor(tensor_->name);
      wide[c] = (*v)[index[c]];
    }
    *v = std::move(wide);
  }
  return 1;
}

// A multiple of whole groups and whole bytes, in columns.
uint64_t RowSource::column_unit() const {
  if (!tensor_->ggml.empty()) return ggml_type(tensor_->ggml)->block;
  const Scheme& scheme = store_.model().schemes[static_cast<size_t>(tensor_->scheme)];
  bool any = tensor_->part(Role::g_idx) != nullptr || scheme.weights.strategy == Strategy::flat;
  return any ? coded_cols_ : std::lcm(scheme.group_of(coded_cols_), uint64_t{8});
}

// Columns [begin, end) of one row of the codes; begin is a multiple of column_unit().
void RowSource::row_values(const std::byte* codes, uint64_t row, uint64_t begin, uint64_t end, RowScratch& s,
                           float* out) const {
  if (const GgmlType* type = tensor_->ggml.empty() ? nullptr : ggml_type(tensor_->ggml)) {
    const auto* blocks = reinterpret_cast<const uint8_t*>(codes) + begin / type->block * type->bytes;
    ggml_decoder(type->id)(blocks, end - begin, out);
    return;
  }
  const auto& k = kernels::active();
  const Scheme& scheme = store_.model().schemes[static_cast<size_t>(tensor_->scheme)];
  uint64_t group = row_scales(row, s), n = end - begin, g = begin / group;
  auto bits = static_cast<uint64_t>(scheme.weights.num_bits);
  const auto* in = reinterpret_cast<const uint8_t*>(codes) + begin * bits / 8;
  const float* scale = s.scale.data() + g;
  switch (scheme.code_kind()) {
    case CodeKind::integer:
      k.int_values(in, n, group, scale, s.zero.empty() ? nullptr : s.zero.data() + g,
                   scheme.weights.num_bits, out);
      break;
    case CodeKind::e4m3: k.e4m3_values(in, n, group, scale, out); break;
    case CodeKind::e2m1: k.e2m1_values(in, n, group, scale, out); break;
    case CodeKind::codebook: {
      float table[256];
      const Part& book = *tensor_->part(Role::codebook);
      std::memcpy(table, store_.rows(book, 0, 1, s.aux), book.shape.cols() * 4);
      for (uint64_t c = 0; c < n; ++c) {
        unsigned code = bits == 8 ? in[c] : in[c / 2] >> (c % 2 * 4) & 15u;
        out[c] = table[code] * scale[c / group];
      }
      break;
    }
  }
  if (scheme.weights.amax_scale) {  // in bitsandbytes' order: code * SCB first
    for (uint64_t c = 0; c < n; ++c) out[c] *= 1.0f / 127.0f;
  }
  if (!s.offset.empty()) {
    for (uint64_t c = 0; c < n; ++c) out[c] += s.offset[g + c / group];
  }
  if (!s.pre_scale.empty()) {
    for (uint64_t c = 0; c < n; ++c) out[c] *= s.pre_scale[begin + c];
  }
}

void RowSource::dequantize(uint64_t first, uint64_t count, RowScratch& s) const {
  s.values.resize(count * cols_);
  const Part* pre = tensor_->part(Role::pre_scale);
  s.pre_scale.resize(pre != nullptr ? coded_cols_ : 0);
  if (pre != nullptr) scales_to_f32(pre->dtype, store_.rows(*pre, 0, 1, s.aux), coded_cols_, s.pre_scale.data());
  if (tensor_->scheme < 0 && tensor_->ggml.empty()) {  // lib/transform's
    kernels::active().to_f32(src_of(part_->dtype), store_.rows(*part_, first, count, s.codes), count * cols_,
                             s.values.data());
    for (uint64_t i = 0; i < count * cols_; ++i) s.values[i] *= s.pre_scale[i % cols_];
    return;
  }
  if (tensor_->transposed) return dequantize_transposed(first, count, s);
  const std::byte* codes = store_.rows(*part_, first, count, s.codes);
  uint64_t per_row = qp::row_bytes(*part_);
  for (uint64_t i = 0; i < count; ++i) {
    row_values(codes + i * per_row, first + i, 0, cols_, s, s.values.data() + i * cols_);
  }
}

// Rows of the float tensor are columns of its matrices of codes: as many of them as are wanted, of
// every row of codes.
void RowSource::dequantize_transposed(uint64_t first, uint64_t count, RowScratch& s) const {
  uint64_t unit = column_unit();
  for (uint64_t done = 0; done < count;) {
    uint64_t matrix = (first + done) / coded_cols_, begin = (first + done) % coded_cols_;
    uint64_t end = std::min(coded_cols_, begin + count - done);
    uint64_t from = begin / unit * unit, to = std::min(coded_cols_, ceil_div(end, unit) * unit);
    s.row.resize(to - from);
    float* out = s.values.data() + done * cols_;
    for (uint64_t r = 0; r < cols_; ++r) {
      uint64_t row = matrix * cols_ + r;
      row_values(store_.rows(*part_, row, 1, s.codes), row, from, to, s, s.row.data());
      for (uint64_t c = begin; c < end; ++c) out[(c - begin) * cols_ + r] = s.row[c - from];
    }
    done += end - begin;
  }
}

std::vector<float> read_f32(const RowSource& source, uint64_t first, uint64_t count) {
  constexpr uint64_t kRows = 32;  // at a time
  uint64_t cols = source.cols();
  std::vector<float> all(count * cols);
  std::vector<RowScratch> scratch(static_cast<size_t>(threads()));
  parallel_for((count + kRows - 1) / kRows, [&](size_t i, int worker) {
    uint64_t at = i * kRows, n = std::min(kRows, count - at);
    const float* rows = source.get_f32(first + at, n, scratch[static_cast<size_t>(worker)], false);
    std::copy_n(rows, n * cols, all.data() + at * cols);
  });
  return all;
}

}  // namespace qp
