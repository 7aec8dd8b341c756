// What Qwen2-MoE and Qwen3-MoE share: which layers have experts, and how they are chosen.
#pragma once

#include <algorithm>

#include "lib/arch/moe.h"

namespace qp::arch {

class QwenMoe : public MoeDecoder {
 public:
  QwenMoe(const ModelConfig& config, const engine::WeightSource& weights, const Traits& traits)
      : MoeDecoder(config, weights, traits), dense_(config.counts("mlp_only_layers")) {
    step_ = config.count("decoder_sparse_step", 1);
    if (step_ == 0) throw config.wrong("decoder_sparse_step", "is 0");
    // Files that transformers 5 wrote say num_local_experts.
    const char* key = config.has("num_experts") ? "num_experts" : "num_local_experts";
    route_.experts = config.count(key, 0);
    if (route_.experts == 0) return;  // dense
    route_.top_k = config.count("num_experts_per_tok");
    route_.normalize = config.flag("norm_topk_prob", false);
    expert_inner_ = config.count("moe_intermediate_size");
  }

 protected:
  bool sparse(size_t i) const override {
    bool dense = std::find(dense_.begin(), dense_.end(), i) != dense_.end();
    return !dense && route_.experts > 0 && (i + 1) % step_ == 0;
  }

 private:
  std::vector<size_t> dense_;
  size_t step_ = 1;
};

}  // namespace qp::arch
