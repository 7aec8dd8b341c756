// SmolLM3: Llama in which every fourth layer does not turn; llama.cpp knows that by the name.
#include "lib/ggml/families/llama.h"
#include "lib/ggml/rules.h"

namespace qp::ggml {
namespace {

void check_turns(const Config& config) {
  const Json* turns = config.find("no_rope_layers");
  if (turns == nullptr || !turns->is_array()) return;
  for (size_t i = 0; i < turns->size(); ++i) {
    if ((*turns)[i] == ((i + 1) % 4 != 0 ? 1 : 0)) continue;
    throw config.wrong("no_rope_layers",
                       "is not every fourth layer, which llama.cpp takes for granted");
  }
}

}  // namespace

const Family& smollm3_family() {
  static const Family family = {
      .arch = "smollm3",
      .architectures = {"SmolLM3ForCausalLM"},
      .model_type = "smollm3",
      .model = joined({kModelRules}),
      .layer = joined({kPreNormRules, kRotatedRules, kMlpRules}),
      .describe =
          [](const Config& c, Metadata& out) {
            check_turns(c);
            describe_llama(c, {.kv_heads = 4, .says_head_dim = false, .theta = 2e6}, out);
          },
      .compute = llama3_factors,
      .restore = restore_decoder,
      .adjust_tokenizer = adjust_llama_tokenizer,
  };
  return family;
}

}  // namespace qp::ggml
