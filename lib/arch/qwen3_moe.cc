// Qwen3-MoE: Qwen3 with experts.
#include "lib/arch/qwen_moe.h"

namespace qp::arch {
namespace {

class Qwen3Moe : public QwenMoe {
 public:
  Qwen3Moe(const ModelConfig& config, const engine::WeightSource& weights)
      : QwenMoe(config, weights, {.default_kv_heads = 4}) {
    if (config.flag("use_sliding_window", false)) window_ = config.count("sliding_window", 4096);
  }

 protected:
  Qkv project(Graph& g, Value x, const std::string& module) const override {
    return project_normed(g, x, module);
  }
};

}  // namespace

extern const Family k_qwen3_moe;
const Family k_qwen3_moe = {"qwen3_moe", {"Qwen3MoeForCausalLM"}, make_decoder<Qwen3Moe>};

}  // namespace qp::arch
