// What most families share: the names and sizes of a decoder, and the wiring of its common blocks.
// A family derives from Decoder and says what differs.
#pragma once

#include "lib/arch/arch.h"
#include "lib/engine/ops/attention.h"
#include "lib/engine/ops/elementwise.h"
#include "lib/engine/ops/norm.h"
#include "lib/engine/ops/rope.h"

namespace qp::arch {

using engine::Graph;
using engine::Value;
using Rotation = std::shared_ptr<const engine::Rotary>;

// What a family calls things in config.json and in the checkpoint, and what it takes where
// config.json is silent.
struct Traits {
  // Keys of config.json.
  const char* layers = "num_hidden_layers";
  const char* hidden = "hidden_size";
  const char* heads = "num_attention_heads";
  const char* inner = "intermediate_size";
  const char* act = "hidden_act";
  const char* eps = "rms_norm_eps";
  // Names under the prefix.
  const char* table = "embed_tokens";
  const char* stack = "layers";
  const char* final_norm = "norm";
  const char* attention_out = "o_proj";

  engine::NormSpec norm;
  const char* default_act = "silu";
  double theta = 10000;         // of the rotation over whole heads; 0: the family makes its own
  size_t default_heads = 0, default_kv_heads = 0;  // 0: required; as many as heads
  size_t default_head_dim = 0;  // 0: hidden / heads
  size_t inner_per_hidden = 0;  // 0: the inner size is required
  bool qkv_bias = false;        // q, k and v have biases, whatever attention_bias says
  bool tied = false;            // logits by the token table
};

class Decoder : public Architecture {
 public:
  Decoder(const ModelConfig& config, const engine::WeightSource& weights, Traits traits);

  Graph embedding() const override;
  Graph final_norm() const override;
  // Pre-norm block: x += attention(norm(x)); x += mlp(norm(x)).
  Graph layer(size_t i) const override;
  std::string layer_name(size_t i) const override;

 protected:
  struct Qkv {
    Value q, k, v;
  };
  // The parts of a layer; x is normed where the family norms before.
  virtual Value attention(Graph& g, Value x, size_t i) const;
  virtual Value mlp(Graph& g, Value x, size_t i) const;
  // Queries, keys and values before they turn: projections q_proj, k_proj, v_proj of `module`.
  virtual Qkv project(Graph& g, Value x, const std::string& module) const;
  virtual Rotation rotary(size_t) const { return rotary_; }  // of a layer; null: none
  size_t window(size_t i) const { return sliding_.empty() || sliding_[i] ? window_ : 0; }

  // Sub-blocks that families compose. `module` is the full name without ".weight".
  Value norm(Graph& g, Value x, const std::string& module) const;
  Value head_norm(Graph& g, Value x, const std::string& module) const;  // over each head
  // A bias is added where one is stored; with `bias` it has to be.
  Value linear(Graph& g, Value x, const std::string& module, size_t out, bool bias = false) const;
  // Queries and keys, each head normed on its own by q_norm and k_norm.
  Qkv project_normed(Graph& g, Value x, const std::string& module) const;
  Value gated_mlp(Graph& g, Value x, const std::string& module, size_t inner) const;
  Value add(Graph& g, Value x, Value branch) const;
  // Columns [first, first + count) of x.
  Value columns(Graph& g, Value x, size_t first, size_t count) const;
  // Layers that see only `window` keys: those that layer_types says, else `rule`.
  void slide(size_t window, const std::function<bool(size_t)>& rule);

  const Traits traits_;
  const std::string prefix_;  // "model."
  const ModelConfig config_;
  const engine::WeightSource& weights_;
  size_t heads_, kv_heads_, head_dim_, inner_;
  engine::Act act_;
  engine::NormSpec norm_;
  engine::AttentionSpec attention_;
  Rotation rotary_;
  bool attention_bias_ = false;  // q, k, v and o
  size_t window_ = 0;            // of sliding layers; 0: none
  std::vector<bool> sliding_;    // by layer; empty: all
  float embed_scale_ = 1;

 private:
  void read_attention();
  void find_head();
};

template <class T>
std::unique_ptr<Architecture> make_decoder(const ModelConfig& config,
                                           const engine::WeightSource& weights) {
  return std::make_unique<T>(config, weights);
}

}  // namespace qp::arch
