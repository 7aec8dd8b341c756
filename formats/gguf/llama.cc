#include "formats/gguf/llama.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstring>
#include <unordered_map>

#include "lib/base/error.h"

namespace qp {
namespace {

using TensorIndex = std::unordered_map<std::string_view, const GgufTensor*>;

// Sizes a tensor of a layer can have.
enum class Dim : uint8_t { none, hidden, intermediate, vocab, q, kv };
enum class Presence : uint8_t { required, attention_bias, mlp_bias, untied };
enum class Rotary : uint8_t { no, q, k };

struct Row {
  std::string_view gguf, hf;
  Dim out, in;  // shape [out, in], or [out]
  Presence presence;
  Rotary rotary;
};

constexpr Row kModelRows[] = {
    {"token_embd.weight", "model.embed_tokens.weight", Dim::vocab, Dim::hidden, Presence::required,
     Rotary::no},
    {"output_norm.weight", "model.norm.weight", Dim::hidden, Dim::none, Presence::required,
     Rotary::no},
    {"output.weight", "lm_head.weight", Dim::vocab, Dim::hidden, Presence::untied, Rotary::no},
};

// After "blk.N." and "model.layers.N.".
constexpr Row kLayerRows[] = {
    {"attn_norm.weight", "input_layernorm.weight", Dim::hidden, Dim::none, Presence::required,
     Rotary::no},
    {"attn_q.weight", "self_attn.q_proj.weight", Dim::q, Dim::hidden, Presence::required,
     Rotary::q},
    {"attn_k.weight", "self_attn.k_proj.weight", Dim::kv, Dim::hidden, Presence::required,
     Rotary::k},
    {"attn_v.weight", "self_attn.v_proj.weight", Dim::kv, Dim::hidden, Presence::required,
     Rotary::no},
    {"attn_output.weight", "self_attn.o_proj.weight", Dim::hidden, Dim::q, Presence::required,
     Rotary::no},
    {"ffn_norm.weight", "post_attention_layernorm.weight", Dim::hidden, Dim::none,
     Presence::required, Rotary::no},
    {"ffn_gate.weight", "mlp.gate_proj.weight", Dim::intermediate, Dim::hidden, Presence::required,
     Rotary::no},
    {"ffn_up.weight", "mlp.up_proj.weight", Dim::intermediate, Dim::hidden, Presence::required,
     Rotary::no},
    {"ffn_down.weight", "mlp.down_proj.weight", Dim::hidden, Dim::intermediate, Presence::required,
     Rotary::no},
    {"attn_q.bias", "self_attn.q_proj.bias", Dim::q, Dim::none, Presence::attention_bias,
     Rotary::q},
    {"attn_k.bias", "self_attn.k_proj.bias", Dim::kv, Dim::none, Presence::attention_bias,
     Rotary::k},
    {"attn_v.bias", "self_attn.v_proj.bias", Dim::kv, Dim::none, Presence::attention_bias,
     Rotary::no},
    {"attn_output.bias", "self_attn.o_proj.bias", Dim::hidden, Dim::none, Presence::attention_bias,
     Rotary::no},
    {"ffn_gate.bias", "mlp.gate_proj.bias", Dim::intermediate, Dim::none, Presence::mlp_bias,
     Rotary::no},
    {"ffn_up.bias", "mlp.up_proj.bias", Dim::intermediate, Dim::none, Presence::mlp_bias,
     Rotary::no},
    {"ffn_down.bias", "mlp.down_proj.bias", Dim::hidden, Dim::none, Presence::mlp_bias,
     Rotary::no},
};

constexpr std::string_view kRopeFreqs = "rope_freqs.weight";
constexpr uint64_t kMaxLayers = 100000;  // keeps names and products small

uint64_t size_of(Dim dim, const Llama& m) {
  switch (dim) {
    case Dim::none: return 1;
    case Dim::hidden: return m.hidden;
    case Dim::intermediate: return m.intermediate;
    case Dim::vocab: return m.vocab;
    case Dim::q: return m.heads * m.head_dim;
    case Dim::kv: return m.kv_heads * m.head_dim;
  }
  return 0;
}

bool wanted(Presence presence, const Llama& m) {
  switch (presence) {
    case Presence::required: return true;
    case Presence::attention_bias: return m.attention_bias;
    case Presence::mlp_bias: return m.mlp_bias;
    case Presence::untied: return !m.tied;
  }
  return false;
}

// A required positive integer; per-layer arrays count when all layers agree.
std::string read_size(const GgufFile& meta, const std::string& key, uint64_t& value) {
  auto numbers = meta.ints_at(key);
  if (!numbers || numbers->empty()) return "metadata key '" + key + "' is missing";
  bool uniform = std::ranges::all_of(*numbers, [&](int64_t n) { return n == numbers->front(); });
  if (!uniform) return "'" + key + "' differs from layer to layer";
  if (numbers->front() <= 0 || numbers->front() > INT32_MAX) return "'" + key + "' is out of range";
  value = static_cast<uint64_t>(numbers->front());
  return "";
}

std::string read_sizes(const GgufFile& meta, Llama& m) {
  struct {
    const char* key;
    uint64_t* value;
  } const rows[] = {{"llama.block_count", &m.layers},
                    {"llama.embedding_length", &m.hidden},
                    {"llama.feed_forward_length", &m.intermediate},
                    {"llama.context_length", &m.context},
                    {"llama.attention.head_count", &m.heads}};
  for (auto& row : rows) {
    if (std::string why = read_size(meta, row.key, *row.value); !why.empty()) return why;
  }
  if (m.layers > kMaxLayers) return "'llama.block_count' is out of range";
  m.kv_heads = m.heads;
  if (meta.find("llama.attention.head_count_kv") != nullptr) {
    std::string why = read_size(meta, "llama.attention.head_count_kv", m.kv_heads);
    if (!why.empty()) return why;
  }
  m.head_dim = meta.uint_at("llama.attention.key_length").value_or(m.hidden / m.heads);
  if (m.head_dim == 0 || m.head_dim % 2 != 0 || m.head_dim > 65536) {
    return "head size " + std::to_string(m.head_dim) + " is no even number in range";
  }
  if (meta.uint_at("llama.attention.value_length").value_or(m.head_dim) != m.head_dim) {
    return "keys and values have different sizes";
  }
  if (meta.uint_at("llama.rope.dimension_count").value_or(m.head_dim) != m.head_dim) {
    return "only a part of each head is rotated";
  }
  if (m.heads % m.kv_heads != 0) return "heads are no multiple of key-value heads";
  if (meta.uint_at("llama.expert_count").value_or(0) > 0) return "it has experts";
  auto eps = meta.real_at("llama.attention.layer_norm_rms_epsilon");
  if (!eps) return "metadata key 'llama.attention.layer_norm_rms_epsilon' is missing";
  m.eps = *eps;
  m.theta = meta.real_at("llama.rope.freq_base").value_or(10000);
  if (!std::isfinite(m.eps) || !std::isfinite(m.theta)) return "a hyperparameter is not finite";
  return "";
}

// rope.scaling.* keys as config.json's rope_scaling.
std::string read_scaling(const GgufFile& meta, Llama& m) {
  auto factor = meta.real_at("llama.rope.scaling.factor");
  if (!factor) factor = meta.real_at("llama.rope.scale_linear");
  if (factor && !std::isfinite(*factor)) return "a hyperparameter is not finite";
  std::string type(meta.string_at("llama.rope.scaling.type").value_or("linear"));
  if (type == "none" || !factor || *factor == 0 || *factor == 1) return "";
  if (type == "linear") {
    m.rope_scaling = Json{{"factor", *factor}, {"rope_type", "linear"}};
    return "";
  }
  if (type != "yarn") return "rope scaling '" + printable(type) + "' is not supported";
  for (const char* key :
       {"llama.rope.scaling.attn_factor", "llama.rope.scaling.yarn_attn_factor"}) {
    if (meta.real_at(key).value_or(1) != 1) return std::string("'") + key + "' is not 1";
  }
  Json scaling{{"factor", *factor}, {"rope_type", "yarn"}};
  if (auto n = meta.uint_at("llama.rope.scaling.original_context_length")) {
    scaling["original_max_position_embeddings"] = *n;
  }
  if (auto v = meta.real_at("llama.rope.scaling.yarn_beta_fast")) scaling["beta_fast"] = *v;
  if (auto v = meta.real_at("llama.rope.scaling.yarn_beta_slow")) scaling["beta_slow"] = *v;
  m.rope_scaling = std::move(scaling);
  return "";
}

// The llama3 scaling is in no key, only in the tensor computed from it.
std::string read_rope_freqs(std::span<const GgufFile> shards, Llama& m) {
  for (const GgufFile& shard : shards) {
    for (const GgufTensor& t : shard.tensors) {
      if (t.name != kRopeFreqs) continue;
      if (t.type->name != "f32" || t.shape.elements() != m.head_dim / 2) {
        return "rope_freqs.weight has type " + std::string(t.type->name) + " and shape " +
               t.shape.str();
      }
      std::vector<float> factors(m.head_dim / 2);
      std::memcpy(factors.data(), shard.bytes.data() + t.offset, t.bytes);
      auto scaling = llama3_scaling(factors, m.theta);
      if (!scaling) return "rope_freqs.weight is no llama3 rope scaling";
      if (!scaling->is_null() && !m.rope_scaling.is_null()) return "it has two rope scalings";
      if (!scaling->is_null()) m.rope_scaling = std::move(*scaling);
    }
  }
  return "";
}

std::string check_row(const Row& row, const std::string& prefix, const TensorIndex& tensors,
                      const Llama& m, size_t& used) {
  std::string name = prefix + std::string(row.gguf);
  auto it = tensors.find(name);
  if (it == tensors.end()) {
    return wanted(row.presence, m) ? "tensor '" + name + "' is missing" : "";
  }
  if (!wanted(row.presence, m)) return "tensor '" + name + "' is unexpected";
  ++used;
  const Shape& shape = it->second->shape;
  bool matrix = row.in != Dim::none;
  uint64_t rows = matrix ? shape.rows() : 1, cols = shape.cols();
  uint64_t want_rows = matrix ? size_of(row.out, m) : 1;
  uint64_t want_cols = size_of(matrix ? row.in : row.out, m);
  if (shape.rank() > (matrix ? 2u : 1u) || rows != want_rows || cols != want_cols) {
    return "tensor '" + name + "' has shape " + shape.str();
  }
  const GgmlType& type = *it->second->type;
  bool is_number = type.id >= 24 && type.id <= 28;  // i8 .. i64, f64
  if (is_number || (!matrix && type.block != 1)) {
    return "tensor '" + name + "' has type " + std::string(type.name);
  }
  return "";
}

std::string check_tensors(std::span<const GgufFile> shards, Llama& m) {
  TensorIndex tensors;
  for (const GgufFile& shard : shards) {
    for (const GgufTensor& t : shard.tensors) tensors.emplace(t.name, &t);
  }
  if (tensors.empty()) return "it has no tensors";
  if (tensors.size() < m.layers) return "tensors are missing";
  m.tied = !tensors.contains("output.weight");
  m.attention_bias = tensors.contains("blk.0.attn_q.bias");
  m.mlp_bias = tensors.contains("blk.0.ffn_up.bias");
  if (auto it = tensors.find("token_embd.weight"); it != tensors.end()) {
    m.vocab = it->second->shape.rows();
  }
  size_t used = tensors.contains(kRopeFreqs) ? 1 : 0;
  for (const Row& row : kModelRows) {
    if (auto why = check_row(row, "", tensors, m, used); !why.empty()) return why;
  }
  for (uint64_t layer = 0; layer < m.layers; ++layer) {
    std::string prefix = "blk." + std::to_string(layer) + ".";
    for (const Row& row : kLayerRows) {
      if (auto why = check_row(row, prefix, tensors, m, used); !why.empty()) return why;
    }
  }
  if (used == tensors.size()) return "";
  for (const auto& [name, tensor] : tensors) {
    if (name != kRopeFreqs && !llama_name(name, m)) {
      return "tensor '" + printable(name) + "' is unexpected";
    }
  }
  return "it has more layers than 'llama.block_count' says";
}

template <size_t n>
std::optional<LlamaName> rename(const Row (&rows)[n], std::string_view gguf,
                                const std::string& prefix, const Llama& m) {
  for (const Row& row : rows) {
    if (row.gguf != gguf) continue;
    uint64_t heads = row.rotary == Rotary::no ? 0 : row.rotary == Rotary::q ? m.heads : m.kv_heads;
    return LlamaName{prefix + std::string(row.hf), static_cast<uint32_t>(heads)};
  }
  return std::nullopt;
}

// llama.cpp ignores ids outside the vocabulary, so they are not passed on.
void set_token_id(Json& config, const char* name, const GgufFile& meta, const char* key,
                  const Llama& m) {
  if (auto id = meta.uint_at(key); id && *id < m.vocab) config[name] = *id;
}

}  // namespace

std::string read_llama(std::span<const GgufFile> shards, Llama& llama) {
  const GgufFile& meta = shards.front();
  std::string architecture(meta.string_at("general.architecture").value_or(""));
  if (architecture.empty()) return "it names no architecture";
  if (architecture != "llama") return "its architecture is '" + printable(architecture) + "'";
  std::string why = read_sizes(meta, llama);
  if (why.empty()) why = read_scaling(meta, llama);
  if (why.empty()) why = read_rope_freqs(shards, llama);
  if (why.empty()) why = check_tensors(shards, llama);
  return why;
}

std::optional<LlamaName> llama_name(std::string_view gguf_name, const Llama& llama) {
  if (!gguf_name.starts_with("blk.")) return rename(kModelRows, gguf_name, "", llama);
  std::string_view rest = gguf_name.substr(4);
  uint64_t layer = 0;
  auto [end, error] = std::from_chars(rest.data(), rest.data() + rest.size(), layer);
  auto digits = static_cast<size_t>(end - rest.data());
  if (error != std::errc() || digits >= rest.size() || rest[digits] != '.') return std::nullopt;
  return rename(kLayerRows, rest.substr(digits + 1), "model.layers." + std::to_string(layer) + ".",
                llama);
}

Json llama_config(const Llama& m, const GgufFile& metadata, std::string_view torch_dtype) {
  Json config;
  config["architectures"] = Json::array({"LlamaForCausalLM"});
  config["attention_bias"] = m.attention_bias;
  config["attention_dropout"] = 0.0;
  set_token_id(config, "bos_token_id", metadata, "tokenizer.ggml.bos_token_id", m);
  set_token_id(config, "eos_token_id", metadata, "tokenizer.ggml.eos_token_id", m);
  config["head_dim"] = m.head_dim;
  config["hidden_act"] = "silu";
  config["hidden_size"] = m.hidden;
  config["initializer_range"] = 0.02;
  config["intermediate_size"] = m.intermediate;
  config["max_position_embeddings"] = m.context;
  config["mlp_bias"] = m.mlp_bias;
  config["model_type"] = "llama";
  config["num_attention_heads"] = m.heads;
  config["num_hidden_layers"] = m.layers;
  config["num_key_value_heads"] = m.kv_heads;
  set_token_id(config, "pad_token_id", metadata, "tokenizer.ggml.padding_token_id", m);
  config["pretraining_tp"] = 1;
  config["rms_norm_eps"] = m.eps;
  config["rope_scaling"] = m.rope_scaling;
  config["rope_theta"] = m.theta;
  config["tie_word_embeddings"] = m.tied;
  config["torch_dtype"] = torch_dtype;
  config["use_cache"] = true;
  config["vocab_size"] = m.vocab;
  return config;
}

Json llama_generation_config(const Llama& m, const GgufFile& metadata) {
  Json config = Json::object();
  set_token_id(config, "bos_token_id", metadata, "tokenizer.ggml.bos_token_id", m);
  set_token_id(config, "eos_token_id", metadata, "tokenizer.ggml.eos_token_id", m);
  // A chat model may end a turn with another token than the text: generation stops at any of them.
  for (const char* key : {"tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id"}) {
    auto id = metadata.uint_at(key);
    if (!id || *id >= m.vocab || !config.contains("eos_token_id")) continue;
    if (config["eos_token_id"] == *id) continue;
    if (!config["eos_token_id"].is_array()) {
      config["eos_token_id"] = Json::array({config["eos_token_id"]});
    }
    config["eos_token_id"].push_back(*id);
  }
  set_token_id(config, "pad_token_id", metadata, "tokenizer.ggml.padding_token_id", m);
  return config;
}

}  // namespace qp
