// The vocabulary: lists of one length, ids inside it.
#include <string>
#include <unordered_set>

#include "formats/verify/gguf_checks.h"
#include "lib/base/error.h"

namespace qp {
namespace {

bool is_list(const GgufValue* v, GgufType element) {
  return v != nullptr && v->type == GgufType::array && v->element == element;
}

void check_length(GgufChecks& checks, const char* key, uint64_t tokens) {
  const GgufValue* v = checks.meta.find(key);
  if (v == nullptr || v->type != GgufType::array || v->count == tokens) return;
  // llama.cpp reads as many as there are tokens.
  checks.add(v->count < tokens ? Severity::error : Severity::warning, "token-list", "",
             std::string(key) + " has " + std::to_string(v->count) + " elements (expected " +
                 std::to_string(tokens) + ", one for each token)",
             "the vocabulary is damaged; convert the model again");
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
  checks.add(
      Severity::error, "token-list", "",
      std::to_string(twice) + " of the tokens appear twice (first '" + printable(first) + "')",
      "llama.cpp stops at that; convert the model again");
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
  if (bad == 0) return;
  checks.add(Severity::error, "token-list", "",
             std::to_string(bad) +
                 " merges are no two parts with a space between them (first: number " +
                 std::to_string(first) + ")",
             "the vocabulary is damaged; convert the model again");
}

// What a kind of tokenizer cannot do without.
void check_kind(GgufChecks& checks, std::string_view kind) {
  auto need = [&](const char* key, Severity severity, const char* hint) {
    if (checks.meta.find(key) == nullptr) checks.add_missing(severity, key, hint);
  };
  if (kind == "gpt2") {
    need("tokenizer.ggml.merges", Severity::error,
         "llama.cpp does not load the file without it (array of string)");
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
    checks.add(Severity::error, "token-id", "",
               "metadata key '" + printable(key) + "' is " + std::to_string(n) +
                   ", but there are " + std::to_string(tokens) + " tokens",
               "llama.cpp takes its own default instead; set or remove the key");
  }
}

}  // namespace

void check_gguf_tokens(GgufChecks& checks) {
  const GgufValue* model = checks.meta.find("tokenizer.ggml.model");
  const GgufValue* list = checks.meta.find("tokenizer.ggml.tokens");
  if (checks.rules == nullptr && model == nullptr) return;
  if (model == nullptr) {
    bool rest = list != nullptr;
    checks.add_missing(rest ? Severity::error : Severity::warning, "tokenizer.ggml.model",
                       rest ? "llama.cpp does not load the file without it (string)"
                            : "it has no vocabulary: llama.cpp can quantize it, but not run it");
    return;
  }
  if (model->type != GgufType::string) return;
  std::string_view kind = *checks.meta.string_at("tokenizer.ggml.model");
  if (kind == "none" || kind == "no_vocab") return;
  if (list == nullptr) {
    checks.add_missing(Severity::error, "tokenizer.ggml.tokens",
                       "llama.cpp does not load the file without it (array of string)");
    return;
  }
  if (!is_list(list, GgufType::string)) return;
  check_kind(checks, kind);
  check_length(checks, "tokenizer.ggml.token_type", list->count);
  check_length(checks, "tokenizer.ggml.scores", list->count);
  check_unique(checks, *checks.meta.strings_at("tokenizer.ggml.tokens"));
  check_merges(checks);
  check_ids(checks, list->count);
}

}  // namespace qp
