// DeepSeek-V2 and V2-Lite: experts by softmax, of the best groups if topk_method says so. The
// weights of the chosen are not divided by their sum, whatever norm_topk_prob says (as transformers).
#include "lib/arch/deepseek.h"

namespace qp::arch {
namespace {

class DeepSeekV2 : public DeepSeek {
 public:
  DeepSeekV2(const ModelConfig& config, const engine::WeightSource& weights)
      : DeepSeek(config, weights) {
    std::string method = config.text("topk_method", "greedy");
    if (method == "group_limited_greedy") {
      route_.group_score = engine::RouteSpec::Groups::best;
      route_.groups = config.count("n_group");
      route_.top_groups = config.count("topk_group");
    } else if (method != "greedy") {
      throw config.wrong("topk_method", "is '" + printable(method) + "', which is not known");
    }
    if (config.text("scoring_func", "softmax") != "softmax") {
      throw config.wrong("scoring_func", "is not 'softmax'");
    }
  }
};

}  // namespace

extern const Family k_deepseek_v2;
const Family k_deepseek_v2 = {"deepseek_v2", {"DeepseekV2ForCausalLM"}, make_decoder<DeepSeekV2>};

}  // namespace qp::arch
