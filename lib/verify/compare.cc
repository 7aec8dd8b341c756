#include "lib/verify/compare.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <limits>
#include <vector>

#include "lib/base/error.h"
#include "lib/base/interrupt.h"
#include "lib/base/parallel.h"
#include "lib/kernels/ggml.h"
#include "lib/kernels/kernels.h"

namespace qp {
namespace {

// Elements per chunk: both sides as f32 stay in the second-level cache. Part of the result (sums
// are rounded once per chunk), so never derived from the machine.
constexpr uint64_t kChunkElements = 64 << 10;
constexpr uint64_t kDropChunks = 32;  // pages are given back less often than chunks are read

TensorErrors from_sums(const kernels::ErrorSums& s, uint64_t count) {
  return {count, s.nonfinite, s.diff2, s.a2, s.b2, s.ab, s.max_abs};
}

constexpr float kFar = 0.4f, kNear = 0.2f;

struct Outliers {
  uint64_t far = 0, near = 0;
};

// TensorErrors::far and near of n values in groups. A group is looked at only where the largest
// difference of all would be far in it, which leaves most out, and some that are near.
Outliers outliers(const float* x, const float* y, uint64_t n, uint64_t group, double max_abs,
                  std::vector<float>& largest) {
  uint64_t groups = n / group;
  largest.resize(groups);
  kernels::active().group_absmax(kernels::Src::f32, y, n, group, largest.data());
  Outliers out;
  for (uint64_t g = 0; g < groups; ++g) {
    float most = largest[g];
    if (!(static_cast<double>(kFar * most) < max_abs)) continue;  // NaN, too
    const float *p = x + g * group, *q = y + g * group;
    float bound = kNear * most;
    unsigned any = 0;  // without branches: vectors
    for (uint64_t c = 0; c < group; ++c) any |= static_cast<unsigned>(std::fabs(p[c] - q[c]) > bound);
    if (any == 0) continue;
    for (uint64_t c = 0; c < group; ++c) {
      float d = std::fabs(p[c] - q[c]);
      if (d <= kNear * most || (p[c] * q[c] >= 0 && std::fabs(p[c]) <= std::fabs(q[c]))) continue;
      ++out.near;
      out.far += d > kFar * most;
    }
  }
  return out;
}

// Consecutive columns that share a scale, as far as is known; at least 16.
uint64_t group_in_row(const Store& store, const Tensor& t, uint64_t cols) {
  uint64_t group = cols;
  if (!t.ggml.empty()) {
    group = 32;
  } else if (t.scheme >= 0 && !t.transposed && t.part(Role::g_idx) == nullptr) {
    group = store.model().schemes[static_cast<size_t>(t.scheme)].group_of(cols);
  }
  return group < 16 || cols % group != 0 ? cols : group;
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

void TensorErrors::add(const TensorErrors& o, double weight) {
  auto times = [&](uint64_t n) {
    return weight == 1 ? n : static_cast<uint64_t>(std::llround(static_cast<double>(n) * weight));
  };
  count += times(o.count);
  nonfinite += times(o.nonfinite);
  diff2 += o.diff2 * weight;
  a2 += o.a2 * weight;
  b2 += o.b2 * weight;
  ab += o.ab * weight;
  max_abs = std::max(max_abs, o.max_abs);
  far += times(o.far);
  near += times(o.near);
}

bool has_values(const Tensor& t) {
  if (!t.ggml.empty()) {
    const GgmlType* type = ggml_type(t.ggml);
    return type != nullptr && ggml_decoder(type->id) != nullptr;
  }
  return t.scheme >= 0 || is_float(t.dtype);
}

TensorErrors compare_tensors(const Store& store_a, const Tensor& a, const Store& store_b,
                             const Tensor& b, const Sampling& sampling) {
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
    std::vector<float> largest;
    Outliers outliers;
  };
  std::vector<Worker> workers(static_cast<size_t>(ordered_slots()));
  TensorErrors total;
  RowSample sample(sampling, a.name, rows, cols);
  uint64_t group = group_in_row(store_a, a, cols);
  // Columns were rounded by another measure than the base's: far says nothing.
  bool scaled = a.part(Role::pre_scale) != nullptr;
  std::vector<RowRun> runs;
  if (cols > 0) runs = sample.runs(per_chunk);
  parallel_ordered(
      runs.size(),
      [&](size_t i, int worker) {
        throw_if_interrupted();
        Worker& w = workers[static_cast<size_t>(worker)];
        auto [first, count] = runs[i];
        const float* x = source_a.get_f32(first, count, w.a, false);
        const float* y = source_b.get_f32(first, count, w.b, false);
        w.sums = {};
        kernels::active().compare(x, y, count * cols, &w.sums);
        if (!scaled) w.outliers = outliers(x, y, count * cols, group, w.sums.max_abs, w.largest);
      },
      [&](size_t i, int worker) {
        auto [first, count] = runs[i];
        const Worker& w = workers[static_cast<size_t>(worker)];
        total.add(from_sums(w.sums, count * cols));
        total.far += w.outliers.far;
        total.near += w.outliers.near;
        if (i % kDropChunks != kDropChunks - 1 && i + 1 < runs.size()) return;
        uint64_t begin = runs[i / kDropChunks * kDropChunks].first;
        source_a.drop(begin, first + count - begin);
        source_b.drop(begin, first + count - begin);
      });
  return total;
}

bool equal_bytes(const Store& store_a, const Tensor& a, const Store& store_b, const Tensor& b,
                 const Sampling& sampling) {
  if (a.dtype != b.dtype || !(a.shape == b.shape) || a.parts.size() != b.parts.size()) return false;
  for (size_t k = 0; k < a.parts.size(); ++k) {
    const Part &p = a.parts[k], &q = b.parts[k];
    if (p.role != q.role || p.dtype != q.dtype || !(p.shape == q.shape)) return false;
    RowSource x(store_a, p), y(store_b, q);
    std::atomic<bool> same{true};
    for_sampled_rows(
        x, RowSample(sampling, a.name, x.rows(), x.cols()), 1 << 20,
        [&](const RowChunk& c) {
          RowScratch mine;
          const std::byte* other = y.get(c.first, c.count, mine);
          if (!c.rows.empty() && std::memcmp(c.rows.data(), other, c.rows.size()) != 0) same = false;
          y.drop(c.first, c.count);
        });
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
