// From hidden states to logits, a block of the vocabulary at a time: a full row of logits for every
// token of a text would not fit anywhere.
#pragma once

#include <memory>
#include <vector>

#include "lib/arch/arch.h"
#include "lib/engine/graph.h"

namespace qp {

class Head {
 public:
  // Tokens of the vocabulary per block: fixed, so that no result depends on memory.
  static constexpr size_t kBlock = 8192;

  Head(const arch::Architecture& model, const engine::WeightSource& weights,
       gemm::Precision precision);

  size_t vocab() const { return model_.head.rows; }
  size_t blocks() const { return (vocab() + kBlock - 1) / kBlock; }
  // hidden [rows, hidden] -> normed, of the same shape.
  void norm(const float* hidden, size_t rows, float* normed) const;
  // Loads the weights of a block; logits() then are those of tokens [first(), first() + width()).
  void load(size_t block);
  size_t first() const { return block_ * kBlock; }
  size_t width() const { return std::min(kBlock, vocab() - first()); }
  // normed [rows, hidden] -> out [rows, width()], softcap applied.
  void logits(const float* normed, size_t rows, float* out) const;

 private:
  const arch::Architecture& model_;
  const engine::WeightSource& weights_;
  gemm::Precision precision_;
  engine::Graph final_norm_;
  std::vector<std::vector<engine::Weight>> norm_weights_;
  engine::Weight weight_;
  size_t block_ = static_cast<size_t>(-1);
};

}  // namespace qp
