// qexport --target: what is written passes the engine's rules, or nothing is written.
#pragma once

#include <string>

#include "cmd/tool/target_options.h"
#include "formats/verify/fit_target.h"

namespace qp {

class ExportTarget {
 public:
  void declare(CLI::App& app);
  // Errors: usage.
  void check_arguments();
  std::string name() const;  // of the engine, without a version; "": none
  // The plan, as asked or as the engine takes it. Errors: limit, with the engine's first objection.
  FittedPlan fit(const Store& store, const Format& format, const ExportOptions& options,
                 const Changes& asked, Tool& tool) const;

 private:
  TargetOptions target_;
};

}  // namespace qp
