#include "lib/eval/head.h"

#include <algorithm>

#include "lib/engine/ops/rows.h"
#include "lib/kernels/forward.h"

namespace qp {

Head::Head(const arch::Architecture& model, const engine::WeightSource& weights,
           gemm::Precision precision)
    : model_(model), weights_(weights), precision_(precision), final_norm_(model.final_norm()) {
  for (const engine::Node& node : final_norm_.nodes()) {
    norm_weights_.emplace_back();
    for (const engine::WeightUse& use : node.op->weights) {
      norm_weights_.back().push_back(weights.load(use, precision));
    }
  }
}

void Head::norm(const float* hidden, size_t rows, float* normed) const {
  engine::Batch batch;
  batch.tokens.resize(rows);
  batch.starts = {0, rows};
  engine::Pool pool;
  engine::Values values(final_norm_, pool, rows);
  engine::Matrix in = values.make(0);
  std::copy(hidden, hidden + rows * in.cols, in.data);
  engine::run(final_norm_, 0, final_norm_.nodes().size(), engine::Step{batch, precision_},
              norm_weights_, values, false);
  engine::Matrix out = values.make(final_norm_.output());
  std::copy(out.data, out.data + rows * out.cols, normed);
}

void Head::load(size_t block) {
  if (block_ == block) return;
  block_ = block;
  engine::WeightUse use = model_.head;
  use.part = true;
  use.first_row = first();
  use.rows = width();
  weight_ = weights_.load(use, precision_);
}

void Head::logits(const float* normed, size_t rows, float* out) const {
  size_t n = width();
  gemm::multiply(normed, model_.hidden, rows, weight_.packed, nullptr, out, n, false);
  if (model_.logit_softcap <= 0) return;
  engine::for_rows(rows, [&](size_t r) {
    kernels::forward().softcap(out + r * n, n, model_.logit_softcap);
  });
}

}  // namespace qp
