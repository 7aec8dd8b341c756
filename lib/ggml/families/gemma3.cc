// Gemma 3, text alone or the language tower of the multimodal models.
#include "lib/ggml/describe.h"
#include "lib/ggml/families/gemma.h"

namespace qp::ggml {
namespace {

constexpr TensorRule kHeadNorms[] = {{"attn_q_norm", "self_attn.q_norm", Op::plus_one},
                                     {"attn_k_norm", "self_attn.k_norm", Op::plus_one}};

constexpr uint64_t kLayersOf27b = 62;

// Five layers with a window, then one without.
void expect_pattern(const Config& c) {
  uint64_t layers = c.need("num_hidden_layers");
  const Json* types = c.find("layer_types");
  bool listed = types != nullptr && types->is_array() && types->size() == layers;
  uint64_t pattern = c.count({"sliding_window_pattern"}).value_or(6);
  for (uint64_t i = 0; i < layers && pattern != 1; ++i) {
    bool slides =
        listed ? (*types)[i] == "sliding_attention" : pattern == 0 || (i + 1) % pattern != 0;
    if (slides == ((i + 1) % 6 != 0)) continue;
    throw limit_error("has another pattern of sliding layers than llama.cpp's five of six")
        .file("config.json");
  }
}

void restore(const Restored& in, Json& config) {
  restore_gemma(in, kLayersOf27b, config);
  restore_rope(in, config);
  config["rope_local_base_freq"] = 10000.0;
  restore_key(in, "rope.freq_base_swa", "rope_local_base_freq", config);
  config["sliding_window_pattern"] = config.contains("sliding_window") ? 6 : 1;
}

void describe(const Config& c, Metadata& out) {
  expect_pattern(c);
  Defaults defaults{.kv_heads = 4, .head_dim = 256, .theta = 1e6};
  describe_sizes(c, defaults, out);
  out.count("context_length", c.count({"max_position_embeddings"}).value_or(131072));
  describe_rope(c, defaults, out);
  double local = 10000;
  if (auto it = c.rope().find("sliding_attention"); it != c.rope().end()) {
    local = number_in(*it, "rope_theta").value_or(local);
  }
  out.real("rope.freq_base_swa", local);
  out.real("attention.layer_norm_rms_epsilon", c.number({"rms_norm_eps"}).value_or(defaults.eps));
  uint64_t dim = head_dim_of(c, defaults);
  expect_gemma_scale(c, dim, kLayersOf27b);
  out.count("attention.key_length", dim);
  out.count("attention.value_length", dim);
  if (auto cap = c.number({"final_logit_softcapping"}); cap && *cap != 0) {
    out.real("final_logit_softcapping", *cap);
  }
  if (c.count({"sliding_window_pattern"}).value_or(6) != 1) {
    out.count("attention.sliding_window", c.count({"sliding_window"}).value_or(4096));
  }
}

}  // namespace

const Family& gemma3_family() {
  static const Family family = {
      .arch = "gemma3",
      .architectures = {"Gemma3ForCausalLM", "Gemma3ForConditionalGeneration"},
      .model_type = "gemma3_text",
      .model = joined({kGemmaModelRules}),
      .layer = joined({kGemmaNormRules, kAttentionRules, kHeadNorms, kMlpRules}),
      .describe = describe,
      .restore = restore,
      .adjust_tokenizer = adjust_gemma_tokenizer,
      .head_dropped = true,
  };
  return family;
}

}  // namespace qp::ggml
