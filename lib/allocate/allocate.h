// Automatic bit allocation: a scheme for each group of tensors so that the output has the size that
// was asked for and the model suffers least. The result is an ordinary recipe.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "lib/allocate/candidates.h"
#include "lib/allocate/sensitivity.h"
#include "lib/base/json.h"
#include "lib/base/progress.h"
#include "lib/qmap/store.h"

namespace qp {

// One of the two. bpw: bits per weight of the tensors that the schemes apply to, with all that is
// stored of them (codes, scales, zero points). size: bytes of all tensors of the output.
struct AllocationTarget {
  double bpw = 0;
  uint64_t size = 0;
};

struct AllocationOptions {
  SensitivityKind sensitivity = SensitivityKind::second_order;
  gemm::Precision precision = gemm::Precision::bf16;  // of the products of the model that is run
  uint64_t memory = uint64_t{4} << 30;
  std::function<void(const std::string&)> warn;
};

// What was asked of every linear: the rule of a recipe without its match ("scheme", "options",
// "algorithm"), and what people call it.
struct CandidateRule {
  std::string name;
  Json rule;
};

// A way to spend the budget that was tried on the model.
struct Trial {
  std::string name;  // "sensitivity^0.75", "uniform w4a16" ..
  std::vector<size_t> option;
  uint64_t bytes = 0;
  double predicted = 0, divergence = 0;  // nats a token: sum of sensitivities, and measured
};

struct Allocation {
  std::vector<Candidate> candidates;
  CandidateGroups groups;
  uint64_t budget = 0, bytes = 0;  // of all groups
  Sensitivities costs;
  std::vector<Trial> trials;
  size_t chosen = 0;  // of the trials
  Json recipe;        // rules that go first, then one rule per group, each with its reason

  const std::vector<size_t>& option() const { return trials[chosen].option; }
  double bpw() const {
    return 8.0 * static_cast<double>(bytes) / static_cast<double>(groups.params);
  }
};

// `first`: rules and an ignore list that decide before the candidates do. Runs the model over the
// token windows that qcalibrate stored: 16384 tokens of them for the sensitivities (8192 where they
// are measured), 8192 for the trials. Threads and memory change no choice.
// Errors: usage (a target out of reach, naming the smallest and the largest; no token windows; the
// candidates, as group_tensors()), as make_plan(), run_plan(), sensitivities().
Allocation allocate(const Store& store, const Recipe& first,
                    const std::vector<CandidateRule>& rules, const AllocationTarget& target,
                    const AllocationOptions& options, Progress& progress);

}  // namespace qp
