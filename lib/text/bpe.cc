#include <algorithm>
#include <functional>

#include "lib/base/error.h"
#include "lib/text/token_model.h"
#include "lib/text/utf8.h"

namespace qp {
namespace {
// Up to here looking at all pairs again is faster than keeping a queue.
constexpr size_t kShort = 48;
// Scratch memory for longer pieces is given back.
constexpr size_t kKeep = 1 << 20;
// Positions are kept in 31 bits.
constexpr size_t kMaxPiece = INT32_MAX;
}  // namespace

BpeModel::BpeModel(Vocabulary vocabulary,
                   const std::vector<std::pair<std::string, std::string>>& merges,
                   BpeOptions options)
    : TokenModel(std::move(vocabulary)), options_(std::move(options)), ranks_(merges.size()) {
  auto need = [&](std::string_view token, size_t rank) {
    int32_t id = vocabulary_.find(token);
    if (id < 0) {
      throw input_error("merge " + std::to_string(rank) + " needs the token '" + printable(token) +
                        "', which is not in the vocabulary")
          .hint("take tokenizer.json from the original model again");
    }
    return id;
  };
  std::string joined;
  for (size_t rank = 0; rank < merges.size(); ++rank) {
    const auto& [a, b] = merges[rank];
    if (b.size() < options_.prefix.size()) {
      throw input_error("merge " + std::to_string(rank) + " of '" + printable(b) +
                        "' lacks the prefix '" + printable(options_.prefix) + "'");
    }
    joined = a;
    joined += std::string_view(b).substr(options_.prefix.size());
    int32_t left = need(a, rank), right = need(b, rank);
    merged_.push_back(need(joined, rank));
    ranks_[pair(left, right)] = static_cast<uint32_t>(rank);  // the later of two equal merges wins
  }
  if (options_.unknown) unknown_id_ = vocabulary_.find(*options_.unknown);
  byte_fallback_ids_ = byte_token_ids(vocabulary_);
  for (size_t c = 0; c < ascii_.size(); ++c) {
    char text = static_cast<char>(c);
    ascii_[c] = vocabulary_.find(std::string_view(&text, 1));
  }
}

bool BpeModel::take_bytes() {
  if (!options_.prefix.empty() || !options_.suffix.empty()) return false;
  bool lossy = !options_.unknown && !options_.byte_fallback;  // an unknown character is dropped
  for (size_t b = 0; b < 256; ++b) {
    byte_ids_[b] = vocabulary_.find(to_utf8(byte_level_char(static_cast<unsigned char>(b))));
    if (byte_ids_[b] < 0 && !lossy) return false;
  }
  if (options_.ignore_merges) {
    for (int32_t id = 0; id < vocabulary_.end(); ++id) {
      const std::string* token = vocabulary_.text(id);
      if (token == nullptr) continue;
      if (std::optional<std::string> bytes = byte_level_bytes(*token)) whole_.insert(*bytes, id);
    }
  }
  bytes_ = true;
  return true;
}

// Characters to ids: scratch.ids.
void BpeModel::split(std::string_view piece, ModelScratch& scratch) const {
  std::vector<int32_t>& ids = scratch.ids;
  ids.clear();
  if (bytes_) {
    for (char c : piece) {
      int32_t id = byte_ids_[static_cast<unsigned char>(c)];
      if (id >= 0) ids.push_back(id);
    }
    return;
  }
  bool plain = options_.prefix.empty() && options_.suffix.empty();
  bool pending = false;  // an unknown token that later ones may join
  for (size_t at = 0; at < piece.size();) {
    std::string_view c = piece.substr(at, utf8_length(piece[at]));
    bool first = at == 0;
    at += c.size();
    int32_t id;
    if (plain) {
      id = c.size() == 1 ? ascii_[static_cast<unsigned char>(c[0])] : vocabulary_.find(c);
    } else {
      scratch.text = first ? "" : options_.prefix;
      scratch.text += c;
      if (at == piece.size()) scratch.text += options_.suffix;
      c = scratch.text;
      id = vocabulary_.find(c);
    }
    if (id >= 0) {
      if (pending) ids.push_back(unknown_id_);
      pending = false;
      ids.push_back(id);
      continue;
    }
    if (options_.byte_fallback && std::all_of(c.begin(), c.end(), [&](char b) {
          return byte_fallback_ids_[static_cast<unsigned char>(b)] >= 0;
        })) {
      // An unknown token that waits goes behind these, as in the reference.
      for (char b : c) ids.push_back(byte_fallback_ids_[static_cast<unsigned char>(b)]);
      continue;
    }
    if (!options_.unknown) continue;
    if (unknown_id_ < 0) {
      throw input_error("text needs the unknown token '" + printable(*options_.unknown) +
                        "', which is not in the vocabulary")
          .hint("take tokenizer.json from the original model again");
    }
    if (pending && !options_.fuse_unknown) ids.push_back(unknown_id_);
    pending = true;
  }
  if (pending) ids.push_back(unknown_id_);
}

void BpeModel::merge_short(ModelScratch& scratch) const {
  std::vector<int32_t>& ids = scratch.ids;
  uint32_t ranks[kShort];
  size_t n = ids.size();
  for (size_t i = 0; i + 1 < n; ++i) ranks[i] = rank_of(ids[i], ids[i + 1]);
  while (n > 1) {
    const uint32_t* best = std::min_element(ranks, ranks + n - 1);
    if (*best == kNoRank) break;
    auto i = static_cast<size_t>(best - ranks);
    ids[i] = merged_[*best];
    std::copy(ids.begin() + static_cast<ptrdiff_t>(i) + 2,
              ids.begin() + static_cast<ptrdiff_t>(n), ids.begin() + static_cast<ptrdiff_t>(i) + 1);
    if (i + 2 < n) std::copy(ranks + i + 2, ranks + n - 1, ranks + i + 1);
    --n;
    if (i + 1 < n) ranks[i] = rank_of(ids[i], ids[i + 1]);
    if (i > 0) ranks[i - 1] = rank_of(ids[i - 1], ids[i]);
  }
  ids.resize(n);
}

// Positions wait in one bucket per rank; ranks with positions in a heap. Merges of one rank come
// mostly from left to right, so that a bucket is a list that is appended to, and the heaps are
// small.
void BpeModel::merge_long(ModelScratch& s) const {
  constexpr uint32_t kNone = UINT32_MAX;
  const size_t n = s.ids.size();
  if (n > kMaxPiece) {
    throw limit_error("a word of " + std::to_string(n) + " characters (expected at most " +
                      std::to_string(kMaxPiece) + ")")
        .hint("split the text into shorter lines or documents");
  }
  s.previous.resize(n);
  s.next.resize(n);
  s.ranks.assign(n, kNoRank);
  // All buckets are empty and free again when this function ends.
  if (s.bucket_of.size() != merged_.size()) s.bucket_of.assign(merged_.size(), kNone);
  auto wait = [&](uint32_t position, uint32_t rank) {
    s.ranks[position] = rank;
    if (rank == kNoRank) return;
    uint32_t& index = s.bucket_of[rank];
    if (index == kNone) {
      if (s.free_buckets.empty()) {
        s.free_buckets.push_back(static_cast<uint32_t>(s.buckets.size()));
        s.buckets.emplace_back();
      }
      index = s.free_buckets.back();
      s.free_buckets.pop_back();
      s.waiting.push_back(rank);
      std::push_heap(s.waiting.begin(), s.waiting.end(), std::greater<>());
    }
    ModelScratch::Bucket& bucket = s.buckets[index];
    if (bucket.sorted.empty() || bucket.sorted.back() < position) {
      bucket.sorted.push_back(position);
    } else {
      bucket.heap.push_back(position);
      std::push_heap(bucket.heap.begin(), bucket.heap.end(), std::greater<>());
    }
  };
  for (uint32_t i = 0; i < n; ++i) {
    s.previous[i] = static_cast<int32_t>(i - 1);
    s.next[i] = i + 1 < n ? static_cast<int32_t>(i + 1) : -1;
    if (i + 1 < n) wait(i, rank_of(s.ids[i], s.ids[i + 1]));
  }
  while (!s.waiting.empty()) {
    uint32_t rank = s.waiting.front();
    uint32_t index = s.bucket_of[rank];
    ModelScratch::Bucket& bucket = s.buckets[index];
    bool listed = bucket.first < bucket.sorted.size();
    if (!listed && bucket.heap.empty()) {
      std::pop_heap(s.waiting.begin(), s.waiting.end(), std::greater<>());
      s.waiting.pop_back();
      s.bucket_of[rank] = kNone;
      bucket.sorted.clear();
      bucket.first = 0;
      s.free_buckets.push_back(index);
      continue;
    }
    uint32_t i;
    if (listed && (bucket.heap.empty() || bucket.sorted[bucket.first] < bucket.heap.front())) {
      i = bucket.sorted[bucket.first++];
    } else {
      i = bucket.heap.front();
      std::pop_heap(bucket.heap.begin(), bucket.heap.end(), std::greater<>());
      bucket.heap.pop_back();
    }
    if (s.ranks[i] != rank) continue;  // merged or re-paired since
    auto right = static_cast<uint32_t>(s.next[i]);
    s.ids[i] = merged_[rank];
    s.ids[right] = -1;
    s.ranks[right] = kNoRank;
    s.next[i] = s.next[right];
    if (s.next[i] >= 0) s.previous[static_cast<uint32_t>(s.next[i])] = static_cast<int32_t>(i);
    if (s.previous[i] >= 0) {
      auto left = static_cast<uint32_t>(s.previous[i]);
      wait(left, rank_of(s.ids[left], s.ids[i]));
    }
    wait(i, s.next[i] < 0 ? kNoRank
                          : rank_of(s.ids[i], s.ids[static_cast<uint32_t>(s.next[i])]));
  }
  std::erase(s.ids, -1);
}

void BpeModel::tokenize(std::string_view piece, ModelScratch& scratch,
                        std::vector<int32_t>& out) const {
  if (options_.ignore_merges) {
    int32_t id = bytes_ ? whole_.find(piece) : vocabulary_.find(piece);
    if (id >= 0) {
      out.push_back(id);
      return;
    }
  }
  split(piece, scratch);
  if (scratch.ids.size() <= kShort) {
    merge_short(scratch);
  } else {
    merge_long(scratch);
  }
  out.insert(out.end(), scratch.ids.begin(), scratch.ids.end());
  if (scratch.ids.capacity() > kKeep) scratch = ModelScratch();
}

}  // namespace qp
