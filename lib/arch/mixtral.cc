// Mixtral: Mistral with experts.
#include "lib/arch/moe.h"

namespace qp::arch {
namespace {

class Mixtral : public MoeDecoder {
 public:
  Mixtral(const ModelConfig& config, const engine::WeightSource& weights)
      : MoeDecoder(config, weights,
                   {.norm = {.eps = 1e-5f}, .theta = 1e6, .default_kv_heads = 8}) {
    window_ = config.count("sliding_window", 0);
    expert_inner_ = inner_;
    route_.experts = config.count("num_local_experts");
    route_.top_k = config.count("num_experts_per_tok");
    route_.normalize = true;
    parts_ = {"w1", "w3", "w2"};
  }

 protected:
  std::string block(size_t i) const override {
    std::string module = layer_name(i) + ".block_sparse_moe";
    // As transformers 5 holds it in memory.
    return weights_.has(module + ".gate.weight") ? module : MoeDecoder::block(i);
  }
};

}  // namespace

extern const Family k_mixtral;
const Family k_mixtral = {"mixtral", {"MixtralForCausalLM"}, make_decoder<Mixtral>};

}  // namespace qp::arch
