#include "lib/algorithm/quantized_weights.h"

#include "lib/config/algorithms.h"

namespace qp {

using engine::Weight, engine::WeightSource, engine::WeightUse;

QuantizedWeights::QuantizedWeights(const Store& store, const Plan& plan, const ResultStore& results)
    : WeightSource(store), plan_(plan), results_(results) {
  for (size_t i = 0; i < plan.entries.size(); ++i) {
    if (plan.entries[i].scheme >= 0) entry_.emplace(plan.entries[i].tensor->name, i);
  }
}

std::ptrdiff_t QuantizedWeights::entry(const std::string& tensor) const {
  auto it = entry_.find(tensor);
  return it == entry_.end() ? -1 : static_cast<std::ptrdiff_t>(it->second);
}

std::ptrdiff_t QuantizedWeights::wanted(const WeightUse& use, How how) const {
  std::ptrdiff_t e = entry(use.tensor);
  if (e < 0 || use.part) return -1;
  const PlanEntry& of = plan_.entries[static_cast<size_t>(e)];
  const Algorithm& a = *parse_algorithm(of.algorithm).back().algorithm;
  return a.runs_model && (a.name == "autoround") == (how == How::learned) ? e : -1;
}

bool QuantizedWeights::done(const WeightUse& use) const {
  std::ptrdiff_t i = entry(use.tensor);
  return i >= 0 && results_.has(static_cast<size_t>(i));
}

// A store of the quantized tensor and nothing else.
Store QuantizedWeights::alone(const WeightUse& use) const {
  auto i = static_cast<size_t>(entry(use.tensor));
  Model model;
  model.schemes = {plan_.schemes[static_cast<size_t>(plan_.entries[i].scheme)]};
  Tensor t = results_.get(i, model);
  t.scheme = 0;
  model.tensors.push_back(std::move(t));
  return Store(std::move(model), nullptr, store().label());
}

Weight QuantizedWeights::load(const WeightUse& use, gemm::Precision precision, Weight used) const {
  if (!done(use)) return WeightSource::load(use, precision, std::move(used));
  Store one = alone(use);
  return WeightSource(one).load(use, precision, std::move(used));
}

const gemm::Packed& QuantizedWeights::transposed(const WeightUse& use, gemm::Precision precision,
                                                 gemm::Packed& room) const {
  if (!done(use)) return WeightSource::transposed(use, precision, room);
  Store one = alone(use);
  return WeightSource(one).transposed(use, precision, room);
}

}  // namespace qp
