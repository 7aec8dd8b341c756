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

void MomentSum::add(engine::ConstMatrix x, const std::vector<float>& full) {
  moments_.h.resize(k_ * k_);
  moments_.drift.resize(k_ * k_);
  room_.resize(block_ * k_);
  drift_.resize(block_ * k_);
  rows_ += x.rows;
  for (size_t r = 0; r < x.rows; ++r) {
    const float* now = x.row(r);
    std::copy(now, now + k_, room_.data() + held_ * k_);
    for (size_t c = 0; c < k_; ++c) drift_[held_ * k_ + c] = full[r * k_ + c] - now[c];
    if (++held_ == block_) flush();
  }
}

void MomentSum::flush() {
  if (held_ > 0)
    gemm::rank_update_lower(precision_, room_.data(), k_, held_, k_, moments_.h.data(), k_);
  if (held_ > 0 && !moments_.drift.empty()) {
    gemm::product(precision_, k_, k_, held_, 1, {drift_.data(), k_, true}, {room_.data(), k_},
                  moments_.drift.data(), k_, true);
  }
  held_ = 0;
}

gptq::Moments MomentSum::take() {
  flush();
  room_ = {};
  drift_ = {};
  moments_.rows = rows_;
  return std::move(moments_);
}

}  // namespace qp
