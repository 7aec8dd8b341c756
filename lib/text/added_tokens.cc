#include "lib/text/added_tokens.h"

#include <algorithm>

#include "lib/base/error.h"
#include "lib/text/unicode.h"
#include "lib/text/utf8.h"

namespace qp {
namespace {
// A token this long is no token; and searching costs text times length at worst.
constexpr size_t kMaxContent = 4096;

AddedToken read_token(const Json& json) {
  if (!json.is_object()) throw input_error("an added token is not an object");
  AddedToken token;
  token.content = json_string(json, "content", "");
  int64_t id = json_int(json, "id", -1);
  if (id < 0 || id > Vocabulary::kMaxId) {
    throw input_error("added token '" + printable(token.content) + "' has id " +
                      std::to_string(id) + " (expected 0 to " +
                      std::to_string(Vocabulary::kMaxId) + ")");
  }
  if (token.content.size() > kMaxContent) {
    throw input_error("an added token has " + std::to_string(token.content.size()) +
                      " bytes (expected at most " + std::to_string(kMaxContent) + ")");
  }
  token.id = static_cast<int32_t>(id);
  token.single_word = json_bool(json, "single_word", false);
  token.left_strip = json_bool(json, "lstrip", false);
  token.right_strip = json_bool(json, "rstrip", false);
  token.special = json_bool(json, "special", false);
  token.normalized = json_bool(json, "normalized", !token.special);
  return token;
}
}  // namespace

AddedTokens::AddedTokens(const Json& json, const Vocabulary& model, const Normalizer& normalizer,
                         std::vector<std::string>& warnings) {
  if (json.is_null()) return;
  if (!json.is_array()) throw input_error("added_tokens is not an array");
  MatchScratch scratch;
  auto next_id = static_cast<int32_t>(model.size());
  for (const Json& entry : json) {
    AddedToken token = read_token(entry);
    if (token.content.empty()) continue;
    int32_t declared = token.id;
    token.id = by_content_.find(token.content);
    if (token.id < 0) token.id = model.find(token.content);
    if (token.id < 0) token.id = next_id++;
    if (token.id != declared) {
      warnings.push_back("added token '" + printable(token.content) + "' gets id " +
                         std::to_string(token.id) + ", not " + std::to_string(declared) +
                         " as the file says");
    }
    Normalizer::Result result{token.content};
    if (token.normalized) normalizer.apply(result, scratch);
    token.normalized_content = result.text;
    by_content_.insert(token.content, token.id);
    if (token.special) special_.insert(token.content, token.id);
    by_id_[token.id] = std::move(token);
  }
  for (const auto& [id, token] : by_id_) {
    std::string_view wanted = token.normalized ? token.normalized_content : token.content;
    if (!wanted.empty()) (token.normalized ? normalized_ : raw_).insert(wanted, id);
  }
}

const AddedToken* AddedTokens::find(int32_t id) const {
  auto it = by_id_.find(id);
  return it == by_id_.end() ? nullptr : &it->second;
}

void AddedTokens::split(std::string_view text, bool normalized, const Found& found) const {
  const Trie& trie = normalized ? normalized_ : raw_;
  size_t done = 0;  // everything before was passed on
  for (size_t at = 0; !trie.empty() && at < text.size();) {
    size_t begin = at, end = 0;
    int32_t id = -1;
    uint32_t node = 0;
    for (size_t i = at; i < text.size() && (node = trie.child(node, text[i])) != 0; ++i) {
      if (trie.value(node) >= 0) {
        id = trie.value(node);
        end = i + 1;
      }
    }
    if (id < 0) {
      ++at;
      continue;
    }
    at = end;  // also behind a match that does not count
    const AddedToken& token = by_id_.at(id);
    if (token.single_word &&
        ((begin > 0 && is_word(char_at(text, previous_char(text, begin)))) ||
         (end < text.size() && is_word(char_at(text, end))))) {
      continue;
    }
    if (token.left_strip) {
      size_t floor = done;
      while (begin > 0 && is_white_space(char_at(text, previous_char(text, begin)))) {
        begin = previous_char(text, begin);
      }
      begin = std::max(begin, floor);
    }
    if (token.right_strip) {
      while (end < text.size() && is_white_space(char_at(text, end))) {
        end += utf8_length(text[end]);
      }
    }
    // A token inside the white space that the one before stripped still counts.
    if (done < begin) found(-1, done, begin);
    found(id, begin, end);
    done = end;
  }
  if (done < text.size()) found(-1, done, text.size());
}

}  // namespace qp
