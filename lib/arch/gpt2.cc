// GPT-2: learned positions, LayerNorm with biases, weights stored [in, out].
#include "lib/arch/decoder.h"
#include "lib/engine/ops/embedding.h"
#include "lib/engine/ops/linear.h"

namespace qp::arch {
namespace {

class Gpt2 : public Decoder {
 public:
  Gpt2(const ModelConfig& config, const engine::WeightSource& weights)
      : Decoder(config, weights,
                {.layers = "n_layer",
                 .hidden = "n_embd",
                 .heads = "n_head",
                 .inner = "n_inner",
                 .act = "activation_function",
                 .eps = "layer_norm_epsilon",
                 .table = "wte",
                 .stack = "h",
                 .final_norm = "ln_f",
                 .norm = {.kind = engine::NormSpec::Kind::layer, .eps = 1e-5f, .bias = true},
                 .default_act = "gelu_new",
                 .theta = 0,
                 .inner_per_hidden = 4,
                 .tied = true}) {
    attention_.kv_heads = heads_;
    context = config.count("n_positions", 1024);
    if (!config.flag("scale_attn_weights", true)) attention_.scale = 1;
    by_layer_ = config.flag("scale_attn_by_inverse_layer_idx", false);
  }

  Graph embedding() const override {
    Graph g(0);
    using engine::Embedding;
    Value tokens = g.make<Embedding>({}, prefix_ + "wte.weight", vocab, hidden, Embedding::By::token);
    Value places = g.make<Embedding>({}, prefix_ + "wpe.weight", context, hidden,
                                     Embedding::By::position);
    add(g, tokens, places);
    return g;
  }

  Graph layer(size_t i) const override {
    Graph g(hidden);
    std::string name = layer_name(i);
    Value x = g.input();
    x = add(g, x, attention(g, norm(g, x, name + ".ln_1"), i));
    add(g, x, mlp(g, norm(g, x, name + ".ln_2"), i));
    return g;
  }

 protected:
  Value attention(Graph& g, Value x, size_t i) const override {
    engine::AttentionSpec spec = attention_;
    spec.name = layer_name(i) + ".attn";
    if (by_layer_) spec.scale /= static_cast<float>(i + 1);
    size_t width = heads_ * head_dim_;
    Value all = conv(g, x, spec.name + ".c_attn", 3 * width);
    Value q = columns(g, all, 0, width), k = columns(g, all, width, width);
    Value v = columns(g, all, 2 * width, width);
    return conv(g, g.make<engine::Attention>({q, k, v}, spec), spec.name + ".c_proj", hidden);
  }
  Value mlp(Graph& g, Value x, size_t i) const override {
    std::string name = layer_name(i) + ".mlp";
    Value inner = g.make<engine::Activation>({conv(g, x, name + ".c_fc", inner_)}, act_, inner_);
    return conv(g, inner, name + ".c_proj", hidden);
  }

 private:
  Value conv(Graph& g, Value x, const std::string& module, size_t out) const {
    return g.make<engine::Linear>({x}, module, g.width(x), out, true, true);
  }

  bool by_layer_ = false;
};

}  // namespace

extern const Family k_gpt2;
const Family k_gpt2 = {"gpt2", {"GPT2LMHeadModel"}, make_decoder<Gpt2>};

}  // namespace qp::arch
