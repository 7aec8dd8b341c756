// Qwen3-MoE: Qwen3 with experts.
#include "lib/ggml/families/qwen_moe.h"
#include "lib/ggml/rules.h"

namespace qp::ggml {

void describe_qwen_moe(const Config& config, const Defaults& defaults, Metadata& out) {
  const Json* dense = config.find("mlp_only_layers");
  bool some = dense != nullptr && dense->is_array() && !dense->empty();
  if (some || config.count({"decoder_sparse_step"}).value_or(1) != 1) {
    throw limit_error("has layers without experts, which llama.cpp has no name for")
        .file("config.json");
  }
  describe_decoder(config, defaults, out);
  out.count("expert_feed_forward_length", config.need("moe_intermediate_size"));
}

void restore_qwen_moe(const Restored& in, Json& config) {
  restore_decoder(in, config);
  restore_key(in, "expert_count", "num_experts", config, true);
  restore_key(in, "expert_used_count", "num_experts_per_tok", config, true);
  restore_key(in, "expert_feed_forward_length", "moe_intermediate_size", config, true);
  config["decoder_sparse_step"] = 1;
}

const Family& qwen3_moe_family() {
  static const Family family = {
      .arch = "qwen3moe",
      .architectures = {"Qwen3MoeForCausalLM"},
      .model_type = "qwen3_moe",
      .model = joined({kModelRules}),
      .layer = joined({kPreNormRules, kAttentionRules, kHeadNormRules, kExpertRules}),
      .describe =
          [](const Config& c, Metadata& out) {
            if (!c.flag("norm_topk_prob", false)) {
              throw c.wrong("norm_topk_prob",
                            "is false, but llama.cpp normalizes the experts' weights");
            }
            describe_qwen_moe(c, {.kv_heads = 4, .says_head_dim = true}, out);
          },
      .restore =
          [](const Restored& in, Json& config) {
            restore_qwen_moe(in, config);
            config["norm_topk_prob"] = true;
          },
  };
  return family;
}

}  // namespace qp::ggml
