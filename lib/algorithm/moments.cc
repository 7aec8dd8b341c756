#include "lib/algorithm/moments.h"

#include <algorithm>

namespace qp {

MomentSum::MomentSum(size_t k, size_t block, gemm::Precision precision)
    : k_(k), block_(block), precision_(precision) {
  moments_.k = k;
}

uint64_t MomentSum::bytes(size_t k, size_t block) {
  return (uint64_t{k} * k + uint64_t{k} * block) * sizeof(float);
}

void MomentSum::add(engine::ConstMatrix x) {
  if (moments_.h.empty()) moments_.h.resize(k_ * k_);
  rows_ += x.rows;
  size_t r = 0;
  while (r < x.rows) {
    if (held_ == 0 && x.rows - r >= block_) {  // whole blocks need no copy
      gemm::rank_update_lower(precision_, x.row(r), x.cols, block_, k_, moments_.h.data(), k_);
      r += block_;
      continue;
    }
    size_t n = std::min(block_ - held_, x.rows - r);
    room_.resize(block_ * k_);
    std::copy(x.row(r), x.row(r) + n * k_, room_.data() + held_ * k_);
    held_ += n;
    r += n;
    if (held_ == block_) flush();
  }
}

void MomentSum::flush() {
  if (held_ > 0) gemm::rank_update_lower(precision_, room_.data(), k_, held_, k_, moments_.h.data(), k_);
  held_ = 0;
}

gptq::Moments MomentSum::take() {
  flush();
  room_ = {};
  return std::move(moments_);
}

}  // namespace qp
