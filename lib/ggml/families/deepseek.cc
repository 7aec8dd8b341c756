// DeepSeek-V2 and V3: latent attention (MLA), which llama.cpp runs as one key-value head, with
// kv_b_proj taken apart and its keys turned.
#include <cmath>

#include "lib/ggml/describe.h"
#include "lib/ggml/rules.h"

namespace qp::ggml {
namespace {

constexpr TensorRule kLayer[] = {
    {"attn_q", "self_attn.q_proj"},
    {"attn_q_a", "self_attn.q_a_proj"},
    {"attn_q_a_norm", "self_attn.q_a_layernorm"},
    {"attn_q_b", "self_attn.q_b_proj"},
    {"attn_kv_a_mqa", "self_attn.kv_a_proj_with_mqa"},
    {"attn_kv_a_norm", "self_attn.kv_a_layernorm"},
    {"attn_k_b.weight", "self_attn.kv_b_proj.weight", Op::key_b, true},
    {"attn_v_b.weight", "self_attn.kv_b_proj.weight", Op::value_b, true},
    {"attn_k_b.weight", "self_attn.kv_b_proj.key.weight", Op::plain, true},
    {"attn_v_b.weight", "self_attn.kv_b_proj.value.weight", Op::plain, true},
    {"attn_output", "self_attn.o_proj"},
    {"exp_probs_b.bias", "mlp.gate.e_score_correction_bias", Op::plain, true},
    {"ffn_gate_shexp", "mlp.shared_experts.gate_proj"},
    {"ffn_up_shexp", "mlp.shared_experts.up_proj"},
    {"ffn_down_shexp", "mlp.shared_experts.down_proj"}};

void describe_latents(const Config& c, Metadata& out) {
  uint64_t rank = c.count({"kv_lora_rank"}).value_or(512), turning = c.need("qk_rope_head_dim");
  if (auto q = c.count({"q_lora_rank"})) out.count("attention.q_lora_rank", *q);
  out.count("attention.kv_lora_rank", rank);
  out.count("attention.key_length", rank + turning);
  out.count("attention.value_length", rank);
  out.count("attention.key_length_mla", c.need("qk_nope_head_dim") + turning);
  out.count("attention.value_length_mla", c.need("v_head_dim"));
}

void describe(const Config& c, Metadata& out) {
  if (!c.flag("rope_interleave", true)) {
    throw c.wrong("rope_interleave", "is false: llama.cpp turns neighbouring components");
  }
  bool v3 = c.text("model_type", "") == "deepseek_v3";
  describe_decoder(c, {.says_head_dim = false}, out);
  out.count("attention.head_count_kv", 1);
  auto experts = c.count({"n_routed_experts"});
  uint64_t dense = experts ? c.count({"first_k_dense_replace"}).value_or(v3 ? 3 : 0)
                           : c.need("num_hidden_layers");
  out.count("leading_dense_block_count", dense);
  out.count("vocab_size", c.need("vocab_size"));
  describe_latents(c, out);
  out.count("expert_feed_forward_length",
            c.count({"moe_intermediate_size", "intermediate_size"}).value_or(0));
  if (experts) out.count("expert_count", *experts);
  out.count("expert_shared_count", c.count({"n_shared_experts"}).value_or(0));
  if (auto factor = c.number({"routed_scaling_factor"})) out.real("expert_weights_scale", *factor);
  if (c.flag("norm_topk_prob", v3)) out.own("expert_weights_norm", true);
  if (v3) out.count("expert_gating_func", 2);  // of transformers' class, whatever config.json says
  out.count("rope.dimension_count", c.need("qk_rope_head_dim"));
  if (auto scale = number_in(c.rope(), "mscale_all_dim")) {
    out.real("rope.scaling.yarn_log_multiplier", 0.1 * *scale);
  }
}

void restore_latents(const Restored& in, Json& config) {
  config["q_lora_rank"] = nullptr;
  restore_key(in, "attention.q_lora_rank", "q_lora_rank", config);
  restore_key(in, "attention.kv_lora_rank", "kv_lora_rank", config, true);
  restore_key(in, "rope.dimension_count", "qk_rope_head_dim", config, true);
  restore_key(in, "attention.value_length_mla", "v_head_dim", config, true);
  restore_key(in, "attention.key_length_mla", "qk_nope_head_dim", config, true);
  uint64_t both = config["qk_nope_head_dim"].get<uint64_t>();
  uint64_t turning = config["qk_rope_head_dim"].get<uint64_t>();
  if (both <= turning) throw input_error("metadata key 'attention.key_length_mla' is out of range");
  config["qk_nope_head_dim"] = both - turning;
}

void restore(const Restored& in, Json& config) {
  restore_decoder(in, config);
  config.erase("head_dim");
  bool v3 = in.keys.contains("expert_gating_func") && in.keys["expert_gating_func"] == 2;
  config["architectures"] = Json::array({v3 ? "DeepseekV3ForCausalLM" : "DeepseekV2ForCausalLM"});
  config["model_type"] = v3 ? "deepseek_v3" : "deepseek_v2";
  config["num_key_value_heads"] = config["num_attention_heads"];
  restore_latents(in, config);
  restore_key(in, "leading_dense_block_count", "first_k_dense_replace", config);
  restore_key(in, "expert_feed_forward_length", "moe_intermediate_size", config);
  restore_key(in, "expert_count", "n_routed_experts", config);
  restore_key(in, "expert_used_count", "num_experts_per_tok", config);
  restore_key(in, "expert_shared_count", "n_shared_experts", config);
  restore_key(in, "expert_weights_scale", "routed_scaling_factor", config);
  config["norm_topk_prob"] = false;
  restore_key(in, "expert_weights_norm", "norm_topk_prob", config);
  restore_key(in, "expert_group_count", "n_group", config);
  restore_key(in, "expert_group_used_count", "topk_group", config);
  config["scoring_func"] = v3 ? "sigmoid" : "softmax";
  bool groups = config.contains("n_group") && config["n_group"] > 1;
  config["topk_method"] = v3 ? "noaux_tc" : groups ? "group_limited_greedy" : "greedy";
  auto all = number_in(in.keys, "rope.scaling.yarn_log_multiplier");
  if (all && config["rope_scaling"].is_object()) {
    double scale = std::round(*all * 1e7) / 1e6;
    config["rope_scaling"]["mscale"] = scale;
    config["rope_scaling"]["mscale_all_dim"] = scale;
  }
}

}  // namespace

const Family& deepseek_family() {
  static const Family family = {
      .arch = "deepseek2",
      .architectures = {"DeepseekV2ForCausalLM", "DeepseekV3ForCausalLM"},
      .model_type = "deepseek_v2",
      .model = joined({kModelRules}),
      .layer = joined({kPreNormRules, kLayer, kMlpRules, kExpertRules}),
      .describe = describe,
      .restore = restore,
      .extra_layers_dropped = true,
      .tied_head_dropped = true,
  };
  return family;
}

}  // namespace qp::ggml
