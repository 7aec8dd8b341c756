#include "lib/algorithm/ranges.h"

#include <algorithm>

#include "lib/algorithm/rtn.h"

namespace qp {

Ranges::Ranges(const Store& store, const Plan& plan, std::function<void()> before,
               std::map<std::string, float>* maxima)
    : store_(store), plan_(plan), before_(std::move(before)), maxima_(maxima) {
  for (const PlanEntry& e : plan.entries) {
    if (e.scheme >= 0 && !e.info.fused.empty()) fused_[e.info.fused].members.push_back(&e);
  }
}

float Ranges::of(const PlanEntry& e) {
  const Scheme& scheme = plan_.schemes[static_cast<size_t>(e.scheme)];
  if (!scheme.ggml.empty()) return 0;
  if (scheme.weights.strategy == Strategy::tensor || scheme.weights.fp8_stage) {
    return absmax(*e.tensor);
  }
  if (scheme.weights.strategy != Strategy::tensor_group) return 0;
  if (e.info.fused.empty()) return absmax(*e.tensor);
  Fused& group = fused_.at(e.info.fused);
  if (!group.range) {
    float range = 0;
    for (const PlanEntry* m : group.members) range = std::max(range, absmax(*m->tensor));
    group.range = range;
  }
  return *group.range;
}

float Ranges::absmax(const Tensor& t) {
  if (maxima_ != nullptr) {
    if (auto it = maxima_->find(t.name); it != maxima_->end()) return it->second;
  }
  before_();
  for (const Part& p : t.parts) store_.verify(t, p);
  float max = tensor_absmax(store_, t);
  if (maxima_ != nullptr) maxima_->emplace(t.name, max);
  return max;
}

}  // namespace qp
