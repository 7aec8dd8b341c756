// Qwen2 and Qwen2.5: Llama with biases on q, k and v.
#include "lib/arch/qwen.h"

namespace qp::arch {
namespace {

class Qwen2 : public Qwen {
 public:
  Qwen2(const ModelConfig& config, const engine::WeightSource& weights)
      : Qwen(config, weights, {.qkv_bias = true}) {}
};

}  // namespace

extern const Family k_qwen2;
const Family k_qwen2 = {"qwen2", {"Qwen2ForCausalLM"}, make_decoder<Qwen2>};

}  // namespace qp::arch
