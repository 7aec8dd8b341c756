#include "lib/algorithm/sign_round.h"

#include <algorithm>
#include <cmath>

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

FactorGradient factor_gradient(bool symmetric, const FactoredRange& r, float scale, float steps,
                               const float* sums) {
  if (symmetric) return {0, sums[0] * std::copysign(std::max(-r.lo, r.hi), scale) / steps};
  if (scale == 0) return {};
  // Values are scale * (q - zero), where zero moves with -lo / scale and counts for those that are
  // clamped alone: the others' q moves along.
  float by_scale = sums[0] - sums[1] * r.lo * r.min / scale, by_lo = sums[1];
  return {(by_lo - by_scale / steps) * r.lo, by_scale / steps * r.hi};
}

SignRound::SignRound(const Scheme& scheme, DType source, size_t rows, size_t cols, float range,
                     ScaleSign sign, std::vector<float> w)
    : grid_(scheme, source, rows, cols, range), sign_(sign), w_(std::move(w)), shift_(w_.size()) {
  if (!grid_.spans_rows()) ranges_.resize(rows * grid_.groups());
}

uint64_t SignRound::bytes(uint64_t rows, uint64_t cols, uint64_t group) {
  return 4 * rows * (2 * cols + 8 * ceil_div(cols, group));
}

void SignRound::start(Fit fit, std::span<const float> weight) {
  std::ranges::fill(shift_, 0.0f);
  grid_.allow(fit == Fit::range ? ScaleSign::positive : sign_);
  if (grid_.spans_rows()) return grid_.fit_all(w_.data(), weight, fit);
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
      for (size_t i = 0; i < count; ++i) ranges_[(row + i) * groups + g] = {lo[i], hi[i]};
    }
  });
}

// Scales of a strip from what its factors are now.
void SignRound::set(size_t row, size_t count, size_t g) {
  float lo[kStrip] = {}, hi[kStrip] = {};
  for (size_t i = 0; i < count; ++i) {
    const FactoredRange& r = ranges_[(row + i) * grid_.groups() + g];
    lo[i] = r.lo * (grid_.symmetric() ? r.max : r.min);
    hi[i] = r.hi * r.max;
  }
  grid_.set(row, count, g, lo, hi);
}

void SignRound::step_strip(const float* dw, size_t row, size_t count, float rate,
                           float range_rate) {
  const kernels::SignRoundTable& k = kernels::sign_round();
  kernels::Rounding rounding = grid_.rounding();
  size_t group = grid_.group(), groups = grid_.groups();
  for (size_t g = 0; g < groups; ++g) {
    float scale[kStrip], zero[kStrip], sums[2];
    grid_.lanes(row, g, scale, zero);
    for (size_t i = 0; i < count; ++i) {
      size_t begin = (row + i) * cols() + g * group, n = std::min(group, cols() - g * group);
      // Along a negative scale, more shift is less value.
      k.step(rounding, w_.data() + begin, dw + begin, n, scale[i], zero[i],
             std::copysign(rate, scale[i]), shift_.data() + begin, sums);
      if (range_rate == 0) continue;
      FactoredRange& r = ranges_[(row + i) * groups + g];
      FactorGradient d =
          factor_gradient(grid_.symmetric(), r, scale[i], rounding.hi - rounding.lo, sums);
      r.min = std::clamp(r.min - range_rate * sign(d.min), kLeastFactor, kMostFactor);
      r.max = std::clamp(r.max - range_rate * sign(d.max), kLeastFactor, kMostFactor);
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
        k.values(grid_.rounding(), w_.data() + at, shift_.data() + at, n, scale[i], zero[i],
                 nullptr, out + (r + i) * cols() + begin);
      }
    }
  }
}

Rounded SignRound::rounded() const {
  Rounded result;
  size_t bytes = grid_.code_bytes(), group = grid_.group();
  result.codes.resize(rows() * bytes);
  parallel_for(rows(), [&](size_t r, int) {
    std::vector<float> q(cols());
    for (size_t g = 0; g < grid_.groups(); ++g) {
      float scale[kStrip], zero[kStrip];
      grid_.lanes(r, g, scale, zero);
      size_t begin = g * group, n = std::min(group, cols() - begin), at = r * cols() + begin;
      kernels::sign_round().values(grid_.rounding(), w_.data() + at, shift_.data() + at, n,
                                   scale[0], zero[0], q.data() + begin, nullptr);
    }
    grid_.encode(q.data(), 1, reinterpret_cast<uint8_t*>(result.codes.data() + r * bytes));
  });
  result.small = grid_.finish();
  return result;
}

}  // namespace qp
