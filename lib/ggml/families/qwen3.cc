// Qwen3: Qwen2 with norms of each head of queries and keys.
#include "lib/ggml/describe.h"
#include "lib/ggml/rules.h"

namespace qp::ggml {

const Family& qwen3_family() {
  static const Family family = {
      .arch = "qwen3",
      .architectures = {"Qwen3ForCausalLM"},
      .model_type = "qwen3",
      .model = joined({kModelRules}),
      .layer = joined({kPreNormRules, kAttentionRules, kHeadNormRules, kMlpRules}),
      .describe = [](const Config& c,
                     Metadata& out) { describe_decoder(c, {.head_dim = 128}, out); },
      .restore = restore_decoder,
  };
  return family;
}

}  // namespace qp::ggml
