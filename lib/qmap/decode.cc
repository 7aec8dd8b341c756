#include "lib/qmap/decode.h"

#include <algorithm>
#include <cstring>

#include "lib/base/checked.h"
#include "lib/kernels/ggml.h"
#include "lib/kernels/kernels.h"

namespace qp {
namespace {

uint64_t dense_row_bytes(DType dtype, uint64_t cols) { return cols * dtype_bits(dtype) / 8; }

// A bias: one row, but the elements are what a reordering of rows means.
bool is_vector(const Part& p) { return p.shape.rank() == 1; }

// Bytes from one stored row to the next.
uint64_t stored_row_stride(const Part& p) {
  const Decode& d = *p.decode;
  if (d.ggml_type >= 0) {
    const GgmlType* type = ggml_type(static_cast<uint32_t>(d.ggml_type));
    return p.role == Role::blocks ? p.shape.cols() : p.shape.cols() / type->block * type->bytes;
  }
  if (d.stored_row_bytes > 0) return d.stored_row_bytes;
  return dense_row_bytes(d.stored, p.shape.cols());
}

// The stored row that holds row r.
uint64_t stored_row(const Decode& d, uint64_t rows, uint64_t r) {
  if (d.unpermute_heads == 0) return r;
  uint64_t hd = rows / d.unpermute_heads, head = r / hd, in = r % hd;
  uint64_t half = in / (hd / 2), j = in % (hd / 2);
  return head * hd + j * 2 + half;
}

void cast_to_f32(DType from, const std::byte* in, uint64_t n, float* out) {
  const auto& k = kernels::active();
  switch (from) {
    case DType::bf16: k.to_f32(kernels::Src::bf16, in, n, out); return;
    case DType::f16: k.to_f32(kernels::Src::f16, in, n, out); return;
    case DType::f64:
      for (uint64_t i = 0; i < n; ++i) {
        double v;
        std::memcpy(&v, in + 8 * i, 8);
        out[i] = static_cast<float>(v);
      }
      return;
    default: std::memcpy(out, in, n * 4); return;
  }
}

void cast_from_f32(DType to, const float* in, uint64_t n, std::byte* out) {
  const auto& k = kernels::active();
  switch (to) {
    case DType::bf16: k.from_f32(kernels::Src::bf16, in, n, out); return;
    case DType::f16: k.from_f32(kernels::Src::f16, in, n, out); return;
    case DType::f64:
      for (uint64_t i = 0; i < n; ++i) {
        double v = in[i];
        std::memcpy(out + 8 * i, &v, 8);
      }
      return;
    default: std::memcpy(out, in, n * 4); return;
  }
}

// One dense row of d.stored elements into the part's dtype.
void finish_row(const Part& p, const std::byte* in, std::byte* out) {
  const Decode& d = *p.decode;
  uint64_t cols = p.shape.cols();
  if (d.stored == p.dtype || !is_float(p.dtype)) {
    std::memcpy(out, in, row_bytes(p));
  } else {
    cast_floats(d.stored, in, cols, p.dtype, out);
  }
}

void decode_ggml_row(const Part& p, const std::byte* in, std::vector<float>& row, std::byte* out) {
  const GgmlType* type = ggml_type(static_cast<uint32_t>(p.decode->ggml_type));
  uint64_t cols = p.shape.cols();
  row.resize(cols);
  type->dequantize(reinterpret_cast<const uint8_t*>(in), cols, row.data());
  cast_from_f32(p.dtype, row.data(), cols, out);
}

// PyTorch strides: element (i0, i1, ..) at sum(i_k * stride_k).
void gather_row(const Part& p, const std::byte* in, uint64_t r, std::vector<std::byte>& row) {
  const Decode& d = *p.decode;
  uint64_t unit = dtype_bits(d.stored) / 8, cols = p.shape.cols(), at = 0;
  for (size_t k = p.shape.rank() - 1; k-- > 0;) {
    at += r % p.shape[k] * d.strides[k];
    r /= p.shape[k];
  }
  uint64_t step = p.shape.rank() ? d.strides.back() : 0;
  row.resize(cols * unit);
  for (uint64_t c = 0; c < cols; ++c) std::memcpy(&row[c * unit], in + (at + c * step) * unit, unit);
}

std::optional<uint64_t> strided_bytes(const Part& p) {
  const Decode& d = *p.decode;
  if (d.strides.size() != p.shape.rank() || p.shape.rank() == 0) return std::nullopt;
  uint64_t last = 0;
  for (size_t k = 0; k < p.shape.rank(); ++k) {
    if (p.shape[k] == 0) return 0;
    auto far = checked_mul(p.shape[k] - 1, d.strides[k]);
    auto sum = far ? checked_add(last, *far) : std::nullopt;
    if (!sum) return std::nullopt;
    last = *sum;
  }
  auto n = checked_add(last, 1);
  return n ? checked_mul(*n, dtype_bits(d.stored) / 8) : std::nullopt;
}

}  // namespace

void cast_floats(DType from, const std::byte* in, uint64_t n, DType to, std::byte* out) {
  float block[256];  // mapped bytes need not be aligned
  for (uint64_t i = 0; i < n; i += 256) {
    uint64_t m = std::min<uint64_t>(256, n - i);
    cast_to_f32(from, in + i * dtype_bits(from) / 8, m, block);
    cast_from_f32(to, block, m, out + i * dtype_bits(to) / 8);
  }
}

bool is_plain(const Part& p) {
  if (!p.decode) return true;
  Decode plain;
  plain.stored = p.dtype;
  return *p.decode == plain;
}

uint64_t row_bytes(const Part& p) { return dense_row_bytes(p.dtype, p.shape.cols()); }

std::optional<uint64_t> stored_bytes(const Part& p) {
  auto plain = byte_size(p.dtype, p.shape);
  if (!plain || !p.decode) return plain;
  const Decode& d = *p.decode;
  uint64_t rows = p.shape.rows(), cols = p.shape.cols();
  bool castable = d.stored == p.dtype || (is_float(d.stored) && is_float(p.dtype));
  if (d.unpermute_heads > 0) {
    uint64_t reordered = is_vector(p) ? cols : rows;
    if (reordered % (uint64_t{2} * d.unpermute_heads) != 0 || reordered == 0) return std::nullopt;
    bool plain_vector = d.ggml_type < 0 && d.strides.empty() && d.stored_row_bytes == 0;
    if (is_vector(p) && !plain_vector) return std::nullopt;
  }
  if (d.layout != nullptr) {
    const LayoutArgs& a = d.layout_args;
    bool fits = a.rows == rows && a.row_bytes() == row_bytes(p) && a.cols <= (uint64_t{1} << 56);
    return fits ? d.layout->stored_bytes(a) : std::nullopt;
  }
  if (d.ggml_type >= 0) {
    const GgmlType* type = ggml_type(static_cast<uint32_t>(d.ggml_type));
    if (type == nullptr) return std::nullopt;
    if (p.role == Role::blocks) return plain;
    if (type->dequantize == nullptr || cols % type->block != 0 || !is_float(p.dtype)) {
      return std::nullopt;
    }
    auto per_row = checked_mul(cols / type->block, type->bytes);
    return per_row ? checked_mul(*per_row, rows) : std::nullopt;
  }
  if (dtype_bits(d.stored) % 8 != 0) return std::nullopt;
  if (!castable && dtype_bits(d.stored) != dtype_bits(p.dtype)) return std::nullopt;
  if (!d.strides.empty()) return strided_bytes(p);
  if (d.stored_row_bytes > 0) {
    if (d.stored_row_bytes < dense_row_bytes(d.stored, cols)) return std::nullopt;
    return checked_mul(rows, d.stored_row_bytes);
  }
  return byte_size(d.stored, p.shape);
}

ByteRange stored_range(const Part& p, uint64_t first, uint64_t count) {
  if (!p.decode) return {first * row_bytes(p), (first + count) * row_bytes(p)};
  const Decode& d = *p.decode;
  if (!d.strides.empty() || d.layout != nullptr || (d.unpermute_heads > 0 && is_vector(p))) {
    return {0, *stored_bytes(p)};
  }
  uint64_t stride = stored_row_stride(p);
  if (d.unpermute_heads > 0) {  // whole heads
    uint64_t hd = p.shape.rows() / d.unpermute_heads;
    return {first / hd * hd * stride, ceil_div(first + count, hd) * hd * stride};
  }
  return {first * stride, (first + count) * stride};
}

void decode_rows(const Part& p, std::span<const std::byte> stored, uint64_t first, uint64_t count,
                 std::byte* out) {
  if (!p.decode) {
    std::memcpy(out, stored.data(), stored.size());
    return;
  }
  const Decode& d = *p.decode;
  if (d.layout != nullptr) {
    d.layout->decode(d.layout_args, stored.data(), first, count, out);
    return;
  }
  if (d.unpermute_heads > 0 && is_vector(p)) {
    Part column = p;
    column.shape = Shape{p.shape[0], 1};
    decode_rows(column, stored, 0, p.shape[0], out);
    return;
  }
  uint64_t per_row = row_bytes(p);
  std::vector<std::byte> gathered;
  std::vector<float> floats;
  if (!d.strides.empty()) {
    for (uint64_t i = 0; i < count; ++i) {
      gather_row(p, stored.data(), first + i, gathered);
      finish_row(p, gathered.data(), out + i * per_row);
    }
    return;
  }
  uint64_t stride = stored_row_stride(p);
  uint64_t origin = stored_range(p, first, count).begin;
  for (uint64_t i = 0; i < count; ++i) {
    const std::byte* in =
        stored.data() + (stored_row(d, p.shape.rows(), first + i) * stride - origin);
    if (d.ggml_type >= 0 && p.role != Role::blocks) {
      decode_ggml_row(p, in, floats, out + i * per_row);
    } else {
      finish_row(p, in, out + i * per_row);
    }
  }
}

}  // namespace qp
