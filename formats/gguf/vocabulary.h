// The tokens of a GGUF from Hugging Face's tokenizer files (reference/gguf.md 10.4 and 10.5).
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "formats/format.h"
#include "lib/base/json.h"
#include "lib/text/tokenizer.h"
#include "lib/text/tokenizer_json.h"

namespace qp {

// On disk: never renumber.
enum class TokenType : int32_t {
  normal = 1,
  unknown = 2,
  control = 3,
  user = 4,
  unused = 5,
  byte = 6
};

struct GgufTokens {
  std::string model, pre;  // "llama" (SentencePiece) or "gpt2" (byte-level BPE)
  std::vector<std::string> text;
  std::vector<float> scores;  // of "llama" alone
  std::vector<int32_t> types;
  std::vector<std::string> merges;  // of "gpt2" alone, "left right"
};

// The tokenizer files of a checkpoint. Members are empty or null where there is none.
struct TokenizerFiles {
  std::string sentencepiece;  // tokenizer.model
  std::string json_text, config_text;
  std::optional<TokenizerJson> json;
  Json config, added;  // tokenizer_config.json, added_tokens.json
};
// Errors: input, for files that cannot be read.
TokenizerFiles read_tokenizer_files(const Store& store);

// Tokens of ids [0, vocabulary); those without a text are "[PAD7]", unused. `pre` names llama.cpp's
// pre-tokenizer ("": found by the ids of a sample text). Nothing when there is no tokenizer.
// Errors: input; limit, for a kind of tokenizer, or a pre-tokenizer, that llama.cpp does not have.
std::optional<GgufTokens> gguf_tokens(const TokenizerFiles& files, uint64_t vocabulary,
                                      const std::string& pre);

// A model of SentencePiece: pieces with their scores and types; nothing when the bytes are none.
struct SentencePiece {
  std::string text;
  float score = 0;
  TokenType type = TokenType::normal;
};
std::optional<std::vector<SentencePiece>> read_sentencepiece(std::string_view file);
// The bytes of a BPE model with these pieces and no normalization but U+2581 for spaces; one of
// them in front of a text with `prefix`.
std::string write_sentencepiece(const std::vector<SentencePiece>& pieces, bool prefix);

// SHA-256 of the ids that the tokenizer makes of the sample text, and whose it is; "": nobody's.
std::string pre_tokenizer_hash(const Tokenizer& tokenizer);
std::string_view pre_tokenizer_named(std::string_view hash);
// A pre-tokenizer of llama.cpp with the same expressions as tokenizer.json's; "": none.
std::string_view pre_tokenizer_like(const Json& tokenizer_json);

}  // namespace qp
