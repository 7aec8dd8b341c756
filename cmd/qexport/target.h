// qexport --target: what is written passes the engine's rules, or nothing is written.
#pragma once

#include <functional>
#include <string>

#include "cmd/tool/target_options.h"
#include "formats/format.h"

namespace qp {

class ExportTarget {
 public:
  using Planner = std::function<ExportPlan(const ExportOptions&)>;

  void declare(CLI::App& app);
  // Errors: usage.
  void check_arguments();
  std::string name() const;  // of the engine, without a version; "": none
  // The plan that the engine loads and uses whole: as asked, or with scales repeated to the largest
  // group that fits (`transforms`: the format can). Errors: limit, with the engine's first objection.
  ExportPlan fit(const Planner& plan, ExportOptions options, const Format& format, Tool& tool) const;

 private:
  TargetOptions target_;
};

}  // namespace qp
