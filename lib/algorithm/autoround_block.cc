#include "lib/algorithm/autoround_block.h"

#include <algorithm>

#include "lib/base/checked.h"
#include "lib/base/error.h"
#include "lib/base/parallel.h"

namespace qp::autoround {

using engine::Batch, engine::ConstMatrix, engine::Form, engine::Graph, engine::Layout,
    engine::Matrix, engine::Node, engine::Step, engine::Values, engine::Weight,
    engine::WeightSource, engine::WeightUse;

Block::Block(const QuantizedWeights& weights, const Graph& graph, gemm::Precision precision,
             std::vector<Learned> learned)
    : WeightSource(weights.store()), weights_(weights), graph_(graph), precision_(precision),
      learned_(std::move(learned)), front_(learned_.size()) {
  for (size_t i = 0; i < learned_.size(); ++i) index_.emplace(learned_[i].use.tensor, i);
  loaded_.resize(graph.nodes().size());
  for (size_t n = 0; n < graph.nodes().size(); ++n) {
    const std::vector<WeightUse>& uses = graph.nodes()[n].op->weights;
    loaded_[n].resize(uses.size());
    for (size_t k = 0; k < uses.size(); ++k) {
      auto it = index_.find(uses[k].tensor);
      if (it == index_.end()) {
        loaded_[n][k] = weights.load(uses[k], precision, {});
        continue;
      }
      loaded_[n][k].use = uses[k];
      loaded_[n][k].packed.reshape(uses[k].rows, uses[k].cols, precision);
      front_[it->second] = &loaded_[n][k].packed;
    }
  }
}

uint64_t Block::bytes(const Graph& graph, gemm::Precision precision, size_t rows, size_t longest) {
  uint64_t sum = 0, largest = 0, beside = 0;
  for (const Node& node : graph.nodes()) {
    uint64_t own = 0;
    for (const WeightUse& use : node.op->weights) {
      own += use.cols + use.rows;
      sum += (use.form == Form::matrix ? 2 : 1) * WeightSource::bytes(use, precision);
      if (use.form == Form::matrix) largest = std::max(largest, uint64_t{use.rows} * use.cols);
    }
    beside = std::max(beside, 2 * own);
  }
  uint64_t scores = uint64_t{3} * 128 * longest * static_cast<uint64_t>(threads());
  constexpr uint64_t kFixed = 64 << 20;  // packing buffers and the program itself
  return sum + 4 * (2 * largest + (2 * Layout(graph, true).floats() + beside) * rows + scores) +
         kFixed;
}

// Packs what matrix i stands for, for both directions.
void Block::load_learned(size_t i) {
  constexpr size_t kUnit = gemm::Packed::unit();
  Learned& l = learned_[i];
  size_t rows = l.matrix->rows(), cols = l.matrix->cols();
  if (room_.size() < rows * cols) room_.resize(rows * cols);
  parallel_for(ceil_div(rows, kUnit), [&](size_t u, int) {
    size_t first = u * kUnit, count = std::min(kUnit, rows - first);
    float* at = room_.data() + first * cols;
    l.matrix->values(first, count, at);
    front_[i]->pack(first, count, at, cols);
  });
  l.back.reshape(cols, rows, precision_);
  l.back.pack_all_transposed(room_.data(), cols);
}

void Block::load_learned() {
  for (size_t i = 0; i < learned_.size(); ++i) load_learned(i);
}

Matrix Block::begin(const Batch& batch, ConstMatrix x, bool keep) {
  values_.reset();
  values_ = std::make_unique<Values>(graph_, pool_, batch.rows(), keep);
  Matrix in = values_->make(graph_.input());
  std::copy(x.data, x.data + x.rows * x.cols, in.data);
  return in;
}

ConstMatrix Block::forward(const Batch& batch, ConstMatrix x, engine::LinearHook* hook) {
  begin(batch, x, false);
  Step step{batch, precision_};
  step.hook = hook;
  engine::run(graph_, 0, graph_.nodes().size(), step, loaded_, *values_, false);
  return values_->get(graph_.output());
}

ConstMatrix Block::forward_kept(const Batch& batch, ConstMatrix x) {
  begin(batch, x, true);
  engine::run(graph_, 0, graph_.nodes().size(), Step{batch, precision_}, loaded_, *values_, true);
  return values_->get(graph_.output());
}

void Block::backward(const Batch& batch, ConstMatrix dy, double factor) {
  factor_ = factor;
  Values gradients(graph_, gradient_pool_, batch.rows(), true);
  Matrix out = gradients.make(graph_.output());
  std::copy(dy.data, dy.data + dy.rows * dy.cols, out.data);
  Step step{batch, precision_};
  step.source = this;
  step.gradients = this;
  step.input_gradient = false;
  engine::run_backward(graph_, step, loaded_, *values_, gradients);
}

// The engine is done with this weight: nothing before it reads it again.
void Block::weight(const WeightUse& use, ConstMatrix dw) {
  size_t i = index_.find(use.tensor)->second;
  Learned& l = learned_[i];
  if (factor_ >= 0) {
    l.matrix->step(dw.data, static_cast<float>(l.rate * factor_),
                   static_cast<float>(l.range_rate * factor_));
    return load_learned(i);
  }
  size_t n = dw.rows * dw.cols;
  if (l.gradient.empty()) l.gradient.resize(n);
  parallel_for(dw.rows, [&](size_t r, int) {
    float* sum = l.gradient.data() + r * dw.cols;
    for (size_t c = 0; c < dw.cols; ++c) sum[c] += dw.row(r)[c];
  });
}

void Block::step_all(double factor) {
  for (size_t i = 0; i < learned_.size(); ++i) {
    Learned& l = learned_[i];
    if (l.gradient.empty()) continue;  // no token came to it
    l.matrix->step(l.gradient.data(), static_cast<float>(l.rate * factor),
                   static_cast<float>(l.range_rate * factor));
    std::ranges::fill(l.gradient, 0.0f);
    load_learned(i);
  }
}

const gemm::Packed& Block::transposed(const WeightUse& use, gemm::Precision precision,
                                      gemm::Packed&) const {
  auto it = index_.find(use.tensor);
  if (it != index_.end()) return learned_[it->second].back;
  auto [other, fresh] = others_.try_emplace({use.tensor, use.first_row});
  if (fresh) weights_.transposed(use, precision, other->second);
  return other->second;
}

}  // namespace qp::autoround
