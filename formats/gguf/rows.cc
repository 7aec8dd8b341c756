#include "formats/gguf/rows.h"

#include <cstring>

#include "lib/base/checked.h"
#include "lib/base/error.h"
#include "lib/base/parallel.h"
#include "lib/base/progress.h"
#include "lib/qmap/decode.h"
#include "lib/qmap/store.h"

namespace qp {
namespace {

constexpr uint64_t kChunk = 4 << 20;

DType float_dtype(const GgmlType& type) {
  return type.name == "f32" ? DType::f32 : type.name == "f16" ? DType::f16 : DType::bf16;
}

bool is_blocks(const Tensor& t) { return !t.ggml.empty(); }

RowSource source_of(const Store& store, const Tensor& t) {
  return is_blocks(t) ? RowSource(store, t.parts.front()) : RowSource(store, t);
}

// The view as a part of its own; nothing where the stored bytes are not the elements in order.
std::optional<Part> part_of(const Tensor& t, const ggml::View& v) {
  if (t.scheme >= 0 || t.parts.size() != 1) return std::nullopt;
  const Part& p = t.parts.front();
  if (!is_blocks(t)) return piece_of(p, v.shape, v.first, v.strides);
  uint64_t cols = v.shape.cols(), width = p.shape.cols();  // whole rows, in bytes
  Shape shape = v.shape;
  shape[shape.rank() - 1] = width;
  std::vector<uint64_t> strides = v.strides;
  for (uint64_t& s : strides) s = s / cols * width;
  strides.back() = 1;
  return piece_of(p, shape, v.first / cols * width, std::move(strides));
}

// Elements of `unit` bytes in the order of the view.
void gather(const ggml::View& v, uint64_t unit, const std::byte* from, std::byte* to) {
  uint64_t cols = v.shape.cols(), rows = v.shape.rows(), step = v.strides.back();
  for (uint64_t r = 0; r < rows; ++r) {
    uint64_t at = v.first, rest = r;
    for (size_t k = v.shape.rank() - 1; k-- > 0;) {
      at += rest % v.shape[k] * v.strides[k];
      rest /= v.shape[k];
    }
    const std::byte* in = from + at * unit;
    if (step == 1) {
      std::memcpy(to + r * cols * unit, in, cols * unit);
      continue;
    }
    for (uint64_t c = 0; c < cols; ++c) {
      std::memcpy(to + (r * cols + c) * unit, in + c * step * unit, unit);
    }
  }
}

}  // namespace

void GgufRows::add(const GgufOut& out, uint64_t offset) {
  buffers_.resize(static_cast<size_t>(ordered_slots()));
  if (out.pieces.empty()) {
    run();
    sink_.put(offset, std::as_bytes(std::span(out.values)));
    return finish(out, offset + out.entry.bytes);
  }
  uint64_t each = out.entry.bytes / out.pieces.size();
  for (size_t i = 0; i < out.pieces.size(); ++i) {
    add_piece(out, out.pieces[i], offset + i * each, i + 1 == out.pieces.size());
  }
}

void GgufRows::add_piece(const GgufOut& out, const ggml::Piece& piece, uint64_t offset, bool last) {
  const Tensor& t = store_.model().tensors[piece.tensor];
  if (is_mxfp4(store_.model(), t)) return put_mxfp4(out, t, piece.view, offset, last);
  if (piece.view.strides.empty()) return add_rows(out, t, source_of(store_, t), offset, last);
  if (auto part = part_of(t, piece.view)) {
    parts_.push_back(std::make_unique<Part>(std::move(*part)));
    return add_rows(out, t, RowSource(store_, *parts_.back()), offset, last);
  }
  put_gathered(out, t, piece.view, offset, last);
}

namespace {

// Floats of another dtype, or without the 1 of a norm; blocks (U8) are as they must be.
bool changes(const GgufOut& out, DType dtype) {
  const GgmlType& type = *out.entry.type;
  return type.is_float() && dtype != DType::u8 && (float_dtype(type) != dtype || out.plus_one);
}

}  // namespace

std::span<const std::byte> GgufRows::converted(const GgufOut& out, DType dtype,
                                               std::span<const std::byte> rows,
                                               std::vector<std::byte>& buffer) const {
  const GgmlType& type = *out.entry.type;
  if (!changes(out, dtype)) return rows;
  uint64_t n = rows.size() * 8 / dtype_bits(dtype);
  buffer.resize(n * type.bytes);
  cast_floats(dtype, rows.data(), n, float_dtype(type), buffer.data());
  for (uint64_t i = 0; out.plus_one && i < n; ++i) {
    float v;
    std::memcpy(&v, &buffer[i * 4], 4);
    v += 1;
    std::memcpy(&buffer[i * 4], &v, 4);
  }
  return buffer;
}

void GgufRows::add_rows(const GgufOut& out, const Tensor& t, RowSource source, uint64_t offset,
                        bool last) {
  uint64_t n = source.rows(), total = out.entry.bytes / out.pieces.size();
  if (n == 0 || total % n != 0)
    throw defect_error("planned size does not fit its rows").tensor(out.entry.name);
  uint64_t per_row = total / n;
  DType dtype = source.dtype();
  auto bytes = [this, &out, dtype](const RowChunk& c) {
    return converted(out, dtype, c.rows, buffers_[c.slot]);
  };
  auto checked = [](const std::string& name, auto step) {
    try {
      step();
    } catch (Error& e) {
      throw std::move(e).tensor(name);
    }
  };
  bool in_order = sink_.in_order();
  jobs_.push_back({.source = std::move(source),
                   .chunk_bytes = kChunk,
                   .open =
                       [this, &t, checked] {
                         checked(t.name, [&] {
                           for (const Part& p : t.parts) store_.verify(t, p);
                         });
                       },
                   .work =
                       [this, bytes, checked, in_order, offset, per_row, &out](const RowChunk& c) {
                         checked(out.entry.name, [&] {
                           auto made = bytes(c);
                           if (made.size() != c.count * per_row)
                             throw defect_error("planned size does not fit its rows");
                           if (!in_order) sink_.put(offset + c.first * per_row, made);
                         });
                       },
                   .retire =
                       [this, in_order, offset, per_row, &out, dtype](const RowChunk& c) {
                         if (in_order) {
                           bool cast = changes(out, dtype);
                           sink_.put(offset + c.first * per_row,
                                     cast ? std::span<const std::byte>(buffers_[c.slot]) : c.rows);
                         }
                         progress_.add(c.count * per_row);
                       },
                   .close =
                       [this, &t, &out, checked, last, end = offset + total] {
                         checked(t.name, [&] { store_.throw_if_changed(t); });
                         if (last) finish(out, end);
                       }});
}

// The whole tensor in memory: for what is stored neither in order nor in strides.
void GgufRows::put_gathered(const GgufOut& out, const Tensor& t, const ggml::View& view,
                            uint64_t offset, bool last) {
  run();
  RowSource source = source_of(store_, t);
  for (const Part& p : t.parts) store_.verify(t, p);
  std::vector<std::byte> all(source.rows() * source.row_bytes());
  for_row_chunks(
      source, kChunk,
      [&](const RowChunk& c) {
        std::memcpy(all.data() + c.first * source.row_bytes(), c.rows.data(), c.rows.size());
      },
      nullptr);
  store_.throw_if_changed(t);
  ggml::View v = view;
  uint64_t unit = dtype_bits(source.dtype()) / 8;
  if (is_blocks(t)) {  // whole rows, in bytes
    uint64_t cols = v.shape.cols(), width = source.row_bytes();
    for (uint64_t& s : v.strides) s = s / cols * width;
    v.strides.back() = 1;
    v.first = v.first / cols * width;
    v.shape[v.shape.rank() - 1] = width;
    unit = 1;
  }
  std::vector<std::byte> turned(*v.shape.elements() * unit), buffer;
  gather(v, unit, all.data(), turned.data());
  all = {};
  sink_.put(offset, converted(out, source.dtype(), turned, buffer));
  progress_.add(out.entry.bytes / out.pieces.size());
  if (last) finish(out, offset + out.entry.bytes / out.pieces.size());
}

// 32 codes of a row, neighbours in a byte, and their scale as ggml has them: the scale first, then
// code j beside code j + 16.
static void lay_mxfp4(const std::byte* codes, std::byte scale, std::byte* out) {
  auto code = [&](size_t i) { return codes[i / 2] >> (i % 2 * 4) & std::byte{15}; };
  *out++ = scale;
  for (size_t j = 0; j < 16; ++j) out[j] = code(j) | code(j + 16) << 4;
}

// The whole tensor in memory.
void GgufRows::put_mxfp4(const GgufOut& out, const Tensor& t, const ggml::View& view,
                         uint64_t offset, bool last) {
  run();
  for (const Part& p : t.parts) store_.verify(t, p);
  std::vector<std::byte> codes = store_.read(*t.part(Role::codes)),
                         scales = store_.read(*t.part(Role::scale));
  uint64_t cols = t.coded_shape().cols(), blocks = cols / 32, rows = view.shape.rows();
  if (scales.size() * 16 != codes.size() || codes.size() != t.coded_shape().rows() * cols / 2) {
    throw input_error("has codes and scales that do not fit").file(store_.label()).tensor(t.name);
  }
  std::vector<uint64_t> from(rows);  // the source's row of each
  for (uint64_t r = 0; r < rows; ++r) {
    uint64_t at = view.strides.empty() ? r * cols : view.first, rest = r;
    for (size_t k = view.shape.rank() - 1; k-- > 0 && !view.strides.empty();) {
      at += rest % view.shape[k] * view.strides[k];
      rest /= view.shape[k];
    }
    from[r] = at / cols;
  }
  std::vector<std::byte> made(rows * blocks * 17);
  parallel_for(rows, [&](size_t r, int) {
    for (uint64_t b = 0; b < blocks; ++b) {
      uint64_t block = from[r] * blocks + b;
      lay_mxfp4(&codes[block * 16], scales[block], &made[(r * blocks + b) * 17]);
    }
  });
  store_.throw_if_changed(t);
  sink_.put(offset, made);
  progress_.add(made.size());
  if (last) finish(out, offset + made.size());
}

void GgufRows::finish(const GgufOut& out, uint64_t end) {
  constexpr std::byte kZeros[kGgufAlignment] = {};
  uint64_t padding = round_up(out.entry.bytes, kGgufAlignment) - out.entry.bytes;
  if (padding > 0) sink_.put(end, std::span(kZeros).first(padding));
  progress_.item(out.entry.name);
}

void GgufRows::run() {
  run_row_jobs(jobs_);
  jobs_.clear();
  parts_.clear();
}

}  // namespace qp
