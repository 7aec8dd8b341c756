#include "lib/allocate/allocate.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <memory>
#include <numeric>
#include <set>

#include "lib/algorithm/quantize.h"
#include "lib/allocate/budget.h"
#include "lib/allocate/rules.h"
#include "lib/allocate/variants.h"
#include "lib/base/error.h"
#include "lib/calibration/calibrate.h"
#include "lib/transform/transform.h"

namespace qp {
namespace {

constexpr size_t kSecondOrderTokens = 16384, kMeasuredTokens = 8192, kTrialTokens = 8192;
// A target that all schemes together cannot fill is a mistake, but for what sizes leave open.
constexpr double kSlack = 0.005;

std::string number(const char* format, double x) {
  char text[64];
  std::snprintf(text, sizeof text, format, x);
  return text;
}

// The bytes that groups may take. Errors: usage.
uint64_t budget_of(const CandidateGroups& g, const AllocationTarget& target,
                   const std::string& label) {
  uint64_t least = 0, most = 0;
  for (const SchemeGroup& group : g.groups) {
    least += *std::ranges::min_element(group.bytes);
    most += *std::ranges::max_element(group.bytes);
  }
  bool by_size = target.size > 0;
  double want = by_size ? static_cast<double>(target.size) - static_cast<double>(g.fixed_bytes)
                        : std::floor(target.bpw * static_cast<double>(g.params) / 8);
  if (want >= static_cast<double>(least) && want <= static_cast<double>(most) * (1 + kSlack)) {
    return static_cast<uint64_t>(want);
  }
  auto figure = [&](uint64_t bytes) {
    if (by_size) return std::to_string(bytes + g.fixed_bytes) + " bytes";
    return number("%.4f", 8.0 * static_cast<double>(bytes) / static_cast<double>(g.params));
  };
  std::string asked = by_size ? "--target-size " + std::to_string(target.size) + " bytes"
                              : "--target-bpw " + number("%g", target.bpw);
  throw usage_error(asked + " is out of reach: these schemes give " + figure(least) + " to " +
                    figure(most))
      .file(label)
      .hint(want < static_cast<double>(least)
                ? "add a smaller scheme to -s, or raise the target"
                : "add a larger scheme (or none) to -s, or lower the target");
}

// Groups that no decoder layer runs suffer as the average weight does.
void fill_unseen(const std::vector<size_t>& unseen, const CandidateGroups& g,
                 Sensitivities& costs) {
  for (size_t j = 0; j < costs[0].size(); ++j) {
    double sum = 0, params = 0;
    for (size_t i = 0; i < costs.size(); ++i) {
      if (std::ranges::find(unseen, i) != unseen.end()) continue;
      sum += costs[i][j];
      params += static_cast<double>(g.groups[i].params);
    }
    for (size_t i : unseen)
      costs[i][j] = sum / std::max(params, 1.0) * static_cast<double>(g.groups[i].params);
  }
}

class Allocator {
 public:
  Allocator(const Store& store, const AllocationOptions& options, Progress& progress)
      : store_(store), options_(options), progress_(progress) {}

  Allocation run(const Recipe& first, const std::vector<CandidateRule>& rules,
                 const AllocationTarget& target) {
    for (const CandidateRule& r : rules) add_candidate(first, r);
    a_.groups = group_tensors(a_.candidates, store_.label());
    a_.budget = budget_of(a_.groups, target, store_.label());
    for (const CandidateRule& r : rules) {
      Plan plan = make_plan(store_.model(), everywhere(first, r, true), store_.label());
      check_algorithms(store_, plan);
      transform::check(store_, plan);
    }
    if (!store_.model().calibration) {
      throw usage_error("holds no token windows to measure sensitivities with")
          .file(store_.label())
          .hint("make them with qcalibrate MODEL --text FILE -o calib.qmap, and quantize that");
    }
    edit(first, rules, target);
    Variants variants(edited_ ? *edited_ : store_, a_.candidates, {options_.precision, options_.memory},
                      progress_);
    measure(variants);
    try_mixtures(variants);
    a_.bytes = a_.trials[a_.chosen].bytes;
    a_.recipe = mixed_recipe(first, rules, a_);
    return std::move(a_);
  }

 private:
  void add_candidate(const Recipe& first, const CandidateRule& candidate) {
    Candidate c;
    c.name = candidate.name;
    c.recipe = everywhere(first, candidate, false);
    c.plan = make_plan(store_.model(), c.recipe, store_.label());
    a_.candidates.push_back(std::move(c));
  }

  // What rounding will see, where steps come before it: the model as they edit it for the uniform
  // candidate, or the first that quantizes (awq's factors depend on the bits).
  void edit(const Recipe& first, const std::vector<CandidateRule>& rules,
            const AllocationTarget& target) {
    std::vector<size_t> uniform = uniform_option();
    size_t which = uniform.empty() ? 0 : uniform.front();
    while (which < rules.size() && keeps(a_.candidates[which])) ++which;
    if (which == rules.size()) return;
    Plan plan = make_plan(store_.model(), everywhere(first, rules[which], true), store_.label());
    if (!transform::wanted(plan)) return;
    transform::Options o;
    o.memory = options_.memory;
    o.precision = options_.precision;  // warnings come when the result is made
    Hash128 unused;
    edited_ = transform::transform(store_, plan, o, progress_, unused);
    for (Candidate& c : a_.candidates)
      c.plan = make_plan(edited_->model(), c.recipe, store_.label());
    a_.groups = group_tensors(a_.candidates, store_.label());  // a head may have come apart
    a_.budget = budget_of(a_.groups, target, store_.label());
  }

  void measure(const Variants& variants) {
    size_t tokens =
        options_.sensitivity == SensitivityKind::measured ? kMeasuredTokens : kSecondOrderTokens;
    Windows windows = sample_windows(read_windows(store_), tokens);
    SensitivityInput input{variants, a_.groups.groups, windows};
    SensitivityOptions o;
    o.precision = options_.precision;
    o.memory = options_.memory;
    a_.costs = sensitivities(options_.sensitivity, input, o, progress_);
    std::vector<size_t> unseen = unseen_groups(input);
    if (!unseen.empty() && options_.warn) {
      options_.warn(std::to_string(unseen.size()) + " groups are in no layer that is run (" +
                    a_.groups.groups[unseen[0]].name + "): they count as average ones");
    }
    fill_unseen(unseen, a_.groups, a_.costs);
    make_monotone(a_.costs, a_.groups.groups);
  }

  void add_trial(const std::string& name, const std::vector<size_t>& option) {
    for (const Trial& t : a_.trials) {
      if (t.option == option) return;
    }
    Trial t;
    t.name = name;
    t.option = option;
    for (size_t g = 0; g < option.size(); ++g) {
      t.bytes += a_.groups.groups[g].bytes[option[g]];
      t.predicted += a_.costs[g][option[g]];
    }
    a_.trials.push_back(std::move(t));
  }

  // Sums of sensitivities say less the larger they are: powers below 1 trust large ones less. What
  // is best shows when the model runs.
  void try_mixtures(const Variants& variants) {
    for (double power : {1.0, 0.75, 0.5}) {
      std::vector<std::vector<BudgetOption>> options;
      for (size_t g = 0; g < a_.costs.size(); ++g) {
        options.emplace_back();
        for (size_t j = 0; j < a_.costs[g].size(); ++j) {
          options.back().push_back({a_.groups.groups[g].bytes[j], std::pow(a_.costs[g][j], power)});
        }
      }
      auto selection = select_within(options, a_.budget);
      add_trial("sensitivity^" + number("%g", power), selection->option);
    }
    add_uniform();
    std::vector<std::vector<size_t>> mixtures;
    for (const Trial& t : a_.trials) mixtures.push_back(t.option);
    Windows windows = sample_windows(read_windows(store_), kTrialTokens);
    SensitivityOptions o;
    o.precision = options_.precision;
    o.memory = options_.memory;
    auto divergence =
        mixture_divergence({variants, a_.groups.groups, windows}, mixtures, o, progress_);
    for (size_t i = 0; i < a_.trials.size(); ++i) {
      a_.trials[i].divergence = divergence[i];
      if (divergence[i] < a_.trials[a_.chosen].divergence) a_.chosen = i;
    }
  }

  // The largest candidate that fits everywhere, for each group; empty: none does.
  std::vector<size_t> uniform_option() const {
    uint64_t best = 0;
    size_t which = 0;
    for (size_t j = 0; j < a_.candidates.size(); ++j) {
      uint64_t bytes = 0;
      for (const SchemeGroup& g : a_.groups.groups) bytes += g.bytes[j];
      if (bytes > a_.budget || bytes <= best) continue;
      best = bytes;
      which = j;
    }
    if (best == 0) return {};
    return std::vector<size_t>(a_.groups.groups.size(), which);
  }

  void add_uniform() {
    std::vector<size_t> option = uniform_option();
    if (!option.empty()) add_trial("uniform " + a_.candidates[option.front()].name, option);
  }

  const Store& store_;
  const AllocationOptions& options_;
  Progress& progress_;
  std::unique_ptr<Store> edited_;  // by steps before rounding; null: there are none
  Allocation a_;
};

}  // namespace

Allocation allocate(const Store& store, const Recipe& first,
                    const std::vector<CandidateRule>& rules, const AllocationTarget& target,
                    const AllocationOptions& options, Progress& progress) {
  return Allocator(store, options, progress).run(first, rules, target);
}

}  // namespace qp
