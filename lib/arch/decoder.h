// What most families share: the names and sizes of a decoder, and the wiring of its common blocks.
// A family derives from Decoder and says what differs.
#pragma once

#include <functional>

#include "lib/arch/arch.h"
#include "lib/engine/ops/attention.h"
#include "lib/engine/ops/elementwise.h"
#include "lib/engine/ops/moe.h"
#include "lib/engine/ops/norm.h"

namespace qp::arch {

using engine::Graph;
using engine::Value;

class Decoder : public Architecture {
 public:
  Decoder(const ModelConfig& config, const engine::WeightSource& weights);

  Graph embedding() const override;
  Graph final_norm() const override;
  // Pre-norm block: x += attention(norm(x)); x += mlp(norm(x)).
  Graph layer(size_t i) const override;
  std::string layer_name(size_t i) const override;

 protected:
  // The parts of a layer; x is normed where the family norms before.
  virtual Value attention(Graph& g, Value x, size_t i) const;
  virtual Value mlp(Graph& g, Value x, size_t i) const;

  // Sub-blocks that families compose. `module` is the full name without ".weight".
  Value norm(Graph& g, Value x, const std::string& module) const;
  Value head_norm(Graph& g, Value x, const std::string& module) const;  // over each head
  Value linear(Graph& g, Value x, const std::string& module, size_t out) const;  // bias if stored
  // q, k and v projections named q_proj .. under `prefix`.
  struct Qkv {
    Value q, k, v;
  };
  Qkv project(Graph& g, Value x, const std::string& prefix) const;
  void rotate(Graph& g, Qkv& qkv, const std::shared_ptr<const engine::Rotary>& rotary) const;
  // Attention over them, then o_proj.
  Value attend(Graph& g, const Qkv& qkv, const std::string& prefix, size_t window = 0) const;
  Value gated_mlp(Graph& g, Value x, const std::string& prefix, size_t inner) const;
  // Experts 0 .. n-1 named by `prefix` + ".experts": separate ones, or stacked in one tensor.
  struct Names {
    const char *gate = "gate_proj", *up = "up_proj", *down = "down_proj";
  };
  Value experts(Graph& g, Value x, Value route, const std::string& prefix, size_t n, size_t top_k,
                size_t inner, Names names) const;
  Value residual(Graph& g, Value x, Value branch) const;

  std::string prefix_;  // "model."
  ModelConfig config_;
  const engine::WeightSource& weights_;
  size_t heads_, kv_heads_, head_dim_, inner_;
  engine::Act act_;
  engine::NormSpec norm_;
  engine::AttentionSpec attention_;
  std::shared_ptr<const engine::Rotary> rotary_;
  size_t window_ = 0;     // sliding window of every layer; 0: none
  float embed_scale_ = 1;
};

template <class T>
std::unique_ptr<Architecture> make_decoder(const ModelConfig& config,
                                           const engine::WeightSource& weights) {
  return std::make_unique<T>(config, weights);
}

}  // namespace qp::arch
