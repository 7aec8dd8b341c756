// config.json from the metadata of a GGUF.
#include <cmath>

#include "lib/ggml/describe.h"

namespace qp::ggml {
namespace {

constexpr int64_t kMaxSize = int64_t{1} << 30;

bool is_sane(const Json& value) {
  if (value.is_number_integer()) return value >= 0 && value <= kMaxSize;
  return value.is_boolean() || (value.is_number() && std::isfinite(value.get<double>()));
}

}  // namespace

void restore_key(const Restored& in, const char* key, const char* name, Json& config, bool needed) {
  auto it = in.keys.find(key);
  bool there = it != in.keys.end();
  if ((needed && !there) || (there && !is_sane(*it)) || (needed && *it == 0)) {
    throw input_error("metadata key '" + std::string(key) + "' is missing or out of range");
  }
  if (there) config[name] = *it;
}

void restore_sizes(const Restored& in, Json& config) {
  restore_key(in, "embedding_length", "hidden_size", config, true);
  restore_key(in, "feed_forward_length", "intermediate_size", config);
  restore_key(in, "context_length", "max_position_embeddings", config, true);
  restore_key(in, "attention.head_count", "num_attention_heads", config, true);
  restore_key(in, "block_count", "num_hidden_layers", config, true);
  config["num_key_value_heads"] = config["num_attention_heads"];
  restore_key(in, "attention.head_count_kv", "num_key_value_heads", config);
}

void restore_rope(const Restored& in, Json& config) {
  config["rope_theta"] = 10000.0;
  restore_key(in, "rope.freq_base", "rope_theta", config);
  config["rope_scaling"] = nullptr;
  std::string type = json_string(in.keys, "rope.scaling.type", "none");
  if (type == "none") return;
  Json scaling = Json::object();
  restore_key(in, "rope.scaling.factor", "factor", scaling);
  if (!scaling.contains("factor") || scaling["factor"] == 0) return;
  if (type == "yarn") {
    restore_key(in, "rope.scaling.original_context_length", "original_max_position_embeddings",
                scaling);
    restore_key(in, "rope.scaling.yarn_ext_factor", "extrapolation_factor", scaling);
    restore_key(in, "rope.scaling.yarn_attn_factor", "attention_factor", scaling);
    restore_key(in, "rope.scaling.yarn_beta_fast", "beta_fast", scaling);
    restore_key(in, "rope.scaling.yarn_beta_slow", "beta_slow", scaling);
  } else if (type != "linear") {
    throw limit_error("rope scaling '" + printable(type) + "' is not supported");
  }
  scaling["rope_type"] = type;
  config["rope_scaling"] = std::move(scaling);
}

void restore_decoder(const Restored& in, Json& config) {
  restore_sizes(in, config);
  restore_rope(in, config);
  restore_key(in, "attention.layer_norm_rms_epsilon", "rms_norm_eps", config, true);
  restore_key(in, "attention.key_length", "head_dim", config);
  config["hidden_act"] = "silu";
}

}  // namespace qp::ggml
