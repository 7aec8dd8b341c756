// One matrix whose rounding is learned (SignRound): a shift of each weight, in steps of its grid, added
// before it is rounded; and factors of the range that each group's scale comes from. Both move by the
// sign of their gradient. Formulas: reference/int4-formats.md 2.6; here scales stay positive, and the
// grid is the one that the scheme stores, so what is learned is what is saved.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "lib/algorithm/grid.h"
#include "lib/plan/plan.h"
#include "lib/qmap/store.h"

namespace qp {

// The codes of a matrix as they are stored.
struct Rounded {
  std::vector<std::byte> codes;
  SmallParts small;
};

class SignRound {
 public:
  // Keeps references to all. Errors: input (NaN or Inf in the weights).
  SignRound(const Store& store, const PlanEntry& entry, const Scheme& scheme, float range);
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
  // Errors: limit, a scale that overflows.
  Rounded rounded() const;

  // For tests: what was learned.
  std::span<const float> shifts() const { return shift_; }
  std::span<const float> min_factors() const { return min_; }  // [rows, groups]; symmetric: unused
  std::span<const float> max_factors() const { return max_; }

 private:
  void set(size_t row, size_t count, size_t g);
  void step_strip(const float* dw, size_t row, size_t count, float rate, float range_rate);

  const Store& store_;
  const Tensor& tensor_;
  Grid grid_;
  std::vector<float> w_, shift_;
  std::vector<float> lo_, hi_, min_, max_;  // [rows, groups]
};

}  // namespace qp
