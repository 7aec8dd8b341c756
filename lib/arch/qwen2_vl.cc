// The language towers of Qwen2-VL and Qwen2.5-VL: Qwen2. The three position ids of M-RoPE are equal
// for text, which makes it a common rotation.
#include "lib/arch/qwen.h"

namespace qp::arch {
namespace {

class Qwen2Vl : public Qwen {
 public:
  Qwen2Vl(const ModelConfig& config, const engine::WeightSource& weights)
      : Qwen(config, weights, {.norm = {.eps = 1e-5f}, .theta = 1e6, .qkv_bias = true}) {}
};

}  // namespace

extern const Family k_qwen2_vl;
const Family k_qwen2_vl = {
    "qwen2_vl",
    {"Qwen2VLForConditionalGeneration", "Qwen2_5_VLForConditionalGeneration"},
    make_decoder<Qwen2Vl>};

}  // namespace qp::arch
