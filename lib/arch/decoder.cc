#include "lib/arch/decoder.h"

#include <cmath>

#include "lib/base/error.h"
#include "lib/engine/ops/embedding.h"
#include "lib/engine/ops/linear.h"

namespace qp::arch {
namespace {

// Where the language model's tensors begin: plain models, and wrappers of several generations.
std::string find_prefix(const engine::WeightSource& weights) {
  for (const char* prefix : {"model.", "model.language_model.", "language_model.model.",
                             "language_model.", "model.text_model.", ""}) {
    if (weights.has(std::string(prefix) + "embed_tokens.weight")) return prefix;
  }
  return "model.";
}

}  // namespace

Decoder::Decoder(const ModelConfig& config, const engine::WeightSource& weights)
    : prefix_(find_prefix(weights)), config_(config), weights_(weights) {
  layers = config.count("num_hidden_layers");
  hidden = config.count("hidden_size");
  vocab = config.count("vocab_size");
  heads_ = config.count("num_attention_heads");
  kv_heads_ = config.count("num_key_value_heads", heads_);
  head_dim_ = config.count("head_dim", hidden / heads_);
  inner_ = config.count("intermediate_size", 4 * hidden);
  act_ = engine::act_from_name(
      config.text("hidden_act", config.text("hidden_activation", "silu")));
  norm_.eps = static_cast<float>(config.number("rms_norm_eps", 1e-6));
  if (kv_heads_ == 0 || head_dim_ == 0 || heads_ % kv_heads_ != 0) {
    throw input_error("has " + std::to_string(heads_) + " attention heads over " +
                      std::to_string(kv_heads_) + " key/value heads").file("config.json");
  }
  attention_.heads = heads_;
  attention_.kv_heads = kv_heads_;
  attention_.head_dim = attention_.value_dim = head_dim_;
  attention_.scale = 1 / std::sqrt(static_cast<float>(head_dim_));
  // A table with more rows than the vocabulary (padding) is read as it is stored.
  std::string table = prefix_ + "embed_tokens.weight";
  if (const Shape* shape = weights.shape(table); shape != nullptr) vocab = shape->rows();
  head = {table, engine::Form::matrix, vocab, hidden};
  for (const char* name : {"lm_head.weight", "language_model.lm_head.weight"}) {
    if (!weights.has(name)) continue;
    head.tensor = name;
    head.rows = weights.shape(name)->rows();
    break;
  }
}

std::string Decoder::layer_name(size_t i) const {
  return prefix_ + "layers." + std::to_string(i);
}

Graph Decoder::embedding() const {
  Graph g(0);
  g.make<engine::Embedding>({}, prefix_ + "embed_tokens.weight", vocab, hidden,
                            engine::Embedding::By::token, embed_scale_);
  return g;
}

Graph Decoder::final_norm() const {
  Graph g(hidden);
  norm(g, g.input(), prefix_ + "norm");
  return g;
}

Graph Decoder::layer(size_t i) const {
  Graph g(hidden);
  std::string name = layer_name(i);
  Value x = g.input();
  x = residual(g, x, attention(g, norm(g, x, name + ".input_layernorm"), i));
  residual(g, x, mlp(g, norm(g, x, name + ".post_attention_layernorm"), i));
  return g;
}

Value Decoder::attention(Graph& g, Value x, size_t i) const {
  std::string name = layer_name(i) + ".self_attn";
  Qkv qkv = project(g, x, name);
  rotate(g, qkv, rotary_);
  return attend(g, qkv, name, window_);
}

Value Decoder::mlp(Graph& g, Value x, size_t i) const {
  return gated_mlp(g, x, layer_name(i) + ".mlp", inner_);
}

Value Decoder::norm(Graph& g, Value x, const std::string& module) const {
  return g.make<engine::Norm>({x}, module, g.width(x), g.width(x), norm_);
}

Value Decoder::head_norm(Graph& g, Value x, const std::string& module) const {
  return g.make<engine::Norm>({x}, module, g.width(x), head_dim_, norm_);
}

Value Decoder::linear(Graph& g, Value x, const std::string& module, size_t out) const {
  return g.make<engine::Linear>({x}, module, g.width(x), out, weights_.has(module + ".bias"));
}

Decoder::Qkv Decoder::project(Graph& g, Value x, const std::string& prefix) const {
  Qkv qkv;
  qkv.q = linear(g, x, prefix + ".q_proj", heads_ * head_dim_);
  qkv.k = linear(g, x, prefix + ".k_proj", kv_heads_ * head_dim_);
  qkv.v = linear(g, x, prefix + ".v_proj", kv_heads_ * head_dim_);
  return qkv;
}

void Decoder::rotate(Graph& g, Qkv& qkv,
                     const std::shared_ptr<const engine::Rotary>& rotary) const {
  qkv.q = g.make<engine::Rope>({qkv.q}, rotary, heads_, head_dim_);
  qkv.k = g.make<engine::Rope>({qkv.k}, rotary, kv_heads_, head_dim_);
}

Value Decoder::attend(Graph& g, const Qkv& qkv, const std::string& prefix, size_t window) const {
  engine::AttentionSpec spec = attention_;
  spec.window = window;
  spec.name = prefix;
  Value a = g.make<engine::Attention>({qkv.q, qkv.k, qkv.v}, spec);
  return linear(g, a, prefix + ".o_proj", hidden);
}

Value Decoder::gated_mlp(Graph& g, Value x, const std::string& prefix, size_t inner) const {
  Value gate = linear(g, x, prefix + ".gate_proj", inner);
  Value up = linear(g, x, prefix + ".up_proj", inner);
  return linear(g, g.make<engine::Gated>({gate, up}, act_, inner), prefix + ".down_proj", hidden);
}

Value Decoder::experts(Graph& g, Value x, Value route, const std::string& prefix, size_t n,
                       size_t top_k, size_t inner, Names names) const {
  // transformers 5 may save the experts of a layer as one tensor each for gate + up and down.
  std::string stack = prefix + ".experts.gate_up_proj";
  std::string down = prefix + ".experts.down_proj";
  bool stacked = weights_.has(stack);
  Value sum = g.make<engine::Zeros>({x}, hidden);
  for (size_t e = 0; e < n; ++e) {
    engine::ExpertSpec spec{e, top_k, hidden, inner, act_, {}, {}, {}, 0};
    std::string one = prefix + ".experts." + std::to_string(e) + ".";
    std::string at = "[" + std::to_string(e) + "]";
    using engine::Form;
    if (stacked) {
      spec.matrices = {{stack, Form::matrix, inner, hidden, false, true, e * 2 * inner},
                       {stack, Form::matrix, inner, hidden, false, true, (e * 2 + 1) * inner},
                       {down, Form::matrix, hidden, inner, false, true, e * hidden}};
      spec.modules = {stack + at, stack + at, down + at};
    } else {
      spec.matrices = {{one + names.gate + ".weight", Form::matrix, inner, hidden},
                       {one + names.up + ".weight", Form::matrix, inner, hidden},
                       {one + names.down + ".weight", Form::matrix, hidden, inner}};
      spec.modules = {one + names.gate, one + names.up, one + names.down};
    }
    sum = g.add(std::make_unique<engine::Expert>(std::move(spec)), {x, route, sum});
  }
  return sum;
}

Value Decoder::residual(Graph& g, Value x, Value branch) const {
  return g.make<engine::Add>({x, branch}, hidden);
}

}  // namespace qp::arch
