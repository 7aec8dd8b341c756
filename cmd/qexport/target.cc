#include "cmd/qexport/target.h"

#include <algorithm>
#include <array>

#include "formats/verify/target.h"
#include "lib/base/error.h"

namespace qp {
namespace {

// What smaller groups mend: ranks of tensor parallelism that cut through them.
constexpr std::array<std::string_view, 3> kOfGroups = {"input-not-aligned", "group-split",
                                                       "gptq-groups-cut"};
constexpr std::array<uint64_t, 4> kGroups = {128, 64, 32, 16};

bool objects(const target::Finding& f) {
  return f.rule->effect == target::Effect::refuses || f.rule->effect == target::Effect::lies;
}

bool of_groups(const target::Finding& f) {
  return std::ranges::find(kOfGroups, f.rule->topic) != kOfGroups.end();
}

}  // namespace

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

ExportPlan ExportTarget::fit(const Planner& make, ExportOptions options, const Format& format,
                             Tool& tool) const {
  ExportPlan plan = make(options);
  if (target_.engine == nullptr) return plan;
  target_.warn_of_version(tool);
  if (plan.write != nullptr) {  // a file, whose writer has one engine's rules
    if (format.target == name()) return plan;
    throw limit_error("-f " + std::string(format.name) + " is for " + std::string(format.target) +
                      ", and what " + name() + " makes of it is not known here")
        .hint("choose a format that is a directory, such as compressed-tensors");
  }
  if (name() == "llama.cpp")
    throw limit_error("llama.cpp loads no directories").hint("use -f gguf");
  target::Result first = check_target(plan, *target_.engine, target_.options).result;
  if (first.outcome == target::Outcome::loads) return plan;
  auto objection = std::ranges::find_if(first.findings, objects);
  bool groups = std::ranges::all_of(
      first.findings, [](const target::Finding& f) { return !objects(f) || of_groups(f); });
  if (groups && format.transforms && options.group_size == 0) {
    for (uint64_t size : kGroups) {
      options.group_size = size;
      try {
        ExportPlan other = make(options);
        if (check_target(other, *target_.engine, target_.options).result.outcome != target::Outcome::loads)
          continue;
        tool.say("scales are repeated to groups of " + std::to_string(size) + ", exact: " + name() +
                 " would refuse larger ones (" + objection->id + ")");
        return other;
      } catch (const Error& e) {
        if (e.kind() != ErrorKind::limit && e.kind() != ErrorKind::usage) throw;  // no such group
      }
    }
  }
  std::string what = name() + " " + std::string(target::name_of(first.outcome)) + ": ";
  what += objection == first.findings.end() ? "see qverify --target"
                                            : objection->what + " [" + objection->id + "]";
  Error error = limit_error(std::move(what));
  if (objection == first.findings.end()) throw error;
  if (!objection->subject.empty()) error.tensor(objection->subject);
  throw std::move(error).hint(std::string(objection->rule->hint));
}

}  // namespace qp
