#include "lib/engine/weights.h"

#include <algorithm>

#include "lib/base/error.h"
#include "lib/base/interrupt.h"
#include "lib/base/parallel.h"

namespace qp::engine {
namespace {

// Packs rows that lie as the product wants them, 64 at a time.
void pack_rows(const RowSource& source, const WeightUse& use, gemm::Packed& packed) {
  constexpr size_t kRows = gemm::Packed::unit();
  std::vector<RowScratch> scratch(static_cast<size_t>(threads()));
  parallel_for((use.rows + kRows - 1) / kRows, [&](size_t i, int worker) {
    throw_if_interrupted();
    RowScratch& room = scratch[static_cast<size_t>(worker)];
    size_t first = i * kRows, count = std::min(kRows, use.rows - first);
    if (source.dtype() == DType::bf16) {
      const std::byte* data = source.get(use.first_row + first, count, room);
      packed.pack(first, count, reinterpret_cast<const uint16_t*>(data), use.cols);
    } else {
      packed.pack(first, count, source.get_f32(use.first_row + first, count, room, false), use.cols);
    }
  });
}

// Packs across the stored rows: all of them are needed at once.
void pack_across(const RowSource& source, size_t first, size_t rows, size_t cols,
                 gemm::Packed& packed) {
  constexpr size_t kRows = 64;
  std::vector<float> all(rows * cols);
  std::vector<RowScratch> scratch(static_cast<size_t>(threads()));
  parallel_for((rows + kRows - 1) / kRows, [&](size_t i, int worker) {
    throw_if_interrupted();
    size_t begin = i * kRows, count = std::min(kRows, rows - begin);
    const float* data =
        source.get_f32(first + begin, count, scratch[static_cast<size_t>(worker)], false);
    std::copy(data, data + count * cols, all.data() + begin * cols);
  });
  packed.pack_all_transposed(all.data(), cols);
}

}  // namespace
WeightSource::WeightSource(const Store& store) : store_(store) {
  for (const Tensor& t : store.model().tensors) index_.emplace(t.name, &t);
}

const Shape* WeightSource::shape(const std::string& tensor) const {
  auto it = index_.find(tensor);
  return it == index_.end() ? nullptr : &it->second->shape;
}

bool WeightSource::has_any(const std::string& prefix) const {
  auto it = index_.lower_bound(prefix);
  return it != index_.end() && it->first.starts_with(prefix);
}

const Tensor& WeightSource::find(const WeightUse& use) const {
  auto it = index_.find(use.tensor);
  if (it == index_.end()) {
    throw input_error("is missing").file(store_.label()).tensor(use.tensor).hint(
        "the checkpoint is incomplete, or config.json is another model's");
  }
  const Tensor& t = *it->second;
  bool vector = use.form == Form::values;
  size_t rows = use.transposed ? use.cols : use.rows, cols = use.transposed ? use.rows : use.cols;
  uint64_t stored = vector ? t.shape.elements().value_or(0) / std::max<size_t>(1, cols) : t.shape.rows();
  bool fits = vector ? t.shape.elements() == stored * cols : t.shape.cols() == cols;
  if (vector) rows = 1;
  fits = fits && (use.part ? stored >= use.first_row + rows : stored == rows);
  if (!fits) {
    throw input_error("has shape " + t.shape.str() + " (expected " + std::to_string(rows) + " x " +
                      std::to_string(cols) + ")")
        .file(store_.where(t))
        .tensor(t.name)
        .hint("config.json and the weights disagree");
  }
  if (!is_float(t.dtype) && !t.quantized()) {
    throw input_error("has dtype " + std::string(dtype_name(t.dtype)) + " (expected a float)")
        .file(store_.where(t))
        .tensor(t.name);
  }
  return t;
}

gemm::Packed WeightSource::pack(const WeightUse& use, gemm::Precision precision, bool transpose,
                                gemm::Packed packed) const {
  const Tensor& t = find(use);
  RowSource source(store_, t);
  for (const Part& part : t.parts) store_.verify(t, part);
  size_t rows = use.transposed ? use.cols : use.rows, cols = use.transposed ? use.rows : use.cols;
  packed.reshape(transpose ? use.cols : use.rows, transpose ? use.rows : use.cols, precision);
  if (use.transposed == transpose) {
    WeightUse stored = use;
    stored.rows = rows, stored.cols = cols;
    pack_rows(source, stored, packed);
  } else {
    pack_across(source, use.first_row, rows, cols, packed);
  }
  store_.throw_if_changed(t);
  return packed;
}

Weight WeightSource::load(const WeightUse& use, gemm::Precision precision, Weight used) const {
  Weight w;
  w.use = use;
  if (use.form == Form::matrix) {
    w.packed = pack(use, precision, false, std::move(used.packed));
    return w;
  }
  const Tensor& t = find(use);
  auto source = std::make_unique<RowSource>(store_, t);
  if (use.form == Form::table) {
    w.source = std::move(source);
    return w;
  }
  RowScratch scratch;
  size_t stored = source->cols();  // a vector may be stored as [n], [1, n] or [n, 1]
  size_t begin = use.first_row * use.cols, end = begin + use.cols;
  size_t first = begin / stored, last = (end + stored - 1) / stored;
  const float* data = source->get_f32(first, last - first, scratch, false);
  w.values.assign(data + (begin - first * stored), data + (end - first * stored));
  return w;
}

std::vector<float> WeightSource::matrix(const WeightUse& use) const {
  const Tensor& t = find(use);
  RowSource source(store_, t);
  for (const Part& part : t.parts) store_.verify(t, part);
  size_t rows = use.transposed ? use.cols : use.rows, cols = source.cols();
  std::vector<float> stored = read_f32(source, use.first_row, rows);
  store_.throw_if_changed(t);
  if (!use.transposed) return stored;
  std::vector<float> values(rows * cols);
  parallel_for(rows, [&](size_t r, int) {
    for (size_t c = 0; c < cols; ++c) values[c * rows + r] = stored[r * cols + c];
  });
  return values;
}

const gemm::Packed& WeightSource::transposed(const WeightUse& use, gemm::Precision precision,
                                             gemm::Packed& room) const {
  return room = pack(use, precision, true, std::move(room));
}

uint64_t WeightSource::bytes(const WeightUse& use, gemm::Precision precision) {
  if (use.form == Form::matrix) return gemm::Packed::bytes(use.rows, use.cols, precision);
  return use.form == Form::values ? use.cols * sizeof(float) : 0;
}

}  // namespace qp::engine
