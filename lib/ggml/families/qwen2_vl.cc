// The language towers of Qwen2-VL and Qwen2.5-VL.
#include "lib/ggml/describe.h"
#include "lib/ggml/rules.h"

namespace qp::ggml {

const Family& qwen2_vl_family() {
  static const Family family = {
      .arch = "qwen2vl",
      .architectures = {"Qwen2VLForConditionalGeneration", "Qwen2_5_VLForConditionalGeneration"},
      .model_type = "qwen2_vl",
      .model = joined({kModelRules}),
      .layer = joined({kPreNormRules, kAttentionRules, kMlpRules}),
      .describe =
          [](const Config& c, Metadata& out) {
            describe_decoder(c, {.says_head_dim = false, .theta = 1e6, .eps = 1e-5}, out);
          },
      .restore =
          [](const Restored& in, Json& config) {
            Json text = Json::object();
            restore_decoder(in, text);
            auto sections = in.keys.find("rope.dimension_sections");
            if (sections == in.keys.end() || !sections->is_array() || sections->size() < 3) {
              throw input_error("metadata key 'rope.dimension_sections' is missing");
            }
            Json three = Json::array({(*sections)[0], (*sections)[1], (*sections)[2]});
            text["rope_scaling"] = Json{{"mrope_section", three}, {"rope_type", "default"}};
            text["model_type"] = "qwen2_vl_text";
            config["text_config"] = std::move(text);
          },
  };
  return family;
}

}  // namespace qp::ggml
