// Bytes of weights on the fullest rank: cut tensors over tensor-parallel ranks, experts over
// expert-parallel ones, layers over the stages of a pipeline.
#pragma once

#include <algorithm>
#include <vector>

#include "lib/target/engine.h"

namespace qp::target {

class Resident {
 public:
  Resident(const ModelShape& model, const Options& options)
      : model_(model), options_(options), stages_(std::max<uint64_t>(options.pp, 1)) {}

  // `cut`: every rank has its part of it.
  void add(const Layer& layer, const Shard& shard, uint64_t bytes, bool cut) {
    uint64_t parts = cut ? options_.tp : 1;
    if (layer.part == Part::experts && options_.ep > 1) parts = options_.ep;
    bool few = shard.member == "k_proj" || shard.member == "v_proj";
    // More ranks than heads of keys: heads are repeated.
    if (few && cut && model_.kv_heads > 0) parts = std::min(parts, model_.kv_heads);
    stages_[stage_of(layer)] += (bytes + parts - 1) / parts;
  }
  uint64_t fullest() const { return *std::ranges::max_element(stages_); }

 private:
  size_t stage_of(const Layer& layer) const {
    if (layer.index >= 0 && model_.layers > 0) {
      auto i = std::min(static_cast<uint64_t>(layer.index), model_.layers - 1);
      return static_cast<size_t>(i * stages_.size() / model_.layers);
    }
    return layer.part == Part::head ? stages_.size() - 1 : 0;
  }
  const ModelShape& model_;
  const Options& options_;
  std::vector<uint64_t> stages_;
};

}  // namespace qp::target
