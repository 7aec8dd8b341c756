// From numbers per token to what is reported. The formulas of the errors are llama-perplexity's:
// tokens count as independent.
#pragma once

#include <span>

#include "lib/eval/result.h"
#include "lib/eval/score.h"

namespace qp {

Estimate mean_of(std::span<const double> values);
// A share of `count`: its error is that of a binomial mean.
Estimate share_of(uint64_t hits, uint64_t count);
Perplexity perplexity_of(std::span<const double> nll);
// Needs scores with a base.
Divergence divergence_of(const PairScores& scores);
void fill_charts(const PairScores& scores, std::span<const ScoredToken> tokens, EvalResult& result);

}  // namespace qp
