// What must change so that an engine loads a checkpoint and uses all of it: DESIGN.md, "Targets".
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "formats/hf/fit.h"
#include "lib/qmap/store.h"
#include "lib/target/target.h"

namespace qp {

struct FittedPlan {
  std::unique_ptr<Store> store;  // whose tensors the plan names; null: those of the given store
  ExportPlan plan;
  std::vector<std::string> changes;  // for people
};

// The plan of `store` in `format`, changed as `asked`. Errors: limit.
FittedPlan plan_fitted(const Store& store, const Format& format, const ExportOptions& options,
                       const Changes& asked);

// The same, and of a plan that is a file no more than that; where the engine objects, with the
// fewest changes that it takes: modules left out, scales repeated, inner sizes of MLPs padded, in
// this order. The most that is left out is a quarter of the quantized weights, the most that an MLP
// grows by is half. Errors: limit, with the engine's first objection.
FittedPlan plan_fitted(const Store& store, const Format& format, const ExportOptions& options,
                       const Changes& asked, const target::Engine& engine,
                       const target::Options& ranks);

}  // namespace qp
