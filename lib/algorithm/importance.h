// The importance matrix: how much each column of a matrix counts, from what qcalibrate saw of its input
// (llama.cpp's imatrix: mean x^2 per column; reference/gguf.md section 8).
#pragma once

#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "lib/plan/plan.h"
#include "lib/qmap/store.h"

namespace qp {

class Importance {
 public:
  explicit Importance(const Store& store);

  // [cols] for a matrix, [experts * cols] for a stack of experts; empty: nothing is known of its input.
  // 1 in every column for experts that no token reached, as llama-quantize has it.
  // Errors: input, statistics of another width than the matrix.
  std::vector<float> of(const PlanEntry& entry) const;
  bool has(const PlanEntry& entry) const { return find(entry.info.module) || find(entry.input) || find(entry.info.module + "[0]"); }

 private:
  const InputStatistics* find(const std::string& module) const;
  void append(const InputStatistics& s, uint64_t cols, const PlanEntry& entry, std::vector<float>& out) const;

  const Store& store_;
  std::map<std::string_view, const InputStatistics*> inputs_;  // by reader
};

}  // namespace qp
