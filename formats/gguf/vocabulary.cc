#include "formats/gguf/vocabulary.h"

#include <algorithm>
#include <charconv>
#include <map>
#include <unordered_map>

#include "lib/base/error.h"
#include "lib/qmap/store.h"

namespace qp {
namespace {

constexpr uint64_t kMaxFile = uint64_t{256} << 20;
constexpr float kAddedScore = -1000, kPaddingScore = -10000;  // as the converter has them

std::string text_of(const Store& store, const char* name) {
  const Companion* c = store.model().companion(name);
  if (c == nullptr) return "";
  if (c->extent.length > kMaxFile)
    throw input_error("is too large for a tokenizer's file").file(name);
  store.verify(c->extent, "a companion file");
  return store.text(c->extent);
}

struct Added {
  std::string text;
  bool special = false;
};

void add_entry(std::map<int64_t, Added>& out, int64_t id, const Json& entry) {
  if (!entry.is_object() || !entry.contains("content") || !entry["content"].is_string()) return;
  out[id] = {entry["content"].get<std::string>(), json_bool(entry, "special", false)};
}

// By id, from tokenizer.json or, without it, from tokenizer_config.json.
std::map<int64_t, Added> added_tokens(const TokenizerFiles& files) {
  std::map<int64_t, Added> out;
  if (files.json) {
    auto list = files.json->root.find("added_tokens");
    if (list != files.json->root.end() && list->is_array()) {
      for (const Json& entry : *list) {
        if (entry.is_object()) add_entry(out, json_int(entry, "id", -1), entry);
      }
    }
  }
  if (!files.config.is_object()) return out;
  auto decoder = files.config.find("added_tokens_decoder");
  if (decoder == files.config.end() || !decoder->is_object()) return out;
  for (const auto& [key, entry] : decoder->items()) {
    int64_t id = -1;
    auto [end, error] = std::from_chars(key.data(), key.data() + key.size(), id);
    if (error == std::errc() && end == key.data() + key.size()) add_entry(out, id, entry);
  }
  return out;
}

// Tokens that some checkpoints forget to call special.
bool looks_special(std::string_view t) {
  auto framed = [&](std::string_view head, std::string_view tail) {
    return t.starts_with(head) && t.ends_with(tail);
  };
  return t == "<pad>" || t == "<mask>" || t == "<2mass>" || t == "[@BOS@]" || framed("<|", "|>") ||
         framed("<\uff5c", "\uff5c>") || framed("<unused", ">");
}

std::string replaced(std::string text, std::string_view from, std::string_view to) {
  for (size_t at = 0; (at = text.find(from, at)) != text.npos; at += to.size()) {
    text.replace(at, from.size(), to);
  }
  return text;
}

// A list of `n` tokens nobody has named yet.
GgufTokens unnamed(std::string model, uint64_t n) {
  GgufTokens out;
  out.model = std::move(model);
  out.text.resize(n);
  for (uint64_t i = 0; i < n; ++i) out.text[i] = "[PAD" + std::to_string(i) + "]";
  out.types.assign(n, static_cast<int32_t>(TokenType::unused));
  if (out.model == "llama") out.scores.assign(n, kPaddingScore);
  return out;
}

void set(GgufTokens& out, int64_t id, std::string text, float score, TokenType type) {
  if (id < 0 || static_cast<uint64_t>(id) >= out.text.size()) return;
  auto i = static_cast<size_t>(id);
  // What stands for a token that is not there, read back from a GGUF.
  if (type == TokenType::normal && text == "[PAD" + std::to_string(i) + "]") return;
  out.text[i] = std::move(text);
  out.types[i] = static_cast<int32_t>(type);
  if (!out.scores.empty()) out.scores[i] = score;
}

void add_added(GgufTokens& out, const std::map<int64_t, Added>& added) {
  for (const auto& [id, token] : added) {
    bool control = token.special || looks_special(token.text);
    // llama.cpp looks for the text as it comes: spaces are spaces.
    set(out, id, control ? token.text : replaced(token.text, "\u2581", " "), kAddedScore,
        control ? TokenType::control : TokenType::user);
  }
}

GgufTokens of_sentencepiece(const std::vector<SentencePiece>& pieces, const TokenizerFiles& files,
                            uint64_t n) {
  GgufTokens out = unnamed("llama", n);
  out.pre = "default";
  for (size_t i = 0; i < pieces.size(); ++i) {
    set(out, static_cast<int64_t>(i), pieces[i].text, pieces[i].score, pieces[i].type);
  }
  if (files.added.is_object()) {
    for (const auto& [text, id] : files.added.items()) {
      if (id.is_number_integer()) set(out, id.get<int64_t>(), text, kAddedScore, TokenType::user);
    }
  }
  std::map<int64_t, Added> added = added_tokens(files);
  // What the pieces say of a token holds where the added tokens say no more (unknown, control).
  std::erase_if(added, [&](const auto& a) {
    auto i = static_cast<size_t>(a.first);
    return a.first >= 0 && i < pieces.size() && pieces[i].text == a.second.text &&
           (pieces[i].type == TokenType::control || pieces[i].type == TokenType::unknown) &&
           !files.config.contains("added_tokens_decoder");
  });
  add_added(out, added);
  return out;
}

bool is_byte_token(std::string_view t) {
  auto hex = [](char c) {
    return (c >= '0' && c <= '9') || (c >= 'A' && c <= 'F') || (c >= 'a' && c <= 'f');
  };
  return t.size() == 6 && t.starts_with("<0x") && t[5] == '>' && hex(t[3]) && hex(t[4]);
}

// Without SentencePiece's own file: a token's score is the place of the first merge that makes it,
// for llama.cpp merges the pair of the best score first.
void score_by_merges(const TokenizerJson& json, GgufTokens& out) {
  std::unordered_map<std::string, size_t> rank;
  for (size_t i = 0; i < json.merges.size(); ++i) {
    rank.emplace(json.merges[i].first + json.merges[i].second, i);
  }
  for (size_t i = 0; i < out.text.size(); ++i) {
    if (out.types[i] != static_cast<int32_t>(TokenType::normal)) continue;
    auto it = rank.find(out.text[i]);
    size_t place = it == rank.end() ? json.merges.size() : it->second;
    out.scores[i] = -static_cast<float>(place);
  }
}

GgufTokens of_byte_fallback(const TokenizerFiles& files, uint64_t n) {
  const TokenizerJson& json = *files.json;
  GgufTokens out = unnamed("llama", n);
  out.pre = "default";
  std::string unknown = json_string(json.root["model"], "unk_token", "");
  for (const auto& [text, id] : json.vocab) {
    set(out, id, text, 0, is_byte_token(text) ? TokenType::byte : TokenType::normal);
  }
  add_added(out, added_tokens(files));
  for (const auto& [text, id] : json.vocab) {
    if (!unknown.empty() && text == unknown) set(out, id, text, 0, TokenType::unknown);
  }
  score_by_merges(json, out);
  return out;
}

// "left right"; a space inside a part is written as byte-level BPE writes it.
std::string merge_text(const std::pair<std::string, std::string>& m) {
  return replaced(m.first, " ", "\u0120") + " " + replaced(m.second, " ", "\u0120");
}

std::string pre_of(const TokenizerFiles& files) {
  Tokenizer tokenizer(files.json_text, files.config_text);
  std::string hash = pre_tokenizer_hash(tokenizer);
  std::string_view name = pre_tokenizer_named(hash);
  if (name.empty()) name = pre_tokenizer_like(files.json->root);
  if (!name.empty()) return std::string(name);
  throw limit_error("is a tokenizer that llama.cpp has no name for (its sample has hash " + hash +
                    ")")
      .file("tokenizer.json")
      .hint(
          "say which of llama.cpp's pre-tokenizers cuts text as it does: --pre gpt-2, llama-bpe, "
          "qwen2 .. "
          "or default");
}

GgufTokens of_byte_level(const TokenizerFiles& files, uint64_t n, const std::string& pre) {
  const TokenizerJson& json = *files.json;
  GgufTokens out = unnamed("gpt2", n);
  out.pre = pre.empty() ? pre_of(files) : pre;
  for (const auto& [text, id] : json.vocab) set(out, id, text, 0, TokenType::normal);
  add_added(out, added_tokens(files));
  out.merges.reserve(json.merges.size());
  for (const auto& m : json.merges) out.merges.push_back(merge_text(m));
  return out;
}

void check_ids(const TokenizerFiles& files, uint64_t n) {
  int64_t highest = -1;
  for (const auto& [text, id] : files.json->vocab) highest = std::max(highest, id);
  for (const auto& [id, token] : added_tokens(files)) highest = std::max(highest, id);
  if (highest < static_cast<int64_t>(n)) return;
  throw input_error("has a token " + std::to_string(highest) + ", but the embedding has " +
                    std::to_string(n) + " rows")
      .file("tokenizer.json");
}

}  // namespace

TokenizerFiles read_tokenizer_files(const Store& store) {
  TokenizerFiles files;
  files.sentencepiece = text_of(store, "tokenizer.model");
  files.json_text = text_of(store, "tokenizer.json");
  files.config_text = text_of(store, "tokenizer_config.json");
  if (!files.json_text.empty()) files.json = read_tokenizer_json(files.json_text);
  if (!files.config_text.empty())
    files.config = parse_json(files.config_text, "tokenizer_config.json");
  std::string added = text_of(store, "added_tokens.json");
  if (!added.empty()) files.added = parse_json(added, "added_tokens.json");
  return files;
}

std::optional<GgufTokens> gguf_tokens(const TokenizerFiles& files, uint64_t vocabulary,
                                      const std::string& pre) {
  if (vocabulary > INT32_MAX) throw limit_error("has more tokens than ids");
  Json model =
      files.json && files.json->root.contains("model") ? files.json->root["model"] : Json::object();
  bool bpe = files.json && json_string(model, "type", "BPE") == "BPE" && files.json->has_vocab;
  bool bytes = bpe && json_bool(model, "byte_fallback", false);
  // Some byte-level tokenizers have a tokenizer.model of another kind beside them.
  if (!files.sentencepiece.empty() && (!bpe || bytes)) {
    if (auto pieces = read_sentencepiece(files.sentencepiece)) {
      return of_sentencepiece(*pieces, files, vocabulary);
    }
  }
  if (!files.json) return std::nullopt;
  if (!bpe) {
    throw limit_error("is a tokenizer of type " + json_string(model, "type", "?") +
                      ", which this writer has no form for")
        .file("tokenizer.json")
        .hint("a tokenizer.model of SentencePiece beside it would be used");
  }
  check_ids(files, vocabulary);
  return bytes ? of_byte_fallback(files, vocabulary) : of_byte_level(files, vocabulary, pre);
}

}  // namespace qp
