// Pre-tokenizers of tokenizer.json: text to the pieces that the model sees, one by one.
#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "lib/base/json.h"
#include "lib/text/normalizer.h"
#include "lib/text/split_pattern.h"

namespace qp {

class PreTokenizer {
 public:
  PreTokenizer() = default;  // the text is one piece
  // `json` is the value of "pre_tokenizer". Errors: input, naming a part that is unknown or wrong.
  explicit PreTokenizer(const Json& json);

  // Leaves out the rewriting of bytes as characters at the end, when that is the last step, because
  // the model takes bytes. False when it is not.
  bool ends_in_bytes() const;
  void leave_bytes();

  struct Piece {
    std::string_view text;
    bool at_start;  // begins where the whole text began
  };
  struct Run {
    MatchScratch& scratch;
    bool recent;  // has_recent() of the text
    const std::function<void(std::string_view)>& emit;
  };
  // Calls run.emit for each piece that is not empty, in order.
  void apply(const Piece& text, const Run& run) const { step(0, text, run); }

 private:
  enum class Kind { split, char_class, byte_level, metaspace, fixed_length };
  enum class Behavior { removed, isolated, merged_with_previous, merged_with_next, contiguous };
  enum class Scheme { always, first, never };
  struct Step {
    Kind kind;
    Behavior behavior = Behavior::isolated;
    bool invert = false;
    std::shared_ptr<const SplitPattern> pattern;  // split
    bool (*is_match)(char32_t) = nullptr;         // char_class: each character is a match
    char32_t character = 0;                       // char_class without is_match, metaspace
    bool prefix_space = false;                    // byte_level: add one
    bool map = false;                             // byte_level: bytes to characters
    Scheme scheme = Scheme::always;
    bool cut = true;  // metaspace: before each replacement
    size_t length = 0;
  };
  class Cutter;
  void add(const Json& json);
  void add_byte_level(const Json& json);
  void add_metaspace(const Json& json);
  void step(size_t index, const Piece& piece, const Run& run) const;
  void split(size_t index, const Piece& piece, const Run& run) const;
  void metaspace(size_t index, const Piece& piece, const Run& run) const;
  std::vector<Step> steps_;
};

}  // namespace qp
