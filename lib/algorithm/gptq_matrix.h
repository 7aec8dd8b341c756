// GPTQ as a plan asks for it: the options of its step, the parts it needs, and one matrix with the
// fallbacks that keep it from ever being worse than rounding.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "lib/algorithm/gptq.h"
#include "lib/algorithm/small_parts.h"
#include "lib/config/algorithms.h"
#include "lib/plan/plan.h"
#include "lib/qmap/store.h"

namespace qp::gptq {

// Errors: usage, an option that is out of range.
Options options_of(const AlgorithmStep& step);
// What a tensor holds beside part_specs(): a g_idx where columns are sorted across groups.
std::vector<PartSpec> parts_of(const AlgorithmStep& step, const Scheme& scheme, const Shape& shape);
// Errors: usage, options that do not go with a scheme.
void check(const AlgorithmStep& step, const Scheme& scheme);

// What became of a matrix.
struct Outcome {
  std::string algorithm;  // that chose the codes in the end: gptq, mse or rtn
  std::string note;       // why it is another than gptq
  std::vector<std::byte> codes;
  SmallParts small;
  // Of the output over the tokens that were seen, mean square per token: with these codes, and with
  // those of rtn.
  double error = 0, error_rtn = 0;
};

// Quantizes the entry's matrix, over `tokens` rows of input whose moments these are: by GPTQ, or
// with `clip` by clip search (Grid::fit_by_moments), which needs no factor. Without a factor, or
// when the result is worse than rtn's or not finite, the better of mse and rtn stands in for GPTQ.
// Works on the matrix in f32 five times over, and moments.h three times. Errors: input (NaN or Inf
// in the weights).
Outcome quantize_matrix(const Store& store, const PlanEntry& entry, const Scheme& scheme,
                        float range, const Moments& moments, const std::optional<Factor>& factor,
                        const Options& options, bool clip, uint64_t tokens);

}  // namespace qp::gptq
