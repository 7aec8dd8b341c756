// config.json as an enemy writes it: an input error that names the file and the key.
#include <gtest/gtest.h>

#include "lib/arch/arch.h"
#include "lib/base/error.h"
#include "lib/stream/stream.h"
#include "tests/unit/support/model_dir.h"

namespace qp {
namespace {

// Builds the architecture and checks every weight of it, which is what a run does first.
void prepare(const TinyLlama& tiny) {
  TempDir dir;
  tiny.write(dir);
  auto store = open_model(dir.path());
  engine::WeightSource weights(*store);
  auto model = arch::make_architecture(store->model(), weights);
  Windows windows;
  windows.add(std::vector<int32_t>{1, 2});
  Stream(*model, weights, windows, {}, {Fd(), Fd()});
}

void expect_refused(const std::string& architecture, const Json& change, const std::string& key) {
  TinyLlama tiny;
  tiny.config["architectures"] = {architecture};
  for (const auto& [name, value] : change.items()) tiny.config[name] = value;
  std::string text = architecture + " with " + change.dump();
  try {
    prepare(tiny);
    ADD_FAILURE() << text << " was taken";
  } catch (const Error& e) {
    EXPECT_EQ(e.kind(), ErrorKind::input) << text << ": " << e.what();
    EXPECT_NE(std::string(e.what()).find(key), std::string::npos) << text << ": " << e.what();
    if (e.tensor().empty()) {
      EXPECT_NE(e.file().find("config.json"), std::string::npos) << e.what();
    }
  }
}

TEST(Architecture, TakesWhatIsSound) { EXPECT_NO_THROW(prepare(TinyLlama())); }

TEST(Architecture, RefusesCountsOfDecoders) {
  for (const char* key : {"num_hidden_layers", "hidden_size", "num_attention_heads", "head_dim",
                          "intermediate_size", "num_key_value_heads"}) {
    for (const Json& value : {Json(0), Json(-1), Json(1.5), Json(1e300), Json("8"), Json::array(),
                              Json(uint64_t{1} << 63), Json(true)}) {
      expect_refused("LlamaForCausalLM", {{key, value}}, key);
    }
  }
  // Sane in themselves; the weights say otherwise.
  expect_refused("LlamaForCausalLM", {{"num_hidden_layers", 1 << 24}}, "num_hidden_layers");
  expect_refused("LlamaForCausalLM", {{"num_hidden_layers", 3}}, "num_hidden_layers");
  expect_refused("LlamaForCausalLM", {{"hidden_size", 1 << 24}}, "lm_head.weight");
  expect_refused("LlamaForCausalLM", {{"head_dim", 1 << 24}}, "q_proj");
  expect_refused("LlamaForCausalLM", {{"intermediate_size", 1 << 24}}, "gate_proj");
  expect_refused("LlamaForCausalLM", {{"vocab_size", 13}}, "model.embed_tokens.weight");
  expect_refused("LlamaForCausalLM", {{"num_key_value_heads", 3}}, "num_key_value_heads");
  expect_refused("LlamaForCausalLM", {{"head_dim", nullptr}, {"num_attention_heads", 3},
                                      {"num_key_value_heads", 3}}, "num_attention_heads");
  expect_refused("LlamaForCausalLM", {{"hidden_act", "tan"}}, "hidden_act");
  expect_refused("LlamaForCausalLM", {{"rms_norm_eps", "small"}}, "rms_norm_eps");
  expect_refused("LlamaForCausalLM", {{"attention_bias", 1}}, "attention_bias");
  expect_refused("LlamaForCausalLM", {{"attention_bias", true}}, "q_proj.bias");
  expect_refused("LlamaForCausalLM", {{"rope_scaling", 3}}, "rope_scaling");
  expect_refused("LlamaForCausalLM", {{"rope_scaling", {{"type", "yarn"}, {"factor", Json::array()}}}}, "factor");
}

TEST(Architecture, MissingKeys) {
  for (const char* key : {"num_hidden_layers", "hidden_size", "num_attention_heads",
                          "intermediate_size"}) {
    expect_refused("LlamaForCausalLM", {{key, nullptr}}, key);
  }
}

TEST(Architecture, RefusesOptionsOfFamilies) {
  expect_refused("Qwen2ForCausalLM", {}, "q_proj.bias");
  expect_refused("Qwen2ForCausalLM", {{"layer_types", {"full_attention"}}}, "layer_types");
  expect_refused("Qwen3ForCausalLM", {{"layer_types", {"full_attention", "linear_attention"}}},
                 "layer_types");
  expect_refused("Qwen3ForCausalLM", {{"layer_types", {"full_attention", "sliding_attention"}}},
                 "sliding_window");
  expect_refused("Qwen3ForCausalLM", {}, "q_norm");
  expect_refused("MistralForCausalLM", {{"sliding_window", -4}}, "sliding_window");
  expect_refused("Mistral3ForConditionalGeneration", {{"text_config", {{"model_type", "ministral3"}}}},
                 "model_type");
  expect_refused("Gemma2ForCausalLM", {{"query_pre_attn_scalar", 0}}, "query_pre_attn_scalar");
  expect_refused("Gemma3ForCausalLM", {{"sliding_window_pattern", 0}}, "sliding_window_pattern");
  expect_refused("Gemma3ForCausalLM", {{"use_bidirectional_attention", true}},
                 "use_bidirectional_attention");
  expect_refused("Phi3ForCausalLM", {{"partial_rotary_factor", 2}}, "partial_rotary_factor");
  expect_refused("SmolLM3ForCausalLM", {{"no_rope_layers", {1}}}, "no_rope_layers");
  expect_refused("SmolLM3ForCausalLM", {{"no_rope_layers", {1, "no"}}}, "no_rope_layers");
  expect_refused("SmolLM3ForCausalLM", {{"no_rope_layer_interval", 0}}, "no_rope_layer_interval");
  expect_refused("GPT2LMHeadModel", {{"n_layer", 2}, {"n_embd", 0}, {"n_head", 1}}, "n_embd");
  expect_refused("OPTForCausalLM", {{"word_embed_proj_dim", 4}, {"ffn_dim", 16}},
                 "word_embed_proj_dim");
}

TEST(Architecture, RefusesCountsOfExperts) {
  Json moe = {{"num_experts", 4}, {"num_experts_per_tok", 2}, {"moe_intermediate_size", 4},
              {"num_key_value_heads", 1}};
  auto with = [&](const char* key, const Json& value) {
    Json changed = moe;
    changed[key] = value;
    return changed;
  };
  expect_refused("Qwen3MoeForCausalLM", with("num_experts", 1 << 24), "mlp.experts.16777215.");
  expect_refused("Qwen3MoeForCausalLM", with("num_experts", "many"), "num_experts");
  expect_refused("Qwen3MoeForCausalLM", with("num_experts_per_tok", 0), "num_experts_per_tok");
  expect_refused("Qwen3MoeForCausalLM", with("moe_intermediate_size", 0), "moe_intermediate_size");
  expect_refused("Qwen3MoeForCausalLM", with("decoder_sparse_step", 0), "decoder_sparse_step");
  expect_refused("Qwen3MoeForCausalLM", with("mlp_only_layers", 3), "mlp_only_layers");
  expect_refused("MixtralForCausalLM", with("num_local_experts", 0), "num_local_experts");
  expect_refused("GptOssForCausalLM", with("num_local_experts", 3), "experts.gate_up_proj");
  Json deep = with("n_routed_experts", 4);
  deep["kv_lora_rank"] = 4, deep["qk_nope_head_dim"] = 4, deep["qk_rope_head_dim"] = 2;
  deep["v_head_dim"] = 4, deep["q_lora_rank"] = nullptr;
  auto deeper = [&](const char* key, const Json& value) {
    Json changed = deep;
    changed[key] = value;
    return changed;
  };
  expect_refused("DeepseekV2ForCausalLM", deep, "mlp.experts.3.gate_proj");
  expect_refused("DeepseekV2ForCausalLM", deeper("topk_method", "dice"), "topk_method");
  expect_refused("DeepseekV2ForCausalLM", deeper("qk_rope_head_dim", 3), "qk_rope_head_dim");
  expect_refused("DeepseekV2ForCausalLM", deeper("kv_lora_rank", nullptr), "kv_lora_rank");
  expect_refused("DeepseekV3ForCausalLM", deeper("scoring_func", "softmax"), "scoring_func");
}

TEST(Architecture, NamesWhatItCannotRun) {
  TinyLlama tiny;
  tiny.config["architectures"] = {"RwkvForCausalLM"};
  try {
    prepare(tiny);
    FAIL();
  } catch (const Error& e) {
    EXPECT_EQ(e.kind(), ErrorKind::input);
    EXPECT_NE(e.hint().find("llama, mistral, qwen2"), std::string::npos) << e.what();
  }
}

TEST(Architecture, HeadThatIsNeitherStoredNorTied) {
  TinyLlama tiny;
  tiny.remove("lm_head.weight");
  try {
    prepare(tiny);
    FAIL();
  } catch (const Error& e) {
    EXPECT_EQ(e.tensor(), "lm_head.weight") << e.what();
  }
  tiny.config["tie_word_embeddings"] = true;
  EXPECT_NO_THROW(prepare(tiny));
}

}  // namespace
}  // namespace qp
