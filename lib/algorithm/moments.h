// Sums of x x^T over the rows that enter a linear.
#pragma once

#include "lib/algorithm/gptq.h"
#include "lib/engine/matrix.h"
#include "lib/gemm/gemm.h"

namespace qp {

class MomentSum {
 public:
  // Rows are summed `block` at a time from the first on, however they come, so batches change no
  // bit.
  MomentSum(size_t k, size_t block, gemm::Precision precision);
  void add(engine::ConstMatrix x);
  // And of (full - x) x^T: `full` is what would enter if no weight were quantized.
  void add(engine::ConstMatrix x, const std::vector<float>& full);
  // After the last row.
  gptq::Moments take();
  size_t rows() const { return rows_; }
  static uint64_t bytes(size_t k, size_t block);

 private:
  void flush();

  size_t k_, block_, rows_ = 0, held_ = 0;
  gemm::Precision precision_;
  std::vector<float> room_, drift_;  // of a block
  gptq::Moments moments_;
};

}  // namespace qp
