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
  auto group = "Target";
  app.add_option(
         "--target", asked_,
         "Write only what this engine loads and uses whole: vllm, sglang, transformers, llama.cpp")
      ->type_name("ENGINE[@VERSION]")
      ->group(group);
  app.add_option("--tp", options_.tp, "Tensor-parallel ranks")
      ->type_name("N")
      ->capture_default_str()
      ->group(group);
  app.add_option("--ep", options_.ep, "Expert-parallel ranks")
      ->type_name("N")
      ->capture_default_str()
      ->group(group);
  app.add_option("--pp", options_.pp, "Pipeline stages")
      ->type_name("N")
      ->capture_default_str()
      ->group(group);
  app.add_option("--hw", options_.hardware, "Device, as for qverify --target")
      ->type_name("HW")
      ->group(group);
}

void ExportTarget::check_arguments() {
  if (asked_.empty()) {
    bool more =
        options_.tp != 1 || options_.ep != 1 || options_.pp != 1 || !options_.hardware.empty();
    if (more) throw usage_error("--tp, --ep, --pp and --hw need --target");
    return;
  }
  engine_ = &target::engine_from_name(asked_);
  for (uint64_t n : {options_.tp, options_.ep, options_.pp}) {
    if (n == 0 || n > 4096) throw usage_error("--tp, --ep and --pp are from 1 to 4096");
  }
}

std::string ExportTarget::name() const {
  return engine_ == nullptr ? "" : std::string(target::name_of(*engine_));
}

ExportPlan ExportTarget::fit(const Planner& make, ExportOptions options, const Format& format,
                             Tool& tool) const {
  ExportPlan plan = make(options);
  if (engine_ == nullptr) return plan;
  if (plan.write != nullptr) {  // a file, whose writer has one engine's rules
    if (format.target == name()) return plan;
    throw limit_error("-f " + std::string(format.name) + " is for " + std::string(format.target) +
                      ", and what " + name() + " makes of it is not known here")
        .hint("choose a format that is a directory, such as compressed-tensors");
  }
  if (name() == "llama.cpp")
    throw limit_error("llama.cpp loads no directories").hint("use -f gguf");
  target::Result first = check_target(plan, *engine_, options_).result;
  if (first.outcome == target::Outcome::loads) return plan;
  auto objection = std::ranges::find_if(first.findings, objects);
  bool groups = std::ranges::all_of(
      first.findings, [](const target::Finding& f) { return !objects(f) || of_groups(f); });
  if (groups && format.transforms && options.group_size == 0) {
    for (uint64_t size : kGroups) {
      options.group_size = size;
      try {
        ExportPlan other = make(options);
        if (check_target(other, *engine_, options_).result.outcome != target::Outcome::loads)
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
