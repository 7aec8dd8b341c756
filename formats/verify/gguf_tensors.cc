// The tensors that llama.cpp creates for an architecture, held against those of the file: it stops
// at one that is missing, has another shape, or is left over.
#include <algorithm>
#include <charconv>
#include <string>
#include <unordered_map>
#include <unordered_set>

#include "formats/verify/gguf_checks.h"
#include "lib/base/error.h"
#include "lib/ggml/tensor_map.h"

namespace qp {
namespace {

using ggml::Size;
using ggml::TensorNeed;
using ggml::When;

constexpr uint64_t kMaxLayers = 512;       // of llama.cpp
constexpr uint64_t kMaxFactor = 1u << 31;  // of a size: products of two stay far from overflow

// Dimensions in ggml's order, without those of 1 at the end.
std::vector<uint64_t> ggml_dims(const Shape& shape) {
  std::vector<uint64_t> out(shape.dims().begin(), shape.dims().end());
  std::ranges::reverse(out);
  while (out.size() > 1 && out.back() == 1) out.pop_back();
  return out;
}

std::string text_of(const std::vector<uint64_t>& dims) {
  std::string out;
  for (uint64_t d : dims) out += (out.empty() ? "" : ", ") + std::to_string(d);
  return "{" + out + "}";
}

// "blk.3.attn_q.weight"
std::optional<std::pair<uint64_t, std::string_view>> in_layer(std::string_view name) {
  if (!name.starts_with("blk.")) return std::nullopt;
  uint64_t n = 0;
  auto [end, error] = std::from_chars(name.data() + 4, name.data() + name.size(), n);
  bool dot = error == std::errc() && end != name.data() + name.size() && *end == '.';
  if (!dot) return std::nullopt;
  return std::pair(n, name.substr(static_cast<size_t>(end - name.data()) + 1));
}

class TensorCheck {
 public:
  explicit TensorCheck(GgufChecks& checks) : checks_(checks) {
    for (const GgufFile& shard : checks.shards) {
      for (const GgufTensor& t : shard.tensors) tensors_.emplace(t.name, &t);
    }
    layers_ = number("block_count");
    hidden_ = number("embedding_length");
    uint64_t n_heads = number("attention.head_count");
    width_ = number("attention.key_length", n_heads > 0 ? hidden_ / n_heads : 0);
    value_width_ = number("attention.value_length", n_heads > 0 ? hidden_ / n_heads : 0);
    rotated_ = number("rope.dimension_count", width_);
    mla_ = number("attention.key_length_mla") > 0 && number("attention.value_length_mla") > 0;
    const GgufValue* scaling = checks.meta.find(checks.arch + ".rope.scaling.type");
    longrope_ = scaling != nullptr && scaling->type == GgufType::string &&
                *checks.meta.string_at(checks.arch + ".rope.scaling.type") == "longrope";
    const GgufValue* tokens = checks.meta.find("tokenizer.ggml.tokens");
    bool listed = tokens != nullptr && tokens->type == GgufType::array;
    vocab_ = listed ? tokens->count : number("vocab_size");
  }

  void run() {
    check_rows(checks_.rules->model, "", 0);
    check_layers();
    check_gating();
    for (const GgufFile& shard : checks_.shards) {
      for (const GgufTensor& t : shard.tensors) check_left_over(t);
    }
  }

 private:
  uint64_t number(const char* key, uint64_t otherwise = 0, uint64_t layer = 0) const {
    return std::min(checks_.numbers.find(key, layer).value_or(otherwise), kMaxFactor);
  }

  // Layers that are not there at all are one finding.
  void check_layers() {
    std::unordered_set<uint64_t> there;
    std::string_view beyond;
    for (const auto& [name, t] : tensors_) {
      auto at = in_layer(name);
      if (!at) continue;
      there.insert(at->first);
      if (at->first >= layers_ && (beyond.empty() || name < beyond)) beyond = name;
    }
    uint64_t extra = number("nextn_predict_layers"), all = std::min(layers_, kMaxLayers), lost = 0,
             first = 0;
    first_extra_ = layers_ - std::min(layers_, extra);
    std::string list;
    for (uint64_t i = 0; i < all; ++i) {
      if (!there.contains(i)) {
        if (lost == 0) first = i;
        if (++lost <= 5) list += (list.empty() ? "" : ", ") + std::to_string(i);
      } else if (i < first_extra_) {
        check_rows(checks_.rules->layer, "blk." + std::to_string(i) + ".", i);
      }
    }
    if (lost > 0) {
      checks_
          .add(Severity::error, "block-count", "",
               std::to_string(lost) + " of the " + std::to_string(layers_) +
                   " layers of block_count are missing (" + list + (lost > 5 ? " .." : "") + ")",
               "the file is incomplete")
          .loader("block-count", std::to_string(first));
    }
    if (!beyond.empty()) {
      checks_
          .add(Severity::error, "block-count", std::string(beyond),
               "lies beyond the " + std::to_string(layers_) + " layers of block_count",
               "llama.cpp refuses tensors that it does not expect")
          .loader("unknown-tensor");
    }
  }

  void check_rows(const std::vector<std::span<const TensorNeed>>& lists, const std::string& prefix,
                  uint64_t layer) {
    for (const auto& rows : lists) {
      for (const TensorNeed& need : rows) check_need(need, prefix, layer);
    }
  }

  void check_need(const TensorNeed& need, const std::string& prefix, uint64_t layer) {
    if (!applies(need.when, prefix, layer)) return;
    std::string name = prefix + std::string(need.name);
    auto it = tensors_.find(name);
    if (it != tensors_.end()) {
      known_.insert(it->first);
      check_shape(*it->second, need, layer);
      check_type(*it->second);
      return;
    }
    constexpr When kOptional[] = {When::optional, When::dense_optional, When::sparse_optional,
                                  When::longrope, When::no_longrope};
    if (std::ranges::find(kOptional, need.when) != std::end(kOptional)) return;
    checks_.add(Severity::error, "absent-tensor", name,
                "is missing: llama.cpp does not load the file without it",
                "the file is incomplete, or the tensor has another name");
  }

  // DeepSeek-V3 and its like weigh experts by a sigmoid; without the key llama.cpp takes a softmax.
  void check_gating() {
    bool sigmoid = std::ranges::any_of(
        tensors_, [](const auto& t) { return t.first.ends_with(".exp_probs_b.bias"); });
    std::string key = checks_.arch + ".expert_gating_func";
    bool known = vocab_ == 154880 && (layers_ == 47 || layers_ == 48);  // GLM-4.7-Flash
    if (!sigmoid || known || checks_.arch != "deepseek2" || checks_.meta.find(key) != nullptr)
      return;
    checks_.add_missing(Severity::warning, key,
                        "llama.cpp takes a softmax; the model has a sigmoid");
  }

  bool has(const std::string& name) const { return tensors_.contains(name); }

  bool applies(When when, const std::string& prefix, uint64_t layer) const {
    bool sparse = number("expert_count") > 0 && layer >= number("leading_dense_block_count");
    switch (when) {
      case When::always:
      case When::optional: return true;
      case When::dense:
      case When::dense_optional: return !sparse;
      case When::sparse:
      case When::sparse_optional: return sparse;
      case When::split_qkv: return !has(prefix + "attn_qkv.weight");
      case When::split_experts: return sparse && !has(prefix + "ffn_gate_up_exps.weight");
      case When::low_q: return number("attention.q_lora_rank") > 0;
      case When::full_q: return number("attention.q_lora_rank") == 0;
      case When::mla: return mla_;
      case When::no_mla: return !mla_;
      case When::longrope: return longrope_;
      case When::no_longrope: return !longrope_;
    }
    return false;
  }

  uint64_t size(Size s, uint64_t layer) const {
    uint64_t heads = number("attention.head_count", 0, layer);
    uint64_t kv = number("attention.head_count_kv", heads, layer);
    uint64_t q = heads * width_, k = kv * width_, v = kv * value_width_;
    uint64_t inner = number("feed_forward_length", 0, layer), used = number("expert_used_count");
    uint64_t expert = number("expert_feed_forward_length", used > 0 ? inner / used : 0);
    uint64_t shared = number("expert_shared_count");
    uint64_t mla_width = number("attention.key_length_mla", width_);
    uint64_t mla_value = number("attention.value_length_mla", value_width_);
    uint64_t nope = mla_width - std::min(mla_width, rotated_),
             rank = number("attention.kv_lora_rank");
    switch (s) {
      case Size::none: return 1;
      case Size::hidden: return hidden_;
      case Size::vocab: return vocab_;
      case Size::positions: return number("context_length");
      case Size::q: return q;
      case Size::k: return k;
      case Size::v: return v;
      case Size::qkv: return q + k + v;
      case Size::head_k: return width_;
      case Size::heads: return heads;
      case Size::inner: return inner;
      case Size::twice_inner: return 2 * inner;
      case Size::experts: return number("expert_count");
      case Size::expert_inner: return expert;
      case Size::twice_expert_inner: return 2 * expert;
      case Size::shared_inner:
        return number("expert_shared_feed_forward_length", shared > 0 ? expert * shared : inner);
      case Size::half_rotated: return rotated_ / 2;
      case Size::q_rank: return number("attention.q_lora_rank");
      case Size::kv_rank: return rank;
      case Size::kv_rank_rotated: return rank + rotated_;
      case Size::mla_q: return heads * mla_width;
      case Size::mla_nope: return nope;
      case Size::mla_value: return mla_value;
      case Size::mla_v: return heads * mla_value;
      case Size::mla_kv: return heads * (nope + mla_value);
    }
    return 0;
  }

  void check_shape(const GgufTensor& t, const TensorNeed& need, uint64_t layer) {
    if (need.sizes[0] == Size::none) return;
    std::vector<uint64_t> want, found = ggml_dims(t.shape);
    for (Size s : need.sizes)
      want.push_back(s == Size::vocab && vocab_ == 0 ? t.shape.rows() : size(s, layer));
    while (want.size() > 1 && want.back() == 1) want.pop_back();
    if (want == found || lacks_key(need)) return;
    bool vocabulary = need.sizes[1] == Size::vocab && found.size() == 2 && found[0] == want[0];
    if (vocabulary) {
      checks_.add(Severity::error, "vocabulary", std::string(t.name),
                  "has " + std::to_string(found[1]) + " rows (expected " + std::to_string(vocab_) +
                      ", one for each token of the vocabulary)",
                  "llama.cpp refuses it: vocabulary and weights are of different models");
      return;
    }
    wrong_shape(t, want);
  }

  // A size that nothing says is 0: the key is what is wrong.
  bool lacks_key(const TensorNeed& need) {
    constexpr Size kInner[] = {Size::inner, Size::twice_inner};
    std::string key = checks_.arch + ".feed_forward_length";
    bool lacks = checks_.meta.find(key) == nullptr &&
                 std::ranges::find_first_of(need.sizes, kInner) != std::end(need.sizes);
    if (lacks)
      checks_.add_missing(Severity::error, key, "llama.cpp does not load the file without it",
                          "no-size");
    return lacks;
  }

  // Vectors are added and multiplied as they are; matrices need a kernel.
  void check_type(const GgufTensor& t) {
    constexpr std::string_view kNoKernel[] = {"i8", "i16", "i32", "i64", "f64", "q8_1", "q8_k"};
    std::string type(t.type->name);
    bool matrix = t.shape.rank() >= 2 && !t.name.ends_with("_norm.weight");
    if (matrix && std::ranges::find(kNoKernel, type) != std::end(kNoKernel)) {
      checks_
          .add(Severity::error, "tensor-type", std::string(t.name),
               "is " + type + ", with which llama.cpp does not compute", "convert the model again")
          .loader("no-kernel");
    }
    if (matrix || type == "f32" || !ggml::always_f32(t.name, t.shape)) return;
    bool added = t.name.ends_with("_norm.weight") || t.name.ends_with(".bias");
    checks_
        .add(Severity::error, "tensor-type", std::string(t.name),
             "is " + type + " (expected f32, as all norms and biases)",
             "llama.cpp cannot compute with it; convert the model again")
        .loader("tensor-type", added ? "dst: f32, src0: f32, src1: " + type : "");
  }

  // A factor beside a matrix: one, or one for each expert.
  bool is_factor(const GgufTensor& t) {
    constexpr std::string_view kMatrices[] = {
        "attn_q",       "attn_k",        "attn_v",        "attn_output",    "attn_qkv",
        "ffn_gate",     "ffn_down",      "ffn_up",        "ffn_gate_shexp", "ffn_down_shexp",
        "ffn_up_shexp", "ffn_gate_exps", "ffn_down_exps", "ffn_up_exps",    "output"};
    auto dot = t.name.rfind('.');
    std::string_view end = dot == t.name.npos ? t.name : t.name.substr(dot);
    if (end != ".scale" && end != ".input_scale") return false;
    std::string_view whole = t.name.substr(0, dot);
    auto at = in_layer(t.name);
    std::string_view name = at ? at->second.substr(0, at->second.rfind('.')) : whole;
    auto weight = tensors_.find(std::string(whole) + ".weight");
    if (weight == tensors_.end() || std::ranges::find(kMatrices, name) == std::end(kMatrices))
      return false;
    if (name == "output" && (at || weight->second->type->name != "nvfp4")) return false;
    std::vector<uint64_t> want = {name.ends_with("_exps") ? number("expert_count") : 1};
    if (ggml_dims(t.shape) != want) wrong_shape(t, want);
    return true;
  }

  void wrong_shape(const GgufTensor& t, const std::vector<uint64_t>& want) {
    checks_.add(Severity::error, "tensor-shape", std::string(t.name),
                "has dimensions " + text_of(ggml_dims(t.shape)) +
                    ", which do not fit the metadata (expected " + text_of(want) + ")",
                "llama.cpp refuses it: metadata and weights are of different models");
  }

  void check_left_over(const GgufTensor& t) {
    if (known_.contains(t.name)) return;
    auto at = in_layer(t.name);
    if (at && at->first >= first_extra_)
      return;  // reported, or of layers that predict further tokens
    if (is_factor(t)) return;
    checks_.add(Severity::error, "unknown-tensor", std::string(t.name),
                "is none of the tensors of architecture '" + printable(checks_.arch) + "'",
                "llama.cpp refuses tensors that it does not expect: remove or rename it");
  }

  GgufChecks& checks_;
  std::unordered_map<std::string_view, const GgufTensor*> tensors_;
  std::unordered_set<std::string_view> known_;
  uint64_t layers_ = 0, first_extra_ = 0, hidden_ = 0, width_ = 0, value_width_ = 0, rotated_ = 0,
           vocab_ = 0;
  bool mla_ = false, longrope_ = false;
};

// Sizes of nothing would not fit anything: better to name the key.
bool has_sizes(GgufChecks& checks) {
  bool all = true;
  for (const char* key : {"embedding_length", "block_count", "attention.head_count"}) {
    std::string whole = checks.arch + "." + key;
    if (checks.meta.find(whole) == nullptr) {
      checks.add_missing(Severity::error, whole, "llama.cpp does not load the file without it",
                         "no-size");
    }
    all = all && checks.numbers.find(key).value_or(0) > 0;
  }
  return all;
}

}  // namespace

void check_gguf_tensors(GgufChecks& checks) {
  if (has_sizes(checks)) TensorCheck(checks).run();
}

}  // namespace qp
