#include "lib/algorithm/autoround.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <set>

#include "lib/algorithm/autoround_block.h"
#include "lib/algorithm/quantizer.h"
#include "lib/algorithm/read_matrix.h"
#include "lib/base/error.h"
#include "lib/base/interrupt.h"
#include "lib/base/parallel.h"
#include "lib/base/random.h"
#include "lib/engine/ops/rows.h"

namespace qp::autoround {

using engine::Batch, engine::ConstMatrix, engine::Graph, engine::Node, engine::WeightUse;

namespace {

// Windows in an order that a seed fixes: all of them once, then all of them again in another order.
// An incomplete last batch of a round is left out.
class Sampler {
 public:
  Sampler(size_t windows, size_t batch, uint64_t seed)
      : order_(windows), batch_(std::min(windows, batch)), at_(windows), numbers_(seed) {
    std::iota(order_.begin(), order_.end(), size_t{0});
  }
  std::span<const size_t> next() {
    if (at_ + batch_ > order_.size()) {
      for (size_t i = order_.size(); i > 1; --i)
        std::swap(order_[i - 1], order_[numbers_.below(i)]);
      at_ = 0;
    }
    at_ += batch_;
    return std::span(order_).subspan(at_ - batch_, batch_);
  }

 private:
  std::vector<size_t> order_;
  size_t batch_, at_;
  SplitMix64 numbers_;
};

// Mean squares of the columns of what enters linears, by the module that names the input.
class Squares : public engine::LinearHook {
 public:
  ConstMatrix before(const engine::LinearUse& linear, ConstMatrix x, std::span<const uint32_t>,
                     std::vector<float>&) override {
    if (linear.module != linear.input) return x;  // seen with the first of its readers
    std::vector<double>& sum = sums_[linear.input];
    sum.resize(x.cols);
    constexpr size_t kColumns = 64;
    parallel_for((x.cols + kColumns - 1) / kColumns, [&](size_t i, int) {
      size_t last = std::min(x.cols, (i + 1) * kColumns);
      for (size_t r = 0; r < x.rows; ++r) {
        for (size_t c = i * kColumns; c < last; ++c) {
          sum[c] += static_cast<double>(x.row(r)[c]) * static_cast<double>(x.row(r)[c]);
        }
      }
    });
    return x;
  }
  // Of an input's columns; empty when nothing came.
  std::vector<float> of(const std::string& input) const {
    auto it = sums_.find(input);
    if (it == sums_.end()) return {};
    double most = *std::ranges::max_element(it->second);
    if (!(most > 0) || !std::isfinite(most)) return {};
    std::vector<float> weight;
    for (double s : it->second) weight.push_back(static_cast<float>(s / most));
    return weight;
  }

 private:
  std::map<std::string, std::vector<double>> sums_;
};

// Whether the error is measured before the last step, too. With few steps that would take as long
// as they do.
bool looks_between(const Options& o) { return o.best && o.iters >= 50; }

// The work on one layer.
class Tuning {
 public:
  Tuning(Block& block, const Options& options, const Windows& windows, const Stream& full,
         const Stream& quantized, size_t hidden, Progress& progress)
      : block_(block), options_(options), windows_(windows), full_(full), quantized_(quantized),
        hidden_(hidden), progress_(progress) {}

  void learn(uint64_t seed, Outcome& out) {
    Squares squares;
    begin(Fit::range, nullptr);
    out.error_rtn = evaluate(&squares);
    keep("rtn", out.error_rtn, 0, out);
    begin(Fit::search, &squares);
    double error = evaluate(nullptr);
    if (error <= out.error) keep("autoround", error, 0, out);  // NaN goes to rtn
    Sampler sampler(windows_.size(), options_.batch, seed);
    for (size_t i = 0; i < options_.iters; ++i) {
      throw_if_interrupted();
      step(sampler.next(), 1 - static_cast<double>(i) / static_cast<double>(options_.iters));
      out.iterations = i + 1;
      if (!looks(i + 1)) continue;
      error = evaluate(nullptr);
      if (error < out.error) keep("autoround", error, i + 1, out);
    }
    out.passes = static_cast<double>(forward_) / static_cast<double>(quantized_.rows());
    if (out.algorithm == "rtn") {
      out.note = std::isfinite(error) ? "the layer's output would be worse than with rtn"
                                      : "the layer's output is not finite";
    }
  }

 private:
  // Whether the error over all windows is measured after so many steps.
  bool looks(size_t steps) const {
    if (steps == options_.iters) return true;
    return looks_between(options_) &&
           (steps == options_.iters / 2 || steps == options_.iters * 3 / 4);
  }

  void begin(Fit fit, const Squares* squares) {
    for (Learned& l : block_.learned()) {
      std::vector<float> weight;
      if (squares != nullptr) weight = squares->of(l.input);
      l.matrix->start(fit, weight);
    }
    block_.load_learned();
  }

  void keep(const std::string& algorithm, double error, size_t steps, Outcome& out) {
    out.algorithm = algorithm;
    out.error = error;
    out.best = steps;
    out.matrices.clear();
    for (Learned& l : block_.learned()) out.matrices.push_back({l.entry, l.matrix->rounded()});
  }

  // Windows in parts of at most kRows tokens.
  template <class Body>
  void parts(std::span<const size_t> windows, Body body) {
    for (size_t first = 0; first < windows.size();) {
      Batch batch;
      size_t last = first;
      while (last < windows.size()) {
        std::span<const int32_t> w = windows_[windows[last]];
        if (last > first && batch.rows() + w.size() > kRows) break;
        batch.add(w.data(), w.size());
        ++last;
      }
      read(quantized_, windows.subspan(first, last - first), x_);
      read(full_, windows.subspan(first, last - first), target_);
      body(batch, ConstMatrix{x_.data(), batch.rows(), hidden_});
      progress_.add(batch.rows());
      forward_ += batch.rows();
      first = last;
    }
  }

  void read(const Stream& stream, std::span<const size_t> windows, std::vector<float>& out) const {
    size_t rows = 0;
    for (size_t w : windows) rows += windows_[w].size();
    out.resize(rows * hidden_);
    float* at = out.data();
    for (size_t w : windows) {
      stream.read(stream.starts()[w], windows_[w].size(), at);
      at += windows_[w].size() * hidden_;
    }
  }

  // The gradient of a token's error, up to a factor, in place of its target; the sum of errors. An
  // error counts relative to the target's square: what reads the output normalizes it, and the
  // tokens with huge activations that models have would drown all others.
  double difference(ConstMatrix y) {
    row_errors_.resize(y.rows);
    engine::for_rows(y.rows, [&](size_t r) {
      float* t = target_.data() + r * hidden_;
      double error = 0, whole = 1e-30;
      for (size_t c = 0; c < hidden_; ++c) {
        auto x = static_cast<double>(t[c]), d = static_cast<double>(y.row(r)[c]) - x;
        whole += x * x;
        error += d * d;
      }
      auto weight = static_cast<float>(1 / whole);
      for (size_t c = 0; c < hidden_; ++c) t[c] = (y.row(r)[c] - t[c]) * weight;
      row_errors_[r] = error / whole;
    });
    return std::accumulate(row_errors_.begin(), row_errors_.end(), 0.0);
  }

  double evaluate(engine::LinearHook* hook) {
    std::vector<size_t> all(windows_.size());
    std::iota(all.begin(), all.end(), size_t{0});
    double sum = 0;
    parts(all, [&](const Batch& batch, ConstMatrix x) {
      sum += difference(block_.forward(batch, x, hook));
    });
    return sum / static_cast<double>(quantized_.rows());
  }

  void step(std::span<const size_t> windows, double factor) {
    size_t rows = 0;
    for (size_t w : windows) rows += windows_[w].size();
    bool whole = rows <= kRows || windows.size() == 1;
    parts(windows, [&](const Batch& batch, ConstMatrix x) {
      difference(block_.forward_kept(batch, x));
      block_.backward(batch, {target_.data(), batch.rows(), hidden_}, whole ? factor : -1);
      progress_.add(2 * batch.rows());
    });
    if (!whole) block_.step_all(factor);
  }

  Block& block_;
  const Options& options_;
  const Windows& windows_;
  const Stream& full_;
  const Stream& quantized_;
  size_t hidden_;
  Progress& progress_;
  std::vector<float> x_, target_;
  std::vector<double> row_errors_;
  uint64_t forward_ = 0;  // tokens that went through
};

const AlgorithmStep& step_of(const std::vector<AlgorithmStep>& steps) { return steps.back(); }

}  // namespace

Options options_of(const AlgorithmStep& step) {
  Options o;
  o.iters = static_cast<size_t>(step.number("iters", 200, 0, 100000));
  o.batch = static_cast<size_t>(step.number("batch_size", 8, 1, 4096));
  o.rate = step.number("lr", 0, 0, 1);
  o.range_rate = step.number("minmax_lr", 0, 0, 1);
  o.ranges = step.flag("minmax", true);
  o.sign = scale_sign(step);
  o.best = step.flag("best", true);
  o.seed = static_cast<uint64_t>(step.number("seed", 42, 0, 1e15));
  double first = o.iters > 0 ? 1.0 / static_cast<double>(o.iters) : 0;
  if (o.rate == 0) o.rate = first;
  if (o.range_rate == 0) o.range_rate = o.rate;
  if (!o.ranges) o.range_rate = 0;
  return o;
}

void check(const Plan& plan) {
  const PlanEntry* before = nullptr;
  for (const PlanEntry& e : plan.entries) {
    if (e.scheme < 0) continue;
    std::vector<AlgorithmStep> steps = parse_algorithm(e.algorithm);
    if (step_of(steps).algorithm->name != "autoround") continue;
    Options o = options_of(step_of(steps));
    if (before == nullptr) {
      before = &e;
      continue;
    }
    std::vector<AlgorithmStep> others = parse_algorithm(before->algorithm);
    Options p = options_of(step_of(others));
    if (o.iters == p.iters && o.batch == p.batch && o.best == p.best && o.seed == p.seed) continue;
    throw usage_error(
        "autoround: tensors with different iters, batch_size, best or seed are not learned "
        "together")
        .tensor(e.tensor->name)
        .hint("give them one of each; lr, minmax_lr and minmax may differ");
  }
}

Tuner::Tuner(const Store& store, const Plan& plan, const arch::Architecture& model,
             const QuantizedWeights& weights, const Windows& windows, const StreamOptions& options)
    : store_(store), plan_(plan), model_(model), weights_(weights), windows_(windows),
      options_(options), ranges_(store, plan) {
  for (size_t i = 0; i < model.layers; ++i) {
    std::vector<size_t> of = entries(i);
    if (of.empty()) continue;
    uint64_t need = bytes(i);
    if (need <= options.memory) continue;
    auto size = [&](size_t e) { return plan.entries[e].tensor->shape.elements().value_or(0); };
    size_t largest = *std::ranges::max_element(of, {}, size);
    std::string least = std::to_string(options.allowed_for(need) / 1'000'000 + 1) + "MB";
    throw limit_error("needs " + least + " of memory to be learned with its layer (allowed are " +
                      std::to_string(options.allowed() / 1'000'000) + "MB)")
        .tensor(plan.entries[largest].tensor->name)
        .hint("use --max-memory " + least + " or more, or -a gptq");
  }
}

std::vector<size_t> Tuner::entries(size_t layer) const {
  std::vector<size_t> found;
  Graph graph = model_.layer(layer);
  for (const Node& node : graph.nodes()) {
    for (size_t k = 0; k < node.op->linears.size(); ++k) {
      std::ptrdiff_t e = weights_.wanted(node.op->weights[k], QuantizedWeights::How::learned);
      if (e >= 0) found.push_back(static_cast<size_t>(e));
    }
  }
  return found;
}

uint64_t Tuner::steps(size_t layer) const {
  std::vector<size_t> of = entries(layer);
  if (of.empty() || windows_.size() == 0) return 0;
  Options o = options_of(parse_algorithm(plan_.entries[of[0]].algorithm).back());
  uint64_t batch = windows_.tokens() * std::min(o.batch, windows_.size()) / windows_.size();
  uint64_t looks = o.iters == 0 ? 2 : looks_between(o) ? 5 : 3;
  return looks * windows_.tokens() + 3 * batch * o.iters;
}

uint64_t Tuner::bytes(size_t layer) const {
  uint64_t longest = 0, rows = 0;
  for (size_t w = 0; w < windows_.size(); ++w)
    longest = std::max<uint64_t>(longest, windows_[w].size());
  rows = std::max<uint64_t>(longest, std::min<uint64_t>(kRows, windows_.tokens()));
  Graph graph = model_.layer(layer);
  uint64_t sum =
      Block::bytes(graph, options_.precision, rows, longest) + 4 * 2 * rows * model_.hidden;
  for (size_t e : entries(layer)) {
    const PlanEntry& entry = plan_.entries[e];
    const Scheme& scheme = plan_.schemes[static_cast<size_t>(entry.scheme)];
    uint64_t n = entry.source->shape.rows(), k = entry.source->shape.cols();
    sum += SignRound::bytes(n, k, scheme.group_of(k)) + 2 * n * k;  // and the best codes
    Options o = options_of(parse_algorithm(entry.algorithm).back());
    if (o.batch * longest > kRows) sum += 4 * n * k;
  }
  return sum;
}

Outcome Tuner::tune(size_t layer, const Stream& full, const Stream& quantized, Progress& progress) {
  Graph graph = model_.layer(layer);
  std::vector<Learned> learned;
  Options options;
  for (const Node& node : graph.nodes()) {
    for (size_t k = 0; k < node.op->linears.size(); ++k) {
      const WeightUse& use = node.op->weights[k];
      std::ptrdiff_t e = weights_.wanted(use, QuantizedWeights::How::learned);
      if (e < 0) continue;
      const PlanEntry& entry = plan_.entries[static_cast<size_t>(e)];
      const Scheme& scheme = plan_.schemes[static_cast<size_t>(entry.scheme)];
      options = options_of(parse_algorithm(entry.algorithm).back());
      Learned l;
      l.entry = static_cast<size_t>(e);
      l.input = node.op->linears[k].input;
      l.use = use;
      const Tensor& t = *entry.source;
      l.matrix =
          std::make_unique<SignRound>(scheme, t.dtype, t.shape.rows(), t.shape.cols(),
                                      ranges_.of(entry), options.sign, read_matrix(store_, t));
      l.rate = options.rate;
      l.range_rate = options.range_rate;
      learned.push_back(std::move(l));
    }
  }
  Block block(weights_, graph, options_.precision, std::move(learned));
  Outcome out;
  out.rows = quantized.rows();
  Tuning(block, options, windows_, full, quantized, model_.hidden, progress)
      .learn(options.seed + layer, out);
  for (const Learned& l : block.learned()) {
    if (auto row = l.matrix->overflow())
      refuse_overflow(store_, *plan_.entries[l.entry].tensor, *row);
  }
  return out;
}

}  // namespace qp::autoround
