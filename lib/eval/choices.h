// Multiple choice by likelihood: which of several continuations the model finds likeliest.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "lib/eval/measure.h"

namespace qp {

struct ChoiceItem {
  std::string context;
  std::vector<std::string> choices;
  size_t answer = 0;
};

// JSON Lines: {"context" (or "question"): text, "choices": [text ..], "answer": index} on each
// line; blank lines are passed over. Errors: input, naming file and line.
std::vector<ChoiceItem> read_choices(std::string_view text, const std::string& path);

struct ChoiceTokens {
  Windows windows;  // one per choice, item after item
  std::vector<ScoredToken> scored;
};

// How a text becomes tokens: no special token but the ones that stand in it.
using Encode = std::function<std::vector<int32_t>(const std::string&)>;

// A choice follows its context after a space, unless one of the two brings white space there. Its
// tokens are those of both together behind as many as the context has alone; white space at the
// context's end goes with the choice. `bos` goes in front of everything where it is not negative;
// `stand_in` does for contexts of no tokens. Windows keep their last `context_length` tokens.
// Errors: input, an item that is left without tokens to score.
ChoiceTokens cut_choices(const std::vector<ChoiceItem>& items, const Encode& encode, int32_t bos,
                         int32_t stand_in, size_t context_length);

// Log-likelihoods of the choices from the scores of their tokens; what they pick.
std::vector<ChoiceScore> score_choices(const std::vector<ChoiceItem>& items,
                                       const ChoiceTokens& tokens, std::span<const double> nll);
Choices summarize(std::vector<ChoiceScore> items, std::vector<ChoiceScore> base_items);

}  // namespace qp
