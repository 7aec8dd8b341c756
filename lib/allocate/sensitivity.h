// How much the model suffers when one group of its weights is quantized: nats a token of divergence
// KL(model || model with this group quantized), the rest as it is.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "lib/allocate/variants.h"
#include "lib/arch/arch.h"
#include "lib/text/windows.h"

namespace qp {

// second_order: 1/2 E[(G . dW)^2], G the gradient of the log-likelihood of a label drawn from the
// model (so that E[G G^T] is the Fisher information, and this the divergence to second order), row
// by row of dW: rounding errors of different rows have nothing to do with each other. One pass
// forward and one backward for all groups and candidates.
// measured: each group quantized with each candidate in turn, the layers behind it run. Layers^2
// passes of a layer: for models of few layers.
enum class SensitivityKind { second_order, measured };

struct SensitivityOptions {
  gemm::Precision precision = gemm::Precision::bf16;
  uint64_t memory = uint64_t{4} << 30;
};

struct SensitivityInput {
  const Variants& variants;
  const std::vector<SchemeGroup>& groups;
  const Windows& windows;
};

using Sensitivities = std::vector<std::vector<double>>;  // [group][candidate], >= 0

// Errors: input (no family runs the model; activations that are not finite), limit, system.
Sensitivities sensitivities(SensitivityKind kind, const SensitivityInput& input,
                            const SensitivityOptions& options, Progress& progress);

// Groups that no decoder layer runs (an output head, say), by index: second_order cannot see them,
// their sensitivities are 0. Errors: input.
std::vector<size_t> unseen_groups(const SensitivityInput& input);

// The divergence of mixtures: option[group] for each of `selections`.
std::vector<double> mixture_divergence(const SensitivityInput& input,
                                       const std::vector<std::vector<size_t>>& selections,
                                       const SensitivityOptions& options, Progress& progress);

// Windows of at most 512 tokens, evenly spaced among these and cut from their beginning, of about
// `tokens` tokens together.
Windows sample_windows(const Windows& windows, size_t tokens);

// More bytes never cost more: what noise has put higher comes down to the least that fewer bytes
// cost.
void make_monotone(Sensitivities& costs, const std::vector<SchemeGroup>& groups);

}  // namespace qp
