#include "lib/text/token_model.h"

#include <algorithm>
#include <limits>

#include "lib/base/error.h"
#include "lib/text/utf8.h"

namespace qp {

void Vocabulary::add(std::string_view token, int64_t id) {
  if (id < 0 || id > kMaxId) {
    throw input_error("token '" + printable(token) + "' has id " + std::to_string(id) +
                      " (expected 0 to " + std::to_string(kMaxId) + ")");
  }
  auto at = static_cast<size_t>(id);
  if (at >= texts_.size()) texts_.resize(at + 1);
  if (texts_[at]) {
    throw input_error("id " + std::to_string(id) + " belongs to two tokens, '" +
                      printable(*texts_[at]) + "' and '" + printable(token) + "'");
  }
  if (!ids_.insert(token, static_cast<int32_t>(id))) {
    throw input_error("token '" + printable(token) + "' is in the vocabulary twice");
  }
  texts_[at] = token;
}

const std::string* Vocabulary::text(int32_t id) const {
  if (id < 0 || id >= end() || !texts_[static_cast<size_t>(id)]) return nullptr;
  return &*texts_[static_cast<size_t>(id)];
}

char32_t byte_level_char(unsigned char byte) {
  // Printable bytes stand for themselves, the other 68 for U+0100 on, in order.
  auto printable_byte = [](unsigned b) {
    return (b >= 0x21 && b <= 0x7e) || (b >= 0xa1 && b != 0xad);
  };
  if (printable_byte(byte)) return byte;
  char32_t c = 0x100;
  for (unsigned b = 0; b < byte; ++b) c += !printable_byte(b);
  return c;
}

int byte_level_byte(char32_t c) {
  static const std::array<int, 0x144> kBytes = [] {
    std::array<int, 0x144> table;
    table.fill(-1);
    for (int b = 0; b < 256; ++b) table[byte_level_char(static_cast<unsigned char>(b))] = b;
    return table;
  }();
  return c < kBytes.size() ? kBytes[c] : -1;
}

std::optional<std::string> byte_level_bytes(std::string_view token) {
  std::string bytes;
  for (const char *p = token.data(), *end = p + token.size(); p != end;) {
    int b = byte_level_byte(next_utf8(p));
    if (b < 0) return std::nullopt;
    bytes += static_cast<char>(static_cast<unsigned char>(b));
  }
  return bytes;
}

std::array<int32_t, 256> byte_token_ids(const Vocabulary& vocabulary) {
  constexpr std::string_view kDigits = "0123456789ABCDEF";
  std::array<int32_t, 256> ids;
  for (size_t b = 0; b < 256; ++b) {
    std::string name = {'<', '0', 'x', kDigits[b >> 4], kDigits[b & 15], '>'};
    ids[b] = vocabulary.find(name);
  }
  return ids;
}

UnigramModel::UnigramModel(Vocabulary vocabulary, std::vector<double> scores,
                           std::optional<int64_t> unknown, bool byte_fallback)
    : TokenModel(std::move(vocabulary)), scores_(std::move(scores)), byte_fallback_(byte_fallback) {
  if (unknown) {
    if (*unknown < 0 || *unknown >= vocabulary_.end()) {
      throw input_error("unk_id " + std::to_string(*unknown) + " is outside the vocabulary of " +
                        std::to_string(vocabulary_.end()));
    }
    unknown_id_ = static_cast<int32_t>(*unknown);
  }
  double lowest = std::numeric_limits<double>::infinity();
  for (double score : scores_) lowest = std::min(lowest, score);
  unknown_score_ = lowest - 10;
  for (int32_t id = 0; id < vocabulary_.end(); ++id) {
    if (const std::string* token = vocabulary_.text(id); token != nullptr && !token->empty()) {
      trie_.insert(*token, id);
    }
  }
  byte_ids_ = byte_token_ids(vocabulary_);
}

int32_t UnigramModel::need_unknown() const {
  if (unknown_id_ < 0) {
    throw input_error("text has a character that the vocabulary lacks, and there is no unk_id")
        .hint("take tokenizer.json from the original model again");
  }
  return unknown_id_;
}

// Ids of a stretch of the best path: a token, or what no token covers.
void UnigramModel::append(std::string_view text, std::vector<int32_t>& out) const {
  int32_t id = vocabulary_.find(text);
  if (id >= 0) {
    out.push_back(id);
    return;
  }
  auto byte_id = [&](char b) { return byte_ids_[static_cast<unsigned char>(b)]; };
  if (byte_fallback_ &&
      std::all_of(text.begin(), text.end(), [&](char b) { return byte_id(b) >= 0; })) {
    for (char b : text) out.push_back(byte_id(b));
    return;
  }
  out.push_back(need_unknown());
}

void UnigramModel::tokenize(std::string_view piece, ModelScratch& s,
                            std::vector<int32_t>& out) const {
  constexpr uint32_t kNone = UINT32_MAX;
  const size_t n = piece.size();
  if (n >= kNone) {
    throw limit_error("a word of " + std::to_string(n) + " bytes (expected less than 4 GiB)")
        .hint("split the text into shorter lines or documents");
  }
  // Per byte position: the best score of a path that ends there, its last node's start and id.
  s.scores.assign(n + 1, 0);
  s.starts.assign(n + 1, kNone);
  s.ids.assign(n + 1, -1);
  auto better = [&](size_t end, double score) {
    return s.starts[end] == kNone || score > s.scores[end];
  };
  auto offer = [&](size_t end, size_t start, double score, int32_t id) {
    if (!better(end, score)) return;
    s.scores[end] = score;
    s.starts[end] = static_cast<uint32_t>(start);
    s.ids[end] = id;
  };
  for (size_t at = 0; at < n;) {
    size_t length = utf8_length(piece[at]);
    double here = s.scores[at];
    bool single = false;
    uint32_t node = 0;
    for (size_t end = at; end < n;) {
      node = trie_.child(node, piece[end]);
      if (node == 0) break;
      ++end;
      if (int32_t id = trie_.value(node); id >= 0) {
        offer(end, at, here + scores_[static_cast<size_t>(id)], id);
        single = single || end - at == length;
      }
    }
    if (!single && better(at + length, here + unknown_score_)) {
      offer(at + length, at, here + unknown_score_, need_unknown());
    }
    at += length;
  }
  // Backwards along the best path; neighbouring unknown nodes are one stretch.
  std::vector<uint32_t>& cuts = s.ranks;
  cuts.clear();
  for (size_t end = n; end > 0;) {
    size_t start = s.starts[end];
    bool unknown = unknown_id_ >= 0 && s.ids[end] == unknown_id_;
    while (unknown && start > 0 && s.ids[start] == unknown_id_) start = s.starts[start];
    cuts.push_back(static_cast<uint32_t>(end));
    end = start;
  }
  size_t start = 0;
  for (auto end = cuts.rbegin(); end != cuts.rend(); ++end) {
    append(piece.substr(start, *end - start), out);
    start = *end;
  }
}

WordPieceModel::WordPieceModel(Vocabulary vocabulary, std::string unknown, std::string prefix,
                               int64_t max_chars)
    : TokenModel(std::move(vocabulary)),
      unknown_(std::move(unknown)),
      prefix_(std::move(prefix)),
      max_chars_(static_cast<size_t>(std::clamp<int64_t>(max_chars, 0, 10'000))),
      unknown_id_(vocabulary_.find(unknown_)) {}

int32_t WordPieceModel::need_unknown() const {
  if (unknown_id_ < 0) {
    throw input_error("text needs the unknown token '" + printable(unknown_) +
                      "', which is not in the vocabulary")
        .hint("take tokenizer.json from the original model again");
  }
  return unknown_id_;
}

void WordPieceModel::tokenize(std::string_view piece, ModelScratch& s,
                              std::vector<int32_t>& out) const {
  if (max_chars_ == 0) {
    int32_t id = vocabulary_.find(piece);
    out.push_back(id >= 0 ? id : need_unknown());
    return;
  }
  if (count_chars(piece) > max_chars_) {
    out.push_back(need_unknown());
    return;
  }
  const size_t before = out.size();
  for (size_t start = 0; start < piece.size();) {
    size_t end = piece.size();
    int32_t id = -1;
    for (; end > start; end = previous_char(piece, end)) {
      std::string_view part = piece.substr(start, end - start);
      if (start > 0) {
        s.text = prefix_;
        s.text += part;
        part = s.text;
      }
      id = vocabulary_.find(part);
      if (id >= 0) break;
    }
    if (id < 0) {
      out.resize(before);
      out.push_back(need_unknown());
      return;
    }
    out.push_back(id);
    start = end;
  }
}

}  // namespace qp
