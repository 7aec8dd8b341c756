// Metadata: the keys that are there, their types, and values that exclude each other.
#include <algorithm>
#include <array>
#include <cmath>
#include <string>

#include "formats/verify/gguf_checks.h"
#include "lib/base/error.h"
#include "lib/ggml/family.h"

namespace qp {
namespace {

using ggml::KeyRule;
using ggml::KeyType;

constexpr uint64_t kMaxLayers = 512, kMaxExperts = 512;  // of llama.cpp

std::string_view text_of(KeyType type) {
  constexpr std::string_view kNames[] = {"u32",
                                         "i32",
                                         "u16",
                                         "f32",
                                         "bool",
                                         "string",
                                         "array of string",
                                         "array of i32",
                                         "array of u32 or i32",
                                         "array of f32",
                                         "u32 or array of u32 or i32"};
  return kNames[static_cast<size_t>(type)];
}

std::string found_type(const GgufValue& v) {
  if (v.type != GgufType::array) return std::string(name_of(v.type));
  return "array of " + std::string(name_of(v.element));
}

bool fits(const GgufValue& v, KeyType type) {
  auto list = [&](GgufType element) { return v.type == GgufType::array && v.element == element; };
  switch (type) {
    case KeyType::u32: return v.type == GgufType::u32;
    case KeyType::i32: return v.type == GgufType::i32;
    case KeyType::u16: return v.type == GgufType::u16;
    case KeyType::f32: return v.type == GgufType::f32;
    case KeyType::boolean: return v.type == GgufType::boolean;
    case KeyType::text: return v.type == GgufType::string;
    case KeyType::texts: return list(GgufType::string);
    case KeyType::i32s: return list(GgufType::i32);
    case KeyType::ints: return list(GgufType::i32) || list(GgufType::u32);
    case KeyType::scores: return list(GgufType::f32) || list(GgufType::i32);
    case KeyType::u32_or_list:
      return v.type == GgufType::u32 || list(GgufType::u32) || list(GgufType::i32);
  }
  return false;
}

// What the variants of ggml::Value are in a file. Nothing for lists of numbers and flags, which
// have more than one reading.
std::optional<KeyType> type_of(const ggml::Value& value) {
  if (std::holds_alternative<uint32_t>(value)) return KeyType::u32;
  if (std::holds_alternative<float>(value)) return KeyType::f32;
  if (std::holds_alternative<bool>(value)) return KeyType::boolean;
  if (std::holds_alternative<std::string>(value)) return KeyType::text;
  return std::nullopt;
}

// What the loader says to another type.
void tell_type(GgufFinding& f, const std::string& key, KeyType type, const GgufValue& v,
               bool read) {
  if (!read) return f.loader("unread-key");
  bool tokens = type == KeyType::texts || type == KeyType::i32s || type == KeyType::scores;
  bool element = type == KeyType::u32_or_list && v.type == GgufType::array;
  f.loader(tokens ? "list-type" : element ? "element-type" : "key-type", printable(key));
}

void check_type(GgufChecks& checks, const std::string& key, KeyType type, bool read = true) {
  const GgufValue* v = checks.meta.find(key);
  if (v == nullptr) return;
  if (type == KeyType::f32 && v->type == GgufType::f32 &&
      !std::isfinite(*checks.meta.real_at(key))) {
    bool stops = read && key.ends_with("_epsilon") && std::isnan(*checks.meta.real_at(key));
    checks
        .add(Severity::error, "key-value", "", "metadata key '" + printable(key) + "' is no number",
             "llama.cpp computes with it: nothing but NaN comes out")
        .loader(!read   ? "unread-key"
                : stops ? "key-value"
                        : "not-finite",
                "eps >= 0.0f");
  }
  if (fits(*v, type)) return;
  GgufFinding& f = checks.add(
      Severity::error, "key-type", "",
      "metadata key '" + printable(key) + "' (expected " + std::string(text_of(type)) + ", found " +
          found_type(*v) + ")",
      read ? "llama.cpp refuses other types; write the key again" : "write the key again");
  tell_type(f, key, type, *v, read);
}

void check_rules(GgufChecks& checks, std::span<const KeyRule> rules, const std::string& prefix) {
  for (const KeyRule& rule : rules) {
    std::string key = prefix + std::string(rule.key);
    if (rule.required && checks.meta.find(key) == nullptr) {
      checks.add_missing(
          Severity::error, key,
          "llama.cpp does not load the file without it (" + std::string(text_of(rule.type)) + ")");
    }
    check_type(checks, key, rule.type, rule.read);
  }
}

// Keys that only other architectures are asked for.
void check_unread(GgufChecks& checks) {
  for (const KeyRule& rule : ggml::some_keys()) {
    if (std::ranges::find(checks.rules->keys, rule.key, &KeyRule::key) != checks.rules->keys.end())
      continue;
    check_type(checks, checks.arch + "." + std::string(rule.key), rule.type, false);
  }
}

// Whether llama.cpp takes this number where the key is missing.
bool is_default(const GgufChecks& checks, std::string_view key, const ggml::Value& value) {
  const auto* n = std::get_if<uint32_t>(&value);
  if (n == nullptr) return false;
  key.remove_prefix(checks.arch.size() + 1);
  auto number = [&](const char* name) { return checks.numbers.find(name).value_or(0); };
  uint64_t heads = number("attention.head_count"), width = number("attention.key_length");
  uint64_t shared = heads > 0 ? number("embedding_length") / heads : 0;
  if (key == "attention.key_length" || key == "attention.value_length") return *n == shared;
  if (key == "attention.head_count_kv") return *n == heads;
  if (key == "rope.dimension_count") return *n == (width > 0 ? width : shared);
  if (key == "expert_gating_func") return *n == 1;  // softmax
  const GgufValue* tokens = checks.meta.find("tokenizer.ggml.tokens");
  return key == "vocab_size" && tokens != nullptr && tokens->count == *n;
}

// Keys that a converter would have written for this model: llama.cpp has a default for them, which
// is right for some models only.
void check_expected(GgufChecks& checks, const Model& model) {
  const ggml::Family* family =
      model.config.is_object() ? ggml::find_family(model.architecture) : nullptr;
  if (family == nullptr || family->arch != checks.arch) return;
  ggml::Metadata expected(checks.arch);
  try {
    family->describe(ggml::Config(model.config), expected);
  } catch (const Error& e) {
    if (e.kind() == ErrorKind::defect) throw;
    return;  // a model that this version does not write
  }
  for (const auto& [key, value] : expected.values()) {
    const GgufValue* found = checks.meta.find(key);
    if (found == nullptr) {
      if (is_default(checks, key, value)) continue;
      checks.add_missing(Severity::warning, key,
                         "converters write it; llama.cpp takes its default, which may be another");
    } else if (auto type = type_of(value); type && found->type != GgufType::array) {
      auto is_key = [&, &name = key](const KeyRule& r) {
        return name == checks.arch + "." + std::string(r.key);
      };
      bool listed = std::ranges::any_of(ggml::arch_keys(), is_key) ||
                    std::ranges::any_of(ggml::some_keys(), is_key);
      if (!listed) check_type(checks, key, *type);
    }
  }
}

// `says`: what the loader prints.
void wrong_value(GgufChecks& checks, const std::string& key, const std::string& what,
                 const std::string& says) {
  checks
      .add(Severity::error, "key-value", "",
           "metadata key '" + printable(checks.arch + "." + key) + "' " + what,
           "llama.cpp refuses it")
      .loader("key-value", says);
}

void check_lists(GgufChecks& checks, std::span<const KeyRule> rules, uint64_t layers) {
  for (const KeyRule& rule : rules) {
    if (rule.type != KeyType::u32_or_list) continue;
    std::string key(rule.key);
    const GgufValue* v = checks.meta.find(checks.arch + "." + key);
    if (v == nullptr || v->type != GgufType::array || v->count == layers) continue;
    wrong_value(checks, key,
                "has " + std::to_string(v->count) + " elements (expected one for each of " +
                    std::to_string(layers) + " layers)",
                "key " + printable(checks.arch + "." + key) + " has wrong array length");
  }
}

void check_experts(GgufChecks& checks) {
  uint64_t experts = checks.numbers.find("expert_count").value_or(0),
           used = checks.numbers.find("expert_used_count").value_or(0);
  if (experts > kMaxExperts) {
    wrong_value(checks, "expert_count", "is above " + std::to_string(kMaxExperts),
                "hparams.n_expert <= LLAMA_MAX_EXPERTS");
  }
  if (used <= experts && (experts == 0 || used > 0)) return;
  wrong_value(checks, "expert_used_count",
              "is " + std::to_string(used) + " of " + std::to_string(experts) + " experts",
              used > experts ? "n_expert_used_max <= hparams.n_expert" : "n_expert_used_max > 0");
}

// A head is turned in full; keys and values are of one width.
void check_heads(GgufChecks& checks) {
  auto number = [&](const char* key) { return checks.numbers.find(key); };
  auto heads = number("attention.head_count"), hidden = number("embedding_length");
  auto shared = heads.value_or(0) > 0 && hidden ? std::optional(*hidden / *heads) : std::nullopt;
  auto width = number("attention.key_length"), value = number("attention.value_length");
  auto rotated = number("rope.dimension_count");
  if (!width) width = shared;
  if (!value) value = shared;
  if (rotated && width && *rotated != *width) {
    wrong_value(checks, "rope.dimension_count",
                "is " + std::to_string(*rotated) + " (expected the " + std::to_string(*width) +
                    " of a head)",
                checks.arch == "llama" ? "invalid n_rot: " + std::to_string(*rotated)
                                       : "n_embd_head == n_rot");
  }
  if (width && value && *width != *value) {
    wrong_value(checks, "attention.value_length",
                "is " + std::to_string(*value) + " (expected the " + std::to_string(*width) +
                    " of attention.key_length)",
                "n_embd_head == hparams.n_embd_head_k()");
  }
}

// DeepSeek's "lite" models, known by their layers, have no q_lora_rank.
void check_latents(GgufChecks& checks) {
  auto number = [&](const char* key) { return checks.numbers.find(key).value_or(0); };
  uint64_t extra = number("nextn_predict_layers"), all = number("block_count");
  uint64_t layers = all - std::min(all, extra);
  bool lite = layers == 26 || layers == 27 || (layers == 48 && number("vocab_size") == 128256);
  std::string key = checks.arch + ".attention.q_lora_rank";
  if (!lite && checks.meta.find(key) == nullptr)
    checks.add_missing(Severity::error, key, "llama.cpp does not load the file without it (u32)");
  uint64_t width = number("attention.key_length_mla");
  if (width == 0 || number("attention.value_length_mla") == 0) return;
  uint64_t rotated =
      checks.numbers.find("rope.dimension_count").value_or(number("attention.key_length"));
  if (rotated >= width) {
    wrong_value(checks, "rope.dimension_count",
                "is " + std::to_string(rotated) + ", which leaves nothing of the " +
                    std::to_string(width) + " of attention.key_length_mla",
                "n_embd_head_qk_nope >= 1");
  }
  uint64_t heads =
      checks.numbers.find("attention.head_count_kv").value_or(number("attention.head_count"));
  if (heads != 1) {
    wrong_value(checks, "attention.head_count_kv",
                "is " + std::to_string(heads) + " (expected 1: the latents are one head)",
                "a->ne[0] == b->ne[0]");
  }
}

void check_scaling(GgufChecks& checks) {
  std::string scaling = checks.arch + ".rope.scaling.type";
  const GgufValue* v = checks.meta.find(scaling);
  if (v == nullptr || v->type != GgufType::string) return;
  constexpr std::array<std::string_view, 4> kScalings = {"none", "linear", "yarn", "longrope"};
  if (std::ranges::find(kScalings, *checks.meta.string_at(scaling)) != kScalings.end()) return;
  wrong_value(checks, "rope.scaling.type",
              "is '" + printable(*checks.meta.string_at(scaling)) +
                  "' (expected none, linear, yarn or longrope)",
              "hparams.rope_scaling_type_train != LLAMA_ROPE_SCALING_TYPE_UNSPECIFIED");
}

void check_values(GgufChecks& checks) {
  auto number = [&](const char* key) { return checks.numbers.find(key); };
  uint64_t layers = number("block_count").value_or(0);
  for (auto [key, says] : {std::pair("block_count", "hparams.n_layer_all > 0"),
                           std::pair("embedding_length", "has wrong shape")}) {
    if (number(key) == 0) wrong_value(checks, key, "is 0", says);
  }
  if (number("context_length") == 0) {
    wrong_value(checks, "context_length", "is 0", "");
    checks.findings.back().loader("no-context");
  }
  if (layers > kMaxLayers) {
    wrong_value(checks, "block_count", "is above " + std::to_string(kMaxLayers),
                "hparams.n_layer_all <= LLAMA_MAX_LAYERS");
  }
  check_lists(checks, ggml::arch_keys(), layers);
  check_experts(checks);
  check_scaling(checks);
  if (checks.rules == nullptr) return;
  check_lists(checks, checks.rules->keys, layers);
  if (number("attention.head_count") == 0)
    wrong_value(checks, "attention.head_count", "is 0", "has wrong shape");
  if (checks.rules->whole_heads) check_heads(checks);
  if (checks.arch == "deepseek2") check_latents(checks);
}

// A quantized file says how it was quantized.
void check_file_type(GgufChecks& checks) {
  bool quantized = std::ranges::any_of(checks.shards, [](const GgufFile& shard) {
    return std::ranges::any_of(shard.tensors,
                               [](const GgufTensor& t) { return t.type->block > 1; });
  });
  if (!quantized) return;
  for (auto [key, severity, hint] :
       {std::tuple("general.quantization_version", Severity::error,
                   "the format requires it of quantized files: set it to 2"),
        std::tuple("general.file_type", Severity::warning,
                   "llama.cpp guesses it from the most frequent type")}) {
    if (checks.meta.find(key) != nullptr) continue;
    checks.missing.insert(key);
    checks.add(severity, "file-type", "",
               "has quantized tensors, but no metadata key '" + std::string(key) + "'", hint);
  }
}

}  // namespace

void check_gguf_keys(GgufChecks& checks, const Model* model) {
  check_rules(checks, ggml::file_keys(), "");
  check_file_type(checks);
  if (!checks.loads_keys) return;
  check_rules(checks, ggml::arch_keys(), checks.arch + ".");
  if (checks.rules != nullptr) {
    check_rules(checks, checks.rules->keys, checks.arch + ".");
    check_unread(checks);
  }
  if (model != nullptr) check_expected(checks, *model);
  check_values(checks);
}

}  // namespace qp
