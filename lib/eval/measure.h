// Runs a checkpoint, and its base beside it, over token windows.
#pragma once

#include <vector>

#include "lib/arch/arch.h"
#include "lib/eval/act_quant.h"
#include "lib/eval/result.h"
#include "lib/eval/score.h"
#include "lib/eval/text_windows.h"

namespace qp {

// A model that can be run.
class RunnableModel {
 public:
  // Errors: input (no family runs it, naming those that are known).
  RunnableModel(const Store& store, gemm::Precision precision, bool quantize_activations);

  const Store& store() const { return weights_.store(); }
  const arch::Architecture& arch() const { return *arch_; }
  const WeightSource& weights() const { return weights_; }
  const ActivationQuant& activations() const { return activations_; }
  LinearHook* hook() { return quantize_ && activations_.any() ? &activations_ : nullptr; }
  bool quantizes() const { return quantize_; }

 private:
  WeightSource weights_;
  std::unique_ptr<arch::Architecture> arch_;
  bool quantize_;
  ActivationQuant activations_;
};

struct MeasureOptions {
  gemm::Precision precision = gemm::Precision::bf16;
  uint64_t memory = uint64_t{4} << 30;
};

struct Measured {
  PairScores scores;
  std::vector<LayerError> layers;  // empty without a base, or when the two have other shapes
};

// Streams `model` and `base` (may be null) over the windows, layer by layer side by side, and
// scores `tokens`. Errors: those of Stream and score_tokens().
Measured measure(RunnableModel& model, RunnableModel* base, const Windows& windows,
                 const std::vector<ScoredToken>& tokens, const MeasureOptions& options,
                 Progress& progress);

// Perplexity of cut windows, and with a base its and the divergence. Fills `result`.
void measure_perplexity(RunnableModel& model, RunnableModel* base, const TextWindows& text,
                        const MeasureOptions& options, Progress& progress, EvalResult& result);

}  // namespace qp
