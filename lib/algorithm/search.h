// Scales that are searched for, group by group, instead of taken from the range: `mse` shrinks the
// range while the squared error falls (the clip search of GPTQ's quantizers,
// reference/int4-formats.md 2.1); `hqq` moves zero points, or the scales of symmetric schemes, to
// the mean that errors beyond a soft threshold do not pull (Badri and Shaji, "Half-Quadratic
// Quantization"; the same page, 2.8), with zero points kept whole, as checkpoints store them.
#pragma once

#include "lib/algorithm/grid.h"
#include "lib/algorithm/quantizer.h"

namespace qp {

class SearchQuantizer : public Quantizer {
 public:
  SearchQuantizer(const Store& store, const Tensor& tensor, const Scheme& scheme, float range,
                  Fit fit, ScaleSign sign);
  void chunk(const std::byte* rows, uint64_t first, uint64_t count, RowsScratch& scratch) override;
  uint64_t code_bytes() const override { return grid_.code_bytes(); }
  SmallParts finish() const override;

 private:
  const Store& store_;
  const Tensor& t_;
  Grid grid_;
  Fit fit_;
};

}  // namespace qp
