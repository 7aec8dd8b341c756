// Gradients of what a model says, for its Fisher information: the log-likelihood of labels drawn
// from the model's own distribution at every token, backward through all layers. One layer's
// weights are in memory; hidden states lie in a spill file of (layers + 1) * tokens * hidden
// floats.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <vector>

#include "lib/allocate/trail.h"
#include "lib/arch/arch.h"
#include "lib/base/progress.h"
#include "lib/engine/op.h"
#include "lib/stream/stream.h"

namespace qp {

struct GradientOptions {
  gemm::Precision precision = gemm::Precision::bf16;
  uint64_t memory = uint64_t{4} << 30;
  uint64_t beside = 0;  // bytes that the sink takes for the largest layer
};

class ScoreGradient {
 public:
  // Windows of a batch go together; batches depend on the windows alone.
  static constexpr size_t kBatchTokens = 1024;
  ScoreGradient(const arch::Architecture& model, const WeightSource& weights,
                const Windows& windows, const GradientOptions& options);

  // Forward, and back to the last layer's output. Errors: as Stream; limit, naming the smallest
  // memory that works.
  void forward(Progress& progress);
  // Back through the layers, the last first: `begin` is told of each, `sink` gets d(sum of
  // log-likelihoods of a batch)/dW of the weights that it wants, batch after batch.
  void backward(const std::function<void(size_t layer)>& begin, engine::GradientSink& sink,
                Progress& progress);
  size_t rows() const { return starts_.back(); }
  size_t layers() const { return model_.layers; }

 private:
  void check_memory() const;
  void head();
  void head_block(size_t block, const std::vector<float>& normed, std::vector<float>& dnormed);
  void final_norm(std::vector<float>& dnormed);
  void layer(size_t i, engine::GradientSink& sink, Progress& progress);

  const arch::Architecture& model_;
  const WeightSource& weights_;
  const Windows& windows_;
  GradientOptions options_;
  std::vector<size_t> starts_ = {0};
  std::vector<std::pair<size_t, size_t>> batches_;  // windows [first, last)
  std::optional<Trail> trail_;
  std::vector<float> gradient_;  // of the hidden states, [rows, hidden]
  struct Row {                   // the softmax of a token, and the label drawn from it
    float max;
    double sum, drawn, seen = 0;  // drawn: a point of [0, sum); seen: exps of the blocks so far
    bool labelled = false;
  };
  std::vector<Row> softmax_;
};

}  // namespace qp
