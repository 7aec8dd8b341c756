// Qwen2 and Qwen2.5.
#include "lib/ggml/describe.h"
#include "lib/ggml/rules.h"

namespace qp::ggml {

const Family& qwen2_family() {
  static const Family family = {
      .arch = "qwen2",
      .architectures = {"Qwen2ForCausalLM"},
      .model_type = "qwen2",
      .model = joined({kModelRules}),
      .layer = joined({kPreNormRules, kAttentionRules, kMlpRules}),
      .describe = [](const Config& c,
                     Metadata& out) { describe_decoder(c, {.says_head_dim = false}, out); },
      .restore = restore_decoder,
  };
  return family;
}

}  // namespace qp::ggml
