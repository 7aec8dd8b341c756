// Llama 2 and 3, SmolLM2, TinyLlama, Yi.
#include "lib/arch/decoder.h"

namespace qp::arch {
namespace {

class Llama : public Decoder {
 public:
  Llama(const ModelConfig& config, const engine::WeightSource& weights)
      : Decoder(config, weights, {}) {}
};

}  // namespace

extern const Family k_llama;
const Family k_llama = {"llama", {"LlamaForCausalLM"}, make_decoder<Llama>};

}  // namespace qp::arch
