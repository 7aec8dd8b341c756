// Algorithms that run the model: one decoder layer after the other, each seeing the inputs that the
// quantized layers before it make. Inside a layer, linears that read one input are quantized together,
// and what follows runs with their quantized weights (GPTQ's true_sequential).
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "lib/algorithm/quantized_weights.h"
#include "lib/arch/arch.h"
#include "lib/base/progress.h"
#include "lib/plan/plan.h"
#include "lib/stream/stream.h"

namespace qp {

// What became of a tensor, a line of `qquantize --log`.
struct LayerLog {
  std::string tensor, algorithm;  // that chose the codes in the end
  std::string note;               // why it is another than asked for
  uint64_t rows = 0;              // tokens that its input was seen of
  double error = 0, error_rtn = 0;  // of the output, over those tokens: mean square per token
  double damp = 0, seconds = 0;
  // AutoRound: errors are those of the layer's output, relative to its square, the mean of tokens;
  // steps that were made, and after how many it was best.
  std::optional<size_t> iterations, best_iteration;
};
Json to_json(const LayerLog& log);

struct LayerwiseOptions {
  StreamOptions stream;
  std::function<void(const LayerLog&)> log;
};

// Entries of the plan that this can quantize: 2-D weights of linears inside decoder layers, as the
// engine runs them. Others are left to data-free algorithms.
std::vector<size_t> layerwise_entries(const Plan& plan, const arch::Architecture& model);

// Quantizes them. Memory beside the stream's: the moments of the inputs of one part of a layer (of as
// many experts as fit), one matrix in f32 three times over and the factor. Errors: as Stream; limit.
void run_layerwise(const Store& store, const Plan& plan, const arch::Architecture& model,
                   const Windows& windows, const LayerwiseOptions& options, ResultStore& results,
                   Progress& progress);

}  // namespace qp
