// gpt-oss: attention sinks, a sliding window on every other layer, experts stored [in, out] with
// gate and up in alternating columns (or experts apart, [out, in], in quantized checkpoints).
#include "lib/arch/moe.h"

namespace qp::arch {
namespace {

using engine::Form;

class GptOss : public MoeDecoder {
 public:
  GptOss(const ModelConfig& config, const engine::WeightSource& weights)
      : MoeDecoder(config, weights,
                   {.norm = {.eps = 1e-5f},
                    .theta = 150000,
                    .default_kv_heads = 8,
                    .default_head_dim = 64,
                    .qkv_bias = true}) {
    attention_.sinks = "sinks";
    attention_bias_ = config.flag("attention_bias", true);
    slide(config.count("sliding_window", 128), [](size_t i) { return i % 2 == 0; });
    // Files that transformers 5 wrote may say num_experts.
    const char* key = config.has("num_local_experts") ? "num_local_experts" : "num_experts";
    route_.experts = config.count(key);
    route_.top_k = config.count("num_experts_per_tok");
    route_.score = engine::RouteSpec::Score::softmax_of_chosen;
    router_ = "router";
    router_bias_ = true;
    expert_inner_ = inner_;
    limit_ = config.number("swiglu_limit", 7);
    if (!(limit_ > 0)) throw config.wrong("swiglu_limit", "is not above 0");
    if (config.number("swiglu_alpha", 1.702) != 1.702) {
      throw config.wrong("swiglu_alpha", "is not 1.702");
    }
    if (std::string packed = block(0) + ".experts.gate_up_proj_blocks"; weights.has(packed)) {
      throw input_error("holds experts in MXFP4, which cannot be run")
          .file(weights.store().label())
          .tensor(packed)
          .hint("use the model's BF16 form");
    }
  }

 protected:
  engine::ExpertSpec expert(const std::string& module, size_t e) const override {
    engine::ExpertSpec spec = expert_spec(e);
    size_t inner = spec.inner;
    spec.clamp = static_cast<float>(limit_);
    std::string both = module + ".experts.gate_up_proj", down = module + ".experts.down_proj";
    std::string own = module + ".experts." + std::to_string(e) + ".";
    if (weights_.has(own + "gate_proj.weight")) {  // apart, as quantized checkpoints have them
      for (size_t m = 0; m < parts_.size(); ++m) {
        size_t rows = m == 2 ? hidden : inner, cols = m == 2 ? inner : hidden;
        spec.modules.push_back(own + parts_[m]);
        spec.matrices.push_back({spec.modules[m] + ".weight", Form::matrix, rows, cols});
        spec.biases.push_back({spec.modules[m] + ".bias", Form::values, 1, rows});
      }
      return spec;
    }
    check_stack(both, hidden, 2 * inner);
    check_stack(down, inner, hidden);
    spec.matrices = {{both, Form::matrix, 2 * inner, hidden, true, true, e * hidden},
                     {down, Form::matrix, hidden, inner, true, true, e * inner}};
    spec.biases = {{both + "_bias", Form::values, 1, 2 * inner, false, true, e},
                   {down + "_bias", Form::values, 1, hidden, false, true, e}};
    std::string at = "[" + std::to_string(e) + "]";
    spec.modules = {both + at, down + at};
    return spec;
  }

 private:
  double limit_;
};

}  // namespace

extern const Family k_gpt_oss;
const Family k_gpt_oss = {"gpt_oss", {"GptOssForCausalLM"}, make_decoder<GptOss>};

}  // namespace qp::arch
