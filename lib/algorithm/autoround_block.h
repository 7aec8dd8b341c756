// A decoder layer whose matrices are being learned: its weights in memory, forward and back.
#pragma once

#include <functional>
#include <list>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "lib/algorithm/quantized_weights.h"
#include "lib/algorithm/sign_round.h"
#include "lib/engine/graph.h"
#include "lib/stream/stream.h"

namespace qp::autoround {

// Rows that go through the layer together, at most, where a window is no longer: a constant, so
// that sums have one order.
inline constexpr size_t kRows = 4096;

// A matrix that is learned.
struct Learned {
  size_t entry = 0;   // of the plan
  std::string input;  // the module that names its input
  engine::WeightUse use;
  std::unique_ptr<SignRound> matrix;
  double rate = 0, range_rate = 0;  // of the first step
  gemm::Packed back;                // its values transposed, for gradients
  std::vector<float> gradient;      // summed over the parts of a batch; empty: it comes in one
};

class Block : public engine::WeightSource, public engine::GradientSink {
 public:
  // Loads the weights that are not learned. Learned ones are undefined until load_learned() is called.
  Block(const QuantizedWeights& weights, const engine::Graph& graph, gemm::Precision precision,
        std::vector<Learned> learned);
  // What it takes beside SignRound::bytes, in bytes: weights twice, and values and gradients of
  // `rows` tokens; `sum`: gradients are kept until all parts of a batch have come.
  static uint64_t bytes(const engine::Graph& graph, gemm::Precision precision, size_t rows,
                        size_t longest);

  std::vector<Learned>& learned() { return learned_; }
  // The values of all learned matrices as they are now.
  void load_learned();
  // y = the layer of x, both [rows of the batch, hidden]; the view lives until the next call.
  engine::ConstMatrix forward(const engine::Batch& batch, engine::ConstMatrix x,
                              engine::LinearHook* hook);
  // Forward for later backward(); values stay.
  engine::ConstMatrix forward_kept(const engine::Batch& batch, engine::ConstMatrix x);
  // From the gradient of y. With `factor` >= 0 every learned matrix takes a step of its rates times
  // that, and its new values are loaded; else gradients are added up for step_all().
  void backward(const engine::Batch& batch, engine::ConstMatrix dy, double factor);
  void step_all(double factor);

  // Gradients and transposed weights, for the engine.
  const gemm::Packed& transposed(const engine::WeightUse& use, gemm::Precision precision,
                                 gemm::Packed& room) const override;
  bool wants(const engine::WeightUse& use) override { return index_.contains(use.tensor); }
  void weight(const engine::WeightUse& use, engine::ConstMatrix dw) override;

 private:
  engine::Matrix begin(const engine::Batch& batch, engine::ConstMatrix x, bool keep);
  void load_learned(size_t i);

  const QuantizedWeights& weights_;
  const engine::Graph& graph_;
  gemm::Precision precision_;
  std::vector<Learned> learned_;
  std::map<std::string, size_t, std::less<>> index_;  // of learned, by tensor
  std::vector<gemm::Packed*> front_;                  // of learned, in loaded_
  std::vector<std::vector<engine::Weight>> loaded_;   // of the graph
  mutable std::map<std::pair<std::string, size_t>, gemm::Packed>
      others_;  // transposed, not learned
  engine::Pool pool_, gradient_pool_;
  std::unique_ptr<engine::Values> values_;
  std::vector<float> room_;
  double factor_ = 0;
};

}  // namespace qp::autoround
