// qquantize --target: before the work, whether an engine will load what comes out.
#pragma once

#include "cmd/tool/target_options.h"
#include "lib/plan/plan.h"
#include "lib/qmap/store.h"

namespace qp {

class PlanTarget {
 public:
  void declare(CLI::App& app);
  // Errors: usage.
  void check_arguments();
  // Says as which families the engine loads the plan's result and uses all of it, and what qexport
  // --target would change for that. Nothing of the weights is read. Errors: limit, when there is no
  // such family, with the engine's objection to the first that can hold the result. What steps like
  // rotate do to the model before is not looked at.
  void check(const Store& store, const Plan& plan, bool kv_cache, Tool& tool) const;

 private:
  TargetOptions target_;
};

}  // namespace qp
