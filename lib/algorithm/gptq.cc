#include "lib/algorithm/gptq.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "lib/base/checked.h"
#include "lib/base/parallel.h"
#include "lib/gemm/factor.h"
#include "lib/gemm/gemm.h"

namespace qp::gptq {
namespace {

using kernels::kStrip;

constexpr size_t kBlock = 128;  // columns walked before the rest of the matrix hears of the errors
constexpr size_t kFar = 1024;   // and columns before the far rest does: fewer passes over it

// Falling diagonal, of equals the first.
void sort_falling(const std::vector<float>& diagonal, std::span<uint32_t> columns) {
  std::stable_sort(columns.begin(), columns.end(),
                   [&](uint32_t a, uint32_t b) { return diagonal[a] > diagonal[b]; });
}

std::vector<uint32_t> order_of(const std::vector<float>& diagonal, size_t group, Order order) {
  size_t k = diagonal.size();
  std::vector<uint32_t> columns(k);
  std::iota(columns.begin(), columns.end(), 0u);
  if (order == Order::desc_act) sort_falling(diagonal, columns);
  if (order != Order::group_aware) return columns;
  size_t whole = k / group;  // a tail that is no whole group stays last
  std::vector<uint32_t> groups(whole), result;
  std::vector<float> largest(whole);
  for (size_t g = 0; g < whole; ++g) {
    sort_falling(diagonal, std::span(columns).subspan(g * group, group));
    largest[g] = diagonal[columns[g * group]];
    groups[g] = static_cast<uint32_t>(g);
  }
  sort_falling(largest, groups);
  auto append = [&](std::span<const uint32_t> some) {
    result.insert(result.end(), some.begin(), some.end());
  };
  for (uint32_t g : groups) append(std::span(columns).subspan(g * group, group));
  append(std::span(columns).subspan(whole * group));
  return result;
}

// The walk over the columns in processing order.
class Sweep {
 public:
  Sweep(const Factor& f, const Options& options, Grid& grid, float* w)
      : f_(f), options_(options), grid_(grid), k_(f.order.size()), rows_(grid.rows()), w_(w),
        e_(rows_ * kFar), loss_(ceil_div(rows_, kStrip)) {}

  double run() {
    for (size_t far = 0; far < k_; far += kFar) {
      size_t end = std::min(k_, far + kFar);
      for (size_t begin = far; begin < end; begin += kBlock) {
        size_t stop = std::min(end, begin + kBlock);
        block(begin, stop, begin - far);
        spread(begin, stop, begin - far, stop, end);
      }
      spread(far, end, 0, end, k_);
    }
    double sum = 0;
    for (double l : loss_) sum += l;
    return sum;
  }

 private:
  // w[:, first..last) -= e * u[begin..end, first..last), errors of which lie from `at` on in e_.
  void spread(size_t begin, size_t end, size_t at, size_t first, size_t last) {
    if (first >= last) return;
    gemm::product(options_.precision, rows_, last - first, end - begin, -1,
                  {e_.data() + at, kFar}, {f_.u() + begin * k_ + first, k_}, w_ + first, k_, true);
  }

  // Group of the i-th column: of the original columns, or of the order with desc_act.
  size_t group_at(size_t i) const {
    bool by_order = options_.order == Order::desc_act && !options_.static_groups;
    return (by_order ? i : f_.order[i]) / grid_.group();
  }

  void block(size_t begin, size_t end, size_t at) {
    std::vector<std::vector<float>> room(static_cast<size_t>(threads()));
    parallel_for(loss_.size(), [&](size_t s, int worker) {
      std::vector<float>& r = room[static_cast<size_t>(worker)];
      size_t n = end - begin, longest = std::max(grid_.group(), kBlock);
      r.resize((2 * kBlock + longest) * kStrip);
      strip(s * kStrip, begin, n, at, r.data());
    });
  }

  // Columns [begin, begin + n) of the 16 rows from `row` on.
  void strip(size_t row, size_t begin, size_t n, size_t at, float* room) {
    const kernels::LaneTable& k = kernels::lanes();
    size_t count = std::min(kStrip, rows_ - row);
    float *w = room, *q = w + kBlock * kStrip, *group = q + kBlock * kStrip;
    float *rows = w_ + row * k_, loss[kStrip] = {}, scale[kStrip], zero[kStrip];
    k.to_strip(rows + begin, k_, count, n, w);
    for (size_t i = 0; i < n;) {
      size_t g = group_at(begin + i), stop = i + 1;
      bool dynamic = !grid_.fixed() && !options_.static_groups;
      // A walk ends with its group; static groups change from column to column when sorted.
      while (stop < n && group_at(begin + stop) == g) ++stop;
      bool first = begin + i == 0 || group_at(begin + i - 1) != g;
      if (dynamic && first) fit(row, count, begin, i, n, g, w, group);
      grid_.lanes(row, g, scale, zero);
      k.sweep(grid_.rounding(), w, i, stop, n, f_.u() + begin * k_ + begin, k_, scale, zero, q,
              loss);
      i = stop;
    }
    k.from_strip(q, count, n, rows + begin, k_);
    k.from_strip(w, count, n, e_.data() + row * kFar + at, kFar);
    for (size_t lane = 0; lane < count; ++lane)
      loss_[row / kStrip] += static_cast<double>(loss[lane]);
  }

  // The group's columns as they are now: those of this block from the strip, later ones from w_.
  void fit(size_t row, size_t count, size_t begin, size_t i, size_t n, size_t g, const float* w,
           float* group) {
    size_t size = 0;
    std::vector<float> weight;
    for (size_t c = begin + i; c < k_ && size < grid_.group() && group_at(c) == g; ++c, ++size) {
      float* to = group + size * kStrip;
      if (c < begin + n) {
        std::copy_n(w + (c - begin) * kStrip, kStrip, to);
      } else {
        kernels::lanes().to_strip(w_ + row * k_ + c, k_, count, 1, to);
      }
      if (options_.fit == Fit::search) weight.push_back(f_.importance[f_.order[c]]);
    }
    grid_.fit(group, size, row, count, g, weight.empty() ? nullptr : weight.data(), options_.fit);
  }

  const Factor& f_;
  const Options& options_;
  Grid& grid_;
  size_t k_, rows_;
  float* w_;
  std::vector<float> e_;
  std::vector<double> loss_;  // by strip: their sum has one order
};

// Columns of w in another order: to[:, i] = from[:, order[i]], or back.
void permute(float* w, size_t rows, const std::vector<uint32_t>& order, bool back) {
  size_t k = order.size();
  std::vector<std::vector<float>> room(static_cast<size_t>(threads()));
  parallel_for(rows, [&](size_t r, int worker) {
    std::vector<float>& row = room[static_cast<size_t>(worker)];
    row.assign(w + r * k, w + (r + 1) * k);
    for (size_t i = 0; i < k; ++i) {
      if (back)
        w[r * k + order[i]] = row[i];
      else
        w[r * k + i] = row[order[i]];
    }
  });
}

// The lower triangle of h with rows and columns in another order. By windows: columns that are
// neighbours in one group find each other's cache lines there.
void in_order(const Moments& m, const std::vector<uint32_t>& order, float* to) {
  constexpr size_t kWindow = 64;
  size_t k = m.k;
  parallel_for(ceil_div(k, kWindow), [&](size_t band, int) {
    size_t first = band * kWindow, last = std::min(k, first + kWindow);
    for (size_t begin = 0; begin < last; begin += kWindow) {
      for (size_t i = first; i < last; ++i) {
        size_t a = order[i];
        for (size_t j = begin; j < std::min(begin + kWindow, i); ++j) {
          size_t b = order[j];
          to[i * k + j] = m.h[std::max(a, b) * k + std::min(a, b)];
        }
      }
    }
  });
}

}  // namespace

std::optional<Factor> factor(const Moments& m, size_t group, const Options& options) {
  size_t k = m.k;
  Factor f;
  f.importance.resize(k);
  double sum = 0;
  for (size_t i = 0; i < k; ++i) {
    float d = m.h[i * k + i];
    if (!std::isfinite(d) || d < 0) return std::nullopt;
    if (d == 0) f.dead.push_back(static_cast<uint32_t>(i));
    f.importance[i] = d;
    sum += static_cast<double>(d);
  }
  if (f.dead.size() == k) return std::nullopt;
  // A dead column stands alone: any diagonal does, and the mean of the others keeps H scale-free.
  auto alone = static_cast<float>(sum / static_cast<double>(k - f.dead.size()));
  std::vector<float> diagonal = f.importance;
  for (uint32_t i : f.dead) diagonal[i] = alone;
  f.order = order_of(f.importance, group, options.order);
  double mean = sum / static_cast<double>(k);
  auto* u = static_cast<float*>(f.memory.need(k * k * sizeof(float)));
  for (double damp = options.damp; damp <= 1; damp *= 2) {
    in_order(m, f.order, u);
    for (size_t i = 0; i < k; ++i) {
      u[i * k + i] = static_cast<float>(static_cast<double>(diagonal[f.order[i]]) + damp * mean);
    }
    if (gemm::inverse_factor(u, k, u)) {
      f.damp = damp;
      return f;
    }
  }
  return std::nullopt;
}

double share_of(const Moments& m, const Options& options) {
  if (options.alpha) return *options.alpha;
  auto n = static_cast<double>(m.rows);
  return n / (n + 4 * static_cast<double>(m.k));
}

void follow_drift(const Moments& m, const Factor& f, double alpha, float* w, size_t rows) {
  size_t k = m.k;
  auto a = static_cast<float>(alpha);
  std::vector<float> d(k * k), x(rows * k), y(rows * k);
  parallel_for(k, [&](size_t i, int) {  // columns in processing order
    for (size_t j = 0; j < k; ++j) d[i * k + j] = m.drift[i * k + f.order[j]];
  });
  constexpr auto f32 = gemm::Precision::f32;
  gemm::product(f32, rows, k, k, a, {w, k}, {d.data(), k}, x.data(), k, false);
  using gemm::Part;
  const float* u = f.u();
  gemm::product(f32, rows, k, k, 1, {x.data(), k}, {u, k, true, Part::lower}, y.data(), k, false);
  gemm::product(f32, rows, k, k, 1, {y.data(), k}, {u, k, false, Part::upper}, x.data(), k, false);
  parallel_for(rows, [&](size_t r, int) {
    for (size_t j = 0; j < k; ++j) w[r * k + f.order[j]] += x[r * k + j];
  });
}

double quantize(const Factor& f, const Options& options, Grid& grid, float* w) {
  size_t k = grid.cols(), rows = grid.rows();
  // Of the weights as they were: scales that are fixed do not see dead columns go.
  if (grid.fixed() || options.static_groups) grid.fit_all(w, f.importance, options.fit);
  for (uint32_t c : f.dead) {
    for (size_t r = 0; r < rows; ++r) w[r * k + c] = 0;
  }
  bool sorted = options.order != Order::none;
  if (sorted) permute(w, rows, f.order, false);
  double loss = Sweep(f, options, grid, w).run();
  if (sorted) permute(w, rows, f.order, true);
  if (options.order == Order::desc_act && !options.static_groups && !grid.fixed()) {
    std::vector<int32_t> g_idx(k);
    for (size_t i = 0; i < k; ++i) g_idx[f.order[i]] = static_cast<int32_t>(i / grid.group());
    grid.set_g_idx(std::move(g_idx));
  }
  return loss;
}

double output_error(const Moments& m, const float* difference, size_t rows) {
  size_t k = m.k;
  // d h d^T is twice d l d^T, where l is the lower triangle with half of the diagonal.
  std::vector<float> l(k * k), t;
  parallel_for(k, [&](size_t i, int) {
    std::copy_n(m.h.data() + i * k, i + 1, l.data() + i * k);
    l[i * k + i] /= 2;
  });
  constexpr size_t kRows = 1024;
  std::vector<double> sums(rows);
  for (size_t first = 0; first < rows; first += kRows) {
    size_t n = std::min(kRows, rows - first);
    t.resize(n * k);
    gemm::product(gemm::Precision::f32, n, k, k, 2, {difference + first * k, k},
                  {l.data(), k, false, gemm::Part::lower}, t.data(), k, false);
    parallel_for(n, [&](size_t r, int) {
      double sum = 0;
      for (size_t c = 0; c < k; ++c)
        sum += static_cast<double>(t[r * k + c]) *
               static_cast<double>(difference[(first + r) * k + c]);
      sums[first + r] = sum;
    });
  }
  return std::accumulate(sums.begin(), sums.end(), 0.0);
}

}  // namespace qp::gptq
