// The numbers that a scheme can give the weights of one matrix: fits scales to groups, a strip of
// 16 rows at a time, for algorithms that go on to choose codes their own way (GPTQ, clip search
// ..).
#pragma once

#include <cstddef>
#include <optional>
#include <span>
#include <vector>

#include "lib/algorithm/scale_sign.h"
#include "lib/algorithm/small_parts.h"
#include "lib/kernels/lanes.h"
#include "lib/scheme/numerics.h"
#include "lib/scheme/scheme.h"

namespace qp {

// How the weights of a group become its scale: from their range; from the range shrunk, in steps of
// 1 %, to where rounding has the least squared error; or by half-quadratic steps, at most 20, while
// the absolute error falls (integers only).
enum class Fit { range, search, shrink };

class Grid {
 public:
  // `range`: tensor_absmax() of the tensor (strategy tensor) or its fused group (tensor_group).
  // `source`: the dtype of the weight, in which scales are stored where the scheme says so.
  Grid(const Scheme& scheme, DType source, size_t rows, size_t cols, float range);
  // Of all scales from here on; without a word, positive.
  void allow(ScaleSign sign);
  // Why no grid can be made for a scheme, or "".
  static std::string why_not(const Scheme& scheme);

  size_t rows() const { return rows_; }
  size_t cols() const { return cols_; }
  size_t group() const { return group_; }    // columns
  size_t groups() const { return groups_; }  // of a row
  bool symmetric() const { return args_.symmetric; }
  bool spans_rows() const;  // a scale has more than one row
  // Scales span rows, or all columns: they are known before the first code.
  bool fixed() const;
  kernels::Rounding rounding() const { return rounding_; }

  // Fits group g of `count` rows from `row` on, a strip, to n columns w [n][16]; weight [n]:
  // importance of the columns, or null (all alike; `search` alone heeds it). Different strips may
  // be fitted at once.
  void fit(const float* w, size_t n, size_t row, size_t count, size_t g, const float* weight,
           Fit how);
  // The same by `range` or `search`, and the ranges that the scales come from, a lane each.
  void fit(const float* w, size_t n, size_t row, size_t count, size_t g, const float* weight,
           Fit how, float* lo, float* hi);
  // Scales of these rows from ranges lo <= 0 <= hi.
  void set(size_t row, size_t count, size_t g, const float* lo, const float* hi);
  // Whether rescale() may be called: scales are any numbers of their dtype, each of one row.
  bool free_scales() const;
  // Scales of these rows, and what became of them: rounded to their dtype; unchanged where that is
  // not finite, 0, or of the other sign.
  void rescale(size_t row, size_t count, size_t g, float* scale);
  // All scales of rows [first, first + count), w [count, cols]: whole blocks where scales span
  // rows. weight [cols], or empty.
  void fit_rows(const float* w, size_t first, size_t count, std::span<const float> weight, Fit how,
                std::vector<float>& room);
  // Rounded quotients of these rows under their scales; q may be w.
  void round_rows(const float* w, size_t first, size_t count, float* q,
                  std::vector<float>& room) const;
  // The same of the whole matrix, in parallel.
  void fit_all(const float* w, std::span<const float> weight, Fit how);
  void round_all(const float* w, float* q) const;
  // All scales by search, for the least error of the output, d^T H d summed over groups (AWQ's clip
  // search): h [cols, cols], the second moments of the inputs, lower triangle. Of groups of more
  // than 256 columns and scales that span rows the diagonal alone counts.
  void fit_by_moments(const float* w, const float* h);
  // The first row with a scale that is not finite: weights too large for the dtype of the scales.
  std::optional<size_t> overflow() const;
  // Whose scales column c reads.
  size_t group_of(size_t c) const {
    return g_idx_.empty() ? c / group_ : static_cast<size_t>(g_idx_[c]);
  }
  bool in_order() const { return g_idx_.empty(); }  // groups are of neighbours
  // What was fitted, per lane; zero is null for symmetric schemes.
  void lanes(size_t row, size_t g, float* scale, float* zero) const;

  // Rounded quotients q [count, cols] of whole rows to packed codes, code_bytes() a row.
  void encode(const float* q, size_t count, uint8_t* codes) const;
  size_t code_bytes() const;
  // The values that q [cols] of a row stand for.
  void values(const float* q, size_t row, float* out) const;
  SmallParts finish() const;
  // Column c reads the scales of group g_idx[c], instead of c / group().
  void set_g_idx(std::vector<int32_t> g_idx) { g_idx_ = std::move(g_idx); }

 private:
  size_t at(size_t row, size_t g) const;
  float stored(float scale) const;
  size_t rows_unit() const;  // that fit_rows() takes whole
  void search(const float* w, size_t n, size_t row, size_t count, size_t g, const float* weight,
              float* lo, float* hi);
  template <class Error>
  void search_by(const Error& error_of, const float* w, size_t n, size_t row, size_t count,
                 size_t g, float* lo, float* hi);
  void shrink(const float* w, size_t n, size_t row, size_t count, size_t g);
  void fit_blocks(const float* w, size_t first, size_t count, Fit how);
  float block_error(const float* w, size_t cols, size_t n, size_t count, size_t row,
                    size_t g) const;

  const Scheme& scheme_;
  const QuantArgs& args_;
  const numerics::Rules& rules_;
  DType source_;
  size_t rows_, cols_, group_, groups_;
  kernels::Rounding rounding_;
  bool either_sign_ = false;
  float second_stage_ = 0;
  std::vector<float> scale_, zero_;   // effective scales; zero points in the signed domain
  std::vector<uint8_t> small_codes_;  // E4M3 or E8M0
  std::vector<int32_t> g_idx_;
};

}  // namespace qp
