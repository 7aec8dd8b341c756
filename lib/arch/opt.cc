// OPT: learned positions that begin at row 2, LayerNorm, biases, a plain MLP. Not OPT-350m, whose
// embeddings are narrower than its hidden states.
#include "lib/arch/decoder.h"
#include "lib/engine/ops/embedding.h"

namespace qp::arch {
namespace {

class Opt : public Decoder {
 public:
  Opt(const ModelConfig& config, const engine::WeightSource& weights)
      : Decoder(config, weights,
                {.inner = "ffn_dim",
                 .act = "activation_function",
                 .eps = "",
                 .final_norm = "final_layer_norm",
                 .attention_out = "out_proj",
                 .norm = {.kind = engine::NormSpec::Kind::layer, .eps = 1e-5f, .bias = true},
                 .default_act = "relu",
                 .theta = 0,
                 .tied = true}) {
    context = config.count("max_position_embeddings", 2048);
    before_ = config.flag("do_layer_norm_before", true);
    attention_bias_ = bias_ = config.flag("enable_bias", true);
    if (config.count("word_embed_proj_dim", hidden) != hidden) {
      throw config.wrong("word_embed_proj_dim", "differs from hidden_size, which cannot be run");
    }
  }

  Graph embedding() const override {
    Graph g(0);
    using engine::Embedding;
    Value tokens = g.make<Embedding>({}, prefix_ + "embed_tokens.weight", vocab, hidden,
                                     Embedding::By::token);
    Value places = g.make<Embedding>({}, prefix_ + "embed_positions.weight", context + 2, hidden,
                                     Embedding::By::position, 1.0f, size_t{2});
    add(g, tokens, places);
    return g;
  }

  Graph final_norm() const override {
    bool none = !before_ || config_.flag("_remove_final_layer_norm", false);
    return none ? Graph(hidden) : Decoder::final_norm();
  }

  Graph layer(size_t i) const override {
    Graph g(hidden);
    Value x = block(g, g.input(), layer_name(i) + ".self_attn_layer_norm",
                    [&](Value y) { return attention(g, y, i); });
    block(g, x, layer_name(i) + ".final_layer_norm", [&](Value y) { return mlp(g, y, i); });
    return g;
  }

 protected:
  Value mlp(Graph& g, Value x, size_t i) const override {
    std::string name = layer_name(i);
    Value inner = linear(g, x, name + ".fc1", inner_, bias_);
    return linear(g, g.make<engine::Activation>({inner}, act_, inner_), name + ".fc2", hidden,
                  bias_);
  }

 private:
  template <class Part>
  Value block(Graph& g, Value x, const std::string& norm_name, Part part) const {
    Value y = add(g, x, part(before_ ? norm(g, x, norm_name) : x));
    return before_ ? y : norm(g, y, norm_name);
  }

  bool before_ = true, bias_ = true;
};

}  // namespace

extern const Family k_opt;
const Family k_opt = {"opt", {"OPTForCausalLM"}, make_decoder<Opt>};

}  // namespace qp::arch
