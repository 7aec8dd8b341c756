#include "cmd/qexport/target.h"

#include "lib/base/error.h"

namespace qp {

void ExportTarget::declare(CLI::App& app) {
  target_.declare(app, "Write only what this engine loads and uses whole");
}

void ExportTarget::check_arguments() { target_.check(); }

std::string ExportTarget::name() const {
  return target_.engine == nullptr ? "" : std::string(target::name_of(*target_.engine));
}

FittedPlan ExportTarget::fit(const Store& store, const Format& format, const ExportOptions& options,
                             const Changes& asked, Tool& tool) const {
  if (target_.engine == nullptr) return plan_fitted(store, format, options, asked);
  target_.warn_of_version(tool);
  FittedPlan fitted = plan_fitted(store, format, options, asked, *target_.engine, target_.options);
  for (const std::string& change : fitted.changes) tool.say(change);
  if (fitted.plan.write != nullptr) {  // a file, whose writer has one engine's rules
    if (format.target == name()) return fitted;
    throw limit_error("-f " + std::string(format.name) + " is for " + std::string(format.target) +
                      ", and what " + name() + " makes of it is not known here")
        .hint("choose a format that is a directory, such as compressed-tensors");
  }
  return fitted;
}

}  // namespace qp
