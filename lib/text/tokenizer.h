// The tokenizer of a model: text to token ids and back, as Hugging Face's tokenizers does it.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace qp {

// Built from the text of a tokenizer.json; its ids are those of the `tokenizers` library 0.23
// (reference/architectures.md section 7). Not taken over from the file: truncation and padding,
// dropout. All const methods may be called from many threads at once.
class Tokenizer {
 public:
  // `config` is the text of tokenizer_config.json, or "". Its add_bos_token and add_eos_token,
  // when there, decide which special tokens go around a text, and bos_token, eos_token name them:
  // otherwise the post-processor of tokenizer.json does. `path` stands in messages.
  // Errors: input, naming what is malformed or not supported.
  explicit Tokenizer(std::string_view json, std::string_view config = {},
                     std::string_view path = "tokenizer.json");
  ~Tokenizer();
  Tokenizer(Tokenizer&&) noexcept;
  Tokenizer& operator=(Tokenizer&&) noexcept;

  // Ids of `text`. Bytes that are no UTF-8 count as U+FFFD (replace_invalid_utf8). Added tokens
  // written out in the text are found. Takes about O(n) time and, for one word of n bytes without
  // a place to cut, some 40 n bytes.
  // Errors: input, a text that needs an unknown token the vocabulary lacks; limit.
  std::vector<int32_t> encode(std::string_view text, bool add_special) const;
  // Appends to `out` instead.
  void encode(std::string_view text, bool add_special, std::vector<int32_t>& out) const;

  // The text of `ids`; ids that no token has are left out, special tokens too with `skip_special`.
  std::string decode(std::span<const int32_t> ids, bool skip_special) const;

  // Highest id plus one, added tokens included: every id encode() gives is below.
  int32_t vocab_size() const;
  std::optional<int32_t> token_id(std::string_view token) const;
  std::optional<std::string> token(int32_t id) const;

  // From tokenizer_config.json; without it the special token the template puts first, or last.
  std::optional<int32_t> bos_id() const;
  std::optional<int32_t> eos_id() const;
  // What encode() with add_special puts before and behind a text.
  std::span<const int32_t> prefix() const;
  std::span<const int32_t> suffix() const;

  // What looked wrong in the file without being an error, for the user.
  const std::vector<std::string>& warnings() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace qp
