// The ranges behind scales that span a tensor: one pass over it, before any of its codes is chosen.
#pragma once

#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "lib/plan/plan.h"
#include "lib/qmap/store.h"

namespace qp {

class Ranges {
 public:
  // `before` runs before a pass over a tensor: what else is to be read comes first, while the pages
  // that the pass reads are near. `maxima`, of tensors by name, are shared by several results of
  // one store.
  Ranges(
      const Store& store, const Plan& plan, std::function<void()> before = [] {},
      std::map<std::string, float>* maxima = nullptr);

  // tensor_absmax() of the entry's tensor, or for NVFP4 of all tensors that engines fuse with it; 0
  // where the scheme has no scale that spans a tensor. Errors: input (NaN or Inf in the weights).
  float of(const PlanEntry& entry);

 private:
  struct Fused {
    std::vector<const PlanEntry*> members;
    std::optional<float> range;
  };
  float absmax(const Tensor& tensor);

  const Store& store_;
  const Plan& plan_;
  std::function<void()> before_;
  std::map<std::string, float>* maxima_;
  std::map<std::string, Fused> fused_;
};

}  // namespace qp
