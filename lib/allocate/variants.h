// The model quantized with each candidate, kept in spill files, and run with any mixture of them.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "lib/allocate/candidates.h"
#include "lib/base/progress.h"
#include "lib/engine/weights.h"
#include "lib/qmap/store.h"

namespace qp {

struct VariantOptions {
  gemm::Precision precision = gemm::Precision::bf16;  // of products, where the model is run
  uint64_t memory = uint64_t{4} << 30;
};

class Variants {
 public:
  // Quantizes everything with each candidate, by its plan's algorithms. Spill files take as many
  // bytes as the results do, and are gone with the process. Errors: as run_plan().
  Variants(const Store& store, const std::vector<Candidate>& candidates,
           const VariantOptions& options, Progress& progress);

  size_t size() const { return variants_.size(); }
  // The unquantized model, the experts of its stacks apart where candidates have them apart.
  const Store& base() const { return apart_ ? *apart_ : store_; }
  // Null: the candidate leaves tensors as they are.
  const Store* variant(size_t candidate) const { return variants_[candidate].get(); }

 private:
  void add(const Candidate& candidate, const VariantOptions& options, Progress& progress);

  const Store& store_;
  std::unique_ptr<Store> apart_;
  std::vector<std::unique_ptr<Store>> variants_;
};

// The base's weights, but those of chosen tensors as a variant has them.
class MixedWeights : public engine::WeightSource {
 public:
  explicit MixedWeights(const Variants& variants);
  void choose(const SchemeGroup& group, size_t candidate);
  void clear() { chosen_.clear(); }
  engine::Weight load(const engine::WeightUse& use, gemm::Precision precision,
                      engine::Weight used) const override;

 private:
  std::vector<std::unique_ptr<engine::WeightSource>> sources_;
  std::map<std::string, size_t, std::less<>> chosen_;
};

}  // namespace qp
