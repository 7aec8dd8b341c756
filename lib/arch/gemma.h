// What Gemma 2 and Gemma 3 share: norms that multiply by 1 + w, before and after each part of a
// layer, and embeddings times sqrt(hidden).
#pragma once

#include <cmath>

#include "lib/arch/decoder.h"

namespace qp::arch {

class Gemma : public Decoder {
 public:
  Gemma(const ModelConfig& config, const engine::WeightSource& weights)
      : Decoder(config, weights,
                {.act = "hidden_activation",
                 .norm = {.kind = engine::NormSpec::Kind::rms_plus_one},
                 .default_act = "gelu_pytorch_tanh",
                 .theta = 0,
                 .default_heads = 8,
                 .default_kv_heads = 4,
                 .default_head_dim = 256,
                 .tied = true}) {
    double scalar = config.number("query_pre_attn_scalar", 256);
    if (!(scalar > 0)) throw config.wrong("query_pre_attn_scalar", "is not above 0");
    attention_.scale = static_cast<float>(1 / std::sqrt(scalar));
    embed_scale_ = static_cast<float>(std::sqrt(static_cast<double>(hidden)));
    logit_softcap = static_cast<float>(config.number("final_logit_softcapping", 0));
    if (config.flag("use_bidirectional_attention", false)) {
      throw config.wrong("use_bidirectional_attention", "asks for a mask that is not causal");
    }
  }

  Graph layer(size_t i) const override {
    Graph g(hidden);
    std::string name = layer_name(i);
    Value x = g.input();
    Value a = attention(g, norm(g, x, name + ".input_layernorm"), i);
    x = add(g, x, norm(g, a, name + ".post_attention_layernorm"));
    Value m = mlp(g, norm(g, x, name + ".pre_feedforward_layernorm"), i);
    add(g, x, norm(g, m, name + ".post_feedforward_layernorm"));
    return g;
  }
};

}  // namespace qp::arch
