// Recipes of an allocation: those of the candidates that are compared, and the one that comes out.
#pragma once

#include "lib/allocate/allocate.h"

namespace qp {

// `first`, then the candidate for every linear. Without `steps` its algorithm is the last step alone,
// which chooses codes: what earlier steps do to a model is not one tensor's affair.
Recipe everywhere(const Recipe& first, const CandidateRule& candidate, bool steps);

// What `allocation` chose as a recipe that read_recipe() takes: `first`, then a rule per group with
// the reason.
Json mixed_recipe(const Recipe& first, const std::vector<CandidateRule>& rules,
                  const Allocation& allocation);

}  // namespace qp
