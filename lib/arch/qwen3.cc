// Qwen3: Llama whose queries and keys are normed head by head before they turn.
#include "lib/arch/qwen.h"

namespace qp::arch {
namespace {

class Qwen3 : public Qwen {
 public:
  Qwen3(const ModelConfig& config, const engine::WeightSource& weights)
      : Qwen(config, weights, {.default_head_dim = 128}) {}

 protected:
  Qkv project(Graph& g, Value x, const std::string& module) const override {
    return project_normed(g, x, module);
  }
};

}  // namespace

extern const Family k_qwen3;
const Family k_qwen3 = {"qwen3", {"Qwen3ForCausalLM"}, make_decoder<Qwen3>};

}  // namespace qp::arch
