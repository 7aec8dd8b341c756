// gpt-oss: attention sinks, experts stored [in, out] with gate and up in alternating columns.
#include "lib/ggml/describe.h"
#include "lib/ggml/rules.h"

namespace qp::ggml {
namespace {

constexpr TensorRule kLayer[] = {
    {"attn_norm", "input_layernorm"},
    {"post_attention_norm", "post_attention_layernorm"},
    {"attn_sinks.weight", "self_attn.sinks", Op::plain, true},
    {"ffn_gate_inp", "mlp.router"},
    {"ffn_gate_exps", "mlp.experts.*.gate_proj"},
    {"ffn_up_exps", "mlp.experts.*.up_proj"},
    {"ffn_down_exps", "mlp.experts.*.down_proj"},
    {"ffn_gate_exps.weight", "mlp.experts.gate_up_proj", Op::even_columns, true},
    {"ffn_up_exps.weight", "mlp.experts.gate_up_proj", Op::odd_columns, true},
    {"ffn_down_exps.weight", "mlp.experts.down_proj", Op::transposed, true},
    {"ffn_gate_exps.bias", "mlp.experts.gate_up_proj_bias", Op::even_columns, true},
    {"ffn_up_exps.bias", "mlp.experts.gate_up_proj_bias", Op::odd_columns, true},
    {"ffn_down_exps.bias", "mlp.experts.down_proj_bias", Op::plain, true}};

}  // namespace

const Family& gpt_oss_family() {
  static const Family family = {
      .arch = "gpt-oss",
      .architectures = {"GptOssForCausalLM"},
      .model_type = "gpt_oss",
      .model = joined({kModelRules}),
      .layer = joined({kLayer, kAttentionRules}),
      .describe =
          [](const Config& c, Metadata& out) {
            describe_decoder(c, {.kv_heads = 8, .head_dim = 64, .theta = 150000, .eps = 1e-5}, out);
            out.count("attention.sliding_window", c.count({"sliding_window"}).value_or(128));
            out.count("expert_feed_forward_length", c.need("intermediate_size"));
          },
      .restore =
          [](const Restored& in, Json& config) {
            restore_decoder(in, config);
            restore_key(in, "attention.sliding_window", "sliding_window", config, true);
            restore_key(in, "expert_feed_forward_length", "intermediate_size", config, true);
            restore_key(in, "expert_count", "num_local_experts", config, true);
            restore_key(in, "expert_used_count", "num_experts_per_tok", config, true);
            config["attention_bias"] = true;
            if (config["rope_scaling"].is_object()) config["rope_scaling"]["truncate"] = false;
          },
  };
  return family;
}

}  // namespace qp::ggml
