// The vocabulary: lists of one length, ids inside it.
#include <algorithm>
#include <string>
#include <unordered_set>

#include "formats/verify/gguf_checks.h"
#include "lib/base/error.h"

namespace qp {
namespace {

bool is_list(const GgufValue* v, GgufType element) {
  return v != nullptr && v->type == GgufType::array && v->element == element;
}

// `called`: as the loader calls the list.
void check_length(GgufChecks& checks, const char* key, const char* called, uint64_t tokens) {
  const GgufValue* v = checks.meta.find(key);
  if (v == nullptr || v->type != GgufType::array || v->count == tokens) return;
  // llama.cpp reads as many as there are tokens.
  checks
      .add(v->count < tokens ? Severity::error : Severity::warning, "token-list", "",
           std::string(key) + " has " + std::to_string(v->count) + " elements (expected " +
               std::to_string(tokens) + ", one for each token)",
           "the vocabulary is damaged; convert the model again")
      .loader(v->count < tokens ? "token-list" : "longer-list", called);
}

void check_unique(GgufChecks& checks, const std::vector<std::string_view>& tokens) {
  std::unordered_set<std::string_view> seen;
  uint64_t twice = 0;
  std::string_view first;
  for (std::string_view t : tokens) {
    if (t.empty() || seen.insert(t).second) continue;  // llama.cpp names the empty ones
    if (twice++ == 0) first = t;
  }
  if (twice == 0) return;
  checks
      .add(Severity::error, "token-list", "",
           std::to_string(twice) + " of the tokens appear twice (first '" + printable(first) + "')",
           "llama.cpp stops at that; convert the model again")
      .loader("token-twice");
}

void check_merges(GgufChecks& checks) {
  constexpr const char* kKey = "tokenizer.ggml.merges";
  if (!is_list(checks.meta.find(kKey), GgufType::string)) return;
  uint64_t bad = 0, at = 0, first = 0;
  const std::vector<std::string_view> merges = *checks.meta.strings_at(kKey);
  for (std::string_view merge : merges) {
    if (merge.size() < 3 || merge.find(' ', 1) == merge.npos) first = bad++ == 0 ? at : first;
    ++at;
  }
  if (merges.empty()) {
    checks
        .add(Severity::warning, "token-list", "", std::string(kKey) + " is empty",
             "llama.cpp takes text apart into bytes")
        .loader("merge-list");
  }
  if (bad == 0) return;
  checks
      .add(Severity::error, "token-list", "",
           std::to_string(bad) +
               " merges are no two parts with a space between them (first: number " +
               std::to_string(first) + ")",
           "the vocabulary is damaged; convert the model again")
      .loader("merge-list");
}

// What is in no piece is spelt in bytes.
void check_bytes(GgufChecks& checks, const std::vector<std::string_view>& tokens) {
  auto is_byte = [](std::string_view t) { return t.size() == 6 && t.starts_with("<0x"); };
  if (std::ranges::any_of(tokens, is_byte)) return;
  checks
      .add(Severity::warning, "token-list", "", "none of the tokens is a byte (<0x0A>)",
           "llama.cpp dies at a character that is not in the vocabulary")
      .loader("no-bytes");
}

// llama.cpp tells Phi-3 by general.name, and looks its tokens up.
void check_phi3(GgufChecks& checks, const std::vector<std::string_view>& tokens) {
  const GgufValue* value = checks.meta.find("general.name");
  if (value == nullptr || value->type != GgufType::string) return;
  std::string name(*checks.meta.string_at("general.name"));
  for (char& c : name) c = c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c;
  if (name.find("phi-3") == name.npos && name.find("phi3") == name.npos) return;
  for (std::string_view token : {"</s>", "<unk>", "<s>", "<|endoftext|>"}) {
    if (std::ranges::find(tokens, token) != tokens.end()) continue;
    checks
        .add(Severity::warning, "token-list", "",
             "general.name is '" + printable(*checks.meta.string_at("general.name")) +
                 "', but there is no token '" + std::string(token) + "'",
             "llama.cpp takes the vocabulary for Phi-3's and does not load it: use another name")
        .loader("named-tokens");
    return;
  }
}

// The names by which llama.cpp finds a tokenizer's code.
void check_names(GgufChecks& checks, std::string_view kind) {
  constexpr std::string_view kKinds[] = {"llama", "bert", "gpt2", "hybriddna", "whitespace",
                                         "t5",    "rwkv", "test", "plamo2",    "gemma4"};
  auto unknown = [&](const char* key, std::string_view name, const char* topic) {
    checks
        .add(Severity::error, "tokenizer-kind", "",
             "metadata key '" + std::string(key) + "' is '" + printable(name) +
                 "', which llama.cpp does not know",
             "it stops at that; a newer one may know it")
        .loader(topic, printable(name));
  };
  if (std::ranges::find(kKinds, kind) == std::end(kKinds))
    unknown("tokenizer.ggml.model", kind, "tokenizer");
  const GgufValue* pre = checks.meta.find("tokenizer.ggml.pre");
  if (kind != "gpt2" || pre == nullptr || pre->type != GgufType::string) return;
  std::string_view name = *checks.meta.string_at("tokenizer.ggml.pre");
  if (!name.empty() && !ggml::knows_pre_tokenizer(name))
    unknown("tokenizer.ggml.pre", name, "pre-tokenizer");
}

// `name`: of the list, as the loader calls it.
void need_list(GgufChecks& checks, const std::string& name) {
  checks.add_missing(Severity::error, "tokenizer.ggml." + (name == "vocab" ? "tokens" : name),
                     "llama.cpp does not load the file without it (array of string)",
                     "missing-list", name);
}

// What a kind of tokenizer cannot do without.
void check_kind(GgufChecks& checks, std::string_view kind) {
  auto need = [&](const char* key, Severity severity, const char* hint) {
    if (checks.meta.find(key) == nullptr) checks.add_missing(severity, key, hint);
  };
  if (kind == "gpt2") {
    if (checks.meta.find("tokenizer.ggml.merges") == nullptr) need_list(checks, "merges");
    need("tokenizer.ggml.pre", Severity::warning,
         "llama.cpp cuts text by a default, and makes other tokens of it");
  }
  if (kind == "llama" || kind == "t5") {
    need("tokenizer.ggml.scores", Severity::warning,
         "without scores llama.cpp merges in another order");
  }
  need("tokenizer.ggml.token_type", Severity::warning, "llama.cpp takes control tokens for text");
}

void check_ids(GgufChecks& checks, uint64_t tokens) {
  for (const auto& [key, value] : checks.meta.metadata) {
    bool id = key.starts_with("tokenizer.ggml.") && key.ends_with("_token_id");
    if (!id || value.type != GgufType::u32) continue;
    uint64_t n = *checks.meta.uint_at(key);
    if (n < tokens) continue;
    // The others only matter to who asks for them.
    bool ends = key.find("bos") != key.npos || key.find(".eo") != key.npos;
    checks
        .add(Severity::error, "token-id", "",
             "metadata key '" + printable(key) + "' is " + std::to_string(n) + ", but there are " +
                 std::to_string(tokens) + " tokens",
             "llama.cpp takes its own default instead; set or remove the key")
        .loader(ends ? "token-id" : "minor-token-id");
  }
}

// Without the key llama.cpp takes a token by its number: 2 (or 1) of SentencePiece's, 11 of others.
void check_default(GgufChecks& checks, const char* key, const char* what, uint64_t id) {
  const GgufValue* types = checks.meta.find("tokenizer.ggml.token_type");
  if (checks.meta.find(key) != nullptr || !is_list(types, GgufType::i32) || id >= types->count)
    return;
  constexpr int64_t kControl = 3;
  if ((*checks.meta.ints_at("tokenizer.ggml.token_type"))[id] == kControl) return;
  checks
      .add(Severity::warning, "token-id", "",
           "there is no metadata key '" + std::string(key) + "', and token " + std::to_string(id) +
               ", which llama.cpp takes for the " + what + ", is no control token",
           "write the key")
      .loader("token-id");
}

void check_defaults(GgufChecks& checks, std::string_view kind) {
  if (kind != "gpt2" && kind != "llama") return;
  bool pieces = kind == "llama", begins = pieces;
  const GgufValue* add = checks.meta.find("tokenizer.ggml.add_bos_token");
  if (add != nullptr && add->type == GgufType::boolean)
    begins = *checks.meta.bool_at("tokenizer.ggml.add_bos_token");
  if (begins) check_default(checks, "tokenizer.ggml.bos_token_id", "beginning", pieces ? 1 : 11);
  check_default(checks, "tokenizer.ggml.eos_token_id", "end", pieces ? 2 : 11);
}

}  // namespace

void check_gguf_tokens(GgufChecks& checks) {
  const GgufValue* model = checks.meta.find("tokenizer.ggml.model");
  const GgufValue* list = checks.meta.find("tokenizer.ggml.tokens");
  if (!checks.loads_keys && model == nullptr) return;
  if (model == nullptr) {
    bool rest = list != nullptr;
    checks.add_missing(rest ? Severity::error : Severity::warning, "tokenizer.ggml.model",
                       rest ? "llama.cpp does not load the file without it (string)"
                            : "it has no vocabulary: llama.cpp can quantize it, but not run it",
                       "missing-key");
    return;
  }
  if (model->type != GgufType::string) return;
  std::string_view kind = *checks.meta.string_at("tokenizer.ggml.model");
  if (kind == "none" || kind == "no_vocab") {
    checks
        .add(Severity::note, "tokenizer-kind", "", "has no vocabulary",
             "llama.cpp takes ids of tokens, no text")
        .loader("no-vocabulary");
    return;
  }
  check_names(checks, kind);
  if (list == nullptr) return need_list(checks, "vocab");
  if (!is_list(list, GgufType::string)) return;
  check_kind(checks, kind);
  check_length(checks, "tokenizer.ggml.token_type", "toktypes", list->count);
  check_length(checks, "tokenizer.ggml.scores", "scores", list->count);
  const std::vector<std::string_view> tokens = *checks.meta.strings_at("tokenizer.ggml.tokens");
  check_unique(checks, tokens);
  if (kind == "llama") check_bytes(checks, tokens);
  check_phi3(checks, tokens);
  check_merges(checks);
  check_ids(checks, list->count);
  check_defaults(checks, kind);
}

}  // namespace qp
