#include "lib/algorithm/descent.h"

#include <algorithm>
#include <vector>

#include "lib/base/checked.h"
#include "lib/base/parallel.h"
#include "lib/gemm/gemm.h"
#include "lib/kernels/lanes.h"

namespace qp::gptq {
namespace {

constexpr auto kF32 = gemm::Precision::f32;
constexpr size_t kBlock = 128;  // columns between products
using kernels::kStrip;

class Descent {
 public:
  Descent(const Moments& m, double damp, const Grid& grid, const float* w, float* q)
      : k_(m.k), rows_(grid.rows()), grid_(grid), q_(q), h_(k_ * k_), t_(rows_ * k_),
        moved_(rows_ * kBlock), dead_(k_) {
    double sum = 0;
    for (size_t i = 0; i < k_; ++i) {
      sum += static_cast<double>(m.h[i * k_ + i]);
      dead_[i] = m.h[i * k_ + i] == 0;
    }
    auto more = static_cast<float>(damp * sum / static_cast<double>(k_));
    parallel_for(k_, [&](size_t i, int) {
      for (size_t j = 0; j < k_; ++j) h_[i * k_ + j] = m.h[std::max(i, j) * k_ + std::min(i, j)];
      h_[i * k_ + i] += more;
    });
    std::vector<float> d(rows_ * k_);
    parallel_for(rows_, [&](size_t r, int) {
      grid.values(q + r * k_, r, d.data() + r * k_);
      for (size_t c = 0; c < k_; ++c) d[r * k_ + c] = w[r * k_ + c] - d[r * k_ + c];
    });
    gemm::product(kF32, rows_, k_, k_, 1, {d.data(), k_}, {h_.data(), k_}, t_.data(), k_, false);
  }

  void sweep() {
    for (size_t first = 0; first < k_; first += kBlock) {
      size_t n = std::min(kBlock, k_ - first);
      parallel_for(ceil_div(rows_, kStrip), [&](size_t s, int) { strip(s * kStrip, first, n); });
      gemm::product(kF32, rows_, k_, n, -1, {moved_.data(), kBlock}, {h_.data() + first * k_, k_},
                    t_.data(), k_, true);
    }
  }

 private:
  // 16 rows of columns [first, first + n). t_ follows behind, in one product.
  void strip(size_t row, size_t first, size_t n) {
    const kernels::LaneTable& k = kernels::lanes();
    size_t count = std::min(kStrip, rows_ - row), group = SIZE_MAX;
    float t[kBlock * kStrip], q[kBlock * kStrip], moved[kBlock * kStrip];
    float scale[kStrip], zero[kStrip], x[kStrip], chosen[kStrip];
    k.to_strip(t_.data() + row * k_ + first, k_, count, n, t);
    k.to_strip(q_ + row * k_ + first, k_, count, n, q);
    for (size_t c = 0; c < n; ++c) {
      size_t column = first + c;
      float* d = moved + c * kStrip;
      std::fill_n(d, kStrip, 0.0f);
      if (dead_[column]) continue;
      if (size_t g = grid_.group_of(column); g != group) grid_.lanes(row, group = g, scale, zero);
      float own = h_[column * k_ + column];
      for (size_t i = 0; i < kStrip; ++i) {
        x[i] = (q[c * kStrip + i] - zero[i]) * scale[i] + t[c * kStrip + i] / own;
      }
      k.round(grid_.rounding(), x, 1, scale, zero, chosen);
      bool any = false;
      for (size_t i = 0; i < kStrip; ++i) {
        d[i] = (chosen[i] - q[c * kStrip + i]) * scale[i];
        any = any || d[i] != 0;
      }
      if (!any) continue;
      std::copy_n(chosen, kStrip, q + c * kStrip);
      const float* h = h_.data() + column * k_ + first;
      for (size_t j = c + 1; j < n; ++j) {
        for (size_t i = 0; i < kStrip; ++i) t[j * kStrip + i] -= d[i] * h[j];
      }
    }
    k.from_strip(q, count, n, q_ + row * k_ + first, k_);
    k.from_strip(moved, count, n, moved_.data() + row * kBlock, kBlock);
  }

  size_t k_, rows_;
  const Grid& grid_;
  float* q_;
  std::vector<float> h_, t_;   // H'; (W - V) H'
  std::vector<float> moved_;   // what a block of columns has moved by
  std::vector<char> dead_;
};

}  // namespace

void descend(const Moments& moments, double damp, const Grid& grid, const float* w, size_t sweeps,
             float* q) {
  if (sweeps == 0) return;
  Descent d(moments, damp, grid, w, q);
  for (size_t i = 0; i < sweeps; ++i) d.sweep();
}

}  // namespace qp::gptq
