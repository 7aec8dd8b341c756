#include "formats/gguf/tokenizer.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>
#include <optional>
#include <unordered_map>

#include "formats/gguf/vocabulary.h"
#include "lib/base/error.h"
#include "lib/base/json.h"

namespace qp {
namespace {

constexpr auto kNormal = static_cast<int64_t>(TokenType::normal), kUnknown = static_cast<int64_t>(TokenType::unknown),
               kControl = static_cast<int64_t>(TokenType::control), kUserDefined = static_cast<int64_t>(TokenType::user),
               kByte = static_cast<int64_t>(TokenType::byte);

// Deriving merges looks up every cut of every token; longer ones than real vocabularies have
// would only serve to waste time.
constexpr size_t kMaxTokenBytes = 512;

struct Vocabulary {
  std::vector<std::string_view> tokens;
  std::vector<int64_t> types;
  std::unordered_map<std::string_view, uint32_t> ids;
  std::map<std::string, uint32_t> named;  // "bos_token" .. of the config files
  bool add_bos = false, add_eos = false;
};

struct Merge {
  std::string_view left, right;
  float score = 0;
  size_t left_chars = 0, right_chars = 0;
};

// Length of the UTF-8 sequence at p (strict: no surrogates, no overlong forms); 0 when invalid.
size_t utf8_length(std::string_view s, size_t at) {
  auto byte = [&](size_t i) { return at + i < s.size() ? static_cast<uint8_t>(s[at + i]) : 0u; };
  uint32_t lead = byte(0);
  if (lead < 0x80) return 1;
  size_t n = lead >= 0xf0 ? 4 : lead >= 0xe0 ? 3 : 2;
  uint32_t low = lead == 0xe0 ? 0xa0 : lead == 0xf0 ? 0x90 : 0x80;
  uint32_t high = lead == 0xed ? 0x9f : lead == 0xf4 ? 0x8f : 0xbf;
  if (lead < 0xc2 || lead > 0xf4 || byte(1) < low || byte(1) > high) return 0;
  for (size_t i = 2; i < n; ++i) {
    if (byte(i) < 0x80 || byte(i) > 0xbf) return 0;
  }
  return n;
}

bool is_utf8(std::string_view s) {
  for (size_t i = 0; i < s.size();) {
    size_t n = utf8_length(s, i);
    if (n == 0) return false;
    i += n;
  }
  return true;
}

std::string read_vocabulary(const GgufFile& file, Vocabulary& v) {
  auto tokens = file.strings_at("tokenizer.ggml.tokens");
  if (!tokens || tokens->empty()) return "it has no tokens";
  if (tokens->size() > INT32_MAX) return "it has too many tokens";
  v.tokens = std::move(*tokens);
  v.ids.reserve(v.tokens.size());
  for (size_t i = 0; i < v.tokens.size(); ++i) {
    std::string what = "token " + std::to_string(i);
    if (!is_utf8(v.tokens[i])) return what + " is not UTF-8";
    bool added = v.ids.emplace(v.tokens[i], static_cast<uint32_t>(i)).second;
    if (!added) return what + " is a duplicate";
  }
  if (auto types = file.ints_at("tokenizer.ggml.token_type")) v.types = std::move(*types);
  if (v.types.empty()) v.types.assign(v.tokens.size(), kNormal);
  if (v.types.size() != v.tokens.size()) return "tokenizer.ggml.token_type has another length";
  constexpr std::pair<const char*, const char*> kNamed[] = {
      {"bos_token", "tokenizer.ggml.bos_token_id"},
      {"eos_token", "tokenizer.ggml.eos_token_id"},
      {"unk_token", "tokenizer.ggml.unknown_token_id"},
      {"pad_token", "tokenizer.ggml.padding_token_id"},
      {"sep_token", "tokenizer.ggml.seperator_token_id"},
      {"cls_token", "tokenizer.ggml.cls_token_id"},
      {"mask_token", "tokenizer.ggml.mask_token_id"}};
  for (auto [name, key] : kNamed) {
    auto id = file.uint_at(key);
    if (id && *id < v.tokens.size()) v.named[name] = static_cast<uint32_t>(*id);
  }
  return "";
}

// llama.cpp's defaults for a SentencePiece vocabulary that names no special tokens.
void default_names(Vocabulary& v) {
  constexpr std::pair<const char*, uint32_t> kDefaults[] = {
      {"unk_token", 0}, {"bos_token", 1}, {"eos_token", 2}};
  for (auto [name, id] : kDefaults) {
    if (id < v.tokens.size()) v.named.emplace(name, id);
  }
}

// The pairs of tokenizer.ggml.merges; every part and result must be a token, or the reader of a
// tokenizer.json refuses it.
std::string read_merges(const GgufFile& file, const Vocabulary& v, std::vector<Merge>& merges) {
  auto lines = file.strings_at("tokenizer.ggml.merges");
  if (!lines) return "it has no merges";
  merges.reserve(lines->size());
  std::string whole;
  for (std::string_view line : *lines) {
    size_t space = line.empty() ? line.npos : line.find(' ', 1);
    if (space != line.npos) {
      Merge m{line.substr(0, space), line.substr(space + 1)};
      whole = m.left;
      whole += m.right;
      if (v.ids.contains(m.left) && v.ids.contains(m.right) && v.ids.contains(whole)) {
        merges.push_back(m);
        continue;
      }
    }
    return "merge '" + printable(line) + "' does not join two tokens into one";
  }
  return "";
}

// A SentencePiece model has scores instead of merges: any cut of a token into two tokens is a
// merge, as good as its result. The order is that of transformers' converter: by score, then by
// the lengths in characters, longest first; ties by the result's id, then by the parts' ids.
std::string derive_merges(const GgufFile& file, const Vocabulary& v, std::vector<Merge>& merges) {
  auto scores = file.floats_at("tokenizer.ggml.scores");
  if (!scores || scores->size() != v.tokens.size()) return "it has no score for every token";
  if (std::ranges::any_of(*scores, [](float s) { return std::isnan(s); })) return "a score is NaN";
  std::vector<size_t> starts;  // of the characters of a token
  for (size_t id = 0; id < v.tokens.size(); ++id) {
    std::string_view token = v.tokens[id];
    if (token.size() > kMaxTokenBytes) return "token " + std::to_string(id) + " is too long";
    starts.clear();
    for (size_t i = 0; i < token.size(); i += utf8_length(token, i)) starts.push_back(i);
    size_t first = merges.size();
    for (size_t cut = 1; cut < starts.size(); ++cut) {
      Merge m{token.substr(0, starts[cut]), token.substr(starts[cut]), (*scores)[id], cut,
              starts.size() - cut};
      if (v.ids.contains(m.left) && v.ids.contains(m.right)) merges.push_back(m);
    }
    std::sort(merges.begin() + static_cast<ptrdiff_t>(first), merges.end(),
              [&](const Merge& a, const Merge& b) {
                return std::pair(v.ids.at(a.left), v.ids.at(a.right)) <
                       std::pair(v.ids.at(b.left), v.ids.at(b.right));
              });
  }
  std::ranges::stable_sort(merges, [](const Merge& a, const Merge& b) {
    return std::tuple(a.score, a.left_chars, a.right_chars) >
           std::tuple(b.score, b.left_chars, b.right_chars);
  });
  return "";
}

std::string dump(const Json& json) {
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

Json added_token(std::string_view content, bool special) {
  return Json{{"content", content},  {"single_word", false}, {"lstrip", false},
              {"rstrip", false},     {"normalized", false},  {"special", special}};
}

// Tokens matched whole in the text before anything else, by id.
std::map<uint32_t, Json> added_tokens(const Vocabulary& v) {
  std::map<uint32_t, Json> added;
  for (size_t i = 0; i < v.tokens.size(); ++i) {
    bool special = v.types[i] == kControl || v.types[i] == kUnknown;
    if (v.tokens[i].empty() || (!special && v.types[i] != kUserDefined)) continue;
    added.emplace(static_cast<uint32_t>(i), added_token(v.tokens[i], special));
  }
  for (const auto& [name, id] : v.named) {
    if (!v.tokens[id].empty()) added[id] = added_token(v.tokens[id], true);
  }
  return added;
}

// Puts BOS and EOS around a text, and around each of a pair.
Json post_processor(const Vocabulary& v) {
  auto token = [&](const char* name, int type) {
    return Json{{"SpecialToken", {{"id", v.tokens[v.named.at(name)]}, {"type_id", type}}}};
  };
  bool bos = v.add_bos && v.named.contains("bos_token");
  bool eos = v.add_eos && v.named.contains("eos_token");
  if (!bos && !eos) return Json();
  Json single = Json::array(), pair = Json::array(), specials = Json::object();
  for (int type = 0; type < 2; ++type) {
    Json sequence{{"Sequence", {{"id", type == 0 ? "A" : "B"}, {"type_id", type}}}};
    if (bos) pair.push_back(token("bos_token", type));
    pair.push_back(std::move(sequence));
    if (eos) pair.push_back(token("eos_token", type));
    if (type == 0) single = pair;
  }
  for (const char* name : {"bos_token", "eos_token"}) {
    if (!(name[0] == 'b' ? bos : eos)) continue;
    uint32_t id = v.named.at(name);
    specials[std::string(v.tokens[id])] =
        Json{{"id", v.tokens[id]}, {"ids", {id}}, {"tokens", {v.tokens[id]}}};
  }
  return Json{{"type", "TemplateProcessing"},
              {"single", std::move(single)},
              {"pair", std::move(pair)},
              {"special_tokens", std::move(specials)}};
}

// What differs between the two kinds of BPE.
struct Kind {
  Json normalizer, pre_tokenizer, decoder, unk_token;
  bool fuse_unk = false, byte_fallback = false, ignore_merges = false;
};

Kind byte_level_kind(const PreTokenizer& pre) {
  auto byte_level = [](bool prefix, bool regex) {
    return Json{{"type", "ByteLevel"},
                {"add_prefix_space", prefix},
                {"trim_offsets", true},
                {"use_regex", regex}};
  };
  Json steps = Json::array();
  for (std::string_view expression : pre.splits) {
    steps.push_back(Json{{"type", "Split"},
                         {"pattern", {{"Regex", expression}}},
                         {"behavior", "Isolated"},
                         {"invert", false}});
  }
  steps.push_back(byte_level(false, false));
  Kind kind;
  kind.pre_tokenizer = Json{{"type", "Sequence"}, {"pretokenizers", std::move(steps)}};
  kind.decoder = byte_level(true, true);
  kind.ignore_merges = pre.ignore_merges;
  return kind;
}

// SentencePiece as LlamaTokenizerFast expresses it: spaces are U+2581, one is put in front of
// every text and every piece after a special token, unknown characters become byte tokens.
Kind sentencepiece_kind(const Vocabulary& v, bool prefix) {
  auto replace = [](const char* from, const char* to) {
    return Json{{"type", "Replace"}, {"pattern", {{"String", from}}}, {"content", to}};
  };
  constexpr const char* kSpace = "\u2581";
  Kind kind;
  Json normalizers = Json::array();
  if (prefix) normalizers.push_back(Json{{"type", "Prepend"}, {"prepend", kSpace}});
  normalizers.push_back(replace(" ", kSpace));
  kind.normalizer = Json{{"type", "Sequence"}, {"normalizers", std::move(normalizers)}};
  Json decoders = Json::array(
      {replace(kSpace, " "), Json{{"type", "ByteFallback"}}, Json{{"type", "Fuse"}}});
  if (prefix) {
    decoders.push_back(Json{{"type", "Strip"}, {"content", " "}, {"start", 1}, {"stop", 0}});
  }
  kind.decoder = Json{{"type", "Sequence"}, {"decoders", std::move(decoders)}};
  if (auto it = v.named.find("unk_token"); it != v.named.end()) {
    kind.unk_token = v.tokens[it->second];
  }
  kind.fuse_unk = true;
  kind.byte_fallback = true;
  for (int b = 0; b < 256; ++b) {
    constexpr const char* kHex = "0123456789ABCDEF";
    std::string token = {'<', '0', 'x', kHex[b / 16], kHex[b % 16], '>'};
    kind.byte_fallback = kind.byte_fallback && v.ids.contains(token);
  }
  return kind;
}

// Written by hand: vocabularies have up to millions of entries.
std::string tokenizer_json(const Vocabulary& v, const std::vector<Merge>& merges,
                           const Kind& kind) {
  Json added = Json::array();
  for (auto& [id, token] : added_tokens(v)) {
    Json entry{{"id", id}};
    entry.update(token);
    added.push_back(std::move(entry));
  }
  auto flag = [](bool value) { return value ? "true" : "false"; };
  std::string out = "{\n\"version\": \"1.0\",\n\"truncation\": null,\n\"padding\": null,\n";
  out += "\"added_tokens\": " + dump(added) + ",\n";
  out += "\"normalizer\": " + dump(kind.normalizer) + ",\n";
  out += "\"pre_tokenizer\": " + dump(kind.pre_tokenizer) + ",\n";
  out += "\"post_processor\": " + dump(post_processor(v)) + ",\n";
  out += "\"decoder\": " + dump(kind.decoder) + ",\n";
  out += "\"model\": {\n\"type\": \"BPE\",\n\"dropout\": null,\n";
  out += "\"unk_token\": " + dump(kind.unk_token) + ",\n";
  out += "\"continuing_subword_prefix\": null,\n\"end_of_word_suffix\": null,\n";
  out += std::string("\"fuse_unk\": ") + flag(kind.fuse_unk) + ",\n\"byte_fallback\": ";
  out += std::string(flag(kind.byte_fallback)) + ",\n\"ignore_merges\": ";
  out += std::string(flag(kind.ignore_merges)) + ",\n\"vocab\": {";
  for (size_t i = 0; i < v.tokens.size(); ++i) {
    out += i == 0 ? "\n" : ",\n";
    append_json_string(out, v.tokens[i]);
    out += ": " + std::to_string(i);
  }
  out += "\n},\n\"merges\": [";
  for (size_t i = 0; i < merges.size(); ++i) {
    out += i == 0 ? "\n[" : ",\n[";
    append_json_string(out, merges[i].left);
    out += ", ";
    append_json_string(out, merges[i].right);
    out += "]";
  }
  return out + "\n]\n}\n}\n";
}

std::string tokenizer_config(const GgufFile& file, const Vocabulary& v) {
  Json config;
  for (const char* name : {"add_bos_token", "add_eos_token"}) {  // nothing said stays nothing said
    if (auto flag = file.bool_at(std::string("tokenizer.ggml.") + name)) config[name] = *flag;
  }
  if (auto text = file.string_at("tokenizer.chat_template")) config["chat_template"] = *text;
  config["clean_up_tokenization_spaces"] = false;
  std::string architecture(file.string_at("general.architecture").value_or(""));
  if (auto n = file.uint_at(architecture + ".context_length")) config["model_max_length"] = *n;
  config["tokenizer_class"] = "PreTrainedTokenizerFast";
  for (const auto& [name, id] : v.named) config[name] = v.tokens[id];
  return config.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

std::string special_tokens_map(const Vocabulary& v) {
  Json map = Json::object();
  for (const auto& [name, id] : v.named) map[name] = v.tokens[id];
  return map.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

// tokenizer.model, with the scores that tokenizer.json has no place for; "" where the vocabulary is no
// SentencePiece's, or has tokens that its reader refuses (empty, of another type).
std::string sentencepiece_model(const GgufFile& file, const Vocabulary& v) {
  auto scores = file.floats_at("tokenizer.ggml.scores");
  if (file.string_at("tokenizer.ggml.model") != "llama" || !scores || scores->size() != v.tokens.size()) return "";
  std::vector<SentencePiece> pieces;
  for (size_t i = 0; i < v.tokens.size(); ++i) {
    int64_t type = v.types[i];
    if (v.tokens[i].empty() || type < kNormal || type > kByte || !std::isfinite((*scores)[i])) return "";
    pieces.push_back({std::string(v.tokens[i]), (*scores)[i], static_cast<TokenType>(type)});
  }
  bool unknown = std::ranges::count(v.types, kUnknown) == 1;  // it must have one
  return unknown ? write_sentencepiece(pieces, file.bool_at("tokenizer.ggml.add_space_prefix").value_or(true)) : "";
}

// Fills the parts of tokenizer.json, or returns why there is none.
std::string read_tokenizer(const GgufFile& file, const std::function<void(std::string)>& warn,
                           Vocabulary& v, std::vector<Merge>& merges, Kind& kind) {
  std::string model(file.string_at("tokenizer.ggml.model").value_or("none"));
  if (model == "none" || model == "no_vocab") return "it has no tokenizer";
  if (model != "gpt2" && model != "llama") {
    return "tokenizer.ggml.model '" + printable(model) + "' is not supported";
  }
  if (auto why = read_vocabulary(file, v); !why.empty()) return why;
  bool sentencepiece = model == "llama", add_bos = sentencepiece;
  if (sentencepiece) {
    default_names(v);
    kind = sentencepiece_kind(v, file.bool_at("tokenizer.ggml.add_space_prefix").value_or(true));
  } else {
    auto name = file.string_at("tokenizer.ggml.pre");
    if (!name) warn("tokenizer.ggml.pre is missing: text is split as llama.cpp's 'default' does");
    const PreTokenizer* pre = find_pre_tokenizer(name.value_or("default"));
    if (pre == nullptr) return "pre-tokenizer '" + printable(*name) + "' is not known";
    add_bos = pre->add_bos;
    kind = byte_level_kind(*pre);
  }
  v.add_bos = file.bool_at("tokenizer.ggml.add_bos_token").value_or(add_bos);
  v.add_eos = file.bool_at("tokenizer.ggml.add_eos_token").value_or(false);
  if (sentencepiece && file.find("tokenizer.ggml.merges") == nullptr) {
    return derive_merges(file, v, merges);
  }
  return read_merges(file, v, merges);
}

}  // namespace

std::vector<GeneratedFile> gguf_tokenizer(const GgufFile& file,
                                          const std::function<void(std::string)>& warn) {
  Vocabulary vocabulary;
  std::vector<Merge> merges;
  Kind kind;
  std::string why = read_tokenizer(file, warn, vocabulary, merges, kind);
  if (!why.empty()) {
    warn(file.path + ": no tokenizer.json is written: " + why);
    return {};
  }
  std::vector<GeneratedFile> files = {{"special_tokens_map.json", special_tokens_map(vocabulary)},
                                      {"tokenizer.json", tokenizer_json(vocabulary, merges, kind)},
                                      {"tokenizer_config.json", tokenizer_config(file, vocabulary)}};
  if (std::string model = sentencepiece_model(file, vocabulary); !model.empty()) {
    files.insert(files.begin() + 2, {"tokenizer.model", std::move(model)});
  }
  return files;
}

}  // namespace qp
