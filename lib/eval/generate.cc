#include "lib/eval/generate.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>

#include "lib/base/error.h"
#include "lib/base/interrupt.h"
#include "lib/eval/head.h"
#include "lib/kernels/forward.h"

namespace qp {
namespace {

using engine::Matrix, engine::Node, engine::Past, engine::Pool, engine::Step, engine::Values,
    engine::Weight, engine::WeightUse;

using BlockWeights = std::vector<std::vector<Weight>>;

class Writer {
 public:
  Writer(RunnableModel& model, const GenerateOptions& options)
      : model_(model), precision_(options.precision) {
    const arch::Architecture& a = model.arch();
    graphs_.push_back(a.embedding());
    for (size_t i = 0; i < a.layers; ++i) graphs_.push_back(a.layer(i));
    uint64_t bytes = WeightSource::bytes(a.head, precision_);
    for (const Graph& g : graphs_) {
      for (const Node& node : g.nodes()) {
        for (const WeightUse& use : node.op->weights) bytes += WeightSource::bytes(use, precision_);
      }
    }
    keep_ = bytes <= options.memory / 10 * 9;
    size_t blocks = (a.head.rows + Head::kBlock - 1) / Head::kBlock;
    heads_.reserve(blocks);
    for (size_t i = 0; i < (keep_ ? blocks : 1); ++i) heads_.emplace_back(a, model.weights(), precision_);
    kept_.resize(graphs_.size());
  }

  // Logits of the token that follows `ids`, which follow what earlier calls brought.
  const std::vector<float>& next(const std::vector<int32_t>& ids) {
    engine::Batch batch;
    batch.add(ids.data(), ids.size());
    std::vector<float> x;
    for (size_t i = 0; i < graphs_.size(); ++i) {
      throw_if_interrupted();
      x = run_graph(i, batch, x);
    }
    past_.rows += ids.size();
    size_t hidden = model_.arch().hidden;
    std::vector<float> last(x.end() - static_cast<std::ptrdiff_t>(hidden), x.end());
    heads_[0].norm(last.data(), 1, last.data());
    logits_.resize(heads_[0].vocab());
    for (size_t b = 0; b < heads_[0].blocks(); ++b) {
      Head& head = heads_[keep_ ? b : 0];
      head.load(b);
      head.logits(last.data(), 1, logits_.data() + head.first());
    }
    if (!kernels::forward().all_finite(logits_.data(), logits_.size())) {
      throw input_error("gives logits that are not finite")
          .file(model_.store().label())
          .tensor(model_.arch().head.tensor)
          .hint("the weights are damaged, or the model overflows");
    }
    return logits_;
  }

 private:
  std::vector<float> run_graph(size_t i, const engine::Batch& batch, const std::vector<float>& x) {
    const Graph& g = graphs_[i];
    BlockWeights fresh;
    BlockWeights& weights = keep_ ? kept_[i] : fresh;
    if (weights.empty()) {
      for (const Node& node : g.nodes()) {
        weights.emplace_back();
        for (const WeightUse& use : node.op->weights) {
          weights.back().push_back(model_.weights().load(use, precision_));
        }
      }
    }
    Values values(g, pool_, batch.rows());
    if (!x.empty()) std::ranges::copy(x, values.make(g.input()).data);
    Step step{batch, precision_};
    step.hook = model_.hook();
    step.past = &past_;
    engine::run(g, 0, g.nodes().size(), step, weights, values, false);
    Matrix out = values.make(g.output());
    return {out.data, out.data + out.rows * out.cols};
  }

  RunnableModel& model_;
  gemm::Precision precision_;
  std::vector<Graph> graphs_;  // the embedding, then the layers
  bool keep_ = false;
  std::vector<BlockWeights> kept_;
  std::vector<Head> heads_;  // one per block of the vocabulary, or one for all
  Past past_;
  Pool pool_;
  std::vector<float> logits_;
};

}  // namespace

size_t pick_token(std::span<const float> logits, double temperature, double top_p, double uniform) {
  auto best = static_cast<size_t>(std::ranges::max_element(logits) - logits.begin());
  if (temperature <= 0) return best;
  std::vector<size_t> order(logits.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::ranges::stable_sort(order, [&](size_t a, size_t b) { return logits[a] > logits[b]; });
  std::vector<double> p(order.size());
  double top = static_cast<double>(logits[best]), sum = 0, reached = 0;
  for (size_t i = 0; i < p.size(); ++i) {
    p[i] = std::exp((static_cast<double>(logits[order[i]]) - top) / temperature);
    sum += p[i];
  }
  size_t n = 0;
  while (n < p.size() && (n == 0 || reached < top_p * sum)) reached += p[n++];
  double left = uniform * reached;
  for (size_t i = 0; i + 1 < n; ++i) {
    left -= p[i];
    if (left < 0) return order[i];
  }
  return order[n - 1];
}

std::vector<int32_t> generate(RunnableModel& model, const std::vector<int32_t>& prompt,
                              const GenerateOptions& options,
                              const std::function<bool(int32_t)>& on_token) {
  if (prompt.empty()) throw usage_error("the prompt has no tokens").hint("give some text");
  Writer writer(model, options);
  std::mt19937_64 random(options.seed);
  std::vector<int32_t> written, feed = prompt;
  while (written.size() < options.max_new_tokens) {
    const std::vector<float>& logits = writer.next(feed);
    double uniform = std::ldexp(static_cast<double>(random() >> 11), -53);
    auto token = static_cast<int32_t>(
        pick_token(logits, options.temperature, options.top_p, uniform));
    written.push_back(token);
    feed = {token};
    if (!on_token(token) || std::ranges::find(options.stop, token) != options.stop.end()) break;
  }
  return written;
}

}  // namespace qp
