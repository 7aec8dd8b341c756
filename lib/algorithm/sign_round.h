// One matrix whose rounding is learned (SignRound): a shift of each weight, in steps of its grid,
// added before it is rounded; and factors of the range that each group's scale comes from. Both
// move by the sign of their gradient. Formulas: reference/int4-formats.md 2.6; here scales stay
// positive, and the grid is the one that the scheme stores, so what is learned is what is saved.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "lib/algorithm/grid.h"

namespace qp {

// The codes of a matrix as they are stored.
struct Rounded {
  std::vector<std::byte> codes;
  SmallParts small;
};

// A group's range [lo, hi], lo <= 0 <= hi, whose ends have factors.
struct FactoredRange {
  float lo = 0, hi = 0, min = 1, max = 1;
};
// Gradients of the loss for the two factors (symmetric: `max` is that of both), from what
// kernels::SignRoundTable::step sums up. `steps`: of the grid between lo and hi; symmetric: 1 is as
// good, as the sign is what counts. The zero point of an asymmetric grid is lo's place on it, and
// its rounding's gradient is 1, too.
struct FactorGradient {
  float min = 0, max = 0;
};
FactorGradient factor_gradient(bool symmetric, const FactoredRange& range, float scale, float steps,
                               const float* sums);

class SignRound {
 public:
  // w [rows, cols], in f32; `source`: the dtype of the weights; `range`: as of Grid. Keeps a
  // reference to the scheme. `sign`: of scales that are searched for.
  SignRound(const Scheme& scheme, DType source, size_t rows, size_t cols, float range,
            ScaleSign sign, std::vector<float> w);
  // What it takes, in bytes, of a matrix with scales of `group` columns.
  static uint64_t bytes(uint64_t rows, uint64_t cols, uint64_t group);

  // Begins with no shifts and factors of 1, from ranges that are fitted: weight [cols], or empty,
  // the importance of columns to Fit::search.
  void start(Fit fit, std::span<const float> weight);
  // A step along the signs of gradients dw [rows, cols] of the loss for the values: `rate` for
  // shifts, `range_rate` (0: never) for factors. Any number of threads, the same bits.
  void step(const float* dw, float rate, float range_rate);

  size_t rows() const { return grid_.rows(); }
  size_t cols() const { return grid_.cols(); }
  // What rows [first, first + count) stand for: out [count, cols].
  void values(size_t first, size_t count, float* out) const;
  // The first row with a scale that is not finite.
  std::optional<size_t> overflow() const { return grid_.overflow(); }
  Rounded rounded() const;

  std::span<const float> shifts() const { return shift_; }
  std::span<const FactoredRange> ranges() const { return ranges_; }  // [rows, groups]

 private:
  void set(size_t row, size_t count, size_t g);
  void step_strip(const float* dw, size_t row, size_t count, float rate, float range_rate);

  Grid grid_;
  ScaleSign sign_;
  std::vector<float> w_, shift_;
  std::vector<FactoredRange> ranges_;  // none where scales span rows: those stay as they are fitted
};

}  // namespace qp
