// AutoRound: the rounding of a decoder layer's matrices, learned together. Over some hundred
// batches of token windows, shifts and ranges (sign_round.h) follow the signs of the gradients that
// the layer's output error has: what it makes of the quantized layers' output, against what the
// unquantized layer makes of the unquantized layers'. reference/int4-formats.md 2.6.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "lib/algorithm/quantized_weights.h"
#include "lib/algorithm/ranges.h"
#include "lib/algorithm/sign_round.h"
#include "lib/arch/arch.h"
#include "lib/base/progress.h"
#include "lib/config/algorithms.h"
#include "lib/stream/stream.h"

namespace qp::autoround {

struct Options {
  size_t iters = 200;               // 0: no learning, what weighted clip search makes of it
  size_t batch = 8;                 // windows a step
  double rate = 0, range_rate = 0;  // of the first step, falling to 0; 0: 1 / iters
  bool ranges = true;               // learned, too
  ScaleSign sign = ScaleSign::either;
  bool best = true;   // the best of what was looked at, instead of the last
  uint64_t seed = 0;  // of the order of windows
};

// Errors: usage, an option that is out of range.
Options options_of(const AlgorithmStep& step);
// Errors: usage, entries that cannot be learned together.
void check(const Plan& plan);

// What became of a layer's matrices.
struct Outcome {
  std::string algorithm;  // autoround or rtn
  std::string note;       // why it is not autoround
  struct Matrix {
    size_t entry;  // of the plan
    Rounded rounded;
  };
  std::vector<Matrix> matrices;
  uint64_t rows = 0;  // tokens
  // Of the layer's output: squares relative to those of the unquantized one's, mean of the tokens.
  double error = 0, error_rtn = 0;
  size_t iterations = 0, best = 0;  // steps made, and after how many it was best
  double passes = 0;                // of all tokens forward through the layer
};

class Tuner {
 public:
  // Keeps references to all. `memory`: bytes that it may use while a layer is tuned. Errors: limit,
  // naming the layer's largest tensor, when that is too little for a layer.
  Tuner(const Store& store, const Plan& plan, const arch::Architecture& model,
        const QuantizedWeights& weights, const Windows& windows, const StreamOptions& options);
  // Entries of the plan that this algorithm quantizes in layer i.
  std::vector<size_t> entries(size_t layer) const;
  // Progress of a layer, in the units of tune().
  uint64_t steps(size_t layer) const;
  // `full`: has run this layer; `quantized`: stands before it.
  Outcome tune(size_t layer, const Stream& full, const Stream& quantized, Progress& progress);

 private:
  uint64_t bytes(size_t layer) const;

  const Store& store_;
  const Plan& plan_;
  const arch::Architecture& model_;
  const QuantizedWeights& weights_;
  const Windows& windows_;
  const StreamOptions& options_;
  Ranges ranges_;
};

}  // namespace qp::autoround
