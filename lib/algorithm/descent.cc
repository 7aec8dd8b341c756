#include "lib/algorithm/descent.h"

#include <algorithm>
#include <vector>

#include "lib/base/checked.h"
#include "lib/base/interrupt.h"
#include "lib/base/parallel.h"
#include "lib/gemm/gemm.h"
#include "lib/kernels/lanes.h"

namespace qp::gptq {
namespace {

constexpr size_t kBlock = 128;  // columns between products, at most
using kernels::kStrip;

class Descent {
 public:
  Descent(const Moments& m, double damp, gemm::Precision precision, Grid& grid, const float* w,
          float* q)
      : k_(m.k), rows_(grid.rows()), precision_(precision), grid_(grid), q_(q), h_(k_ * k_),
        t_(rows_ * k_), inverse_(k_) {
    bool whole = grid.group() <= kBlock && grid.in_order();
    refit_ = whole && grid.free_scales();
    block_ = whole ? kBlock / grid.group() * grid.group() : kBlock;
    moved_.resize(rows_ * block_);
    double sum = 0;
    for (size_t i = 0; i < k_; ++i) sum += static_cast<double>(m.h[i * k_ + i]);
    auto more = static_cast<float>(damp * sum / static_cast<double>(k_));
    parallel_for(k_, [&](size_t i, int) {
      for (size_t j = 0; j < k_; ++j) h_[i * k_ + j] = m.h[std::max(i, j) * k_ + std::min(i, j)];
      float& own = h_[i * k_ + i];
      inverse_[i] = own == 0 ? 0 : 1 / (own + more);
      own += more;
    });
    std::vector<float> d(rows_ * k_);
    parallel_for(rows_, [&](size_t r, int) {
      grid.values(q + r * k_, r, d.data() + r * k_);
      for (size_t c = 0; c < k_; ++c) d[r * k_ + c] = w[r * k_ + c] - d[r * k_ + c];
    });
    gemm::product(precision_, rows_, k_, k_, 1, {d.data(), k_}, {h_.data(), k_}, t_.data(), k_,
                  false);
  }

  // Of the last sweep nobody asks what it did to columns before.
  void sweep(bool last) {
    for (size_t first = 0; first < k_; first += block_) {
      size_t n = std::min(block_, k_ - first), to = last ? first + n : 0;
      parallel_for(ceil_div(rows_, kStrip), [&](size_t s, int) { strip(s * kStrip, first, n); });
      if (to == k_) continue;
      gemm::product(precision_, rows_, k_ - to, n, -1, {moved_.data(), block_},
                    {h_.data() + first * k_ + to, k_}, t_.data() + to, k_, true);
    }
  }

 private:
  // 16 rows of columns [first, first + n). t_ follows behind, in one product.
  void strip(size_t row, size_t first, size_t n) {
    const kernels::LaneTable& k = kernels::lanes();
    size_t count = std::min(kStrip, rows_ - row);
    float t[kBlock * kStrip], q[kBlock * kStrip], moved[kBlock * kStrip] = {};
    float scale[kStrip], zero[kStrip];
    k.to_strip(t_.data() + row * k_ + first, k_, count, n, t);
    k.to_strip(q_ + row * k_ + first, k_, count, n, q);
    const float* h = h_.data() + first * k_ + first;
    for (size_t c = 0; c < n;) {
      size_t g = grid_.group_of(first + c), end = c + 1;
      while (end < n && grid_.group_of(first + end) == g) ++end;
      if (refit_) refit(row, count, g, {h, c, end, n}, q, t, moved);
      grid_.lanes(row, g, scale, zero);
      k.descend(grid_.rounding(), t, c, end, n, h, k_, inverse_.data() + first, scale, zero, q,
                moved);
      c = end;
    }
    k.from_strip(q, count, n, q_ + row * k_ + first, k_);
    k.from_strip(moved, count, n, moved_.data() + row * block_, block_);
  }

  // Columns [first, last) of a block of n, and its H'.
  struct Group {
    const float* h;
    size_t first, last, n;
  };

  // The best scale as codes are: s + x T / x H' x, x = q - zero, where the rounded one is better.
  void refit(size_t row, size_t count, size_t g, Group at, const float* q, float* t, float* moved) {
    float scale[kStrip], zero[kStrip], next[kStrip], num[kStrip] = {}, den[kStrip] = {};
    float x[kBlock * kStrip], y[kBlock * kStrip];
    grid_.lanes(row, g, scale, zero);
    size_t width = at.last - at.first;
    for (size_t i = 0; i < width * kStrip; ++i) x[i] = q[at.first * kStrip + i] - zero[i % kStrip];
    kernels::lanes().times(x, width, at.h + at.first * k_ + at.first, k_, at.n - at.first, y);
    for (size_t i = 0; i < width * kStrip; ++i) {
      num[i % kStrip] += x[i] * t[at.first * kStrip + i];
      den[i % kStrip] += x[i] * y[i];
    }
    for (size_t i = 0; i < kStrip; ++i) next[i] = scale[i] + (den[i] > 0 ? num[i] / den[i] : 0.0f);
    grid_.rescale(row, count, g, next);
    for (size_t i = 0; i < kStrip; ++i) {
      float step = i < count ? next[i] - scale[i] : 0;
      bool better = step * (2 * num[i] - step * den[i]) > 0;
      next[i] = better ? scale[i] + step : scale[i];
      scale[i] = better ? step : 0;
    }
    grid_.rescale(row, count, g, next);
    for (size_t i = 0; i < width * kStrip; ++i)
      moved[at.first * kStrip + i] += scale[i % kStrip] * x[i];
    for (size_t i = 0; i < (at.n - at.first) * kStrip; ++i)
      t[at.first * kStrip + i] -= scale[i % kStrip] * y[i];
  }

  size_t k_, rows_, block_;
  gemm::Precision precision_;
  bool refit_;
  Grid& grid_;
  float* q_;
  std::vector<float> h_, t_;    // H'; (W - V) H'
  std::vector<float> moved_;    // what a block of columns has moved by
  std::vector<float> inverse_;  // of H's diagonal; 0: no input
};

}  // namespace

void descend(const Moments& moments, double damp, gemm::Precision precision, Grid& grid,
             const float* w, size_t sweeps, float* q) {
  if (sweeps == 0) return;
  Descent d(moments, damp, precision, grid, w, q);
  for (size_t i = 1; i <= sweeps; ++i) {
    throw_if_interrupted();  // of a wide matrix each takes seconds
    d.sweep(i == sweeps);
  }
}

}  // namespace qp::gptq
