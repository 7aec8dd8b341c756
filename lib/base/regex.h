// Regular expressions through PCRE2, with the meaning Python's re.match gives them in checkpoint
// configs: anchored at the start of the name, not at its end.
#pragma once

#include <memory>
#include <string>
#include <string_view>

namespace qp {

class Regex {
 public:
  // Errors: usage, with the position in the pattern.
  explicit Regex(std::string_view pattern);
  // re.match: a match that begins at the start of the text.
  bool matches_start(std::string_view text) const;
  // re.search: a match anywhere.
  bool found_in(std::string_view text) const;

 private:
  struct Code;
  std::shared_ptr<const Code> code_;
};

}  // namespace qp
