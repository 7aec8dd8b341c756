#include "lib/allocate/score_gradient.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "lib/base/error.h"
#include "lib/base/interrupt.h"
#include "lib/base/random.h"
#include "lib/engine/graph.h"
#include "lib/engine/ops/rows.h"
#include "lib/eval/head.h"
#include "lib/kernels/forward.h"

namespace qp {

using engine::Matrix, engine::Node, engine::Step, engine::Values, engine::WeightUse;

namespace {

constexpr size_t kHeadRows = 256;
constexpr uint64_t kSeed = 0x51a6;  // of the labels: any number, always the same

}  // namespace

ScoreGradient::ScoreGradient(const arch::Architecture& model, const WeightSource& weights,
                             const Windows& windows, const GradientOptions& options)
    : model_(model), weights_(weights), windows_(windows), options_(options) {
  for (size_t w = 0; w < windows.size(); ++w) {
    size_t n = windows[w].size();
    bool fits =
        !batches_.empty() && starts_.back() + n - starts_[batches_.back().first] <= kBatchTokens;
    if (!fits) batches_.emplace_back(w, w);
    batches_.back().second = w + 1;
    starts_.push_back(starts_.back() + n);
  }
}

void ScoreGradient::check_memory() const {
  size_t longest = 0;
  for (auto [first, last] : batches_) longest = std::max(longest, starts_[last] - starts_[first]);
  uint64_t need = 0;
  for (size_t i = 0; i < model_.layers; ++i) {
    Graph graph = model_.layer(i);
    uint64_t bytes = 0, largest = 0;
    for (const Node& node : graph.nodes()) {
      for (const WeightUse& use : node.op->weights) {
        bytes += WeightSource::bytes(use, options_.precision);
        if (use.form == engine::Form::matrix)
          largest = std::max(largest, uint64_t{use.rows} * use.cols);
      }
    }
    // Values and their gradients; a gradient of a weight and the weight transposed.
    bytes += 2 * engine::Layout(graph, true).floats() * longest * sizeof(float) +
             3 * largest * sizeof(float);
    need = std::max(need, bytes);
  }
  need += options_.beside + (uint64_t{64} << 20) + 3 * rows() * model_.hidden * sizeof(float);
  if (need <= options_.memory) return;
  throw limit_error("the sensitivities need " + std::to_string((need >> 20) + 1) +
                    "MiB of memory (allowed are " + std::to_string(options_.memory >> 20) + "MiB)")
      .file(weights_.store().label())
      .hint("--max-memory " + std::to_string((need >> 20) + 1) + "MiB is the least that works");
}

void ScoreGradient::forward(Progress& progress) {
  check_memory();
  trail_.emplace(rows(), model_.hidden);
  StreamOptions o;
  o.precision = options_.precision;
  o.memory = options_.memory;
  o.batch_tokens = kBatchTokens;
  Stream stream(model_, weights_, windows_, o, spill_states());
  stream.embed();
  for (size_t i = 0; i < model_.layers; ++i) {
    trail_->keep(stream, i);
    progress.item(model_.layer_name(i));
    stream.layer(i, nullptr, progress);
  }
  trail_->keep(stream, model_.layers);
  head();
}

// The gradient of the last hidden states: softmax less the drawn label, through head and norm.
void ScoreGradient::head() {
  std::vector<float> normed(rows() * model_.hidden), dnormed(rows() * model_.hidden);
  Head head(model_, weights_, options_.precision);
  for (size_t at = 0; at < rows(); at += kHeadRows) {
    size_t n = std::min(kHeadRows, rows() - at);
    trail_->read(model_.layers, at, {normed.data() + at * model_.hidden, n, model_.hidden});
    head.norm(normed.data() + at * model_.hidden, n, normed.data() + at * model_.hidden);
  }
  softmax_.assign(rows(), {-std::numeric_limits<float>::infinity(), 0, 0});
  std::vector<float> logits;
  for (size_t block = 0; block < head.blocks(); ++block) {
    head.load(block);
    logits.resize(kHeadRows * head.width());
    for (size_t at = 0; at < rows(); at += kHeadRows) {
      throw_if_interrupted();
      size_t n = std::min(kHeadRows, rows() - at);
      head.logits(normed.data() + at * model_.hidden, n, logits.data());
      engine::for_rows(n, [&](size_t r) {
        Row& s = softmax_[at + r];
        kernels::forward().log_sum_exp(logits.data() + r * head.width(), head.width(), &s.max,
                                       &s.sum);
      });
    }
  }
  SplitMix64 rng(kSeed);
  for (Row& s : softmax_) s.drawn = std::ldexp(static_cast<double>(rng.next() >> 11), -53) * s.sum;
  for (size_t block = 0; block < head.blocks(); ++block) head_block(block, normed, dnormed);
  final_norm(dnormed);
}

void ScoreGradient::head_block(size_t block, const std::vector<float>& normed,
                               std::vector<float>& dnormed) {
  Head head(model_, weights_, options_.precision);
  head.load(block);
  size_t width = head.width(), hidden = model_.hidden;
  bool last_block = block + 1 == head.blocks();
  WeightUse use = model_.head;
  use.part = true;
  use.first_row = head.first();
  use.rows = width;
  gemm::Packed room;
  const gemm::Packed& transposed = weights_.transposed(use, options_.precision, room);
  std::vector<float> logits(kHeadRows * width);
  for (size_t at = 0; at < rows(); at += kHeadRows) {
    throw_if_interrupted();
    size_t n = std::min(kHeadRows, rows() - at);
    head.logits(normed.data() + at * hidden, n, logits.data());
    engine::for_rows(n, [&](size_t r) {
      Row& s = softmax_[at + r];
      float* x = logits.data() + r * width;
      for (size_t v = 0; v < width; ++v) {
        float slope = 1;
        if (model_.logit_softcap > 0)
          slope -= x[v] / model_.logit_softcap * (x[v] / model_.logit_softcap);
        double e = std::exp(static_cast<double>(x[v] - s.max));
        s.seen += e;
        bool label = !s.labelled && (s.seen > s.drawn || (last_block && v + 1 == width));
        s.labelled = s.labelled || label;
        x[v] = ((label ? 1.0f : 0.0f) - static_cast<float>(e / s.sum)) * slope;
      }
    });
    gemm::multiply(logits.data(), width, n, transposed, nullptr, dnormed.data() + at * hidden,
                   hidden, true);
  }
}

void ScoreGradient::final_norm(std::vector<float>& dnormed) {
  size_t hidden = model_.hidden;
  Graph graph = model_.final_norm();
  auto loaded = engine::load_weights(graph, weights_, options_.precision);
  engine::Pool pool, gradient_pool;
  gradient_.resize(rows() * hidden);
  for (size_t at = 0; at < rows(); at += kHeadRows) {
    size_t n = std::min(kHeadRows, rows() - at);
    Batch batch;
    batch.tokens.resize(n);
    batch.starts = {0, n};
    Values values(graph, pool, n, true), gradients(graph, gradient_pool, n, true);
    trail_->read(model_.layers, at, values.make(graph.input()));
    Matrix dy = gradients.make(graph.output());
    std::copy_n(dnormed.data() + at * hidden, n * hidden, dy.data);
    Step step{batch, options_.precision};
    step.source = &weights_;
    engine::run(graph, 0, graph.nodes().size(), step, loaded, values, true);
    engine::run_backward(graph, step, loaded, values, gradients);
    std::copy_n(gradients.get(graph.input()).data, n * hidden, gradient_.data() + at * hidden);
  }
}

void ScoreGradient::layer(size_t i, engine::GradientSink& sink, Progress& progress) {
  Graph graph = model_.layer(i);
  auto loaded = engine::load_weights(graph, weights_, options_.precision);
  engine::Pool pool, gradient_pool;
  for (auto [first, last] : batches_) {
    throw_if_interrupted();
    Batch batch;
    for (size_t w = first; w < last; ++w) batch.add(windows_[w].data(), windows_[w].size());
    size_t n = batch.rows(), at = starts_[first] * model_.hidden;
    Values values(graph, pool, n, true), gradients(graph, gradient_pool, n, true);
    trail_->read(i, starts_[first], values.make(graph.input()));
    Matrix dy = gradients.make(graph.output());
    std::copy_n(gradient_.data() + at, n * model_.hidden, dy.data);
    Step step{batch, options_.precision};
    step.source = &weights_;
    step.gradients = &sink;
    engine::run(graph, 0, graph.nodes().size(), step, loaded, values, true);
    engine::run_backward(graph, step, loaded, values, gradients);
    std::copy_n(gradients.get(graph.input()).data, n * model_.hidden, gradient_.data() + at);
    progress.add(n);
  }
}

void ScoreGradient::backward(const std::function<void(size_t)>& begin, engine::GradientSink& sink,
                             Progress& progress) {
  for (size_t i = model_.layers; i-- > 0;) {
    progress.item(model_.layer_name(i));
    begin(i);
    layer(i, sink, progress);
  }
}

}  // namespace qp
