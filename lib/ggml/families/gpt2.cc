// GPT-2: learned positions, LayerNorm with biases, weights stored [in, out].
#include "lib/ggml/describe.h"
#include "lib/ggml/rules.h"

namespace qp::ggml {
namespace {

constexpr TensorRule kModel[] = {{"token_embd", "wte"},
                                 {"position_embd", "wpe"},
                                 {"output_norm", "ln_f"},
                                 {"output", "lm_head"}};
constexpr TensorRule kLayer[] = {{"attn_norm", "ln_1"},
                                 {"attn_qkv", "attn.c_attn", Op::transposed},
                                 {"attn_output", "attn.c_proj", Op::transposed},
                                 {"ffn_norm", "ln_2"},
                                 {"ffn_up", "mlp.c_fc", Op::transposed},
                                 {"ffn_down", "mlp.c_proj", Op::transposed}};

void describe(const Config& c, Metadata& out) {
  expect_text(c, "activation_function", {"gelu_new", "gelu_pytorch_tanh", "gelu_fast", "gelu"});
  if (c.flag("scale_attn_by_inverse_layer_idx", false) || !c.flag("scale_attn_weights", true)) {
    throw limit_error("scales attention otherwise than llama.cpp does").file("config.json");
  }
  uint64_t hidden = c.need("n_embd");
  out.count("block_count", c.need("n_layer"));
  out.count("context_length", c.count({"n_positions", "n_ctx"}).value_or(1024));
  out.count("embedding_length", hidden);
  out.count("feed_forward_length", c.count({"n_inner"}).value_or(4 * hidden));
  out.count("attention.head_count", c.need("n_head"));
  out.real("attention.layer_norm_epsilon", c.number({"layer_norm_epsilon"}).value_or(1e-5));
}

void restore(const Restored& in, Json& config) {
  restore_key(in, "embedding_length", "n_embd", config, true);
  restore_key(in, "block_count", "n_layer", config, true);
  restore_key(in, "context_length", "n_positions", config, true);
  restore_key(in, "attention.head_count", "n_head", config, true);
  restore_key(in, "feed_forward_length", "n_inner", config);
  restore_key(in, "attention.layer_norm_epsilon", "layer_norm_epsilon", config, true);
  config["activation_function"] = "gelu_new";
}

}  // namespace

const Family& gpt2_family() {
  static const Family family = {
      .arch = "gpt2",
      .architectures = {"GPT2LMHeadModel"},
      .model_type = "gpt2",
      .model = joined({kModel}),
      .layer = joined({kLayer}),
      .describe = describe,
      .restore = restore,
      .stack = "h",
  };
  return family;
}

}  // namespace qp::ggml
