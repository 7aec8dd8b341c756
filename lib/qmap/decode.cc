#include "lib/qmap/decode.h"

#include <algorithm>
#include <cstring>

#include "lib/base/checked.h"
#include "lib/kernels/ggml.h"
#include "lib/kernels/kernels.h"
#include "lib/qmap/grown.h"

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
  ggml_decoder(type->id)(reinterpret_cast<const uint8_t*>(in), cols, row.data());
  cast_from_f32(p.dtype, row.data(), cols, out);
}

// Where row r begins, in elements: PyTorch strides, element (i0, i1, ..) at sum(i_k * stride_k).
uint64_t strided_row(const Part& p, uint64_t r) {
  const Decode& d = *p.decode;
  uint64_t at = 0;
  for (size_t k = p.shape.rank() - 1; k-- > 0;) {
    at += r % p.shape[k] * d.strides[k];
    r /= p.shape[k];
  }
  return at;
}

// Elements of Unit bytes: rows x cols of them, `row_step` and `col_step` elements apart, made dense.
template <size_t Unit>
void gather(const std::byte* in, uint64_t rows, uint64_t cols, uint64_t row_step, uint64_t col_step,
            std::byte* out) {
  constexpr uint64_t kTile = 64;  // lines of both sides stay in the first cache
  for (uint64_t r0 = 0; r0 < rows; r0 += kTile) {
    uint64_t r1 = std::min(rows, r0 + kTile);
    for (uint64_t c0 = 0; c0 < cols; c0 += kTile) {
      uint64_t c1 = std::min(cols, c0 + kTile);
      for (uint64_t r = r0; r < r1; ++r) {
        const std::byte* from = in + r * row_step * Unit;
        std::byte* to = out + r * cols * Unit;
        for (uint64_t c = c0; c < c1; ++c) {
          std::memcpy(to + c * Unit, from + c * col_step * Unit, Unit);
        }
      }
    }
  }
}

// Rows of one matrix, `row_step` elements apart.
void gather_rows(const Part& p, const std::byte* in, uint64_t rows, uint64_t row_step,
                 std::byte* out) {
  uint64_t unit = dtype_bits(p.decode->stored) / 8, cols = p.shape.cols();
  uint64_t col_step = p.shape.rank() ? p.decode->strides.back() : 0;
  if (col_step == 1) {
    for (uint64_t r = 0; r < rows; ++r) {
      std::memcpy(out + r * cols * unit, in + r * row_step * unit, cols * unit);
    }
    return;
  }
  switch (unit) {
    case 1: return gather<1>(in, rows, cols, row_step, col_step, out);
    case 2: return gather<2>(in, rows, cols, row_step, col_step, out);
    case 4: return gather<4>(in, rows, cols, row_step, col_step, out);
    case 8: return gather<8>(in, rows, cols, row_step, col_step, out);
    default: return gather<16>(in, rows, cols, row_step, col_step, out);
  }
}

uint64_t matrix_rows(const Part& p) {
  return p.shape.rank() < 2 ? 1 : p.shape[p.shape.rank() - 2];
}

// The bytes that rows [first, first + count) touch, from where the part begins.
ByteRange strided_range(const Part& p, uint64_t first, uint64_t count) {
  const Decode& d = *p.decode;
  uint64_t matrix = matrix_rows(p), unit = dtype_bits(d.stored) / 8;
  if (count == 0 || p.shape.cols() == 0 || first / matrix != (first + count - 1) / matrix) {
    return {0, *stored_bytes(p) - (d.whole > 0 ? d.begin : 0)};
  }
  uint64_t tail = (p.shape.cols() - 1) * d.strides.back() + 1;
  return {strided_row(p, first) * unit, (strided_row(p, first + count - 1) + tail) * unit};
}

// Rows [first, first + count), matrix by matrix. `in` is byte `origin` of the part.
void decode_strided(const Part& p, const std::byte* in, uint64_t origin, uint64_t first,
                    uint64_t count, std::byte* out) {
  const Decode& d = *p.decode;
  uint64_t unit = dtype_bits(d.stored) / 8, cols = p.shape.cols(), matrix = matrix_rows(p);
  uint64_t step = p.shape.rank() < 2 ? 0 : d.strides[p.shape.rank() - 2];
  std::vector<std::byte> gathered;
  for (uint64_t done = 0; done < count && cols > 0;) {
    uint64_t rows = std::min(count - done, matrix - (first + done) % matrix);
    const std::byte* from = in + (strided_row(p, first + done) * unit - origin);
    std::byte* to = out + done * row_bytes(p);
    done += rows;
    if (d.stored == p.dtype || !is_float(p.dtype)) {
      gather_rows(p, from, rows, step, to);
      continue;
    }
    gathered.resize(rows * cols * unit);
    gather_rows(p, from, rows, step, gathered.data());
    cast_floats(d.stored, gathered.data(), rows * cols, p.dtype, to);
  }
}

std::optional<uint64_t> strided_bytes(const Part& p) {
  const Decode& d = *p.decode;
  if (d.strides.size() != p.shape.rank() || p.shape.rank() == 0) return std::nullopt;
  if (d.begin > d.whole) return std::nullopt;
  uint64_t last = 0;
  for (size_t k = 0; k < p.shape.rank(); ++k) {
    if (p.shape[k] == 0) return d.whole;
    auto far = checked_mul(p.shape[k] - 1, d.strides[k]);
    auto sum = far ? checked_add(last, *far) : std::nullopt;
    if (!sum) return std::nullopt;
    last = *sum;
  }
  auto n = checked_add(last, 1);
  auto bytes = n ? checked_mul(*n, dtype_bits(d.stored) / 8) : std::nullopt;
  if (!bytes || d.whole == 0) return bytes;
  auto end = checked_add(*bytes, d.begin);
  if (!end || *end > d.whole || d.begin % (dtype_bits(d.stored) / 8) != 0) return std::nullopt;
  return d.whole;
}

}  // namespace

std::optional<Part> piece_of(const Part& from, const Shape& shape, uint64_t first,
                             std::vector<uint64_t> strides) {
  Decode d;
  d.stored = from.dtype;
  if (from.decode) {
    Decode cast;
    cast.stored = d.stored = from.decode->stored;
    if (!(*from.decode == cast)) return std::nullopt;
  }
  auto whole = stored_bytes(from), begin = checked_mul(first, dtype_bits(d.stored) / 8);
  if (!whole || *whole == 0 || !begin || dtype_bits(d.stored) % 8 != 0) return std::nullopt;
  d.strides = std::move(strides);
  d.begin = *begin;
  d.whole = *whole;
  Part p = from;
  p.shape = shape;
  p.decode = std::make_shared<const Decode>(std::move(d));
  if (!stored_bytes(p)) return std::nullopt;
  return p;
}

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
  if (d.grown) return grown_stored_bytes(p);
  uint64_t rows = p.shape.rows(), cols = p.shape.cols();
  bool castable = d.stored == p.dtype || (is_float(d.stored) && is_float(p.dtype));
  if (d.unpermute_heads > 0) {
    uint64_t reordered = is_vector(p) ? cols : rows;
    if (reordered % (uint64_t{2} * d.unpermute_heads) != 0 || reordered == 0) return std::nullopt;
    bool plain_vector = d.ggml_type < 0 && d.strides.empty() && d.stored_row_bytes == 0;
    if (is_vector(p) && !plain_vector) return std::nullopt;
  }
  if (d.strides.empty() && (d.begin != 0 || d.whole != 0)) return std::nullopt;
  if (d.layout != nullptr) {
    const LayoutArgs& a = d.layout_args;
    bool fits = a.rows == rows && a.row_bytes() == row_bytes(p) && a.cols <= (uint64_t{1} << 56);
    return fits ? d.layout->stored_bytes(a) : std::nullopt;
  }
  if (d.ggml_type >= 0) {
    const GgmlType* type = ggml_type(static_cast<uint32_t>(d.ggml_type));
    if (type == nullptr) return std::nullopt;
    if (p.role == Role::blocks) return plain;
    if (ggml_decoder(type->id) == nullptr || cols % type->block != 0 || !is_float(p.dtype)) {
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
  if (d.grown) return grown_range(p, first, count);
  if (!d.strides.empty()) {
    ByteRange range = strided_range(p, first, count);
    return {d.begin + range.begin, d.begin + range.end};
  }
  if (d.layout != nullptr || (d.unpermute_heads > 0 && is_vector(p))) return {0, *stored_bytes(p)};
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
  if (d.grown) return decode_grown(p, stored, first, count, out);
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
  if (!d.strides.empty()) {
    uint64_t origin = strided_range(p, first, count).begin;
    return decode_strided(p, stored.data(), origin, first, count, out);
  }
  uint64_t per_row = row_bytes(p);
  std::vector<float> floats;
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
