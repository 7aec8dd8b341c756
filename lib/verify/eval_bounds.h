// Bounds on what an evaluation measured, and its JSON.
#pragma once

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "lib/base/json.h"
#include "lib/eval/result.h"
#include "lib/verify/numbers.h"

namespace qp {

struct EvalBounds {
  std::optional<double> max_kl;            // mean, nats
  std::optional<double> max_ppl_increase;  // percent of the base's
  std::optional<double> min_top1;          // share: 0.9
  bool any() const { return max_kl || max_ppl_increase || min_top1; }
};
// One error ("max-kl", "max-ppl-increase", "min-top1") per bound that is not held.
std::vector<Finding> check_eval(const EvalBounds& bounds, const EvalResult& result);

Json eval_json(const EvalResult& result);

// Compares with the evaluation in an earlier JSON report: "baseline-ppl" and "baseline-kl" where a
// number has grown by more than `percent`. Errors: input (`path` is no report with an evaluation);
// usage (it was made from other tokens, or another definition).
std::vector<Finding> compare_with_baseline(const Json& report, const std::string& path,
                                           const EvalResult& result, double percent);

// What was measured, for JUnit: testcase and the rules that fail it.
std::vector<std::pair<std::string, std::vector<std::string>>> eval_cases(const EvalResult& result);

// "12.34 +- 0.05", digits by the error.
std::string estimate_text(const Estimate& e);

}  // namespace qp
