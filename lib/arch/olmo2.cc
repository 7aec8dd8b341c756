// OLMo 2: norms after each part of a layer instead of before, and over all heads of q and k at once.
#include "lib/arch/decoder.h"

namespace qp::arch {
namespace {

class Olmo2 : public Decoder {
 public:
  Olmo2(const ModelConfig& config, const engine::WeightSource& weights)
      : Decoder(config, weights, {.norm = {.eps = 1e-5f}}) {}

  Graph layer(size_t i) const override {
    Graph g(hidden);
    std::string name = layer_name(i);
    Value x = g.input();
    x = add(g, x, norm(g, attention(g, x, i), name + ".post_attention_layernorm"));
    add(g, x, norm(g, mlp(g, x, i), name + ".post_feedforward_layernorm"));
    return g;
  }

 protected:
  Qkv project(Graph& g, Value x, const std::string& module) const override {
    Qkv qkv = Decoder::project(g, x, module);
    qkv.q = norm(g, qkv.q, module + ".q_norm");
    qkv.k = norm(g, qkv.k, module + ".k_norm");
    return qkv;
  }
};

}  // namespace

extern const Family k_olmo2;
const Family k_olmo2 = {"olmo2", {"Olmo2ForCausalLM"}, make_decoder<Olmo2>};

}  // namespace qp::arch
