#include "lib/verify/compare.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <limits>
#include <vector>

#include "lib/base/checked.h"
#include "lib/base/error.h"
#include "lib/base/interrupt.h"
#include "lib/base/parallel.h"
#include "lib/kernels/ggml.h"
#include "lib/kernels/kernels.h"
#include "lib/qmap/row_jobs.h"

namespace qp {
namespace {

// Elements per chunk: both sides as f32 stay in the second-level cache. Part of the result (sums
// are rounded once per chunk), so never derived from the machine.
constexpr uint64_t kChunkElements = 64 << 10;
constexpr uint64_t kDropChunks = 32;  // pages are given back less often than chunks are read

TensorErrors from_sums(const kernels::ErrorSums& s, uint64_t count) {
  return {count, s.nonfinite, s.diff2, s.a2, s.b2, s.ab, s.max_abs};
}

}  // namespace

double TensorErrors::mse() const {
  return used() == 0 ? 0.0 : diff2 / static_cast<double>(used());
}

double TensorErrors::signal() const {
  return used() == 0 ? 0.0 : b2 / static_cast<double>(used());
}

double TensorErrors::sqnr_db() const {
  if (count > 0 && used() == 0) return std::numeric_limits<double>::quiet_NaN();
  if (diff2 == 0) return std::numeric_limits<double>::infinity();
  if (b2 == 0) return -std::numeric_limits<double>::infinity();
  return 10 * std::log10(b2 / diff2);
}

double TensorErrors::cosine() const {
  if (count > 0 && used() == 0) return std::numeric_limits<double>::quiet_NaN();
  if (diff2 == 0) return 1;
  double norm = std::sqrt(a2) * std::sqrt(b2);
  return norm == 0 ? 0 : std::clamp(ab / norm, -1.0, 1.0);
}

void TensorErrors::add(const TensorErrors& o) {
  count += o.count;
  nonfinite += o.nonfinite;
  diff2 += o.diff2;
  a2 += o.a2;
  b2 += o.b2;
  ab += o.ab;
  max_abs = std::max(max_abs, o.max_abs);
}

bool has_values(const Tensor& t) {
  if (!t.ggml.empty()) {
    const GgmlType* type = ggml_type(t.ggml);
    return type != nullptr && type->dequantize != nullptr;
  }
  return t.scheme >= 0 || is_float(t.dtype);
}

TensorErrors compare_tensors(const Store& store_a, const Tensor& a, const Store& store_b,
                             const Tensor& b) {
  if (!has_values(a) || !has_values(b)) throw input_error("has no float values").tensor(a.name);
  RowSource source_a(store_a, a), source_b(store_b, b);
  uint64_t rows = source_a.rows(), cols = source_a.cols();
  if (rows != source_b.rows() || cols != source_b.cols()) {
    throw input_error("has another shape (expected " + b.shape.str() + ", found " + a.shape.str() + ")")
        .tensor(a.name);
  }
  uint64_t per_chunk = std::max<uint64_t>(1, kChunkElements / std::max<uint64_t>(cols, 1));
  struct Worker {
    RowScratch a, b;
    kernels::ErrorSums sums;
  };
  std::vector<Worker> workers(static_cast<size_t>(ordered_slots()));
  TensorErrors total;
  parallel_ordered(
      cols == 0 ? 0 : ceil_div(rows, per_chunk),
      [&](size_t i, int worker) {
        throw_if_interrupted();
        Worker& w = workers[static_cast<size_t>(worker)];
        uint64_t first = i * per_chunk, count = std::min(per_chunk, rows - first);
        const float* x = source_a.get_f32(first, count, w.a, false);
        const float* y = source_b.get_f32(first, count, w.b, false);
        w.sums = {};
        kernels::active().compare(x, y, count * cols, &w.sums);
      },
      [&](size_t i, int worker) {
        uint64_t first = i * per_chunk, count = std::min(per_chunk, rows - first);
        total.add(from_sums(workers[static_cast<size_t>(worker)].sums, count * cols));
        if (i % kDropChunks != kDropChunks - 1 && first + count < rows) return;
        uint64_t begin = i / kDropChunks * kDropChunks * per_chunk;
        source_a.drop(begin, first + count - begin);
        source_b.drop(begin, first + count - begin);
      });
  return total;
}

bool equal_bytes(const Store& store_a, const Tensor& a, const Store& store_b, const Tensor& b) {
  if (a.dtype != b.dtype || !(a.shape == b.shape) || a.parts.size() != b.parts.size()) return false;
  for (size_t k = 0; k < a.parts.size(); ++k) {
    const Part &p = a.parts[k], &q = b.parts[k];
    if (p.role != q.role || p.dtype != q.dtype || !(p.shape == q.shape)) return false;
    RowSource x(store_a, p), y(store_b, q);
    std::atomic<bool> same{true};
    for_row_chunks(
        x, 1 << 20,
        [&](const RowChunk& c) {
          RowScratch mine;
          const std::byte* other = y.get(c.first, c.count, mine);
          if (!c.rows.empty() && std::memcmp(c.rows.data(), other, c.rows.size()) != 0) same = false;
          y.drop(c.first, c.count);
        },
        nullptr);
    if (!same) return false;
  }
  return true;
}

std::string db_text(double db) {
  if (std::isnan(db)) return "nan";
  if (std::isinf(db)) return db > 0 ? "exact" : "-inf";
  char text[32];
  std::snprintf(text, sizeof text, "%.2f", db);
  return text;
}

}  // namespace qp
