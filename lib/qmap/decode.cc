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
  if (d.flip_sign) {
    kernels::active().flip_sign(reinterpret_cast<const uint8_t*>(in), row_bytes(p),
                                reinterpret_cast<uint8_t*>(out));
  } else if (d.stored == p.dtype || !is_float(p.dtype)) {
    std::memcpy(out, in, row_bytes(p));
  } else if (d.stored == DType::f32) {
    // Avoid an aligned-float assumption on mapped bytes: copy through a block.
    float block[256];
    for (uint64_t i = 0; i < cols; i += 256) {
      uint64_t n = std::min<uint64_t>(256, cols - i);
      std::memcpy(block, in + 4 * i, 4 * n);
      cast_from_f32(p.dtype, block, n, out + i * dtype_bits(p.dtype) / 8);
    }
  } else {
    float block[256];
    for (uint64_t i = 0; i < cols; i += 256) {
      uint64_t n = std::min<uint64_t>(256, cols - i);
      cast_to_f32(d.stored, in + i * dtype_bits(d.stored) / 8, n, block);
      cast_from_f32(p.dtype, block, n, out + i * dtype_bits(p.dtype) / 8);
    }
  }
}

void decode_ggml_row(const Part& p, const std::byte* in, std::vector<float>& row, std::byte* out) {
  const GgmlType* type = ggml_type(static_cast<uint32_t>(p.decode->ggml_type));
  uint64_t cols = p.shape.cols();
  row.resize(cols);
  type->dequantize(reinterpret_cast<const uint8_t*>(in), cols, row.data());
  cast_from_f32(p.dtype, row.data(), cols, out);
}

// Codes packed along dim 0 in little-endian int32 words: element (r, g) is bits
// [r*b, (r+1)*b) of the stream made of words (0, g), (1, g), ... (compressed-tensors 3.6).
void unpack_along_rows(const Part& p, const std::byte* in, uint64_t first, uint64_t count,
                       std::byte* out) {
  auto bits = static_cast<uint64_t>(p.decode->packed_rows_bits);
  uint64_t cols = p.shape.cols();
  auto word = [&](uint64_t w, uint64_t g) {
    uint32_t v;
    std::memcpy(&v, in + (w * cols + g) * 4, 4);
    return uint64_t{v};
  };
  for (uint64_t r = first; r < first + count; ++r) {
    uint64_t bit = r * bits, w = bit / 32, shift = bit % 32;
    for (uint64_t g = 0; g < cols; ++g) {
      uint64_t v = word(w, g) >> shift;
      if (shift + bits > 32) v |= word(w + 1, g) << (32 - shift);
      *out++ = static_cast<std::byte>(v & ((1u << bits) - 1));
    }
  }
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
  if (d.flip_sign && (dtype_bits(p.dtype) != 8 || dtype_bits(d.stored) != 8)) return std::nullopt;
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
  if (d.packed_rows_bits > 0) {
    if (d.packed_rows_bits > 8 || p.dtype != DType::u8) return std::nullopt;
    auto bits = checked_mul(rows, static_cast<uint64_t>(d.packed_rows_bits));
    auto words = bits ? checked_mul(ceil_div(*bits, 32), cols) : std::nullopt;
    return words ? checked_mul(*words, 4) : std::nullopt;
  }
  if (dtype_bits(d.stored) % 8 != 0) return std::nullopt;
  if (!castable && !d.flip_sign && dtype_bits(d.stored) != dtype_bits(p.dtype)) return std::nullopt;
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
  if (!d.strides.empty() || d.packed_rows_bits > 0 || (d.unpermute_heads > 0 && is_vector(p))) {
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
  if (d.packed_rows_bits > 0) {
    unpack_along_rows(p, stored.data(), first, count, out);
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
