// Causal attention with grouped key/value heads, sliding windows, score caps and sinks.
#pragma once

#include <string>

#include "lib/engine/op.h"

namespace qp::engine {

struct AttentionSpec {
  size_t heads = 1, kv_heads = 1;      // query head h reads key/value head h / (heads / kv_heads)
  size_t head_dim = 1, value_dim = 1;  // of q and k; of v
  float scale = 1;                     // of the scores
  float softcap = 0;                   // > 0: scores = softcap * tanh(scores / softcap)
  size_t window = 0;                   // > 0: a query sees this many keys, itself included
  std::string sinks;                   // a tensor [heads]: one more logit whose share is dropped
  std::string name;                    // of the block, for the hook: "model.layers.3.self_attn"
};

// Inputs q [heads * head_dim], k [kv_heads * head_dim], v [kv_heads * value_dim]; result
// [heads * value_dim]. Each window sees only itself.
class Attention : public Op {
 public:
  explicit Attention(AttentionSpec spec);
  size_t width() const override { return spec_.heads * spec_.value_dim; }
  const AttentionSpec& spec() const { return spec_; }
  std::vector<size_t> inputs() const override;
  std::vector<uint32_t> carries(size_t input) const override;  // of the values
  void forward(const Step& step, std::span<const ConstMatrix> in, Matrix out) const override;
  void backward(const Step& step, std::span<const ConstMatrix> in, ConstMatrix dout,
                std::span<const Matrix> din) const override;

 private:
  struct Block;  // queries of one head
  void probabilities(const Step& step, std::span<const ConstMatrix> in, const Block& block,
                     float* s, float* capped, gemm::Scratch& scratch) const;
  Block block(const Step& step, size_t window, size_t head, size_t index) const;

  AttentionSpec spec_;
};

}  // namespace qp::engine
