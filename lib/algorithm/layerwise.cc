#include "lib/algorithm/layerwise.h"

#include <algorithm>
#include <chrono>
#include <set>

#include "lib/algorithm/autoround.h"
#include "lib/algorithm/gptq_matrix.h"
#include "lib/algorithm/moments.h"
#include "lib/algorithm/ranges.h"
#include "lib/base/error.h"
#include "lib/base/interrupt.h"
#include "lib/config/algorithms.h"
#include "lib/engine/ops/linear.h"
#include "lib/engine/ops/moe.h"
#include "lib/stream/capture.h"

namespace qp {
namespace {

using engine::Graph, engine::Value, engine::Values, engine::Weight, engine::WeightUse;

constexpr size_t kDenseRows = 2048, kExpertRows = 256;  // of moments, summed at a time

// GPTQ that makes up for what quantized layers did to its inputs.
bool drift_counts(const PlanEntry& entry) {
  AlgorithmStep step = parse_algorithm(entry.algorithm).back();
  return step.algorithm->name == "gptq" && gptq::options_of(step).alpha > 0;
}

// One input of linears, and those that read it.
struct Input {
  Value value = 0;               // of the graph; unused for experts
  std::vector<size_t> entries;   // of the plan
  std::vector<WeightUse> uses;
  std::unique_ptr<MomentSum> sum;
};

class Layerwise : public LayerWork, public LinearHook {
 public:
  // `moments`: bytes that the moments of experts' inputs may take at a time.
  Layerwise(const Store& store, const Plan& plan, const QuantizedWeights& weights, const LayerwiseOptions& options,
            uint64_t moments, size_t rows, ResultStore& results)
      : store_(store), plan_(plan), weights_(weights), options_(options), moments_memory_(moments),
        results_(results), full_(rows) {}

  std::vector<size_t> cuts(size_t, const Graph& graph) override {
    inputs_.clear();
    experts_.clear();
    std::set<size_t> at;
    std::map<Value, size_t> node_of;  // of an input value: where its part begins
    for (size_t n = 0; n < graph.nodes().size(); ++n) {
      const engine::Node& node = graph.nodes()[n];
      bool expert = dynamic_cast<const engine::Expert*>(node.op.get()) != nullptr;
      if (expert) find_expert(n, *node.op, at);
      if (dynamic_cast<const engine::Linear*>(node.op.get()) == nullptr) continue;
      std::ptrdiff_t e = weights_.wanted(node.op->weights[0], QuantizedWeights::How::alone);
      if (e < 0) continue;
      size_t begin = node_of.try_emplace(node.in[0], n).first->second;
      at.insert(begin);
      Input& input = inputs_[begin];
      input.value = node.in[0];
      input.entries.push_back(static_cast<size_t>(e));
      input.uses.push_back(node.op->weights[0]);
    }
    return {at.begin(), at.end()};
  }

  // What the unquantized model is to be seen at, too, when it runs the layer: inputs whose drift counts.
  Capture& expect(size_t layer, const Graph& graph) {
    full_.clear();
    cuts(layer, graph);
    for (const auto& [node, input] : inputs_) {
      if (drifts(input)) full_.want(graph, input.value, node);
    }
    return full_;
  }

  void enter(size_t node, const Graph&, const Values& values) override {
    auto it = inputs_.find(node);
    if (it == inputs_.end()) return;
    engine::ConstMatrix x = values.get(it->second.value);
    Input& input = it->second;
    if (!input.sum) input.sum = std::make_unique<MomentSum>(x.cols, kDenseRows, options_.stream.precision);
    if (!full_.has(input.value)) input.sum->add(x);
    else input.sum->add(x, full_.read(input.value, input.sum->rows(), x.rows));
  }

  void settle(size_t node) override {
    auto it = inputs_.find(node);
    if (it == inputs_.end()) return;
    quantize(it->second);
    it->second.sum.reset();
  }

  // Experts: first gate and up, seeing their inputs; then down, behind the quantized ones.
  size_t rehearsals(size_t first, size_t last) override {
    watched_.clear();
    for (auto& [module, of] : experts_) {
      if (of.node >= first && of.node < last) watched_[module] = &of;
    }
    return watched_.empty() ? 0 : 2;
  }
  LinearHook* watcher(size_t rehearsal) override {
    stage_ = rehearsal;
    return this;
  }
  void rehearsed(size_t rehearsal) override {
    for (auto& [module, of] : watched_) {
      if (of->stage != rehearsal) continue;
      quantize(of->input);
      of->input.sum.reset();
    }
  }
  engine::ConstMatrix before(const engine::LinearUse& linear, engine::ConstMatrix x, std::span<const uint32_t>,
                             std::vector<float>&) override {
    auto it = watched_.find(linear.input);
    // An input has several readers and is seen once, with the first.
    if (it == watched_.end() || it->second->stage != stage_ || linear.module != linear.input) return x;
    Input& input = it->second->input;
    if (!input.sum) input.sum = std::make_unique<MomentSum>(x.cols, kExpertRows, options_.stream.precision);
    input.sum->add(x);
    return x;
  }

 private:
  struct ExpertInput {
    size_t node = 0, stage = 0;
    Input input;
  };

  bool drifts(const Input& input) const {
    return std::ranges::any_of(input.entries, [&](size_t e) {
      return !results_.has(e) && drift_counts(plan_.entries[e]);
    });
  }

  void find_expert(size_t n, const engine::Op& op, std::set<size_t>& at) {
    bool any = false;
    for (size_t i = 0; i < op.linears.size(); ++i) {
      std::ptrdiff_t e = weights_.wanted(op.weights[i], QuantizedWeights::How::alone);
      if (e < 0) continue;
      ExpertInput& of = experts_[op.linears[i].input];
      of.node = n;
      of.stage = op.linears[i].input == op.linears.back().module ? 1 : 0;
      of.input.entries.push_back(static_cast<size_t>(e));
      of.input.uses.push_back(op.weights[i]);
      any = true;
    }
    // As many experts a part as their moments have room for.
    if (!any) return;
    uint64_t need = 0;
    for (const WeightUse& use : op.weights) {
      if (use.form == engine::Form::matrix) need = std::max(need, MomentSum::bytes(use.cols, kExpertRows));
    }
    bool follows = n > 0 && last_expert_ == n - 1;
    if (!follows || expert_bytes_ + need > moments_memory_) {
      at.insert(n);
      expert_bytes_ = 0;
    }
    expert_bytes_ += need;
    last_expert_ = n;
  }

  void quantize(Input& input) {
    bool done = std::ranges::all_of(input.entries, [&](size_t e) { return results_.has(e); });
    if (done) return;  // an earlier run's
    gptq::Moments moments;
    uint64_t rows = 0;
    if (input.sum) {
      rows = input.sum->rows();
      moments = input.sum->take();
    }
    std::map<std::string, std::optional<gptq::Factor>> factors;  // by what they depend on beside the moments
    for (size_t i = 0; i < input.entries.size(); ++i) {
      throw_if_interrupted();
      const PlanEntry& entry = plan_.entries[input.entries[i]];
      const Scheme& scheme = plan_.schemes[static_cast<size_t>(entry.scheme)];
      AlgorithmStep step = parse_algorithm(entry.algorithm).back();
      gptq::Options options = gptq::options_of(step);
      bool clip = step.algorithm->name == "clip";
      size_t group = scheme.group_of(input.uses[i].cols);
      auto start = std::chrono::steady_clock::now();
      auto [it, fresh] = factors.try_emplace(entry.algorithm + " " + std::to_string(group));
      if (fresh && rows > 0 && !clip) it->second = gptq::factor(moments, group, options);
      gptq::Outcome outcome = gptq::quantize_matrix(store_, entry, scheme, ranges_.of(entry), moments,
                                                    it->second, options, clip, rows);
      results_.put(input.entries[i], outcome.codes, outcome.small);
      if (!options_.log) continue;
      std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
      options_.log({.tensor = entry.tensor->name, .algorithm = outcome.algorithm, .note = outcome.note,
                    .rows = rows, .error = outcome.error, .error_rtn = outcome.error_rtn,
                    .damp = it->second ? it->second->damp : 0, .seconds = took.count()});
    }
  }

  const Store& store_;
  const Plan& plan_;
  const QuantizedWeights& weights_;
  const LayerwiseOptions& options_;
  uint64_t moments_memory_;
  ResultStore& results_;
  Capture full_;  // inputs in the unquantized model
  std::map<size_t, Input> inputs_;             // of linears, by the node their part begins at
  std::map<std::string, ExpertInput> experts_;  // by the module that names the input
  std::map<std::string, ExpertInput*> watched_;
  size_t stage_ = 0, last_expert_ = 0;
  uint64_t expert_bytes_ = 0;
  Ranges ranges_{store_, plan_};
};

}  // namespace

namespace {

// What the moments of experts' inputs may take, if any are wanted: those of one at the least.
uint64_t moments_of_experts(const Plan& plan, uint64_t memory) {
  uint64_t most = 0;
  for (const PlanEntry& e : plan.entries) {
    if (e.scheme < 0 || e.info.kind != ModuleKind::expert) continue;
    if (!parse_algorithm(e.algorithm).back().algorithm->runs_model) continue;
    most = std::max(most, MomentSum::bytes(e.tensor->shape.cols(), kExpertRows));
  }
  return most == 0 ? 0 : std::min(memory, std::max(most, memory / 4));
}

// What is left for the stream when the largest matrix is worked on.
uint64_t beside(const Plan& plan, uint64_t memory) {
  uint64_t most = 0;
  const Tensor* largest = nullptr;
  for (const PlanEntry& e : plan.entries) {
    if (e.scheme < 0) continue;
    const Algorithm& a = *parse_algorithm(e.algorithm).back().algorithm;
    if (!a.runs_model || a.name == "autoround") continue;
    uint64_t k = e.tensor->shape.cols(), n = e.tensor->shape.rows();
    bool drift = drift_counts(e);
    uint64_t need = 4 * ((drift ? 7 : 5) * n * k + (drift ? 6 : 4) * k * k + (drift ? 3 : 1) * kDenseRows * k);
    if (need > most) most = need, largest = e.tensor;
  }
  if (most * 5 / 4 > memory) {
    throw limit_error("needs " + std::to_string(most * 5 / 4 / 1'000'000 + 1) + "MB of memory to be quantized (allowed are " +
                      std::to_string(memory / 1'000'000) + "MB)")
        .tensor(largest->name)
        .hint("use --max-memory " + std::to_string(most * 5 / 4 / 1'000'000 + 1) + "MB or more, or -a mse");
  }
  return memory - most;
}

}  // namespace

Json to_json(const LayerLog& log) {
  Json j = {{"tensor", log.tensor}, {"algorithm", log.algorithm}, {"tokens", log.rows}, {"error_rtn", log.error_rtn},
            {"error", log.error}, {"damp", log.damp}, {"seconds", log.seconds}};
  if (log.iterations) j["iterations"] = *log.iterations;
  if (log.best_iteration) j["best_iteration"] = *log.best_iteration;
  if (!log.note.empty()) j["note"] = log.note;
  return j;
}

std::vector<size_t> layerwise_entries(const Plan& plan, const arch::Architecture& model) {
  std::set<std::string> reached;
  for (size_t i = 0; i < model.layers; ++i) {
    Graph graph = model.layer(i);
    for (const engine::Node& node : graph.nodes()) {
      for (size_t k = 0; k < node.op->linears.size(); ++k) {
        const WeightUse& use = node.op->weights[k];
        if (!use.part && !use.transposed) reached.insert(use.tensor);
      }
    }
  }
  std::vector<size_t> entries;
  for (size_t i = 0; i < plan.entries.size(); ++i) {
    const PlanEntry& e = plan.entries[i];
    if (e.scheme < 0 || !parse_algorithm(e.algorithm).back().algorithm->runs_model) continue;
    if (reached.contains(e.tensor->name)) entries.push_back(i);
  }
  return entries;
}

namespace {

// Layers whose rounding is learned, of what both streams make of them.
class Learning {
 public:
  Learning(const Store& store, const Plan& plan, const arch::Architecture& model,
           const QuantizedWeights& weights, const Windows& windows, const LayerwiseOptions& options,
           ResultStore& results)
      : model_(model), options_(options), results_(results),
        tuner_(store, plan, model, weights, windows, options.stream), plan_(plan), plain_(store) {
    for (size_t i = 0; i < model.layers; ++i) {
      std::vector<size_t> of = tuner_.entries(i);
      if (std::ranges::all_of(of, [&](size_t e) { return results.has(e); })) of.clear();
      if (!of.empty()) layers_ = i + 1;
      entries_.push_back(std::move(of));
    }
    for (size_t i = 0; i < plan.entries.size(); ++i) {
      const PlanEntry& e = plan.entries[i];
      if (e.scheme >= 0 && drift_counts(e) && !results.has(i)) layers_ = model.layers;
    }
    if (layers_ > 0) full_.emplace(model, plain_, windows, options.stream, spill_states());
  }

  uint64_t steps() const {
    uint64_t sum = 0;
    for (size_t i = 0; i < layers_; ++i) {
      sum += full_->rows() + (entries_[i].empty() ? 0 : tuner_.steps(i));
    }
    return sum;
  }

  void embed() {
    if (full_) full_->embed();
  }

  // Before the quantized stream runs layer i.
  void layer(size_t i, Layerwise& work, Stream& quantized, Progress& progress) {
    if (i >= layers_) return;
    full_->layer(i, work.expect(i, model_.layer(i)), progress);
    full_->release();
    if (entries_[i].empty()) return;
    quantized.release();
    auto start = std::chrono::steady_clock::now();
    autoround::Outcome out = tuner_.tune(i, *full_, quantized, progress);
    std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
    for (const auto& m : out.matrices) {
      if (!results_.has(m.entry)) results_.put(m.entry, m.rounded.codes, m.rounded.small);
      if (!options_.log) continue;
      options_.log({.tensor = plan_.entries[m.entry].tensor->name, .algorithm = out.algorithm, .note = out.note,
                    .rows = out.rows, .error = out.error, .error_rtn = out.error_rtn, .seconds = took.count(),
                    .iterations = out.iterations, .best_iteration = out.best});
    }
  }

 private:
  const arch::Architecture& model_;
  const LayerwiseOptions& options_;
  ResultStore& results_;
  autoround::Tuner tuner_;
  const Plan& plan_;
  engine::WeightSource plain_;
  std::optional<Stream> full_;
  size_t layers_ = 0;                        // the last one to be learned, and those before it
  std::vector<std::vector<size_t>> entries_;  // to be learned, by layer
};

}  // namespace

void run_layerwise(const Store& store, const Plan& plan, const arch::Architecture& model,
                   const Windows& windows, const LayerwiseOptions& options, ResultStore& results,
                   Progress& progress) {
  LayerwiseOptions within = options;
  uint64_t moments = moments_of_experts(plan, options.stream.memory);
  within.stream.memory = beside(plan, options.stream.memory - moments);
  QuantizedWeights weights(store, plan, results);
  Stream stream(model, weights, windows, within.stream, spill_states());
  Layerwise work(store, plan, weights, within, moments, stream.rows(), results);
  Learning learning(store, plan, model, weights, windows, within, results);
  progress.begin("quantizing by layers", uint64_t{stream.rows()} * model.layers + learning.steps(),
                 Progress::Unit::steps);
  stream.embed();
  learning.embed();
  for (size_t i = 0; i < model.layers; ++i) {
    progress.item(model.layer_name(i));
    learning.layer(i, work, stream, progress);
    stream.layer(i, work, progress);
  }
  progress.end();
}

}  // namespace qp
