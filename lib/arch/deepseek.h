// What DeepSeek-V2 and V3 share: latent attention (MLA), experts beside one that every token sees,
// dense first layers. The layer behind the last, which predicts several tokens, is not run.
#pragma once

#include <utility>

#include "lib/arch/moe.h"

namespace qp::arch {

class DeepSeek : public MoeDecoder {
 public:
  DeepSeek(const ModelConfig& config, const engine::WeightSource& weights);

 protected:
  Value attention(Graph& g, Value x, size_t i) const override;
  bool sparse(size_t i) const override { return i >= dense_; }
  Value shared(Graph& g, Value x, Value y, const std::string& module) const override;

  bool interleaved_ = true;  // components (2i, 2i+1) turn together

 private:
  Value queries(Graph& g, Value x, const std::string& module) const;
  std::pair<Value, Value> spread(Graph& g, Value latent, const std::string& module) const;

  size_t dense_, shared_experts_;
  size_t q_rank_, kv_rank_;          // of the latents; q_rank_ 0: queries have none
  size_t nope_, rope_, value_;       // of a head: still and turning part of queries and keys, values
  engine::NormSpec latent_norm_;
};

}  // namespace qp::arch
