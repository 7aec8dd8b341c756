// Llama, and what llama.cpp calls so: Mistral and SmolLM2.
#include "lib/ggml/families/llama.h"

#include "lib/ggml/describe.h"
#include "lib/ggml/rules.h"

namespace qp::ggml {

void describe_llama(const Config& config, const Defaults& defaults, Metadata& out) {
  describe_decoder(config, defaults, out);
  out.count("vocab_size", config.need("vocab_size"));
  out.count("rope.dimension_count", head_dim_of(config, defaults));
}

void adjust_llama_tokenizer(const Config& config, Metadata& out) {
  uint64_t tokens = config.count({"vocab_size"}).value_or(32000);
  if (tokens == 32016) {
    for (auto [key, id] : {std::pair("prefix", 32007u), std::pair("suffix", 32008u),
                           std::pair("middle", 32009u), std::pair("eot", 32010u)}) {
      out.set("tokenizer.ggml." + std::string(key) + "_token_id", id);
    }
  }
  if (tokens == 49152) out.set("tokenizer.ggml.add_bos_token", false);
}

const Family& llama_family() {
  static const Family family = {
      .arch = "llama",
      .architectures = {"LlamaForCausalLM", "LLaMAForCausalLM", "MistralForCausalLM"},
      .model_type = "llama",
      .model = joined({kModelRules}),
      .layer = joined({kPreNormRules, kRotatedRules, kMlpRules}),
      .describe =
          [](const Config& c, Metadata& out) {
            bool mistral = c.text("model_type", "") != "llama";
            describe_llama(c, {.kv_heads = mistral ? 8u : 0u}, out);
          },
      .compute = llama3_factors,
      .adjust_tokenizer = adjust_llama_tokenizer,
  };
  return family;
}

}  // namespace qp::ggml
