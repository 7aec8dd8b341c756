// Decoders of tokenizer.json: tokens back to text.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "lib/base/json.h"
#include "lib/text/split_pattern.h"

namespace qp {

class TokenDecoder {
 public:
  // Without a decoder tokens are joined by spaces.
  TokenDecoder() = default;
  // `json` is the value of "decoder". Errors: input, naming a part that is unknown or wrong.
  explicit TokenDecoder(const Json& json);
  // The text of `tokens` (valid UTF-8, so is the result).
  std::string decode(std::vector<std::string> tokens) const;

 private:
  enum class Kind { byte_level, metaspace, byte_fallback, fuse, strip, replace, word_piece, bpe, ctc };
  struct Step {
    Kind kind;
    std::string content;  // metaspace, strip: the character; word_piece: prefix; bpe: suffix
    std::string delimiter;                       // ctc
    bool flag = false;                           // metaspace: first one is dropped; cleanup
    size_t start = 0, stop = 0;                  // strip
    std::shared_ptr<const SplitPattern> pattern;  // replace
  };
  void add(const Json& json);
  static void apply(const Step& step, std::vector<std::string>& tokens);
  std::vector<Step> steps_;
  bool joined_ = false;  // there is a decoder
};

}  // namespace qp
