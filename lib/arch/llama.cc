// Llama and what is built like it: Llama 2 and 3, SmolLM2, TinyLlama, Yi, Mistral.
#include "lib/arch/decoder.h"

namespace qp::arch {
namespace {

class Llama : public Decoder {
 public:
  Llama(const ModelConfig& config, const engine::WeightSource& weights)
      : Decoder(config, weights) {
    rotary_ = config.rotary(head_dim_, 10000);
    // Mistral: every layer, unless the key is null.
    if (config.text("model_type", "") == "mistral") window_ = config.count("sliding_window", 0);
  }
};

}  // namespace

extern const Family k_llama;
const Family k_llama = {"llama", {"LlamaForCausalLM", "MistralForCausalLM"}, make_decoder<Llama>};

}  // namespace qp::arch
