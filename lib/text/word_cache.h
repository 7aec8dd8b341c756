// Words and their ids, remembered while a text is tokenized: most words come again.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "lib/text/string_map.h"

namespace qp {

// Bounded: when it is full it starts again. For one thread.
class WordCache {
 public:
  static constexpr size_t kMaxWord = 64;  // bytes; longer words seldom come again

  // The ids of `word`, or nothing (null data) when it is not here.
  std::span<const int32_t> find(std::string_view word) {
    hash_ = hash_text(word);
    for (slot_ = hash_ & (kSlots - 1); slots_[slot_].hash != 0; slot_ = (slot_ + 1) & (kSlots - 1)) {
      const Slot& s = slots_[slot_];
      if (s.hash == (hash_ | 1) && std::string_view(words_).substr(s.word, s.length) == word) {
        return {ids_.data() + s.ids, s.count};
      }
    }
    return {};
  }
  // Keeps the ids of the word that the last find() did not find.
  void add(std::string_view word, std::span<const int32_t> ids) {
    if (ids.empty()) return;
    if (++used_ > kSlots / 2) {
      slots_.assign(kSlots, {});
      words_.clear();
      ids_.clear();
      used_ = 1;
      slot_ = hash_ & (kSlots - 1);
    }
    slots_[slot_] = {hash_ | 1, static_cast<uint32_t>(words_.size()),
                     static_cast<uint32_t>(ids_.size()), static_cast<uint16_t>(word.size()),
                     static_cast<uint16_t>(ids.size())};
    words_ += word;
    ids_.insert(ids_.end(), ids.begin(), ids.end());
  }

 private:
  static constexpr size_t kSlots = 1 << 16;
  struct Slot {
    uint64_t hash = 0;  // 0: free
    uint32_t word = 0, ids = 0;
    uint16_t length = 0, count = 0;
  };
  std::vector<Slot> slots_ = std::vector<Slot>(kSlots);
  std::string words_;
  std::vector<int32_t> ids_;
  uint64_t hash_ = 0;
  size_t slot_ = 0, used_ = 0;
};

}  // namespace qp
