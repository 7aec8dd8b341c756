#include "lib/ggml/describe.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace qp::ggml {
namespace {

void copy_count(const Config& config, std::initializer_list<const char*> keys, const char* key,
                Metadata& out) {
  if (auto n = config.count(keys)) out.count(key, *n);
}

void copy_real(const Json& from, const char* name, const char* key, Metadata& out) {
  if (auto v = number_in(from, name)) out.real(key, *v);
}

void describe_yarn(const Config& config, const Json& rope, double factor, Metadata& out) {
  out.own("rope.scaling.type", std::string("yarn"));
  out.real("rope.scaling.factor", factor);
  auto original = number_in(rope, "original_max_position_embeddings");
  if (!original) original = config.number({"max_position_embeddings"});
  if (original && *original >= 0 && *original <= INT32_MAX) {
    out.count("rope.scaling.original_context_length", static_cast<uint64_t>(*original));
  }
  auto one = number_in(rope, "mscale"), all = number_in(rope, "mscale_all_dim");
  if (one && all && *one != *all) {
    throw limit_error("rope scaling with two different mscale has no form in a GGUF")
        .file("config.json");
  }
  copy_real(rope, "extrapolation_factor", "rope.scaling.yarn_ext_factor", out);
  copy_real(rope, rope.contains("attention_factor") ? "attention_factor" : "attn_factor",
            "rope.scaling.yarn_attn_factor", out);
  copy_real(rope, "beta_fast", "rope.scaling.yarn_beta_fast", out);
  copy_real(rope, "beta_slow", "rope.scaling.yarn_beta_slow", out);
}

void describe_scaling(const Config& config, Metadata& out) {
  const Json& rope = config.rope_full();
  std::string type = json_string(rope, "rope_type", "default");
  auto factor = number_in(rope, "factor");
  if (type == "linear" && factor) {
    out.own("rope.scaling.type", std::string("linear"));
    out.real("rope.scaling.factor", *factor);
  } else if (type == "yarn" && factor) {
    describe_yarn(config, rope, *factor, out);
  } else if (type != "default" && type != "llama3" && type != "dynamic" && type != "mrope") {
    throw limit_error("rope scaling '" + printable(type) +
                      "' has no form in a GGUF of this architecture")
        .file("config.json");
  }
}

void describe_sections(const Config& config, Metadata& out) {
  auto it = config.rope().find("mrope_section");
  if (it == config.rope().end() || !it->is_array()) return;
  std::vector<int32_t> sections;
  for (const Json& n : *it) {
    if (!n.is_number_integer() || n < 0 || n > 1 << 20)
      throw config.wrong("mrope_section", "is no list of counts");
    sections.push_back(n.get<int32_t>());
  }
  sections.resize(4);  // time, height, width, and one more
  out.own("rope.dimension_sections", std::move(sections));
}

}  // namespace

uint64_t head_dim_of(const Config& config, const Defaults& defaults) {
  if (auto dim = config.count({"head_dim"})) return *dim;
  if (defaults.head_dim != 0) return defaults.head_dim;
  return config.need("hidden_size") / config.need("num_attention_heads");
}

void describe_sizes(const Config& config, const Defaults& defaults, Metadata& out) {
  out.count("block_count", config.need("num_hidden_layers"));
  copy_count(config, {"max_position_embeddings"}, "context_length", out);
  out.count("embedding_length", config.need("hidden_size"));
  copy_count(config, {"intermediate_size"}, "feed_forward_length", out);
  uint64_t heads = config.need("num_attention_heads");
  out.count("attention.head_count", heads);
  uint64_t otherwise = defaults.kv_heads != 0 ? defaults.kv_heads : heads;
  out.count("attention.head_count_kv", config.count({"num_key_value_heads"}).value_or(otherwise));
}

void describe_rope(const Config& config, const Defaults& defaults, Metadata& out) {
  describe_scaling(config, out);
  describe_sections(config, out);
  out.real("rope.freq_base", number_in(config.rope_full(), "rope_theta").value_or(defaults.theta));
}

void describe_experts(const Config& config, Metadata& out) {
  copy_count(config, {"num_local_experts", "num_experts"}, "expert_count", out);
  copy_count(config, {"num_experts_per_tok"}, "expert_used_count", out);
  copy_count(config, {"n_group"}, "expert_group_count", out);
  copy_count(config, {"topk_group"}, "expert_group_used_count", out);
  std::string score = config.text("scoring_func", "");
  if (score == "softmax") out.count("expert_gating_func", 1);
  if (score == "sigmoid") out.count("expert_gating_func", 2);
}

void expect_text(const Config& config, const char* key, std::initializer_list<const char*> values) {
  std::string said = config.text(key, *values.begin());
  if (std::ranges::any_of(values, [&](const char* v) { return said == v; })) return;
  throw limit_error("'" + std::string(key) + "' is '" + printable(said) +
                    "', but llama.cpp computes '" + *values.begin() + "' for this architecture")
      .file("config.json");
}

void describe_decoder(const Config& config, const Defaults& defaults, Metadata& out) {
  expect_text(config, "hidden_act", {"silu", "swish"});
  describe_sizes(config, defaults, out);
  describe_rope(config, defaults, out);
  out.real("attention.layer_norm_rms_epsilon",
           config.number({"rms_norm_eps"}).value_or(defaults.eps));
  describe_experts(config, out);
  if (defaults.says_head_dim || config.find("head_dim") != nullptr) {
    uint64_t dim = head_dim_of(config, defaults);
    out.count("attention.key_length", dim);
    out.count("attention.value_length", dim);
  }
}

// In f32, as PyTorch computes it: the last digits are part of the file.
std::vector<Computed> llama3_factors(const Config& config) {
  const Json& rope = config.rope_full();
  if (json_string(rope, "rope_type", "") != "llama3") return {};
  uint64_t dim = head_dim_of(config, {});
  if (dim == 0 || dim > 1 << 16) throw config.wrong("head_dim", "is out of range");
  auto real = [&](const char* key, double otherwise) {
    return static_cast<float>(number_in(rope, key).value_or(otherwise));
  };
  float factor = real("factor", 8), low = real("low_freq_factor", 1),
        high = real("high_freq_factor", 4);
  double beside = config.number({"original_max_position_embeddings"}).value_or(8192);
  double context = number_in(rope, "original_max_position_embeddings").value_or(beside);
  double theta = number_in(rope, "rope_theta").value_or(10000);
  auto n = static_cast<float>(context), longest = n / low, shortest = n / high;
  Computed out{"rope_freqs.weight", {}};
  for (uint64_t i = 0; i < dim; i += 2) {
    float exponent = static_cast<float>(i) / static_cast<float>(dim);
    float freq = 1.0f / static_cast<float>(std::pow(theta, static_cast<double>(exponent)));
    float length = static_cast<float>(2 * std::numbers::pi) / freq;
    float smooth = (n / length - low) / (high - low);
    out.values.push_back(length < shortest  ? 1.0f
                         : length > longest ? factor
                                            : 1.0f / ((1.0f - smooth) / factor + smooth));
  }
  return {std::move(out)};
}

}  // namespace qp::ggml
