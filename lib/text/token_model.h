// The models of tokenizer.json: pieces of text to token ids.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "lib/text/string_map.h"

namespace qp {

// Ids of a model's tokens, and back.
class Vocabulary {
 public:
  // Errors: input, when the id is negative, above kMaxId or taken, or the token is there already.
  void add(std::string_view token, int64_t id);
  int32_t find(std::string_view token) const { return ids_.find(token); }  // -1: none
  // Null when no token has this id.
  const std::string* text(int32_t id) const;
  size_t size() const { return ids_.size(); }
  // Highest id plus one.
  int32_t end() const { return static_cast<int32_t>(texts_.size()); }

  // Above every published vocabulary (about a million), and a table of all ids stays small.
  static constexpr int64_t kMaxId = (1 << 22) - 1;

 private:
  StringMap ids_;
  std::vector<std::optional<std::string>> texts_;
};

// What a model needs besides itself while it works; one per thread.
struct ModelScratch {
  struct Bucket {
    std::vector<uint32_t> sorted, heap;  // positions: appended in order, and the others
    size_t first = 0;                    // of `sorted`
  };
  std::vector<int32_t> ids, previous, next;
  std::vector<uint32_t> ranks;
  std::vector<Bucket> buckets;
  std::vector<uint32_t> bucket_of, free_buckets, waiting;
  std::vector<double> scores;
  std::vector<uint32_t> starts;
  std::string text;
};

class TokenModel {
 public:
  explicit TokenModel(Vocabulary vocabulary) : vocabulary_(std::move(vocabulary)) {}
  virtual ~TokenModel() = default;
  const Vocabulary& vocabulary() const { return vocabulary_; }
  // Appends the ids of `piece` (valid UTF-8, not empty). Errors: input, when the vocabulary lacks
  // the unknown token it needs; limit, a piece of 2 GiB.
  virtual void tokenize(std::string_view piece, ModelScratch& scratch,
                        std::vector<int32_t>& out) const = 0;

 protected:
  Vocabulary vocabulary_;
};

struct BpeOptions {
  std::optional<std::string> unknown;
  std::string prefix, suffix;  // of characters that are not first, that are last
  bool fuse_unknown = false, byte_fallback = false, ignore_merges = false;
};

// Byte-pair encoding: characters are merged by rank (position in the list of merges), the leftmost
// first. A run of n characters takes O(n log n) at most, about O(n) in practice.
class BpeModel : public TokenModel {
 public:
  // Errors: input, when a merge names a token that is not there.
  BpeModel(Vocabulary vocabulary,
           const std::vector<std::pair<std::string, std::string>>& merges, BpeOptions options);
  // Pieces will come as the bytes themselves instead of the 256 characters that ByteLevel writes
  // for them. False when this vocabulary cannot be used so.
  bool take_bytes();
  void tokenize(std::string_view piece, ModelScratch& scratch,
                std::vector<int32_t>& out) const override;

 private:
  static constexpr uint32_t kNoRank = UINT32_MAX;
  static uint64_t pair(int32_t a, int32_t b) {
    return uint64_t{static_cast<uint32_t>(a)} << 32 | static_cast<uint32_t>(b);
  }
  uint32_t rank_of(int32_t a, int32_t b) const {
    const uint32_t* rank = ranks_.find(pair(a, b));
    return rank == nullptr ? kNoRank : *rank;
  }
  void split(std::string_view piece, ModelScratch& scratch) const;
  void merge_short(ModelScratch& scratch) const;
  void merge_long(ModelScratch& scratch) const;

  BpeOptions options_;
  WordMap ranks_;                // pair of ids to rank
  std::vector<int32_t> merged_;  // by rank
  int32_t unknown_id_ = -1;
  std::array<int32_t, 256> byte_fallback_ids_;  // of <0x00>..<0xFF>
  std::array<int32_t, 128> ascii_;              // of one character
  bool bytes_ = false;
  std::array<int32_t, 256> byte_ids_;  // with bytes_: -1 is dropped
  StringMap whole_;                    // with bytes_ and ignore_merges: bytes of a token to its id
};

// Unigram: the segmentation with the highest sum of scores (Viterbi); the leftmost found wins ties.
class UnigramModel : public TokenModel {
 public:
  // `scores` by id. Errors: input, when unknown is out of range.
  UnigramModel(Vocabulary vocabulary, std::vector<double> scores, std::optional<int64_t> unknown,
               bool byte_fallback);
  void tokenize(std::string_view piece, ModelScratch& scratch,
                std::vector<int32_t>& out) const override;

 private:
  void append(std::string_view text, std::vector<int32_t>& out) const;
  int32_t need_unknown() const;
  std::vector<double> scores_;
  double unknown_score_ = 0;
  int32_t unknown_id_ = -1;
  bool byte_fallback_ = false;
  std::array<int32_t, 256> byte_ids_;
  Trie trie_;
};

// WordPiece: the longest token that begins the rest of the word, again and again. With
// `max_chars` 0: WordLevel, the whole word or unknown.
class WordPieceModel : public TokenModel {
 public:
  WordPieceModel(Vocabulary vocabulary, std::string unknown, std::string prefix, int64_t max_chars);
  void tokenize(std::string_view piece, ModelScratch& scratch,
                std::vector<int32_t>& out) const override;

 private:
  int32_t need_unknown() const;
  std::string unknown_, prefix_;
  size_t max_chars_;
  int32_t unknown_id_;
};

// The character ByteLevel writes for a byte, and the byte of such a character (-1: none).
char32_t byte_level_char(unsigned char byte);
int byte_level_byte(char32_t c);
// Bytes of a token that is written in those characters; nothing when it is not.
std::optional<std::string> byte_level_bytes(std::string_view token);
// Id of "<0xNN>" for each byte, -1 where it is not in the vocabulary.
std::array<int32_t, 256> byte_token_ids(const Vocabulary& vocabulary);

}  // namespace qp
