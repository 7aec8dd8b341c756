#include "lib/algorithm/importance.h"

#include "lib/base/error.h"
#include "lib/calibration/collector.h"

namespace qp {

Importance::Importance(const Store& store) : store_(store) {
  const auto& calibration = store.model().calibration;
  if (!calibration) return;
  for (const InputStatistics& s : calibration->inputs) {
    for (const std::string& reader : s.readers) inputs_[reader] = &s;
  }
}

const InputStatistics* Importance::find(const std::string& module) const {
  auto it = inputs_.find(module);
  return it == inputs_.end() ? nullptr : it->second;
}

std::vector<float> Importance::of(const PlanEntry& e) const {
  std::vector<float> out;
  uint64_t cols = e.source->shape.cols();
  const InputStatistics* own = find(e.info.module);
  if (own == nullptr && !e.input.empty()) own = find(e.input);
  if (own != nullptr) {
    append(*own, cols, e, out);
    return out;
  }
  for (uint64_t expert = 0;; ++expert) {
    const InputStatistics* s = find(e.info.module + "[" + std::to_string(expert) + "]");
    if (s == nullptr) return out;
    append(*s, cols, e, out);
  }
}

void Importance::append(const InputStatistics& s, uint64_t cols, const PlanEntry& e,
                        std::vector<float>& out) const {
  if (s.cols != cols) {
    throw input_error("its importance has " + std::to_string(s.cols) + " columns (expected " +
                      std::to_string(cols) + ")")
        .file(store_.label())
        .tensor(e.tensor->name);
  }
  if (s.rows == 0) return out.resize(out.size() + cols, 1.0f);
  InputSums sums = unpack(s, store_.stored(s.extent), store_.model().calibration->windows);
  auto rows = static_cast<float>(s.rows);
  for (const auto& sum : sums.sum_sq) out.push_back(static_cast<float>(from_fixed(sum)) / rows);
}

}  // namespace qp
