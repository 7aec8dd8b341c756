// Qwen1.5-MoE and Qwen2-MoE: beside the experts one that every token sees, through a gate.
#include "lib/ggml/families/qwen_moe.h"
#include "lib/ggml/rules.h"

namespace qp::ggml {
namespace {

constexpr TensorRule kShared[] = {{"ffn_gate_inp_shexp", "mlp.shared_expert_gate"},
                                  {"ffn_gate_shexp", "mlp.shared_expert.gate_proj"},
                                  {"ffn_up_shexp", "mlp.shared_expert.up_proj"},
                                  {"ffn_down_shexp", "mlp.shared_expert.down_proj"}};

}  // namespace

const Family& qwen2_moe_family() {
  static const Family family = {
      .arch = "qwen2moe",
      .architectures = {"Qwen2MoeForCausalLM"},
      .model_type = "qwen2_moe",
      .model = joined({kModelRules}),
      .layer = joined({kPreNormRules, kAttentionRules, kExpertRules, kShared}),
      .describe =
          [](const Config& c, Metadata& out) {
            if (c.flag("norm_topk_prob", false)) {
              throw c.wrong("norm_topk_prob",
                            "is true, but llama.cpp does not normalize the experts' weights");
            }
            describe_qwen_moe(c, {.says_head_dim = false}, out);
            uint64_t shared = c.count({"shared_expert_intermediate_size"}).value_or(5632);
            out.count("expert_shared_feed_forward_length", shared);
          },
      .restore =
          [](const Restored& in, Json& config) {
            restore_qwen_moe(in, config);
            config["norm_topk_prob"] = false;
            restore_key(in, "expert_shared_feed_forward_length", "shared_expert_intermediate_size",
                        config, true);
          },
  };
  return family;
}

}  // namespace qp::ggml
