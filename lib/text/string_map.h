// Open-addressing tables of the tokenizer: strings to ids, pairs of ids to merges.
#pragma once

#include <array>
#include <bit>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "lib/base/hash.h"

namespace qp {

inline uint64_t hash_text(std::string_view text) {
  return xxh3_64(std::as_bytes(std::span(text.data(), text.size())));
}

// Strings to ids. The strings live in one buffer; nothing is removed.
class StringMap {
 public:
  // False when `key` is there already (and stays as it is).
  bool insert(std::string_view key, int32_t value) {
    if ((entries_.size() + 1) * 2 > slots_.size()) grow();
    uint64_t hash = hash_text(key);
    size_t slot = find_slot(key, hash);
    if (slots_[slot] != 0) return false;
    entries_.push_back({hash, keys_.size(), key.size(), value});
    keys_ += key;
    slots_[slot] = static_cast<uint32_t>(entries_.size());
    return true;
  }
  // -1 when it is not there.
  int32_t find(std::string_view key) const {
    if (slots_.empty()) return -1;
    uint32_t at = slots_[find_slot(key, hash_text(key))];
    return at == 0 ? -1 : entries_[at - 1].value;
  }
  size_t size() const { return entries_.size(); }

 private:
  struct Entry {
    uint64_t hash;
    size_t begin, length;
    int32_t value;
  };
  size_t find_slot(std::string_view key, uint64_t hash) const {
    size_t mask = slots_.size() - 1;
    for (size_t i = hash & mask;; i = (i + 1) & mask) {
      if (slots_[i] == 0) return i;
      const Entry& e = entries_[slots_[i] - 1];
      if (e.hash == hash && std::string_view(keys_).substr(e.begin, e.length) == key) return i;
    }
  }
  void grow() {
    size_t size = slots_.empty() ? 64 : slots_.size() * 2;
    slots_.assign(size, 0);
    for (size_t i = 0; i < entries_.size(); ++i) {
      size_t at = entries_[i].hash & (size - 1);
      while (slots_[at] != 0) at = (at + 1) & (size - 1);
      slots_[at] = static_cast<uint32_t>(i + 1);
    }
  }

  std::string keys_;
  std::vector<Entry> entries_;
  std::vector<uint32_t> slots_;  // index of the entry plus one
};

// 64-bit keys to 32-bit values, a power of two of slots at most half full.
class WordMap {
 public:
  static constexpr uint64_t kNone = UINT64_MAX;  // no key
  explicit WordMap(size_t expected = 0)
      : slots_(std::bit_ceil(expected * 2 + 16)),
        shift_(64 - std::countr_zero(slots_.size())) {}

  // The value of `key`, made with 0 when it is not there.
  uint32_t& operator[](uint64_t key) {
    if ((used_ + 1) * 2 > slots_.size()) grow();
    Slot& slot = slots_[find_slot(key)];
    if (slot.key == kNone) {
      slot.key = key;
      ++used_;
    }
    return slot.value;
  }
  const uint32_t* find(uint64_t key) const {
    const Slot& slot = slots_[find_slot(key)];
    return slot.key == kNone ? nullptr : &slot.value;
  }
  size_t size() const { return used_; }

 private:
  struct Slot {
    uint64_t key = kNone;
    uint32_t value = 0;
  };
  size_t find_slot(uint64_t key) const {
    // The golden ratio spreads neighbouring keys (Knuth, The Art of Computer Programming 6.4).
    size_t i = (key ^ key >> 29) * 0x9e3779b97f4a7c15u >> shift_;
    while (slots_[i].key != key && slots_[i].key != kNone) i = (i + 1) & (slots_.size() - 1);
    return i;
  }
  void grow() {
    std::vector<Slot> old(slots_.size() * 2);
    old.swap(slots_);
    --shift_;
    for (const Slot& slot : old) {
      if (slot.key != kNone) slots_[find_slot(slot.key)] = slot;
    }
  }
  std::vector<Slot> slots_;
  int shift_;
  size_t used_ = 0;
};

// Byte strings to values, walked byte by byte.
class Trie {
 public:
  Trie() { root_.fill(0); }
  void insert(std::string_view key, int32_t value) {
    uint32_t node = 0;
    for (char c : key) node = child_or_new(node, static_cast<unsigned char>(c));
    values_[node] = value;
  }
  // The node behind `node` by byte `c`; 0 when there is none. 0 is the root.
  uint32_t child(uint32_t node, char c) const {
    auto byte = static_cast<unsigned char>(c);
    if (node == 0) return root_[byte];
    const uint32_t* next = edges_.find(uint64_t{node} << 8 | byte);
    return next == nullptr ? 0 : *next;
  }
  int32_t value(uint32_t node) const { return values_[node]; }  // -1: no key ends here
  bool empty() const { return values_.size() == 1; }

 private:
  uint32_t child_or_new(uint32_t node, unsigned char byte) {
    uint32_t& next = node == 0 ? root_[byte] : edges_[uint64_t{node} << 8 | byte];
    if (next == 0) {
      next = static_cast<uint32_t>(values_.size());
      values_.push_back(-1);
    }
    return next;
  }
  std::array<uint32_t, 256> root_;
  WordMap edges_;
  std::vector<int32_t> values_{-1};
};

}  // namespace qp
