// Phi-3, Phi-3.5, Phi-4 and Phi-4-mini: fused projections, factors of its rotation as tensors.
#include <cmath>

#include "lib/ggml/describe.h"
#include "lib/ggml/rules.h"

namespace qp::ggml {
namespace {

constexpr TensorRule kLayer[] = {{"attn_qkv", "self_attn.qkv_proj"},
                                 {"attn_output", "self_attn.o_proj"},
                                 {"ffn_up", "mlp.gate_up_proj"},
                                 {"ffn_down", "mlp.down_proj"}};

// The part of a head that turns is said beside the rotary parameters, or among them.
uint64_t turning(const Config& c) {
  double part = number_in(c.rope(), "partial_rotary_factor")
                    .value_or(c.number({"partial_rotary_factor"}).value_or(1));
  if (!(part > 0 && part <= 1)) throw c.wrong("partial_rotary_factor", "is not in (0, 1]");
  auto width = static_cast<uint64_t>(part * static_cast<double>(c.need("hidden_size")));
  return width / c.need("num_attention_heads");
}

uint64_t original(const Config& c) {
  if (auto n = c.count({"original_max_position_embeddings"})) return *n;
  return static_cast<uint64_t>(
      number_in(c.rope(), "original_max_position_embeddings").value_or(4096));
}

bool is_scaled(const Config& c) {
  return json_string(c.rope(), "rope_type", "default") != "default";
}

// By how much attention is sharpened: longrope's rule, or yarn's in early configs.
double attention_factor(const Config& c, const std::string& type) {
  double from = static_cast<double>(original(c));
  double scale = static_cast<double>(c.need("max_position_embeddings")) / from;
  if (scale <= 1) return 1;
  return type == "yarn" ? 0.1 * std::log(scale) + 1
                        : std::sqrt(1 + std::log(scale) / std::log(from));
}

void describe(const Config& c, Metadata& out) {
  expect_text(c, "hidden_act", {"silu", "swish"});
  Defaults defaults{.eps = 1e-5};
  describe_sizes(c, defaults, out);
  out.count("rope.scaling.original_context_length", original(c));
  out.real("attention.layer_norm_rms_epsilon", c.number({"rms_norm_eps"}).value_or(defaults.eps));
  out.count("rope.dimension_count", turning(c));
  out.real("rope.freq_base", number_in(c.rope(), "rope_theta").value_or(defaults.theta));
  out.count("attention.sliding_window", c.count({"sliding_window"}).value_or(0));
  if (!is_scaled(c)) return;
  std::string type = json_string(c.rope(), "rope_type", "");
  if (type != "su" && type != "longrope" && type != "yarn") {
    throw limit_error("rope scaling '" + printable(type) +
                      "' has no form in a GGUF of this architecture")
        .file("config.json");
  }
  out.real("rope.scaling.attn_factor", attention_factor(c, type));
}

std::vector<Computed> compute(const Config& c) {
  if (!is_scaled(c)) return {};
  std::vector<Computed> out;
  for (auto [key, name] : {std::pair("long_factor", "rope_factors_long.weight"),
                           std::pair("short_factor", "rope_factors_short.weight")}) {
    Computed& t = out.emplace_back(Computed{name, {}});
    auto list = c.rope().find(key);
    if (list == c.rope().end() || !list->is_array() || list->size() != turning(c) / 2) {
      throw c.wrong(key, "is no list of " + std::to_string(turning(c) / 2) + " numbers");
    }
    for (const Json& f : *list) {
      if (!f.is_number()) throw c.wrong(key, "is no list of numbers");
      t.values.push_back(f.get<float>());
    }
  }
  return out;
}

void restore(const Restored& in, Json& config) {
  restore_sizes(in, config);
  restore_rope(in, config);
  restore_key(in, "attention.layer_norm_rms_epsilon", "rms_norm_eps", config, true);
  restore_key(in, "rope.scaling.original_context_length", "original_max_position_embeddings",
              config);
  restore_key(in, "attention.sliding_window", "sliding_window", config);
  if (config.contains("sliding_window") && config["sliding_window"] == 0)
    config["sliding_window"] = nullptr;
  Json width = Json::object();
  restore_key(in, "rope.dimension_count", "n", width);
  uint64_t head =
      config["hidden_size"].get<uint64_t>() / config["num_attention_heads"].get<uint64_t>();
  if (width.contains("n") && head > 0 && width["n"] != head) {
    config["partial_rotary_factor"] = width["n"].get<double>() / static_cast<double>(head);
  }
  config["hidden_act"] = "silu";
  if (!in.has("rope_factors_long.weight") || !in.has("rope_factors_short.weight")) return;
  config["rope_scaling"] = Json{{"long_factor", in.values("rope_factors_long.weight")},
                                {"short_factor", in.values("rope_factors_short.weight")},
                                {"type", "longrope"}};
}

}  // namespace

const Family& phi3_family() {
  static const Family family = {
      .arch = "phi3",
      .architectures = {"Phi3ForCausalLM"},
      .model_type = "phi3",
      .model = joined({kModelRules}),
      .layer = joined({kPreNormRules, kLayer}),
      .describe = describe,
      .compute = compute,
      .restore = restore,
  };
  return family;
}

}  // namespace qp::ggml
