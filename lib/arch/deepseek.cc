#include "lib/arch/deepseek.h"

#include <cmath>

#include "lib/engine/ops/latent_keys.h"

namespace qp::arch {

DeepSeek::DeepSeek(const ModelConfig& config, const engine::WeightSource& weights)
    : MoeDecoder(config, weights, {.theta = 0, .default_head_dim = 64}),
      dense_(config.count("first_k_dense_replace", 0)),
      shared_experts_(config.count("n_shared_experts", 0)),
      q_rank_(config.is_null("q_lora_rank") ? 0 : config.count("q_lora_rank", 1536)),
      kv_rank_(config.count("kv_lora_rank")), nope_(config.count("qk_nope_head_dim")),
      rope_(config.count("qk_rope_head_dim")), value_(config.count("v_head_dim")) {
  if (rope_ % 2 != 0) throw config.wrong("qk_rope_head_dim", "is odd");
  rotary_ = config.rotary(rope_, 10000);
  latent_norm_.eps = 1e-6f;  // whatever rms_norm_eps says
  // Heads have keys and values of their own, once the latents are spread out.
  attention_.kv_heads = heads_;
  attention_.head_dim = nope_ + rope_;
  attention_.value_dim = value_;
  double scale = 1 / std::sqrt(static_cast<double>(nope_ + rope_));
  double m = rotary_->mscale_all_dim();
  attention_.scale = static_cast<float>(scale * m * m);
  if (dense_ >= layers) return;
  expert_inner_ = config.count("moe_intermediate_size");
  route_.experts = config.count("n_routed_experts");
  route_.top_k = config.count("num_experts_per_tok");
  route_.factor = static_cast<float>(config.number("routed_scaling_factor", 1));
}

Value DeepSeek::queries(Graph& g, Value x, const std::string& module) const {
  size_t width = heads_ * (nope_ + rope_);
  if (q_rank_ == 0) return linear(g, x, module + ".q_proj", width);
  Value latent = linear(g, x, module + ".q_a_proj", q_rank_, attention_bias_);
  latent = g.make<engine::Norm>({latent}, module + ".q_a_layernorm", q_rank_, q_rank_, latent_norm_);
  return linear(g, latent, module + ".q_b_proj", width);
}

// Keys and values of the heads: of one matrix, or of two as llama.cpp has them, apart.
std::pair<Value, Value> DeepSeek::spread(Graph& g, Value latent, const std::string& module) const {
  size_t both = nope_ + value_;
  if (weights_.has(module + ".key.weight")) {
    Value keys =
        g.make<engine::LatentKeys>({latent}, module + ".key.weight", heads_, kv_rank_, nope_);
    return {keys, linear(g, latent, module + ".value", heads_ * value_)};
  }
  Value kv = linear(g, latent, module, heads_ * both);
  return {g.make<engine::SliceHeads>({kv}, heads_, both, size_t{0}, nope_),
          g.make<engine::SliceHeads>({kv}, heads_, both, nope_, value_)};
}

Value DeepSeek::attention(Graph& g, Value x, size_t i) const {
  engine::AttentionSpec spec = attention_;
  spec.name = layer_name(i) + ".self_attn";
  const std::string& module = spec.name;
  Value q = g.make<engine::Rope>({queries(g, x, module)}, rotary_, heads_, nope_ + rope_, nope_,
                                 interleaved_);
  Value both = linear(g, x, module + ".kv_a_proj_with_mqa", kv_rank_ + rope_, attention_bias_);
  Value turning = g.make<engine::Rope>({columns(g, both, kv_rank_, rope_)}, rotary_, size_t{1},
                                       rope_, size_t{0}, interleaved_);
  Value latent = g.make<engine::Norm>({columns(g, both, 0, kv_rank_)}, module + ".kv_a_layernorm",
                                      kv_rank_, kv_rank_, latent_norm_);
  auto [still, v] = spread(g, latent, module + ".kv_b_proj");
  Value k = g.make<engine::ConcatHeads>({still, turning}, heads_, nope_, rope_, true);
  return linear(g, g.make<engine::Attention>({q, k, v}, spec), module + ".o_proj", hidden,
                attention_bias_);
}

Value DeepSeek::shared(Graph& g, Value x, Value y, const std::string& module) const {
  if (shared_experts_ == 0) return y;
  return add(g, y, gated_mlp(g, x, module + ".shared_experts", expert_inner_ * shared_experts_));
}

}  // namespace qp::arch
