// OLMo 2: norms after each part of a layer, and over all heads of queries and keys at once.
#include "lib/ggml/describe.h"
#include "lib/ggml/rules.h"

namespace qp::ggml {
namespace {

constexpr TensorRule kNorms[] = {{"post_attention_norm", "post_attention_layernorm"},
                                 {"post_ffw_norm", "post_feedforward_layernorm"}};

}  // namespace

const Family& olmo2_family() {
  static const Family family = {
      .arch = "olmo2",
      .architectures = {"Olmo2ForCausalLM"},
      .model_type = "olmo2",
      .model = joined({kModelRules}),
      .layer = joined({kNorms, kAttentionRules, kHeadNormRules, kMlpRules}),
      .describe =
          [](const Config& c, Metadata& out) {
            describe_decoder(c, {.says_head_dim = false, .eps = 1e-5}, out);
          },
      .restore = restore_decoder,
  };
  return family;
}

}  // namespace qp::ggml
