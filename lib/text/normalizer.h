// Normalizers of tokenizer.json: text to text, before it is cut into words.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "lib/base/json.h"
#include "lib/text/split_pattern.h"
#include "lib/text/string_map.h"
#include "lib/text/unicode.h"

namespace qp {

// The character map of a SentencePiece model ("precompiled_charsmap"): a double-array trie of
// strings, then the NUL-terminated replacements it points to.
class CharsMap {
 public:
  // `base64` as in tokenizer.json. Errors: input, when it is no such map.
  explicit CharsMap(std::string_view base64);
  std::string apply(std::string_view text) const;

 private:
  // The replacement of the shortest prefix of `text` in the map (the reference looks no further);
  // false: none.
  bool find(std::string_view text, std::string_view& replacement) const;
  std::vector<uint32_t> units_;
  std::string replacements_;
};

class Normalizer {
 public:
  Normalizer() = default;  // changes nothing
  // `json` is the value of "normalizer". Errors: input, naming a part that is unknown or wrong.
  explicit Normalizer(const Json& json);

  // Whether the text's first character is still the one it began with: what prepend_scheme
  // "first" asks for.
  struct Result {
    std::string text;
    bool at_start = true;
  };
  // Rewrites `result.text` (valid UTF-8) in place.
  void apply(Result& result, MatchScratch& scratch) const;
  bool empty() const { return steps_.empty(); }

 private:
  enum class Kind {
    nfc, nfd, nfkc, nfkd, lowercase, strip, strip_accents, replace, prepend, byte_level, bert,
    chars_map, nmt
  };
  struct Step {
    Kind kind;
    bool left = false, right = false;  // strip
    bool clean = false, chinese = false, accents = false, lower = false;  // bert
    std::string content;               // replace, prepend
    std::shared_ptr<const SplitPattern> pattern;
    std::shared_ptr<const CharsMap> map;
  };
  void add(const Json& json);
  static void apply(const Step& step, Result& result, MatchScratch& scratch);
  std::vector<Step> steps_;
};

// {"String": s} or {"Regex": r}. Errors: input.
SplitPattern json_pattern(const Json& component, std::string_view name);
// `type` of a component; input error when it has none.
std::string component_type(const Json& component, std::string_view what);
[[noreturn]] void refuse_component(std::string_view what, std::string_view type);
// Whether any character of `text` is_recent().
bool has_recent(std::string_view text);

}  // namespace qp
