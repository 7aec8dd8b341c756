// Phi-3, Phi-3.5, Phi-4 and Phi-4-mini: q, k and v in one projection, gate and up in another; a
// part of each head turns.
#include <cmath>

#include "lib/arch/decoder.h"

namespace qp::arch {
namespace {

class Phi3 : public Decoder {
 public:
  Phi3(const ModelConfig& config, const engine::WeightSource& weights)
      : Decoder(config, weights, {.norm = {.eps = 1e-5f}, .theta = 0}) {
    window_ = config.count("sliding_window", 0);
    Json rope = config.rope();
    // The part may be said beside the rotary parameters or among them.
    double part = config.number("partial_rotary_factor", 1);
    if (rope.contains("partial_rotary_factor") && rope["partial_rotary_factor"].is_number()) {
      part = rope["partial_rotary_factor"].get<double>();
    }
    if (!(part > 0 && part <= 1)) throw config.wrong("partial_rotary_factor", "is not in (0, 1]");
    if (json_string(rope, "rope_type", json_string(rope, "type", "")) == "yarn") {
      rope["rope_type"] = "longrope";  // what early configs called it
    }
    auto dim = static_cast<size_t>(static_cast<double>(head_dim_) * part);
    rotary_ = std::make_shared<engine::Rotary>(rope, config.number("rope_theta", 10000), dim,
                                               config.json());
  }

 protected:
  Qkv project(Graph& g, Value x, const std::string& module) const override {
    size_t q = heads_ * head_dim_, kv = kv_heads_ * head_dim_;
    Value all = linear(g, x, module + ".qkv_proj", q + 2 * kv);
    return {columns(g, all, 0, q), columns(g, all, q, kv), columns(g, all, q + kv, kv)};
  }
  Value mlp(Graph& g, Value x, size_t i) const override {
    std::string module = layer_name(i) + ".mlp";
    Value both = linear(g, x, module + ".gate_up_proj", 2 * inner_);
    Value gate = columns(g, both, 0, inner_), up = columns(g, both, inner_, inner_);
    return linear(g, g.make<engine::Gated>({gate, up}, act_, inner_), module + ".down_proj", hidden);
  }
};

}  // namespace

extern const Family k_phi3;
const Family k_phi3 = {"phi3", {"Phi3ForCausalLM"}, make_decoder<Phi3>};

}  // namespace qp::arch
