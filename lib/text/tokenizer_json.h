// Reading tokenizer.json: the vocabulary and merges as streams, the rest as JSON.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "lib/base/json.h"

namespace qp {

struct TokenizerJson {
  Json root;  // without model.vocab and model.merges
  bool has_vocab = false, has_merges = false;
  std::vector<std::pair<std::string, int64_t>> vocab;  // of an object: token, id
  std::vector<std::pair<std::string, double>> scores;  // of an array: token, score
  std::vector<std::pair<std::string, std::string>> merges;
};

// Errors: input, for what is no JSON, nested deeper than kMaxJsonDepth, or has another shape.
TokenizerJson read_tokenizer_json(std::string_view text);

}  // namespace qp
