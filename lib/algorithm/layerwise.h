// Algorithms that run the model: one decoder layer after the other, each seeing the inputs that the
// quantized layers before it make. Inside a layer, linears that read one input are quantized
// together, and what follows runs with their quantized weights (GPTQ's true_sequential).
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "lib/algorithm/quantized_weights.h"
#include "lib/arch/arch.h"
#include "lib/base/progress.h"
#include "lib/plan/plan.h"
#include "lib/stream/stream.h"

namespace qp {

// What became of a tensor, a line of `qquantize --log`.
struct TensorLog {
  std::string tensor, algorithm;    // that chose the codes in the end
  std::string note;                 // why it is another than asked for
  uint64_t rows = 0;                // tokens that its input was seen of
  double error = 0, error_rtn = 0;  // of the output, over those tokens: mean square per token
  double damp = 0, seconds = 0;
  // AutoRound: errors are those of the layer's output, relative to its square, the mean of tokens;
  // steps that were made, and after how many it was best.
  std::optional<size_t> iterations, best_iteration;
};
Json to_json(const TensorLog& log);

// What became of a layer, the line behind those of its tensors.
struct LayerLog {
  std::string layer;
  size_t tensors = 0;               // quantized in this run
  double error = 0, error_rtn = 0;  // sums of theirs; of tensors learned together, theirs once
  double passes = 0;                // of all tokens forward through the layer, of both models
  double seconds = 0;
};
Json to_json(const LayerLog& log);

// One result that is wanted of a model.
struct LayerwiseRun {
  const Store* store;
  const Plan* plan;
  const arch::Architecture* model;
  std::function<void(const Json&)> log;  // a line
  ResultStore* results;
  std::function<void(const std::string&)> warn;  // how many fell back, and why
};

// Entries of the plan that this can quantize: 2-D weights of linears inside decoder layers, as the
// engine runs them. Others are left to data-free algorithms.
std::vector<size_t> layerwise_entries(const Plan& plan, const arch::Architecture& model);

// Quantizes them, layer by layer: of each layer first what the unquantized model makes of it, where
// an algorithm asks for that, once for all results; then one result after the other. Results have
// hidden states of their own, so each comes out as it would alone. Their models are alike: the same
// tensors of the same source. Memory beside the stream's: the moments of the inputs of one part of
// a layer (of as many experts as fit), one matrix in f32 three times over and the factor. Errors:
// as Stream; limit.
void run_layerwise(std::span<const LayerwiseRun> runs, const Windows& windows,
                   const StreamOptions& options, Progress& progress);

}  // namespace qp
