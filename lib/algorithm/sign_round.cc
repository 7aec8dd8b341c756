#include "lib/algorithm/sign_round.h"

#include <algorithm>
#include <cmath>

#include "lib/algorithm/quantizer.h"
#include "lib/algorithm/read_matrix.h"
#include "lib/base/checked.h"
#include "lib/base/parallel.h"
#include "lib/kernels/sign_round.h"

namespace qp {
namespace {

using kernels::kStrip;

// How far factors may go from the range that was fitted.
constexpr float kLeastFactor = 0.5f, kMostFactor = 1.5f;

float sign(float x) { return static_cast<float>(x > 0) - static_cast<float>(x < 0); }

}  // namespace

SignRound::SignRound(const Store& store, const PlanEntry& entry, const Scheme& scheme, float range)
    : store_(store), tensor_(*entry.tensor),
      grid_(scheme, tensor_.dtype, tensor_.shape.rows(), tensor_.shape.cols(), range),
      w_(read_matrix(store, tensor_)), shift_(w_.size()) {
  if (grid_.spans_rows()) return;
  for (auto* v : {&lo_, &hi_, &min_, &max_}) v->resize(rows() * grid_.groups());
}

uint64_t SignRound::bytes(uint64_t rows, uint64_t cols, uint64_t group) {
  return 4 * rows * (2 * cols + 6 * ceil_div(cols, group));
}

void SignRound::start(Fit fit, std::span<const float> weight) {
  std::ranges::fill(shift_, 0.0f);
  if (grid_.spans_rows()) return grid_.fit_all(w_.data(), weight, fit);
  std::ranges::fill(min_, 1.0f);
  std::ranges::fill(max_, 1.0f);
  std::vector<std::vector<float>> room(static_cast<size_t>(threads()));
  size_t group = grid_.group(), groups = grid_.groups();
  parallel_for(ceil_div(rows(), kStrip), [&](size_t strip, int worker) {
    std::vector<float>& w = room[static_cast<size_t>(worker)];
    w.resize(group * kStrip);
    size_t row = strip * kStrip, count = std::min(kStrip, rows() - row);
    for (size_t g = 0; g < groups; ++g) {
      size_t begin = g * group, n = std::min(group, cols() - begin);
      float lo[kStrip], hi[kStrip];
      kernels::lanes().to_strip(w_.data() + row * cols() + begin, cols(), count, n, w.data());
      grid_.fit(w.data(), n, row, count, g, weight.empty() ? nullptr : &weight[begin], fit, lo, hi);
      for (size_t i = 0; i < count; ++i) {
        lo_[(row + i) * groups + g] = lo[i];
        hi_[(row + i) * groups + g] = hi[i];
      }
    }
  });
}

// Scales of a strip from what its factors are now.
void SignRound::set(size_t row, size_t count, size_t g) {
  float lo[kStrip] = {}, hi[kStrip] = {};
  for (size_t i = 0; i < count; ++i) {
    size_t at = (row + i) * grid_.groups() + g;
    lo[i] = lo_[at] * (grid_.symmetric() ? max_[at] : min_[at]);
    hi[i] = hi_[at] * max_[at];
  }
  grid_.set(row, count, g, lo, hi);
}

void SignRound::step_strip(const float* dw, size_t row, size_t count, float rate, float range_rate) {
  const kernels::SignRoundTable& k = kernels::sign_round();
  kernels::Rounding rounding = grid_.rounding();
  size_t group = grid_.group(), groups = grid_.groups();
  for (size_t g = 0; g < groups; ++g) {
    float scale[kStrip], zero[kStrip], sums[2];
    grid_.lanes(row, g, scale, zero);
    for (size_t i = 0; i < count; ++i) {
      size_t begin = (row + i) * cols() + g * group, n = std::min(group, cols() - g * group);
      k.step(rounding, w_.data() + begin, dw + begin, n, scale[i], zero[i], rate,
             shift_.data() + begin, sums);
      if (range_rate == 0) continue;
      size_t at = (row + i) * groups + g;
      // Of the scale, and of lo through the zero point beside it; factors of the signs are left out.
      float by_scale = sums[0], by_lo = 0;
      if (!grid_.symmetric() && scale[i] != 0) {
        auto steps = rounding.hi - rounding.lo;
        by_scale -= sums[1] * (lo_[at] * min_[at]) / scale[i];
        by_lo = sums[1] - by_scale / steps;
        min_[at] = std::clamp(min_[at] - range_rate * sign(by_lo * lo_[at]), kLeastFactor, kMostFactor);
      }
      max_[at] = std::clamp(max_[at] - range_rate * sign(by_scale), kLeastFactor, kMostFactor);
    }
    if (range_rate != 0) set(row, count, g);
  }
}

void SignRound::step(const float* dw, float rate, float range_rate) {
  parallel_for(ceil_div(rows(), kStrip), [&](size_t strip, int) {
    size_t row = strip * kStrip;
    step_strip(dw, row, std::min(kStrip, rows() - row), rate, grid_.spans_rows() ? 0 : range_rate);
  });
}

void SignRound::values(size_t first, size_t count, float* out) const {
  const kernels::SignRoundTable& k = kernels::sign_round();
  size_t group = grid_.group();
  for (size_t r = 0; r < count; r += kStrip) {
    for (size_t g = 0; g < grid_.groups(); ++g) {
      float scale[kStrip], zero[kStrip];
      grid_.lanes(first + r, g, scale, zero);
      size_t begin = g * group, n = std::min(group, cols() - begin);
      for (size_t i = 0; i < std::min(kStrip, count - r); ++i) {
        size_t at = (first + r + i) * cols() + begin;
        k.values(grid_.rounding(), w_.data() + at, shift_.data() + at, n, scale[i], zero[i], nullptr,
                 out + (r + i) * cols() + begin);
      }
    }
  }
}

Rounded SignRound::rounded() const {
  if (auto row = grid_.overflow()) refuse_overflow(store_, tensor_, *row);
  Rounded result;
  size_t bytes = grid_.code_bytes(), group = grid_.group();
  result.codes.resize(rows() * bytes);
  parallel_for(rows(), [&](size_t r, int) {
    std::vector<float> q(cols());
    for (size_t g = 0; g < grid_.groups(); ++g) {
      float scale[kStrip], zero[kStrip];
      grid_.lanes(r, g, scale, zero);
      size_t begin = g * group, n = std::min(group, cols() - begin), at = r * cols() + begin;
      kernels::sign_round().values(grid_.rounding(), w_.data() + at, shift_.data() + at, n, scale[0],
                                   zero[0], q.data() + begin, nullptr);
    }
    grid_.encode(q.data(), 1, reinterpret_cast<uint8_t*>(result.codes.data() + r * bytes));
  });
  result.small = grid_.finish();
  return result;
}

}  // namespace qp
