// The steps of an algorithm that come before codes are chosen: each makes edits of the model, and
// the next step (or what rounds) sees the edited model. One step is one file with a class and a
// line in transform.cc.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "lib/base/json.h"
#include "lib/base/progress.h"
#include "lib/config/algorithms.h"
#include "lib/plan/plan.h"
#include "lib/qmap/store.h"
#include "lib/transform/edits.h"

namespace qp::transform {

struct Options {
  uint64_t memory = uint64_t{4} << 30;  // anonymous bytes that running the model may use
  gemm::Precision precision = gemm::Precision::bf16;  // of its products
  std::string journal;  // FILE.partial; "": what was found is not kept
  bool resume = false;
  std::function<void(const Json&)> log;  // a line per decision
  std::function<void(const std::string&)> warn;
};

// What a step works on.
class Subject {
 public:
  Subject(const Store& store, const Plan& plan, const Options& options, Progress& progress);

  // The entry whose weights a module's matrix is, if it is quantized by an algorithm with step
  // `name`; null otherwise.
  const PlanEntry* entry(const std::string& module, std::string_view name) const;
  const Scheme& scheme(const PlanEntry& e) const {
    return plan.schemes[static_cast<size_t>(e.scheme)];
  }
  // Whether any of the plan's algorithms has the step.
  bool uses(std::string_view name) const;
  // The step as the plan's algorithms have it. Errors: usage, where they do not agree on its
  // options.
  AlgorithmStep step(std::string_view name) const;

  const Store& store;
  const Plan& plan;
  const Options& options;
  Progress& progress;

 private:
  std::unordered_map<std::string, const PlanEntry*> by_module_;
  std::map<std::string, std::vector<AlgorithmStep>, std::less<>> parsed_;  // by algorithm
};

// What a search leaves beside FILE.partial goes when that is gone, too. Outlives the output.
class JournalScope {
 public:
  explicit JournalScope(std::string partial) : partial_(std::move(partial)) {}
  ~JournalScope();
  JournalScope(const JournalScope&) = delete;
  JournalScope& operator=(const JournalScope&) = delete;
  const std::string& partial() const { return partial_; }

 private:
  std::string partial_;
};

// Whether any of the plan's algorithms begins with a step that edits the model.
bool wanted(const Plan& plan);

// Errors: usage, static scales whose statistics do not outlive the steps.
void check(const Store& store, const Plan& plan);

// The store with the edits of all steps, in their order, done. `hash` receives what names them.
// Errors: usage (an architecture that is not known, statistics or token windows that are missing),
// limit, input.
std::unique_ptr<Store> transform(const Store& store, const Plan& plan, const Options& options,
                                 Progress& progress, Hash128& hash);

}  // namespace qp::transform
