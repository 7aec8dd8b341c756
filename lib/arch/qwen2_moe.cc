// Qwen1.5-MoE and Qwen2-MoE: beside the experts one that every token sees, through a gate.
#include "lib/arch/qwen_moe.h"

namespace qp::arch {
namespace {

class Qwen2Moe : public QwenMoe {
 public:
  Qwen2Moe(const ModelConfig& config, const engine::WeightSource& weights)
      : QwenMoe(config, weights, {.qkv_bias = config.flag("qkv_bias", true)}) {
    shared_inner_ = config.count("shared_expert_intermediate_size", 5632);
    bool slides = config.flag("use_sliding_window", false);
    size_t until = config.count("max_window_layers", 28);
    slide(slides ? config.count("sliding_window", 4096) : 0,
          [&](size_t i) { return slides && i % 2 == 0 && i < until; });
  }

 protected:
  Value shared(Graph& g, Value x, Value y, const std::string& module) const override {
    Value all = gated_mlp(g, x, module + ".shared_expert", shared_inner_);
    Value gate = linear(g, x, module + ".shared_expert_gate", 1);
    return add(g, y, g.make<engine::SigmoidScale>({all, gate}, hidden));
  }

 private:
  size_t shared_inner_;
};

}  // namespace

extern const Family k_qwen2_moe;
const Family k_qwen2_moe = {"qwen2_moe", {"Qwen2MoeForCausalLM"}, make_decoder<Qwen2Moe>};

}  // namespace qp::arch
