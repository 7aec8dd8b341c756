// DeepSeek-V3 and R1: experts by sigmoid, chosen with a bias that their weights do not have.
#include "lib/arch/deepseek.h"

namespace qp::arch {
namespace {

class DeepSeekV3 : public DeepSeek {
 public:
  DeepSeekV3(const ModelConfig& config, const engine::WeightSource& weights)
      : DeepSeek(config, weights) {
    interleaved_ = config.flag("rope_interleave", true);
    route_.score = engine::RouteSpec::Score::sigmoid;
    route_.group_score = engine::RouteSpec::Groups::best_two;
    route_.groups = config.count("n_group", 8);
    route_.top_groups = config.count("topk_group", 4);
    route_.bias = "e_score_correction_bias";
    route_.normalize = config.flag("norm_topk_prob", true);
    route_.factor = static_cast<float>(config.number("routed_scaling_factor", 2.5));
    if (config.text("topk_method", "noaux_tc") != "noaux_tc") {
      throw config.wrong("topk_method", "is not 'noaux_tc'");
    }
    if (config.text("scoring_func", "sigmoid") != "sigmoid") {
      throw config.wrong("scoring_func", "is not 'sigmoid'");
    }
  }
};

}  // namespace

extern const Family k_deepseek_v3;
const Family k_deepseek_v3 = {"deepseek_v3", {"DeepseekV3ForCausalLM"}, make_decoder<DeepSeekV3>};

}  // namespace qp::arch
