// Gemma 3, text alone or the language tower of the multimodal models: queries and keys are normed
// head by head, and sliding layers turn by other angles than full ones.
#include "lib/arch/gemma.h"

namespace qp::arch {
namespace {

class Gemma3 : public Gemma {
 public:
  Gemma3(const ModelConfig& config, const engine::WeightSource& weights) : Gemma(config, weights) {
    rotary_ = config.rotary(head_dim_, 1e6, "full_attention");
    local_ = config.rotary(head_dim_, config.number("rope_local_base_freq", 10000),
                           "sliding_attention");
    size_t pattern = config.count("sliding_window_pattern", 6);
    if (pattern == 0) throw config.wrong("sliding_window_pattern", "is 0");
    slide(config.count("sliding_window", 4096), [&](size_t i) { return (i + 1) % pattern != 0; });
  }

 protected:
  Qkv project(Graph& g, Value x, const std::string& module) const override {
    return project_normed(g, x, module);
  }
  Rotation rotary(size_t i) const override { return sliding_[i] ? local_ : rotary_; }

 private:
  Rotation local_;
};

}  // namespace

extern const Family k_gemma3;
const Family k_gemma3 = {
    "gemma3", {"Gemma3ForCausalLM", "Gemma3ForConditionalGeneration"}, make_decoder<Gemma3>};

}  // namespace qp::arch
