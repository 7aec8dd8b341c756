#include "lib/text/tokenizer.h"

#include <algorithm>
#include <mutex>

#include "lib/base/error.h"
#include "lib/text/added_tokens.h"
#include "lib/text/normalizer.h"
#include "lib/text/pre_tokenizer.h"
#include "lib/text/token_decoder.h"
#include "lib/text/token_model.h"
#include "lib/text/tokenizer_json.h"
#include "lib/text/utf8.h"
#include "lib/text/word_cache.h"

namespace qp {
namespace {
// What one encode() works with.
struct Scratch {
  MatchScratch match;
  ModelScratch model;
  WordCache words;
};

// Special tokens around the text, in order. With a post-processor that names the text twice, it
// comes twice.
struct Template {
  struct Part {
    bool is_text;
    std::vector<int32_t> ids;
  };
  std::vector<Part> parts{{true, {}}};
};

const Json& member(const Json& object, const char* key) {
  static const Json kNull;
  auto it = object.find(key);
  return it == object.end() ? kNull : *it;
}

int32_t template_id(const Json& value, int32_t vocab_size) {
  if (!value.is_number_integer() || value.get<int64_t>() < 0 ||
      value.get<int64_t>() >= vocab_size) {
    throw input_error("a special token of the post-processor has an id outside the vocabulary of " +
                      std::to_string(vocab_size));
  }
  return static_cast<int32_t>(value.get<int64_t>());
}

Template read_template(const Json& json, int32_t vocab_size) {
  Template out;
  out.parts.clear();
  const Json& single = member(json, "single");
  const Json& specials = member(json, "special_tokens");
  if (!single.is_array()) throw input_error("TemplateProcessing has no array 'single'");
  for (const Json& piece : single) {
    const Json& special = piece.is_object() ? member(piece, "SpecialToken") : piece;
    const Json& text = piece.is_object() ? member(piece, "Sequence") : piece;
    if (text.is_object() && json_string(text, "id", "") == "A") {
      out.parts.push_back({true, {}});
      continue;
    }
    if (!special.is_object()) throw input_error("TemplateProcessing has a part of another kind");
    std::string name = json_string(special, "id", "");
    const Json& entry = specials.is_object() ? member(specials, name.c_str()) : specials;
    const Json& ids = entry.is_object() ? member(entry, "ids") : entry;
    if (!ids.is_array()) {
      throw input_error("TemplateProcessing has no ids for '" + printable(name) + "'");
    }
    std::vector<int32_t> list;
    for (const Json& id : ids) list.push_back(template_id(id, vocab_size));
    out.parts.push_back({false, std::move(list)});
  }
  return out;
}

// Appends the templates of a post-processor, in the order they are applied.
void read_post_processor(const Json& json, int32_t vocab_size, std::vector<Template>& out) {
  if (json.is_null()) return;
  std::string type = component_type(json, "the post-processor");
  if (type == "Sequence") {
    const Json& parts = member(json, "processors");
    if (!parts.is_array()) throw input_error("Sequence has no processors");
    for (const Json& part : parts) read_post_processor(part, vocab_size, out);
  } else if (type == "TemplateProcessing") {
    out.push_back(read_template(json, vocab_size));
  } else if (type == "BertProcessing" || type == "RobertaProcessing") {
    auto id = [&](const char* key) {
      const Json& pair = member(json, key);
      if (!pair.is_array() || pair.size() != 2) {
        throw input_error(type + " has no [token, id] for '" + key + "'");
      }
      return template_id(pair[1], vocab_size);
    };
    out.push_back({{{false, {id("cls")}}, {true, {}}, {false, {id("sep")}}}});
  } else if (type != "ByteLevel") {  // that one changes offsets only
    refuse_component("post-processor", type);
  }
}

std::unique_ptr<TokenModel> read_model(TokenizerJson& file) {
  const Json& json = member(file.root, "model");
  if (!json.is_object()) throw input_error("has no model");
  if (!file.has_vocab) throw input_error("model has no vocab");
  std::string type = json_string(json, "type", "");
  if (type.empty()) {  // files of before 2020 leave it out
    type = file.has_merges ? "BPE" : !file.scores.empty() ? "Unigram" : "WordPiece";
  }
  Vocabulary vocabulary;
  std::vector<double> scores;
  for (const auto& [token, id] : file.vocab) vocabulary.add(token, id);
  for (const auto& [token, score] : file.scores) {
    vocabulary.add(token, static_cast<int64_t>(scores.size()));
    scores.push_back(score);
  }
  if ((type == "Unigram") != file.vocab.empty() && vocabulary.size() > 0) {
    throw input_error("model " + printable(type) + " has a vocab of another kind");
  }
  if (type == "BPE") {
    if (!file.has_merges) throw input_error("model BPE has no merges");
    BpeOptions options;
    if (!member(json, "unk_token").is_null()) options.unknown = json_string(json, "unk_token", "");
    options.prefix = json_string(json, "continuing_subword_prefix", "");
    options.suffix = json_string(json, "end_of_word_suffix", "");
    options.fuse_unknown = json_bool(json, "fuse_unk", false);
    options.byte_fallback = json_bool(json, "byte_fallback", false);
    options.ignore_merges = json_bool(json, "ignore_merges", false);
    return std::make_unique<BpeModel>(std::move(vocabulary), file.merges, std::move(options));
  }
  if (type == "Unigram") {
    std::optional<int64_t> unknown;
    if (!member(json, "unk_id").is_null()) unknown = json_int(json, "unk_id", 0);
    return std::make_unique<UnigramModel>(std::move(vocabulary), std::move(scores), unknown,
                                          json_bool(json, "byte_fallback", false));
  }
  if (type == "WordPiece" || type == "WordLevel") {
    bool whole = type == "WordLevel";
    int64_t max_chars = whole ? 0 : json_int(json, "max_input_chars_per_word", 100);
    if (!whole && max_chars < 1) throw input_error("model WordPiece allows no characters in a word");
    return std::make_unique<WordPieceModel>(
        std::move(vocabulary), json_string(json, "unk_token", whole ? "<unk>" : "[UNK]"),
        json_string(json, "continuing_subword_prefix", "##"), max_chars);
  }
  refuse_component("model", type);
}
}  // namespace

struct Tokenizer::State {
  std::unique_ptr<TokenModel> model;
  Normalizer normalizer;
  AddedTokens added;
  PreTokenizer pre_tokenizer;
  TokenDecoder decoder;
  std::vector<Template> templates;
  std::vector<int32_t> prefix, suffix;
  std::optional<int32_t> bos, eos;
  std::vector<std::string> warnings;

  std::mutex mutex;
  std::vector<std::unique_ptr<Scratch>> idle;  // at most one per thread that ever encoded

  void read(std::string_view json);
  void read_config(const Json& config);
  int32_t find(std::string_view token) const {
    int32_t id = added.find(token);
    return id >= 0 ? id : model->vocabulary().find(token);
  }
  std::vector<int32_t> surround(std::vector<int32_t> ids) const;
  void encode_stretch(std::string_view text, bool at_start, Scratch& scratch,
                      std::vector<int32_t>& out) const;
  void encode(std::string_view text, Scratch& scratch, std::vector<int32_t>& out) const;
};

void Tokenizer::State::read(std::string_view json) {
  TokenizerJson file = read_tokenizer_json(json);
  const Json& version = member(file.root, "version");
  if (version != "1.0" && !version.is_null()) {
    throw input_error("version is " + printable(version.dump()) + " (expected \"1.0\")")
        .hint("save it again with a tokenizers library that writes version 1.0");
  }
  model = read_model(file);
  normalizer = Normalizer(member(file.root, "normalizer"));
  added = AddedTokens(member(file.root, "added_tokens"), model->vocabulary(), normalizer, warnings);
  pre_tokenizer = PreTokenizer(member(file.root, "pre_tokenizer"));
  decoder = TokenDecoder(member(file.root, "decoder"));
  int32_t size = std::max(model->vocabulary().end(), added.end());
  read_post_processor(member(file.root, "post_processor"), size, templates);
  auto* bpe = dynamic_cast<BpeModel*>(model.get());
  if (bpe != nullptr && pre_tokenizer.ends_in_bytes() && bpe->take_bytes()) {
    pre_tokenizer.leave_bytes();
  }
}

void Tokenizer::State::read_config(const Json& config) {
  auto special = [&](const char* key) -> std::optional<int32_t> {
    const Json& value = member(config, key);
    const Json& name = value.is_object() ? member(value, "content") : value;
    int32_t id = name.is_string() ? find(name.get_ref<const std::string&>()) : -1;
    return id >= 0 ? std::optional(id) : std::nullopt;
  };
  bos = special("bos_token");
  eos = special("eos_token");
  if (!config.contains("add_bos_token") && !config.contains("add_eos_token")) return;
  Template around;
  if (json_bool(config, "add_bos_token", false) && bos) {
    around.parts.insert(around.parts.begin(), {false, {*bos}});
  }
  if (json_bool(config, "add_eos_token", false) && eos) around.parts.push_back({false, {*eos}});
  templates = {around};
}

std::vector<int32_t> Tokenizer::State::surround(std::vector<int32_t> ids) const {
  for (const Template& t : templates) {
    std::vector<int32_t> out;
    for (const Template::Part& part : t.parts) {
      const std::vector<int32_t>& from = part.is_text ? ids : part.ids;
      out.insert(out.end(), from.begin(), from.end());
    }
    ids = std::move(out);
  }
  return ids;
}

void Tokenizer::State::encode_stretch(std::string_view text, bool at_start, Scratch& scratch,
                                      std::vector<int32_t>& out) const {
  const std::function<void(std::string_view)> word = [&](std::string_view piece) {
    if (piece.size() > WordCache::kMaxWord) {
      model->tokenize(piece, scratch.model, out);
      return;
    }
    std::span<const int32_t> known = scratch.words.find(piece);
    if (known.data() != nullptr) {
      out.insert(out.end(), known.begin(), known.end());
      return;
    }
    size_t before = out.size();
    model->tokenize(piece, scratch.model, out);
    scratch.words.add(piece, std::span(out).subspan(before));
  };
  pre_tokenizer.apply({text, at_start}, {scratch.match, has_recent(text), word});
}

void Tokenizer::State::encode(std::string_view text, Scratch& scratch,
                              std::vector<int32_t>& out) const {
  added.split(text, false, [&](int32_t id, size_t begin, size_t end) {
    if (id >= 0) {
      out.push_back(id);
      return;
    }
    std::string_view raw = text.substr(begin, end - begin);
    Normalizer::Result normal{{}, begin == 0};
    if (!normalizer.empty()) {
      normal.text = raw;
      normalizer.apply(normal, scratch.match);
      raw = normal.text;
    }
    added.split(raw, true, [&](int32_t inner, size_t from, size_t to) {
      if (inner >= 0) {
        out.push_back(inner);
      } else {
        encode_stretch(raw.substr(from, to - from), normal.at_start && from == 0, scratch, out);
      }
    });
  });
}

Tokenizer::Tokenizer(std::string_view json, std::string_view config, std::string_view path)
    : state_(std::make_unique<State>()) {
  State& s = *state_;
  try {
    s.read(json);
  } catch (Error& e) {
    throw std::move(e).file(path);
  }
  // What stands around a text shows on an empty one, where it is there once.
  auto find_ends = [&] {
    s.prefix.clear();
    s.suffix.clear();
    std::vector<int32_t> marked = s.surround({-1});
    auto first = std::find(marked.begin(), marked.end(), -1);
    s.prefix.assign(marked.begin(), first);
    auto last = std::find(marked.rbegin(), marked.rend(), -1).base();
    s.suffix.assign(last, marked.end());
  };
  find_ends();
  if (!s.prefix.empty()) s.bos = s.prefix.front();
  if (!s.suffix.empty()) s.eos = s.suffix.back();
  if (config.empty()) return;
  Json values = parse_json(config, "tokenizer_config.json");
  if (!values.is_object()) {
    throw input_error("is not a JSON object").file("tokenizer_config.json");
  }
  s.read_config(values);
  find_ends();
}
Tokenizer::~Tokenizer() = default;
Tokenizer::Tokenizer(Tokenizer&&) noexcept = default;
Tokenizer& Tokenizer::operator=(Tokenizer&&) noexcept = default;

void Tokenizer::encode(std::string_view text, bool add_special, std::vector<int32_t>& out) const {
  std::unique_ptr<Scratch> scratch;
  {
    std::lock_guard lock(state_->mutex);
    if (!state_->idle.empty()) {
      scratch = std::move(state_->idle.back());
      state_->idle.pop_back();
    }
  }
  if (scratch == nullptr) scratch = std::make_unique<Scratch>();
  std::string repaired;
  if (!is_utf8(text)) {
    repaired = replace_invalid_utf8(text);
    text = repaired;
  }
  const State& s = *state_;
  std::vector<int32_t> ids;
  s.encode(text, *scratch, ids);
  {
    std::lock_guard lock(state_->mutex);
    state_->idle.push_back(std::move(scratch));
  }
  if (add_special) ids = s.surround(std::move(ids));
  if (out.empty()) {
    out = std::move(ids);
  } else {
    out.insert(out.end(), ids.begin(), ids.end());
  }
}

std::vector<int32_t> Tokenizer::encode(std::string_view text, bool add_special) const {
  std::vector<int32_t> out;
  encode(text, add_special, out);
  return out;
}

std::string Tokenizer::decode(std::span<const int32_t> ids, bool skip_special) const {
  std::vector<std::string> tokens;
  for (int32_t id : ids) {
    const AddedToken* added = state_->added.find(id);
    const std::string* text = added == nullptr ? state_->model->vocabulary().text(id)
                              : added->normalized ? &added->normalized_content
                                                  : &added->content;
    if (text == nullptr || (skip_special && state_->added.is_special(*text))) continue;
    tokens.push_back(*text);
  }
  return state_->decoder.decode(std::move(tokens));
}

int32_t Tokenizer::vocab_size() const {
  return std::max(state_->model->vocabulary().end(), state_->added.end());
}
std::optional<int32_t> Tokenizer::token_id(std::string_view token) const {
  int32_t id = state_->find(token);
  return id >= 0 ? std::optional(id) : std::nullopt;
}
std::optional<std::string> Tokenizer::token(int32_t id) const {
  if (const AddedToken* added = state_->added.find(id)) return added->content;
  const std::string* text = state_->model->vocabulary().text(id);
  return text == nullptr ? std::nullopt : std::optional(*text);
}
std::optional<int32_t> Tokenizer::bos_id() const { return state_->bos; }
std::optional<int32_t> Tokenizer::eos_id() const { return state_->eos; }
std::span<const int32_t> Tokenizer::prefix() const { return state_->prefix; }
std::span<const int32_t> Tokenizer::suffix() const { return state_->suffix; }
const std::vector<std::string>& Tokenizer::warnings() const { return state_->warnings; }

}  // namespace qp
