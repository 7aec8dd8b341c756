#include "lib/arch/decoder.h"

#include <cmath>

#include "lib/engine/ops/embedding.h"
#include "lib/engine/ops/linear.h"

namespace qp::arch {
namespace {

// Where the language model's tensors begin: plain models, and wrappers of several generations.
std::string find_prefix(const engine::WeightSource& weights, const std::string& table) {
  for (const char* prefix :
       {"model.", "model.language_model.", "language_model.model.", "language_model.",
        "model.text_model.", "transformer.", "model.decoder.", "decoder.", ""}) {
    if (weights.has(prefix + table + ".weight")) return prefix;
  }
  return "model.";
}

}  // namespace

Decoder::Decoder(const ModelConfig& config, const engine::WeightSource& weights, Traits traits)
    : traits_(traits), prefix_(find_prefix(weights, traits.table)), config_(config),
      weights_(weights) {
  layers = config.count(traits_.layers);
  hidden = config.count(traits_.hidden);
  inner_ = traits_.inner_per_hidden == 0 ? config.count(traits_.inner)
                                         : config.count(traits_.inner, traits_.inner_per_hidden * hidden);
  act_ = engine::act_from_name(config.text(traits_.act, traits_.default_act), traits_.act);
  norm_ = traits_.norm;
  norm_.eps = static_cast<float>(config.number(traits_.eps, static_cast<double>(norm_.eps)));
  read_attention();
  find_head();
  if (!weights.has_any(layer_name(layers - 1) + ".")) {
    throw config.wrong(traits_.layers, "is " + std::to_string(layers) +
                                           ", but the checkpoint has no tensor of layer " +
                                           layer_name(layers - 1));
  }
}

void Decoder::read_attention() {
  heads_ = traits_.default_heads == 0 ? config_.count(traits_.heads)
                                      : config_.count(traits_.heads, traits_.default_heads);
  bool alike = traits_.default_kv_heads == 0 || config_.is_null("num_key_value_heads");
  kv_heads_ = config_.count("num_key_value_heads", alike ? heads_ : traits_.default_kv_heads);
  if (heads_ == 0) throw config_.wrong(traits_.heads, "is 0");
  if (kv_heads_ == 0 || heads_ % kv_heads_ != 0) {
    throw config_.wrong("num_key_value_heads", "is " + std::to_string(kv_heads_) +
                                                   ", which does not divide " +
                                                   std::to_string(heads_) + " heads");
  }
  bool given = config_.has("head_dim") || traits_.default_head_dim != 0;
  if (!given && hidden % heads_ != 0) {
    throw config_.wrong(traits_.heads, "is " + std::to_string(heads_) + ", which does not divide " +
                                           std::to_string(hidden) + " hidden components");
  }
  head_dim_ = config_.count("head_dim", given ? traits_.default_head_dim : hidden / heads_);
  if (head_dim_ == 0) throw config_.wrong("head_dim", "is 0");
  attention_.heads = heads_;
  attention_.kv_heads = kv_heads_;
  attention_.head_dim = attention_.value_dim = head_dim_;
  attention_.scale = static_cast<float>(1 / std::sqrt(static_cast<double>(head_dim_)));
  attention_bias_ = config_.flag("attention_bias", false);
  context = config_.count("max_position_embeddings", 0);
  if (traits_.theta > 0) rotary_ = config_.rotary(head_dim_, traits_.theta);
}

// A table with more rows than the vocabulary (padding) is read as it is stored.
void Decoder::find_head() {
  std::string table = prefix_ + traits_.table + ".weight";
  const Shape* shape = weights_.shape(table);
  vocab = config_.count("vocab_size", 0);
  if (shape != nullptr && shape->rank() == 2 && shape->rows() >= vocab) vocab = shape->rows();
  head = {table, engine::Form::matrix, vocab, hidden};
  for (const char* name : {"lm_head.weight", "language_model.lm_head.weight"}) {
    if (const Shape* own = weights_.shape(name); own != nullptr) {
      head.tensor = name;
      head.rows = own->rows();
      return;
    }
  }
  if (!config_.flag("tie_word_embeddings", traits_.tied)) head.tensor = "lm_head.weight";
}

void Decoder::slide(size_t window, const std::function<bool(size_t)>& rule) {
  window_ = window;
  sliding_ = config_.sliding(layers, rule);
  for (bool slides : sliding_) {
    if (slides && window == 0) throw config_.wrong("sliding_window", "is missing");
  }
}

std::string Decoder::layer_name(size_t i) const {
  return prefix_ + traits_.stack + "." + std::to_string(i);
}

Graph Decoder::embedding() const {
  Graph g(0);
  g.make<engine::Embedding>({}, prefix_ + traits_.table + ".weight", vocab, hidden,
                            engine::Embedding::By::token, embed_scale_);
  return g;
}

Graph Decoder::final_norm() const {
  Graph g(hidden);
  norm(g, g.input(), prefix_ + traits_.final_norm);
  return g;
}

Graph Decoder::layer(size_t i) const {
  Graph g(hidden);
  std::string name = layer_name(i);
  Value x = g.input();
  x = add(g, x, attention(g, norm(g, x, name + ".input_layernorm"), i));
  add(g, x, mlp(g, norm(g, x, name + ".post_attention_layernorm"), i));
  return g;
}

Value Decoder::attention(Graph& g, Value x, size_t i) const {
  engine::AttentionSpec spec = attention_;
  spec.name = layer_name(i) + ".self_attn";
  spec.window = window(i);
  if (!spec.sinks.empty()) spec.sinks = spec.name + "." + attention_.sinks;
  Qkv qkv = project(g, x, spec.name);
  if (Rotation r = rotary(i); r != nullptr) {
    qkv.q = g.make<engine::Rope>({qkv.q}, r, heads_, head_dim_);
    qkv.k = g.make<engine::Rope>({qkv.k}, r, kv_heads_, head_dim_);
  }
  Value a = g.make<engine::Attention>({qkv.q, qkv.k, qkv.v}, spec);
  return linear(g, a, spec.name + "." + traits_.attention_out, hidden, attention_bias_);
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

Value Decoder::linear(Graph& g, Value x, const std::string& module, size_t out, bool bias) const {
  bias = bias || weights_.has(module + ".bias");
  return g.make<engine::Linear>({x}, module, g.width(x), out, bias);
}

Decoder::Qkv Decoder::project(Graph& g, Value x, const std::string& module) const {
  bool bias = attention_bias_ || traits_.qkv_bias;
  Qkv qkv;
  qkv.q = linear(g, x, module + ".q_proj", heads_ * head_dim_, bias);
  qkv.k = linear(g, x, module + ".k_proj", kv_heads_ * head_dim_, bias);
  qkv.v = linear(g, x, module + ".v_proj", kv_heads_ * head_dim_, bias);
  return qkv;
}

Decoder::Qkv Decoder::project_normed(Graph& g, Value x, const std::string& module) const {
  Qkv qkv = Decoder::project(g, x, module);
  qkv.q = head_norm(g, qkv.q, module + ".q_norm");
  qkv.k = head_norm(g, qkv.k, module + ".k_norm");
  return qkv;
}

Value Decoder::gated_mlp(Graph& g, Value x, const std::string& module, size_t inner) const {
  bool bias = config_.flag("mlp_bias", false);
  Value gate = linear(g, x, module + ".gate_proj", inner, bias);
  Value up = linear(g, x, module + ".up_proj", inner, bias);
  Value product = g.make<engine::Gated>({gate, up}, act_, inner);
  return linear(g, product, module + ".down_proj", hidden, bias);
}

Value Decoder::add(Graph& g, Value x, Value branch) const {
  return g.make<engine::Add>({x, branch}, hidden);
}

Value Decoder::columns(Graph& g, Value x, size_t first, size_t count) const {
  return g.make<engine::SliceHeads>({x}, size_t{1}, g.width(x), first, count);
}

}  // namespace qp::arch
