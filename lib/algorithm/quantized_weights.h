// The weights of a model that is being quantized: those that are done, as they have become.
#pragma once

#include <map>
#include <string>

#include "lib/algorithm/small_parts.h"
#include "lib/engine/weights.h"
#include "lib/plan/plan.h"

namespace qp {

// Where the results of a run are kept: read again as the weights of what runs next.
class ResultStore {
 public:
  virtual ~ResultStore() = default;
  // Tensor `entry` of the plan is quantized, by this run or one that it continues.
  virtual bool has(size_t entry) const = 0;
  virtual void put(size_t entry, std::span<const std::byte> codes, const SmallParts& small) = 0;
  // The quantized tensor, its parts as blobs of the model.
  virtual Tensor get(size_t entry, Model& model) const = 0;
};

class QuantizedWeights : public engine::WeightSource {
 public:
  QuantizedWeights(const Store& store, const Plan& plan, const ResultStore& results);
  // The plan's entry of a tensor; -1: not to be quantized.
  std::ptrdiff_t entry(const std::string& tensor) const;
  // The same, of a whole matrix that is quantized by running the model: learned with its layer, or
  // one by one.
  enum class How { learned, alone };
  std::ptrdiff_t wanted(const engine::WeightUse& use, How how) const;

  engine::Weight load(const engine::WeightUse& use, gemm::Precision precision,
                      engine::Weight used) const override;
  const gemm::Packed& transposed(const engine::WeightUse& use, gemm::Precision precision,
                                 gemm::Packed& room) const override;

 private:
  bool done(const engine::WeightUse& use) const;
  Store alone(const engine::WeightUse& use) const;

  const Plan& plan_;
  const ResultStore& results_;
  std::map<std::string, size_t, std::less<>> entry_;
};

}  // namespace qp
