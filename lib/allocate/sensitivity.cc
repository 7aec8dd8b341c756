#include "lib/allocate/sensitivity.h"

#include <algorithm>
#include <map>
#include <numeric>

#include "lib/allocate/score_gradient.h"
#include "lib/allocate/trail.h"
#include "lib/base/parallel.h"
#include "lib/engine/ops/rows.h"
#include "lib/eval/score.h"
#include "lib/kernels/forward.h"

namespace qp {
namespace {

using engine::WeightUse;

std::map<std::string_view, size_t> group_of_tensor(const std::vector<SchemeGroup>& groups) {
  std::map<std::string_view, size_t> of;
  for (size_t g = 0; g < groups.size(); ++g) {
    for (const std::string& name : groups[g].tensors) of.emplace(name, g);
  }
  return of;
}

// Sums (dw_row . error_row)^2 over rows and batches, for each group and candidate.
class FisherSink : public engine::GradientSink {
 public:
  explicit FisherSink(const SensitivityInput& input)
      : group_(group_of_tensor(input.groups)),
        sums_(input.groups.size(), std::vector<double>(input.variants.size())),
        base_(input.variants.base()) {
    for (size_t j = 0; j < input.variants.size(); ++j) {
      const Store* s = input.variants.variant(j);
      weights_.push_back(s == nullptr ? nullptr : std::make_unique<engine::WeightSource>(*s));
    }
  }

  void begin_layer() { errors_.clear(); }
  bool wants(const WeightUse& use) override { return group_.contains(use.tensor); }

  void weight(const WeightUse& use, ConstMatrix dw) override {
    const std::vector<std::vector<float>>& errors = errors_of(use);
    std::vector<double>& sums = sums_[group_.at(use.tensor)];
    std::vector<double> rows(dw.rows);
    for (size_t j = 0; j < errors.size(); ++j) {
      if (errors[j].empty()) continue;
      engine::for_rows(dw.rows, [&](size_t r) {
        auto d = static_cast<double>(
            kernels::forward().dot(dw.row(r), &errors[j][r * dw.cols], dw.cols));
        rows[r] = d * d;
      });
      sums[j] = std::accumulate(rows.begin(), rows.end(), sums[j]);
    }
  }
  const Sensitivities& sums() const { return sums_; }

 private:
  // Quantized less original, by candidate; made when the layer's first batch needs it.
  const std::vector<std::vector<float>>& errors_of(const WeightUse& use) {
    auto [it, fresh] = errors_.try_emplace(use.tensor);
    if (!fresh) return it->second;
    std::vector<float> base = base_.matrix(use);
    for (const auto& variant : weights_) {
      it->second.push_back(variant ? variant->matrix(use) : std::vector<float>());
      for (size_t i = 0; i < it->second.back().size(); ++i) it->second.back()[i] -= base[i];
    }
    return it->second;
  }

  std::map<std::string_view, size_t> group_;
  std::map<std::string, std::vector<std::vector<float>>, std::less<>> errors_;  // of the layer
  Sensitivities sums_;
  engine::WeightSource base_;
  std::vector<std::unique_ptr<engine::WeightSource>> weights_;  // by candidate; null: as the base
};

// The first layer that reads a tensor of each group; the number of layers where none does.
std::vector<size_t> first_layers(const arch::Architecture& model,
                                 const std::vector<SchemeGroup>& groups) {
  auto of = group_of_tensor(groups);
  std::vector<size_t> first(groups.size(), model.layers);
  for (size_t i = model.layers; i-- > 0;) {
    Graph graph = model.layer(i);
    for (const engine::Node& node : graph.nodes()) {
      for (const WeightUse& use : node.op->weights) {
        if (auto it = of.find(use.tensor); it != of.end()) first[it->second] = i;
      }
    }
  }
  return first;
}

// Bytes of the errors of the largest layer.
uint64_t error_bytes(const arch::Architecture& model, const SensitivityInput& input) {
  auto of = group_of_tensor(input.groups);
  uint64_t most = 0;
  for (size_t i = 0; i < model.layers; ++i) {
    uint64_t bytes = 0;
    Graph graph = model.layer(i);
    for (const engine::Node& node : graph.nodes()) {
      for (const WeightUse& use : node.op->weights) {
        if (of.contains(use.tensor)) bytes += uint64_t{use.rows} * use.cols * sizeof(float);
      }
    }
    most = std::max(most, bytes * (input.variants.size() + 1));
  }
  return most;
}

Sensitivities second_order(const SensitivityInput& input, const SensitivityOptions& options,
                           Progress& progress) {
  WeightSource weights(input.variants.base());
  auto model = arch::make_architecture(input.variants.base().model(), weights);
  GradientOptions o;
  o.precision = options.precision;
  o.memory = options.memory;
  o.beside = error_bytes(*model, input);
  ScoreGradient gradient(*model, weights, input.windows, o);
  progress.begin("sensitivities", uint64_t{2} * gradient.rows() * model->layers,
                 Progress::Unit::steps);
  gradient.forward(progress);
  FisherSink sink(input);
  gradient.backward([&](size_t) { sink.begin_layer(); }, sink, progress);
  progress.end();
  Sensitivities result = sink.sums();
  for (auto& group : result) {
    for (double& s : group) s *= 0.5 / static_cast<double>(gradient.rows());
  }
  return result;
}

// Every token of every window is scored, so the last one's prediction counts, too.
std::vector<ScoredToken> all_tokens(const Windows& windows) {
  std::vector<ScoredToken> tokens;
  size_t row = 0;
  for (size_t w = 0; w < windows.size(); ++w) {
    for (size_t i = 0; i < windows[w].size(); ++i, ++row) {
      size_t next = std::min(i + 1, windows[w].size() - 1);
      tokens.push_back(
          {row, static_cast<uint32_t>(w), static_cast<uint32_t>(next), windows[w][next]});
    }
  }
  return tokens;
}

// The model run with mixtures of variants, against its unquantized self.
class Divergence {
 public:
  Divergence(const SensitivityInput& input, const SensitivityOptions& options, Progress& progress)
      : input_(input), options_(options), progress_(progress), weights_(input.variants.base()),
        mixed_(input.variants),
        model_(arch::make_architecture(input.variants.base().model(), weights_)),
        tokens_(all_tokens(input.windows)), base_(stream(weights_, spill_states())),
        trail_(base_.rows(), model_->hidden) {
    base_.embed();
    for (size_t i = 0; i <= model_->layers; ++i) {
      trail_.keep(base_, i);
      if (i < model_->layers) base_.layer(i, nullptr, progress_);
    }
  }

  MixedWeights& weights() { return mixed_; }
  const arch::Architecture& model() const { return *model_; }

  // Layers [0, end) of the unquantized model, then all others with the weights as chosen now.
  double from(size_t layer) {
    Stream s = stream(mixed_, trail_.states(layer));
    s.resume(layer, 0, false);
    for (size_t i = layer; i < model_->layers; ++i) s.layer(i, nullptr, progress_);
    StreamedModel a{*model_, mixed_, s}, b{*model_, weights_, base_};
    PairScores scores =
        score_tokens(a, &b, tokens_, options_.precision, options_.memory, progress_);
    return std::accumulate(scores.kl.begin(), scores.kl.end(), 0.0) /
           static_cast<double>(scores.kl.size());
  }

 private:
  Stream stream(const WeightSource& weights, States states) const {
    StreamOptions o;
    o.precision = options_.precision;
    o.memory = options_.memory;
    return Stream(*model_, weights, input_.windows, o, std::move(states));
  }

  const SensitivityInput& input_;
  SensitivityOptions options_;
  Progress& progress_;
  WeightSource weights_;
  MixedWeights mixed_;
  std::unique_ptr<arch::Architecture> model_;
  std::vector<ScoredToken> tokens_;
  Stream base_;
  Trail trail_;
};

Sensitivities measured(const SensitivityInput& input, const SensitivityOptions& options,
                       Progress& progress) {
  size_t runs = input.groups.size() * input.variants.size();
  progress.begin("sensitivities", runs, Progress::Unit::steps);
  Progress silent;
  Divergence divergence(input, options, silent);
  std::vector<size_t> first = first_layers(divergence.model(), input.groups);
  Sensitivities result(input.groups.size(), std::vector<double>(input.variants.size()));
  for (size_t g = 0; g < input.groups.size(); ++g) {
    progress.item(input.groups[g].name);
    for (size_t j = 0; j < input.variants.size(); ++j) {
      progress.add(1);
      if (input.variants.variant(j) == nullptr) continue;
      divergence.weights().clear();
      divergence.weights().choose(input.groups[g], j);
      result[g][j] = divergence.from(first[g]);
    }
  }
  progress.end();
  return result;
}

}  // namespace

Sensitivities sensitivities(SensitivityKind kind, const SensitivityInput& input,
                            const SensitivityOptions& options, Progress& progress) {
  return kind == SensitivityKind::measured ? measured(input, options, progress)
                                           : second_order(input, options, progress);
}

std::vector<size_t> unseen_groups(const SensitivityInput& input) {
  WeightSource weights(input.variants.base());
  auto model = arch::make_architecture(input.variants.base().model(), weights);
  std::vector<size_t> first = first_layers(*model, input.groups), unseen;
  for (size_t g = 0; g < first.size(); ++g) {
    if (first[g] == model->layers) unseen.push_back(g);
  }
  return unseen;
}

std::vector<double> mixture_divergence(const SensitivityInput& input,
                                       const std::vector<std::vector<size_t>>& selections,
                                       const SensitivityOptions& options, Progress& progress) {
  progress.begin("comparing", selections.size(), Progress::Unit::steps);
  Progress silent;
  Divergence divergence(input, options, silent);
  std::vector<double> result;
  for (const std::vector<size_t>& option : selections) {
    divergence.weights().clear();
    for (size_t g = 0; g < option.size(); ++g)
      divergence.weights().choose(input.groups[g], option[g]);
    result.push_back(divergence.from(0));
    progress.add(1);
  }
  progress.end();
  return result;
}

Windows sample_windows(const Windows& windows, size_t tokens) {
  constexpr size_t kLongest = 512;
  size_t all = 0;
  for (size_t w = 0; w < windows.size(); ++w) all += std::min(windows[w].size(), kLongest);
  Windows out;
  for (size_t w = 0, seen = 0; w < windows.size(); ++w) {
    size_t n = std::min(windows[w].size(), kLongest);
    // The share of tokens that are taken grows evenly.
    size_t want =
        all <= tokens ? seen + n : static_cast<size_t>(uint64_t{tokens} * (seen + n) / all);
    seen += n;
    if (out.tokens() < want || w == 0) out.add(windows[w].first(n));
  }
  return out;
}

void make_monotone(Sensitivities& costs, const std::vector<SchemeGroup>& groups) {
  for (size_t g = 0; g < groups.size(); ++g) {
    std::vector<size_t> order(costs[g].size());
    std::iota(order.begin(), order.end(), size_t{0});
    std::ranges::stable_sort(order, {}, [&](size_t j) { return groups[g].bytes[j]; });
    for (size_t k = 1; k < order.size(); ++k) {
      costs[g][order[k]] = std::min(costs[g][order[k]], costs[g][order[k - 1]]);
    }
  }
}

}  // namespace qp
