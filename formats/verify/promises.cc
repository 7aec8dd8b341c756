// What config.json promises about the tensors.
#include <algorithm>
#include <array>
#include <charconv>
#include <map>
#include <optional>
#include <set>

#include "formats/verify/structure.h"
#include "lib/base/error.h"
#include "lib/model/modules.h"

namespace qp {
namespace {

// Families whose config keys mean what Llama's mean: a mismatch is an error there, elsewhere a
// warning (other families derive widths in their own ways).
constexpr std::array<std::string_view, 12> kPlainFamilies = {
    "llama", "mistral", "mixtral", "qwen2",  "qwen3",  "qwen2_moe",
    "qwen3_moe", "gemma", "gemma2", "granite", "olmo2", "smollm3"};

// Config keys of models whose layers differ by design.
constexpr std::array<std::string_view, 14> kMixedKeys = {
    "layer_types", "first_k_dense_replace", "moe_layer_freq", "mlp_only_layers", "decoder_sparse_step",
    "interleave_moe_layer_step", "attn_layer_period", "attn_layer_offset", "num_kv_shared_layers",
    "block_configs", "hybrid_override_pattern", "full_attention_interval", "cross_attention_layers",
    "layers_block_type"};

struct InLayer {
  std::string prefix;  // "model."
  int64_t number = -1;
  std::string rest;    // "mlp.up_proj.weight"
};

// "model.layers.3.mlp.up_proj.weight"
std::optional<InLayer> in_layer(std::string_view name) {
  auto at = name.find("layers.");
  if (at == std::string_view::npos || (at > 0 && name[at - 1] != '.')) return std::nullopt;
  InLayer out;
  out.prefix = name.substr(0, at);
  const char* begin = name.data() + at + 7;
  auto [end, ec] = std::from_chars(begin, name.data() + name.size(), out.number);
  if (ec != std::errc() || end == name.data() + name.size() || *end != '.') return std::nullopt;
  out.rest = std::string(end + 1, name.data() + name.size());
  return out;
}

bool is_number(std::string_view s) {
  return !s.empty() && std::ranges::all_of(s, [](char c) { return c >= '0' && c <= '9'; });
}

// Names of a layer as a tree: each container ("mlp.experts.*") with the names in it.
using Children = std::map<std::string, std::set<std::string>>;

class Promises {
 public:
  explicit Promises(const Model& model) : m_(model), config_(&model.config) {
    if (auto text = config_->find("text_config"); text != config_->end() && text->is_object()) config_ = &*text;
    std::string type = text_of("model_type");
    plain_ = std::ranges::find(kPlainFamilies, type) != kPlainFamilies.end();
    hidden_ = number("hidden_size");
    vocab_ = number("vocab_size");
    layers_ = number("num_hidden_layers");
  }

  std::vector<Finding> run() {
    for (const Tensor& t : m_.tensors) sort_in(t);
    check_vocabulary();
    check_head();
    check_layer_count();
    check_modules();
    check_shapes();
    check_experts();
    check_dtype();
    return std::move(findings_);
  }

 private:
  struct Item {
    const Tensor* tensor;
    std::string rest;
  };

  void add(Severity severity, const char* rule, std::string tensor, std::string what, std::string hint) {
    findings_.push_back({severity, rule, std::move(tensor), std::move(what), std::move(hint)});
  }
  // Wrong types in a config are no reason to stop: such a key promises nothing.
  int64_t number(const char* key) const {
    auto it = config_->find(key);
    return it != config_->end() && it->is_number_integer() ? it->get<int64_t>() : -1;
  }
  std::string text_of(const char* key) const {
    auto it = config_->find(key);
    return it != config_->end() && it->is_string() ? it->get<std::string>() : "";
  }
  bool mixed() const {
    return std::ranges::any_of(kMixedKeys, [&](std::string_view k) {
      auto it = config_->find(k);
      return it != config_->end() && !it->is_null() && !(it->is_array() && it->empty());
    });
  }
  Severity grade() const { return plain_ ? Severity::error : Severity::warning; }

  void sort_in(const Tensor& t) {
    ModuleInfo info = classify(t.name, DType::bf16, t.shape, m_.config);
    if (info.kind == ModuleKind::vision) return;
    if (info.kind == ModuleKind::embedding && t.name.ends_with("embed_tokens.weight")) embedding_ = &t;
    if (info.kind == ModuleKind::head && t.name.ends_with("lm_head.weight")) head_ = &t;
    if (auto at = in_layer(t.name)) by_prefix_[at->prefix][at->number].push_back({&t, at->rest});
  }

  void check_vocabulary() {
    for (const Tensor* t : {embedding_, head_}) {
      if (t == nullptr || t->shape.rank() != 2) continue;
      for (auto [dim, want, key] : {std::tuple{0u, vocab_, "vocab_size"}, std::tuple{1u, hidden_, "hidden_size"}}) {
        if (want <= 0 || t->shape[dim] == static_cast<uint64_t>(want)) continue;
        bool padded = dim == 0 && t->shape[0] > static_cast<uint64_t>(want);
        add(padded ? Severity::warning : grade(), "vocab-size", t->name,
            "is " + t->shape.str() + ", which does not fit " + key + " of config.json (expected " +
                std::to_string(want) + ")",
            "config.json and weights are of different models");
      }
    }
  }

  void check_head() {
    if (embedding_ == nullptr || head_ != nullptr || !m_.architecture.ends_with("ForCausalLM")) return;
    const Json* tied = nullptr;
    for (const Json* place : {config_, &m_.config}) {
      auto it = place->find("tie_word_embeddings");
      if (it != place->end() && it->is_boolean()) tied = &*it;
    }
    if (tied == nullptr) {
      add(Severity::note, "tied-head", "", "there is no lm_head.weight, and config.json has no tie_word_embeddings",
          "engines use the embedding if the architecture ties it by default");
    } else if (!tied->get<bool>()) {
      add(Severity::error, "tied-head", "", "there is no lm_head.weight, but tie_word_embeddings is false",
          "restore the tensor, or set tie_word_embeddings to true");
    }
  }

  // The decoder's layers: the prefix with the most of them.
  const std::map<int64_t, std::vector<Item>>* decoder() const {
    const std::map<int64_t, std::vector<Item>>* best = nullptr;
    for (const auto& [prefix, layers] : by_prefix_) {
      if (best == nullptr || layers.size() > best->size()) best = &layers;
    }
    return best;
  }

  void check_layer_count() {
    const auto* layers = decoder();
    if (layers == nullptr || layers_ <= 0) return;
    std::string missing;
    int64_t count = 0;
    for (int64_t i = 0; i < std::min<int64_t>(layers_, 100'000); ++i) {
      if (layers->contains(i)) continue;
      if (++count <= 5) missing += (missing.empty() ? "" : ", ") + std::to_string(i);
    }
    if (count > 0) {
      add(Severity::error, "layer-count", "",
          std::to_string(count) + " of the " + std::to_string(layers_) + " layers of config.json are missing (" + missing +
              (count > 5 ? " .." : "") + ")",
          "the checkpoint is incomplete, or config.json is of another model");
    }
    int64_t beyond = layers->rbegin()->first - layers_ + 1;
    if (beyond > std::max<int64_t>(number("num_nextn_predict_layers"), 0)) {
      add(Severity::warning, "layer-count", layers->rbegin()->second.front().tensor->name,
          "lies beyond the " + std::to_string(layers_) + " layers of config.json", "engines ignore or refuse it");
    }
  }

  static Children children_of(const std::vector<Item>& items) {
    Children out;
    for (const Item& item : items) {
      std::string container;
      std::string_view rest = item.rest;
      while (!rest.empty()) {
        auto dot = rest.find('.');
        std::string part(rest.substr(0, dot));
        out[container].insert(is_number(part) ? "*" : part);
        // The experts of a layer are alike; each is looked at on its own below.
        container += (container.empty() ? "" : ".") + part;
        if (dot == std::string_view::npos) break;
        rest.remove_prefix(dot + 1);
      }
    }
    return out;
  }

  static std::string generic(const std::string& container) {
    std::string out;
    size_t at = 0;
    while (at <= container.size()) {
      auto dot = std::min(container.find('.', at), container.size());
      std::string part = container.substr(at, dot - at);
      out += (out.empty() ? "" : ".") + (is_number(part) ? std::string("*") : part);
      at = dot + 1;
    }
    return out;
  }

  // A container with fewer names than a commoner variant of it has lost some.
  void check_modules() {
    for (const auto& [prefix, layers] : by_prefix_) {
      struct Variant {
        size_t count = 0;
        std::vector<std::string> where;  // the first few
      };
      std::map<std::string, std::map<std::set<std::string>, Variant>> variants;
      for (const auto& [number, items] : layers) {
        if (layers_ > 0 && number >= layers_) continue;  // MTP layers are of their own kind
        for (auto& [container, names] : children_of(items)) {
          Variant& v = variants[generic(container)][names];
          if (++v.count <= 64) {
            v.where.push_back(prefix + "layers." + std::to_string(number) + (container.empty() ? "" : "." + container));
          }
        }
      }
      for (const auto& [container, sets] : variants) {
        for (const auto& [names, v] : sets) report_if_less(names, v.count, v.where, sets);
      }
    }
  }

  template <class Sets>
  void report_if_less(const std::set<std::string>& names, size_t count, const std::vector<std::string>& where,
                      const Sets& sets) {
    for (const auto& [other, v] : sets) {
      if (v.count <= count || other.size() <= names.size()) continue;
      if (!std::ranges::includes(other, names)) continue;
      std::vector<std::string> lost;
      std::ranges::set_difference(other, names, std::back_inserter(lost));
      for (const std::string& place : where) {
        std::string list;
        for (const std::string& l : lost) list += (list.empty() ? "" : ", ") + l;
        add(mixed() ? Severity::warning : Severity::error, "missing-module", place + "." + lost.front(),
            printable(place) + " has no " + list + ", which " + std::to_string(v.count) + " others have",
            "the checkpoint is incomplete");
      }
      return;
    }
  }

  void check_shapes() {
    struct Rule {
      std::string_view end;
      size_t dim;
      int64_t want;
      const char* key;
    };
    int64_t heads = number("num_attention_heads"), kv = number("num_key_value_heads"), head_dim = number("head_dim");
    if (head_dim <= 0 && heads > 0 && hidden_ > 0) head_dim = hidden_ / heads;
    if (kv <= 0) kv = heads;
    auto product = [](int64_t a, int64_t b) { return a > 0 && b > 0 && a < 1 << 24 && b < 1 << 24 ? a * b : -1; };
    int64_t inner = number("intermediate_size");
    const Rule rules[] = {
        {"self_attn.q_proj.weight", 1, hidden_, "hidden_size"},
        {"self_attn.k_proj.weight", 1, hidden_, "hidden_size"},
        {"self_attn.v_proj.weight", 1, hidden_, "hidden_size"},
        {"self_attn.o_proj.weight", 0, hidden_, "hidden_size"},
        {"self_attn.q_proj.weight", 0, plain_ ? product(heads, head_dim) : -1, "num_attention_heads x head_dim"},
        {"self_attn.k_proj.weight", 0, plain_ ? product(kv, head_dim) : -1, "num_key_value_heads x head_dim"},
        {"self_attn.v_proj.weight", 0, plain_ ? product(kv, head_dim) : -1, "num_key_value_heads x head_dim"},
        {"mlp.gate_proj.weight", 1, hidden_, "hidden_size"},
        {"mlp.up_proj.weight", 1, hidden_, "hidden_size"},
        {"mlp.down_proj.weight", 0, hidden_, "hidden_size"},
        {"mlp.gate_proj.weight", 0, plain_ ? inner : -1, "intermediate_size"},
        {"mlp.up_proj.weight", 0, plain_ ? inner : -1, "intermediate_size"},
        {"mlp.down_proj.weight", 1, plain_ ? inner : -1, "intermediate_size"},
    };
    const auto* layers = decoder();
    if (layers == nullptr) return;
    for (const auto& [number, items] : *layers) {
      for (const Item& item : items) {
        for (const Rule& rule : rules) {
          if (rule.want <= 0 || item.rest != rule.end || item.tensor->shape.rank() != 2) continue;
          if (item.tensor->shape[rule.dim] == static_cast<uint64_t>(rule.want)) continue;
          add(grade(), "module-shape", item.tensor->name,
              "is " + item.tensor->shape.str() + ", which does not fit " + rule.key + " of config.json (expected " +
                  std::to_string(rule.want) + ")",
              "config.json and weights are of different models");
        }
      }
    }
  }

  void check_experts() {
    int64_t want = -1;
    for (const char* key : {"num_local_experts", "num_experts", "n_routed_experts"}) {
      if (want <= 0) want = number(key);
    }
    check_routers();
    if (want <= 0) return;
    for (const auto& [prefix, layers] : by_prefix_) {
      for (const auto& [number, items] : layers) {
        std::set<std::string> experts;
        for (const Item& item : items) {
          auto at = item.rest.find("experts.");
          if (at == std::string::npos || (at > 0 && item.rest[at - 1] != '.')) continue;
          std::string name = item.rest.substr(at + 8, item.rest.find('.', at + 8) - at - 8);
          if (is_number(name)) experts.insert(name);
        }
        if (experts.empty() || experts.size() == static_cast<size_t>(want)) continue;
        add(Severity::error, "expert-count", prefix + "layers." + std::to_string(number),
            "has " + std::to_string(experts.size()) + " experts (expected " + std::to_string(want) + ", as config.json says)",
            "the checkpoint is incomplete, or config.json is of another model");
      }
    }
  }

  // Experts without what sends tokens to them.
  void check_routers() {
    for (const auto& [prefix, layers] : by_prefix_) {
      for (const auto& [number, items] : layers) {
        bool experts = false, router = false;
        for (const Item& item : items) {
          experts = experts || item.rest.find("experts.0.") != std::string::npos;
          ModuleKind kind = classify(item.tensor->name, DType::bf16, item.tensor->shape, m_.config).kind;
          router = router || (kind == ModuleKind::router && item.rest.find("shared_expert") == std::string::npos);
        }
        if (!experts || router) continue;
        add(grade(), "missing-module", prefix + "layers." + std::to_string(number), "has experts, but no router",
            "the checkpoint is incomplete");
      }
    }
  }

  void check_dtype() {
    if (m_.format == "gguf") return;  // its config.json is made of the tensors
    std::string name = text_of("dtype");
    if (name.empty()) name = text_of("torch_dtype");
    for (const char* key : {"dtype", "torch_dtype"}) {
      auto it = m_.config.find(key);
      if (name.empty() && it != m_.config.end() && it->is_string()) name = it->get<std::string>();
    }
    auto want = dtype_from_torch(name);
    if (!want) return;
    std::map<DType, uint64_t> elements;
    for (const Tensor& t : m_.tensors) {
      if (!t.quantized() && is_float(t.dtype) && t.shape.rank() >= 2) elements[t.dtype] += t.shape.elements().value_or(0);
    }
    auto most = std::ranges::max_element(elements, {}, [](const auto& e) { return e.second; });
    if (most == elements.end() || most->first == *want) return;
    add(Severity::warning, "dtype", "",
        "config.json says " + printable(name) + ", but most weights are " + std::string(dtype_name(most->first)),
        "set dtype to " + std::string(torch_name(most->first)));
  }

  const Model& m_;
  const Json* config_;
  bool plain_ = false;
  int64_t hidden_ = -1, vocab_ = -1, layers_ = -1;
  const Tensor* embedding_ = nullptr;
  const Tensor* head_ = nullptr;
  std::map<std::string, std::map<int64_t, std::vector<Item>>> by_prefix_;
  std::vector<Finding> findings_;
};

}  // namespace

std::vector<Finding> check_promises(const Model& model) {
  if (!model.config.is_object()) return {};
  return Promises(model).run();
}

}  // namespace qp
