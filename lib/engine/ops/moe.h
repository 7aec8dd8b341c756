// Mixture of experts: which experts a token goes to, and one expert's share of the result.
#pragma once

#include <string>

#include "lib/engine/op.h"
#include "lib/kernels/forward.h"

namespace qp::engine {

// Router logits [experts] -> ids of the top_k experts (as numbers), then their weights.
struct RouteSpec {
  enum class Score { softmax, sigmoid, softmax_of_chosen } score = Score::softmax;
  enum class Groups { none, best, best_two } group_score = Groups::none;  // max, or sum of the two best
  size_t experts = 1, top_k = 1;
  size_t groups = 1, top_groups = 1;  // experts outside the best groups are not chosen
  std::string bias;                   // tensor [experts], added for the choice only
  bool normalize = false;             // weights divided by their sum
  float factor = 1;                   // then multiplied by this
  std::string module;                 // the router, for the hook
};

class Route : public Op {
 public:
  explicit Route(RouteSpec spec);
  size_t width() const override { return 2 * spec_.top_k; }
  std::vector<size_t> inputs() const override { return {spec_.experts}; }
  void forward(const Step& step, std::span<const ConstMatrix> in, Matrix out) const override;
  // The choice is constant; the weights have gradients.
  void backward(const Step& step, std::span<const ConstMatrix> in, ConstMatrix dout,
                std::span<const Matrix> din) const override;

 private:
  void choose(const float* score, const float* bias, std::vector<float>& room, float* ids) const;
  void scores(const float* logits, std::vector<float>& score) const;

  RouteSpec spec_;
};

// Inputs x [hidden], the route [2 top_k], the sum so far [hidden]; result: the sum plus
// weight * down(act(gate(x)) * up(x)) for the rows routed to this expert. Experts form a chain, so
// their sum has one order, whatever part of them is in memory.
struct ExpertSpec {
  size_t index = 0, top_k = 1, hidden = 1, inner = 1;
  kernels::Act act = kernels::Act::silu;
  // gate, up, down; or gate and up in one tensor whose output columns alternate (`fused`).
  std::vector<WeightUse> matrices;
  std::vector<std::string> modules;  // names of the matrices' modules
  std::vector<WeightUse> biases;     // as many as matrices, or none
  // gpt-oss: gate <= limit, |up| <= limit, (up + 1) * gate * sigmoid(1.702 gate).
  float clamp = 0;
};

class Expert : public Op {
 public:
  explicit Expert(ExpertSpec spec);
  size_t width() const override { return spec_.hidden; }
  std::vector<size_t> inputs() const override {
    return {spec_.hidden, 2 * spec_.top_k, spec_.hidden};
  }
  int in_place() const override { return 2; }
  // gate, up and down are matrices of their own, and the result is linear in up's.
  bool linear_in_up() const { return spec_.matrices.size() == 3 && spec_.clamp == 0; }
  void forward(const Step& step, std::span<const ConstMatrix> in, Matrix out) const override;
  void backward(const Step& step, std::span<const ConstMatrix> in, ConstMatrix dout,
                std::span<const Matrix> din) const override;

 private:
  struct Run;
  void compute(const Step& step, std::span<const ConstMatrix> in, Run& run) const;
  void activate(const Run& run, size_t row, float* out) const;

  ExpertSpec spec_;
};

// [hidden] zeros: where the sum of the experts begins.
class Zeros : public Op {
 public:
  explicit Zeros(size_t width) : width_(width) {}
  size_t width() const override { return width_; }
  std::vector<size_t> inputs() const override { return {width_}; }
  void forward(const Step&, std::span<const ConstMatrix>, Matrix out) const override;
  void backward(const Step&, std::span<const ConstMatrix>, ConstMatrix,
                std::span<const Matrix>) const override {}

 private:
  size_t width_;
};

}  // namespace qp::engine
