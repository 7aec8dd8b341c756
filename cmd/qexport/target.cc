#include "cmd/qexport/target.h"

#include "lib/base/error.h"

namespace qp {

void ExportTarget::declare(CLI::App& app) {
  target_.declare(app, "Write only what this engine loads and uses whole");
}

void ExportTarget::check_arguments() {
  if (target_.given())
    target_.check();
  else if (target_.any())
    throw usage_error("--tp, --ep, --pp and --hw need --target");
}

std::string ExportTarget::name() const {
  return target_.engine == nullptr ? "" : std::string(target::name_of(*target_.engine));
}

FittedPlan ExportTarget::fit(const Store& store, const Format& format, const ExportOptions& options,
                             const Changes& asked, Tool& tool) const {
  if (target_.engine == nullptr) return plan_fitted(store, format, options, asked);
  target_.warn_of_version(tool);
  FittedPlan plain = plan_fitted(store, format, options, asked);
  if (plain.plan.write != nullptr) {  // a file, whose writer has one engine's rules
    if (format.target == name()) return plain;
    throw limit_error("-f " + std::string(format.name) + " is for " + std::string(format.target) +
                      ", and what " + name() + " makes of it is not known here")
        .hint("choose a format that is a directory, such as compressed-tensors");
  }
  if (name() == "llama.cpp")
    throw limit_error("llama.cpp loads no directories").hint("use -f gguf");
  FittedPlan fitted = plan_fitted(store, format, options, asked, *target_.engine, target_.options);
  for (const std::string& change : fitted.changes) tool.say(change);
  return fitted;
}

}  // namespace qp
