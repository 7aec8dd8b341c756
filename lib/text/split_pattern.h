// What Split and Replace look for: matches of an expression, or of a string, from left to right.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <string_view>

namespace qp {

// What matching needs besides the pattern; one per thread.
class MatchScratch {
 public:
  MatchScratch();
  ~MatchScratch();
  MatchScratch(const MatchScratch&) = delete;
  MatchScratch& operator=(const MatchScratch&) = delete;

 private:
  friend class SplitPattern;
  struct State;
  std::unique_ptr<State> state_;
};

class SplitPattern {
 public:
  // An Oniguruma expression. Errors: input, when PCRE2 cannot run it.
  static SplitPattern regex(std::string_view pattern);
  // A literal string; an empty one matches before every character and at the end.
  static SplitPattern literal(std::string_view text);

  // Calls `found(begin, end)` for each match in `text` (valid UTF-8). An empty match directly
  // behind a match is skipped. `recent`: whether `text` may hold characters of Unicode 15 to 16.
  // Errors: limit, when the expression needs more steps or memory than a text of this length
  // deserves.
  using Found = std::function<void(size_t begin, size_t end)>;
  void each(std::string_view text, bool recent, MatchScratch& scratch, const Found& found) const;

  // The next match from `from` on; false when there is none.
  struct Match {
    size_t begin, end;
  };
  bool next(std::string_view text, size_t from, bool recent, MatchScratch& scratch,
            Match& match) const;

 private:
  struct Code;
  SplitPattern() = default;
  std::shared_ptr<const Code> code_;  // null: a literal
  std::string literal_;
};

}  // namespace qp
