// SmolLM3: Llama in which every fourth layer does not turn its queries and keys.
#include "lib/arch/decoder.h"

namespace qp::arch {
namespace {

class SmolLm3 : public Decoder {
 public:
  SmolLm3(const ModelConfig& config, const engine::WeightSource& weights)
      : Decoder(config, weights, {.theta = 2e6, .default_kv_heads = 4, .tied = true}),
        turns_(config.counts("no_rope_layers")) {
    size_t interval = config.count("no_rope_layer_interval", 4);
    if (interval == 0) throw config.wrong("no_rope_layer_interval", "is 0");
    for (size_t i = 0; turns_.size() < layers && !config.has("no_rope_layers"); ++i) {
      turns_.push_back((i + 1) % interval != 0 ? 1 : 0);
    }
    if (turns_.size() != layers) {
      throw config.wrong("no_rope_layers", "is no list of " + std::to_string(layers) + " layers");
    }
    bool slides = config.flag("use_sliding_window", false) && config.has("sliding_window");
    slide(slides ? config.count("sliding_window", 0) : 0,
          [&](size_t i) { return slides && turns_[i] == 0; });
  }

 protected:
  Rotation rotary(size_t i) const override { return turns_[i] != 0 ? rotary_ : nullptr; }

 private:
  std::vector<size_t> turns_;  // no_rope_layers: 1 where a layer turns, despite the name
};

}  // namespace

extern const Family k_smollm3;
const Family k_smollm3 = {"smollm3", {"SmolLM3ForCausalLM"}, make_decoder<SmolLm3>};

}  // namespace qp::arch
