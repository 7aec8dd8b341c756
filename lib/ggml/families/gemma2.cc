// Gemma 2: caps on scores and logits, a sliding window on every other layer.
#include "lib/ggml/describe.h"
#include "lib/ggml/families/gemma.h"

namespace qp::ggml {
namespace {

constexpr uint64_t kLayersOf27b = 46;

void describe(const Config& c, Metadata& out) {
  Defaults defaults{.kv_heads = 4, .head_dim = 256};
  describe_sizes(c, defaults, out);
  out.real("attention.layer_norm_rms_epsilon", c.number({"rms_norm_eps"}).value_or(defaults.eps));
  uint64_t dim = head_dim_of(c, defaults);
  expect_gemma_scale(c, dim, kLayersOf27b);
  out.count("attention.key_length", dim);
  out.count("attention.value_length", dim);
  out.real("attn_logit_softcapping", c.number({"attn_logit_softcapping"}).value_or(50));
  out.real("final_logit_softcapping", c.number({"final_logit_softcapping"}).value_or(30));
  out.count("attention.sliding_window", c.count({"sliding_window"}).value_or(4096));
}

}  // namespace

uint64_t gemma_scalar(uint64_t layers, uint64_t layers_of_27b, uint64_t hidden, uint64_t heads,
                      uint64_t head_dim) {
  return layers == layers_of_27b && heads > 0 ? hidden / heads : head_dim;
}

void expect_gemma_scale(const Config& c, uint64_t head_dim, uint64_t layers_of_27b) {
  uint64_t scalar = gemma_scalar(c.need("num_hidden_layers"), layers_of_27b, c.need("hidden_size"),
                                 c.need("num_attention_heads"), head_dim);
  if (c.number({"query_pre_attn_scalar"}).value_or(256) == static_cast<double>(scalar)) return;
  throw limit_error("'query_pre_attn_scalar' is not " + std::to_string(scalar) +
                    ", which llama.cpp takes for granted")
      .file("config.json");
}

void restore_gemma(const Restored& in, uint64_t layers_of_27b, Json& config) {
  restore_sizes(in, config);
  restore_key(in, "attention.layer_norm_rms_epsilon", "rms_norm_eps", config, true);
  restore_key(in, "attention.key_length", "head_dim", config, true);
  config["hidden_activation"] = "gelu_pytorch_tanh";
  auto size = [&](const char* name) { return config[name].get<uint64_t>(); };
  config["query_pre_attn_scalar"] =
      gemma_scalar(size("num_hidden_layers"), layers_of_27b, size("hidden_size"),
                   size("num_attention_heads"), size("head_dim"));
  restore_key(in, "attention.sliding_window", "sliding_window", config);
  config["final_logit_softcapping"] = nullptr;
  restore_key(in, "final_logit_softcapping", "final_logit_softcapping", config);
}

const Family& gemma2_family() {
  static const Family family = {
      .arch = "gemma2",
      .architectures = {"Gemma2ForCausalLM"},
      .model_type = "gemma2",
      .model = joined({kGemmaModelRules}),
      .layer = joined({kGemmaNormRules, kAttentionRules, kMlpRules}),
      .describe = describe,
      .restore =
          [](const Restored& in, Json& config) {
            restore_gemma(in, kLayersOf27b, config);
            config["attn_logit_softcapping"] = nullptr;
            restore_key(in, "attn_logit_softcapping", "attn_logit_softcapping", config);
          },
      .adjust_tokenizer = adjust_gemma_tokenizer,
      .head_dropped = true,
  };
  return family;
}

}  // namespace qp::ggml
