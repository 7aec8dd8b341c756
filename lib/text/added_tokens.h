// Added tokens of tokenizer.json: strings that are found in the text before anything else is.
#pragma once

#include <functional>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "lib/base/json.h"
#include "lib/text/normalizer.h"
#include "lib/text/string_map.h"
#include "lib/text/token_model.h"

namespace qp {

struct AddedToken {
  int32_t id = -1;
  std::string content;
  std::string normalized_content;  // what is looked for when `normalized`
  bool single_word = false, left_strip = false, right_strip = false;
  bool normalized = false, special = false;
};

class AddedTokens {
 public:
  AddedTokens() = default;
  // `json` is the value of "added_tokens". A token the model has keeps the model's id; others get
  // the next free ids, in order: where that differs from the id in the file, `warnings` says so.
  // Errors: input.
  AddedTokens(const Json& json, const Vocabulary& model, const Normalizer& normalizer,
              std::vector<std::string>& warnings);

  // Finds tokens with the given `normalized` flag in `text`, the longest of those that begin
  // leftmost, and calls `found(id, stretch)` for each and, with id -1, for the text between.
  // `stretch` includes the white space a token strips.
  using Found = std::function<void(int32_t id, size_t begin, size_t end)>;
  void split(std::string_view text, bool normalized, const Found& found) const;

  const AddedToken* find(int32_t id) const;
  int32_t find(std::string_view content) const { return by_content_.find(content); }
  bool is_special(std::string_view content) const { return special_.find(content) >= 0; }
  // Highest id plus one; 0 when there are none.
  int32_t end() const { return by_id_.empty() ? 0 : by_id_.rbegin()->first + 1; }

 private:
  std::map<int32_t, AddedToken> by_id_;
  StringMap by_content_, special_;
  Trie raw_, normalized_;
};

}  // namespace qp
