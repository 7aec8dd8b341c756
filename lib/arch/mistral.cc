// Mistral, Mistral-Nemo, and Ministral: Llama with a sliding window on every layer, or on those
// that layer_types names. In Mistral3ForConditionalGeneration, the language tower.
#include "lib/arch/decoder.h"

namespace qp::arch {
namespace {

class Mistral : public Decoder {
 public:
  Mistral(const ModelConfig& config, const engine::WeightSource& weights)
      : Decoder(config, weights, {.default_kv_heads = 8}) {
    size_t window = config.is_null("sliding_window") ? 0 : config.count("sliding_window", 4096);
    std::string type = config.text("model_type", "");
    if (type == "ministral3") {  // scales queries by their position
      throw config.wrong("model_type", "is '" + type + "', which cannot be run");
    }
    if (type == "ministral") {
      slide(window, [&](size_t) { return window > 0; });
    } else {
      window_ = window;
    }
  }
};

}  // namespace

extern const Family k_mistral;
const Family k_mistral = {
    "mistral",
    {"MistralForCausalLM", "MinistralForCausalLM", "Mistral3ForConditionalGeneration"},
    make_decoder<Mistral>};

}  // namespace qp::arch
