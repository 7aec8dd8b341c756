// Mixtral: to llama.cpp a Llama with experts.
#include "lib/ggml/families/llama.h"
#include "lib/ggml/rules.h"

namespace qp::ggml {
namespace {

constexpr TensorRule kExperts[] = {{"ffn_gate_inp", "block_sparse_moe.gate"},
                                   {"ffn_gate_exps", "block_sparse_moe.experts.*.w1"},
                                   {"ffn_up_exps", "block_sparse_moe.experts.*.w3"},
                                   {"ffn_down_exps", "block_sparse_moe.experts.*.w2"},
                                   {"ffn_gate_exps", "mlp.experts.*.w1"},
                                   {"ffn_up_exps", "mlp.experts.*.w3"},
                                   {"ffn_down_exps", "mlp.experts.*.w2"}};

}  // namespace

const Family& mixtral_family() {
  static const Family family = {
      .arch = "llama",
      .architectures = {"MixtralForCausalLM"},
      .model_type = "mixtral",
      .model = joined({kModelRules}),
      .layer = joined({kPreNormRules, kRotatedRules, kExperts, kExpertRules}),
      .describe =
          [](const Config& c, Metadata& out) {
            describe_llama(c, {.kv_heads = 8, .says_head_dim = false, .theta = 1e6, .eps = 1e-5},
                           out);
          },
      .compute = llama3_factors,
      .restore =
          [](const Restored& in, Json& config) {
            restore_decoder(in, config);
            restore_key(in, "expert_count", "num_local_experts", config, true);
            restore_key(in, "expert_used_count", "num_experts_per_tok", config, true);
            config["sliding_window"] = nullptr;
          },
      .adjust_tokenizer = adjust_llama_tokenizer,
  };
  return family;
}

}  // namespace qp::ggml
