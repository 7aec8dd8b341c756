// Gemma 2: caps on scores and logits, a sliding window on every other layer.
#include "lib/arch/gemma.h"

namespace qp::arch {
namespace {

class Gemma2 : public Gemma {
 public:
  Gemma2(const ModelConfig& config, const engine::WeightSource& weights) : Gemma(config, weights) {
    rotary_ = config.rotary(head_dim_, 10000);
    attention_.softcap = cap("attn_logit_softcapping", 50);
    logit_softcap = cap("final_logit_softcapping", 30);
    slide(config.count("sliding_window", 4096), [](size_t i) { return i % 2 == 0; });
  }

 private:
  // null: no cap.
  float cap(const char* key, double otherwise) const {
    return static_cast<float>(config_.is_null(key) ? 0 : config_.number(key, otherwise));
  }
};

}  // namespace

extern const Family k_gemma2;
const Family k_gemma2 = {"gemma2", {"Gemma2ForCausalLM"}, make_decoder<Gemma2>};

}  // namespace qp::arch
