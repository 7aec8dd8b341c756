#include "lib/ggml/mix.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <initializer_list>
#include <optional>

#include "lib/base/error.h"
#include "lib/tensor/ggml_type.h"

namespace qp::ggml {
namespace {

enum class Category : uint8_t { output, embedding, qkv, kv_b, v, k, q, o, up, gate, down, other };

Category category_of(std::string_view name) {
  if (name == "output.weight") return Category::output;
  if (name == "token_embd.weight" || name == "per_layer_token_embd.weight") return Category::embedding;
  struct Row {
    std::string_view part;
    Category category;
  };
  // The first that occurs decides.
  constexpr Row kRows[] = {{"attn_qkv.weight", Category::qkv}, {"attn_kv_b.weight", Category::kv_b},
                           {"attn_v.weight", Category::v},     {"attn_k.weight", Category::k},
                           {"attn_q.weight", Category::q},     {"attn_output.weight", Category::o},
                           {"ffn_up", Category::up},           {"ffn_gate", Category::gate},
                           {"ffn_down", Category::down}};
  for (const Row& r : kRows) {
    if (name.find(r.part) != std::string_view::npos) return r.category;
  }
  return Category::other;
}

bool like_values(Category c) { return c == Category::v || c == Category::qkv || c == Category::kv_b; }

// Layers at both ends, and every third between, get more bits.
bool more_bits(uint64_t i, uint64_t n) { return i < n / 8 || i >= 7 * n / 8 || (i - n / 8) % 3 == 2; }

std::optional<uint64_t> layer_in(std::string_view name) {
  if (!name.starts_with("blk.")) return std::nullopt;
  uint64_t layer = 0;
  auto [end, error] = std::from_chars(name.data() + 4, name.data() + name.size(), layer);
  if (error != std::errc()) return std::nullopt;
  return layer;
}

uint64_t block_of(std::string_view type) { return ggml_type(type)->block; }

class Chooser {
 public:
  Chooser(const MixRule& rule, const MixModel& model, bool importance, std::span<const MixTensor> tensors)
      : rule_(rule), mix_(*rule.mix), model_(model), importance_(importance) {
    for (const MixTensor& t : tensors) {
      Category c = category_of(t.name);
      values_ += like_values(c) ? 1u : 0u;
      tied_ = tied_ && c != Category::output;
    }
  }

  const char* choose(const MixTensor& t) {
    if (t.decided || !can_be_quantized(t.name, t.shape)) return nullptr;
    Category c = category_of(t.name);
    if (c == Category::embedding && !rule_.embedding.empty()) return rule_.embedding.c_str();
    if (c == Category::output && !rule_.output.empty()) return rule_.output.c_str();
    if (rule_.pure) return type();
    return fitting(t, by_rules(t, c));
  }

 private:
  const char* type() const { return mix_.type.data(); }
  bool is(std::initializer_list<std::string_view> names) const {
    return std::ranges::find(names, mix_.name) != names.end();
  }
  bool small() const { return is({"iq2_s", "iq2_m"}); }
  bool tiny() const { return small() || is({"iq2_xxs", "iq2_xs", "iq1_s", "iq1_m"}); }
  bool falcon() const { return model_.arch == "falcon"; }
  uint64_t gqa() const { return model_.kv_heads == 0 ? 0 : model_.heads / model_.kv_heads; }
  // What llama.cpp calls a 70B.
  bool is_70b() const {
    if (model_.layers != 80) return false;
    return (model_.arch == "llama" && model_.heads != model_.kv_heads) || model_.arch == "qwen2" ||
           model_.arch == "deci" || model_.arch == "olmo";
  }

  // Of down, gate and up: counted, but where there are experts that would not be the layer.
  uint64_t layer(const MixTensor& t, uint64_t counted) const {
    if (model_.experts <= 1) return counted;
    auto layer = layer_in(t.name);
    if (!layer || *layer >= model_.layers) {
      throw input_error("is of no layer that the model has (" + std::to_string(model_.layers) + ")")
          .tensor(std::string(t.name));
    }
    return *layer;
  }

  const char* by_rules(const MixTensor& t, Category c) {
    if (c == Category::output || (c == Category::embedding && tied_)) return head(t);
    if (is({"mxfp4_moe"})) return t.shape.rank() > 2 && t.shape[t.shape.rank() - 3] > 1 ? "mxfp4" : "q8_0";
    if (c == Category::embedding) return table();
    if (tiny()) return tiny_mix(c);
    switch (c) {
      case Category::v:
      case Category::qkv:
      case Category::kv_b: return values();
      case Category::k: return keys();
      case Category::q: return is({"iq3_xs"}) ? "iq3_xxs" : is({"iq3_xxs"}) ? "iq2_s" : type();
      case Category::down: return down(layer(t, downs_++));
      case Category::o: return attention_output();
      case Category::gate: return wide(layer(t, gates_++));
      case Category::up: return wide(layer(t, ups_++));
      case Category::output:
      case Category::embedding:
      case Category::other: break;
    }
    return type();
  }

  const char* head(const MixTensor& t) const {
    if (!rule_.output.empty()) return rule_.output.c_str();
    if (is({"mxfp4_moe"}) || falcon() || t.shape.cols() % block_of(mix_.type) != 0) return "q8_0";
    if (tiny() || is({"iq3_xxs"})) return "q5_k";
    return mix_.type == "q8_0" ? "q8_0" : "q6_k";
  }

  const char* table() const {
    if (is({"iq2_xxs", "iq2_xs", "iq1_s", "iq1_m"})) return "q2_k";
    if (small() || is({"iq3_xxs"})) return "iq3_s";
    return is({"tq1_0", "tq2_0", "q2_0"}) ? "q4_k" : type();
  }

  const char* tiny_mix(Category c) {
    if (like_values(c)) {
      ++seen_values_;
      if (gqa() >= 4 || model_.experts >= 4) return "q4_k";
      return small() ? "iq3_s" : "q2_k";
    }
    if (c == Category::k && model_.experts == 8) return "q4_k";
    if (c == Category::down) {
      bool first = downs_++ < model_.layers / 8;
      return !first ? type() : small() ? "iq3_s" : "q2_k";
    }
    if (c != Category::o) return type();
    if (model_.experts == 8) return "q5_k";
    if (is({"iq1_s", "iq1_m"})) return "iq2_xxs";
    return small() ? "iq3_s" : type();
  }

  const char* values() {
    uint64_t i = seen_values_++;
    bool shared = gqa() >= 4;
    std::string_view t = mix_.type;
    if (is({"q2_k"})) t = shared ? "q4_k" : "q3_k";
    else if (is({"q2_k_s"}) && shared) t = "q4_k";
    else if (is({"iq3_xxs"})) t = shared ? "q4_k" : importance_ ? "iq3_xxs" : "iq3_s";
    else if (is({"iq3_xs", "iq3_s"}) && shared) t = "q4_k";
    else if (is({"iq3_m"})) t = "q4_k";
    else if (is({"q3_k_m"})) t = i < 2 ? "q5_k" : "q4_k";
    else if (is({"q3_k_l"})) t = "q5_k";
    else if (is({"iq4_nl", "iq4_xs"}) && shared) t = "q5_k";
    else if (is({"q4_k_m", "q5_k_m"}) && more_bits(i, values_)) t = "q6_k";
    else if (is({"q4_k_s"}) && i < 4) t = "q5_k";
    if (is_70b() && (t == "q3_k" || t == "q4_k")) t = "q5_k";
    return model_.experts == 8 ? "q8_0" : t.data();
  }

  const char* keys() const {
    if (model_.experts == 8) return "q8_0";
    return is({"iq3_xs"}) ? "iq3_xxs" : is({"iq3_xxs"}) ? "iq2_s" : type();
  }

  const char* down(uint64_t i) const {
    uint64_t n = model_.layers;
    bool first = i < n / 8, more = more_bits(i, n);
    if (is({"q2_k"})) return "q3_k";
    if (is({"q2_k_s"})) return first ? "q4_k" : type();
    if (is({"iq3_xxs"}) && !importance_) return first ? "q4_k" : "q3_k";
    if (is({"q3_k_m"})) return i < n / 16 ? "q5_k" : !falcon() || more ? "q4_k" : "q3_k";
    if (is({"iq3_m"})) return first || (model_.experts == 8 && more) ? "q4_k" : type();
    if (is({"q3_k_l"})) return falcon() ? "q4_k" : "q5_k";
    if (is({"q4_k_m"})) {
      if (falcon()) return i < n / 16 ? "q6_k" : more ? "q5_k" : "q4_k";
      return more ? "q6_k" : type();
    }
    if (is({"iq4_nl", "iq4_xs"}) && first && !importance_) return "q5_k";
    if (is({"q5_k_m"}) && more) return "q6_k";
    if (is({"q4_k_s"}) && !falcon() && first) return "q5_k";
    if (is({"q4_0"}) && importance_ && first) return "q4_1";
    if (is({"q5_0"}) && importance_ && first) return "q5_1";
    return type();
  }

  const char* attention_output() const {
    if (falcon()) return is({"q3_k_l"}) ? "q4_k" : type();
    if (model_.experts == 8) {
      bool more = is({"q2_k", "iq3_xs", "iq3_xxs", "q3_k_s", "q3_k_m", "iq4_nl", "q4_k_s", "q4_k_m", "iq3_s",
                      "iq3_m", "iq4_xs"});
      return more ? "q5_k" : type();
    }
    if (is({"q2_k"})) return "q3_k";
    if (is({"iq3_xxs"})) return "iq3_s";
    if (is({"q3_k_m", "iq3_m"})) return "q4_k";
    return is({"q3_k_l"}) ? "q5_k" : type();
  }

  // Gate and up.
  const char* wide(uint64_t i) const {
    uint64_t n = model_.layers;
    return is({"iq3_xs"}) && i >= n / 8 && i < 7 * n / 8 ? "iq3_xxs" : type();
  }

  // A type whose blocks divide the rows.
  static const char* fitting(const MixTensor& t, const char* type) {
    uint64_t cols = t.shape.cols();
    if (cols % block_of(type) == 0) return type;
    struct Row {
      std::initializer_list<std::string_view> types;
      const char* instead;
    };
    static const Row kRows[] = {
        {{"iq1_s", "iq1_m", "iq2_xxs", "iq2_xs", "iq2_s", "iq3_xxs", "iq3_s", "iq4_xs"}, "iq4_nl"},
        {{"q2_0", "q2_k", "q3_k", "tq1_0", "tq2_0"}, "q4_0"},
        {{"q4_k"}, "q5_0"},
        {{"q5_k"}, "q5_1"},
        {{"q6_k"}, "q8_0"}};
    for (const Row& r : kRows) {
      if (std::ranges::find(r.types, std::string_view(type)) == r.types.end()) continue;
      return cols % block_of(r.instead) == 0 ? r.instead : "f16";
    }
    if (block_of(type) <= 32) return "f16";
    throw usage_error("its rows of " + std::to_string(cols) + " are no multiple of the " +
                      std::to_string(block_of(type)) + " elements of a block of " + type +
                      ", and llama-quantize has no other type for that")
        .tensor(std::string(t.name))
        .hint("choose another type, or leave the tensor out with --ignore");
  }

  const MixRule& rule_;
  const Mix& mix_;
  const MixModel& model_;
  bool importance_, tied_ = true;
  uint64_t values_ = 0, seen_values_ = 0, downs_ = 0, gates_ = 0, ups_ = 0;
};

}  // namespace

std::vector<const char*> choose_types(const MixRule& rule, const MixModel& model, bool importance,
                                      std::span<const MixTensor> tensors) {
  Chooser chooser(rule, model, importance, tensors);
  std::vector<const char*> types;
  for (const MixTensor& t : tensors) types.push_back(chooser.choose(t));
  return types;
}

bool can_be_quantized(std::string_view name, const Shape& shape) {
  constexpr std::string_view kParts[] = {
      "_norm.weight",          "ffn_gate_inp.weight",  "altup",
      "laurel",                "per_layer_model_proj", "ssm_conv1d",
      "shortconv.conv.weight", "time_mix_first.weight", "time_mix_w0.weight",
      "time_mix_w1.weight",    "time_mix_w2.weight",   "time_mix_v0.weight",
      "time_mix_v1.weight",    "time_mix_v2.weight",   "time_mix_a0.weight",
      "time_mix_a1.weight",    "time_mix_a2.weight",   "time_mix_g1.weight",
      "time_mix_g2.weight",    "time_mix_decay_w1.weight", "time_mix_decay_w2.weight",
      "time_mix_lerp_fused.weight", "attn_rel_b.weight", ".position_embd",
      "sam.pos_embd",          "sam.neck.",            "sam.net_",
      ".rel_pos",              ".patch_embd",          ".patch_merger"};
  if (!name.ends_with("weight") || name == "position_embd.weight" || name == "token_types.weight") return false;
  // Dimensions of 1 at the front do not count.
  size_t rank = shape.rank();
  for (size_t i = 0; i < shape.rank() && rank > 1 && shape[i] == 1; ++i) --rank;
  return rank >= 2 && std::ranges::none_of(kParts, [&](std::string_view p) {
    return name.find(p) != std::string_view::npos;
  });
}

bool needs_importance(const Mix& mix, std::string_view name, std::string_view type) {
  if (name == "output.weight" || name == "token_embd.weight" || name == "per_layer_token_embd.weight") return false;
  constexpr std::string_view kTypes[] = {"iq3_xxs", "iq2_xxs", "iq2_xs", "iq2_s", "iq1_m", "iq1_s"};
  return std::ranges::find(kTypes, type) != std::end(kTypes) || (type == "q2_k" && mix.name == "q2_k_s");
}

}  // namespace qp::ggml
