#include "lib/algorithm/layerwise.h"

#include <algorithm>
#include <chrono>
#include <set>

#include "lib/algorithm/autoround.h"
#include "lib/algorithm/gptq_matrix.h"
#include "lib/algorithm/moments.h"
#include "lib/algorithm/ranges.h"
#include "lib/algorithm/read_matrix.h"
#include "lib/base/error.h"
#include "lib/base/interrupt.h"
#include "lib/base/parallel.h"
#include "lib/config/algorithms.h"
#include "lib/engine/ops/linear.h"
#include "lib/engine/ops/moe.h"
#include "lib/qmap/rows.h"
#include "lib/stream/capture.h"

namespace qp {
namespace {

using engine::Graph, engine::Value, engine::Values, engine::Weight, engine::WeightUse;

constexpr size_t kDenseRows = 2048, kExpertRows = 256;  // of moments, summed at a time

// GPTQ that makes up for what quantized layers did to its inputs.
bool drift_counts(const PlanEntry& entry) {
  AlgorithmStep step = parse_algorithm(entry.algorithm).back();
  return step.algorithm->name == "gptq" && gptq::options_of(step).alpha != 0.0;
}

// One input of linears, and those that read it.
struct Input {
  Value value = 0;              // of the graph; unused for experts
  std::vector<size_t> entries;  // of the plan
  std::vector<WeightUse> uses;
  std::unique_ptr<MomentSum> sum;
};

class Layerwise : public LayerWork, public LinearHook {
 public:
  // `moments`: bytes that the moments of experts' inputs may take at a time.
  // `full`: inputs as the unquantized model has them, where expect() asked for them.
  Layerwise(const LayerwiseRun& run, const QuantizedWeights& weights, gemm::Precision precision,
            uint64_t moments, const Capture& full, std::function<void(const TensorLog&)> log)
      : store_(*run.store), plan_(*run.plan), weights_(weights), log_(std::move(log)),
        precision_(precision), moments_memory_(moments), results_(*run.results), full_(full) {}

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

  // What the unquantized model is to be seen at, too, when it runs the layer: inputs whose drift
  // counts.
  void expect(size_t layer, const Graph& graph, Capture& full) {
    cuts(layer, graph);
    for (const auto& [node, input] : inputs_) {
      if (drifts(input)) full.want(graph, input.value, node);
    }
  }

  void enter(size_t node, const Graph&, const Values& values) override {
    auto it = inputs_.find(node);
    if (it == inputs_.end()) return;
    engine::ConstMatrix x = values.get(it->second.value);
    Input& input = it->second;
    if (!input.sum) input.sum = std::make_unique<MomentSum>(x.cols, kDenseRows, precision_);
    if (!full_.has(input.value) || !drifts(input))  // wanted by another result, maybe
      input.sum->add(x);
    else
      input.sum->add(x, full_.read(input.value, input.sum->rows(), x.rows));
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
  engine::ConstMatrix before(const engine::LinearUse& linear, engine::ConstMatrix x,
                             std::span<const uint32_t>, std::vector<float>&) override {
    auto it = watched_.find(linear.input);
    // An input has several readers and is seen once, with the first.
    if (it == watched_.end() || it->second->stage != stage_ || linear.module != linear.input)
      return x;
    Input& input = it->second->input;
    if (!input.sum) input.sum = std::make_unique<MomentSum>(x.cols, kExpertRows, precision_);
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
      if (use.form == engine::Form::matrix)
        need = std::max(need, MomentSum::bytes(use.cols, kExpertRows));
    }
    bool follows = n > 0 && last_expert_ == n - 1;
    if (!follows || expert_bytes_ + need > moments_memory_) {
      at.insert(n);
      expert_bytes_ = 0;
    }
    expert_bytes_ += need;
    last_expert_ = n;
  }

  // By which a matrix' input is multiplied; empty: by nothing.
  std::vector<float> pre_scale(const std::string& tensor) const {
    auto it = pre_scales_.find(tensor);
    return it == pre_scales_.end() ? std::vector<float>()
                                   : read_f32(RowSource(store_, *it->second), 0, 1);
  }
  static gptq::Moments times(const gptq::Moments& moments, const std::vector<float>& scale) {
    gptq::Moments result = moments;
    parallel_for(moments.h.empty() ? 0 : moments.k, [&](size_t r, int) {
      for (std::vector<float>* m : {&result.h, &result.drift}) {
        for (size_t c = 0; c < moments.k && !m->empty(); ++c)
          (*m)[r * moments.k + c] *= scale[r] * scale[c];
      }
    });
    return result;
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
    std::map<std::vector<float>, gptq::Moments> scaled;  // by pre_scale
    std::map<std::pair<std::string, std::vector<float>>, std::optional<gptq::Factor>>
        factors;  // by what they depend on beside the moments
    for (size_t i = 0; i < input.entries.size(); ++i) {
      throw_if_interrupted();
      const PlanEntry& entry = plan_.entries[input.entries[i]];
      const Scheme& scheme = plan_.schemes[static_cast<size_t>(entry.scheme)];
      AlgorithmStep step = parse_algorithm(entry.algorithm).back();
      gptq::Options options = gptq::options_of(step);
      options.precision = precision_;
      bool clip = step.algorithm->name == "clip";
      size_t group = scheme.group_of(input.uses[i].cols);
      auto start = std::chrono::steady_clock::now();
      std::vector<float> pre = pre_scale(entry.tensor->name);
      if (!pre.empty() && !scaled.contains(pre)) scaled[pre] = times(moments, pre);
      const gptq::Moments& seen = pre.empty() ? moments : scaled[pre];
      auto [it, fresh] =
          factors.try_emplace({entry.algorithm + " " + std::to_string(group), std::move(pre)});
      if (fresh && rows > 0 && !clip) it->second = gptq::factor(seen, group, options);
      gptq::Outcome outcome = gptq::quantize_matrix(store_, entry, scheme, ranges_.of(entry), seen,
                                                    it->second, options, clip, rows);
      results_.put(input.entries[i], outcome.codes, outcome.small);
      std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
      log_({.tensor = entry.tensor->name,
            .algorithm = outcome.algorithm,
            .note = outcome.note,
            .rows = rows,
            .error = outcome.error,
            .error_rtn = outcome.error_rtn,
            .damp = it->second ? it->second->damp : 0,
            .seconds = took.count()});
    }
  }

  const Store& store_;
  const Plan& plan_;
  const QuantizedWeights& weights_;
  const std::function<void(const TensorLog&)> log_;
  gemm::Precision precision_;
  uint64_t moments_memory_;
  ResultStore& results_;
  const Capture& full_;
  std::map<size_t, Input> inputs_;              // of linears, by the node their part begins at
  std::map<std::string, ExpertInput> experts_;  // by the module that names the input
  std::map<std::string, ExpertInput*> watched_;
  size_t stage_ = 0, last_expert_ = 0;
  uint64_t expert_bytes_ = 0;
  Ranges ranges_{store_, plan_};
  std::map<std::string_view, const Part*> pre_scales_ = pre_scales(store_.model());
};

}  // namespace

namespace {

// What the moments of experts' inputs may take, if any are wanted: a quarter, but those of one at the
// least.
uint64_t moments_of_experts(const Plan& plan, uint64_t memory) {
  uint64_t most = 0;
  for (const PlanEntry& e : plan.entries) {
    if (e.scheme < 0 || e.info.kind != ModuleKind::expert) continue;
    const Algorithm& a = *parse_algorithm(e.algorithm).back().algorithm;
    if (!a.runs_model || a.name == "autoround") continue;
    most = std::max(most, MomentSum::bytes(e.tensor->shape.cols(), kExpertRows));
  }
  return most == 0 ? 0 : std::max(most, memory / 4);
}

// What quantizing the largest matrix takes.
uint64_t largest_of(const Plan& plan) {
  uint64_t most = 0;
  for (const PlanEntry& e : plan.entries) {
    if (e.scheme < 0) continue;
    const Algorithm& a = *parse_algorithm(e.algorithm).back().algorithm;
    if (!a.runs_model || a.name == "autoround") continue;
    uint64_t k = e.source->shape.cols(), n = e.source->shape.rows();
    bool drift = drift_counts(e);
    most = std::max(most, 4 * ((drift ? 7 : 5) * n * k + (drift ? 6 : 4) * k * k +
                               (drift ? 3 : 1) * kDenseRows * k));
  }
  return most;
}

// How memory is shared: moments of experts, the largest matrix, and the stream, which gets the rest.
StreamOptions shared(const Plan& plan, StreamOptions options) {
  uint64_t largest = largest_of(plan);
  uint64_t moments = moments_of_experts(plan, options.memory);
  uint64_t least = moments_of_experts(plan, 1);
  auto allowed = [largest, least](uint64_t stream) {
    uint64_t rest = largest + stream;
    return std::max(rest + least, least > 0 ? rest + (rest + 2) / 3 : rest);
  };
  uint64_t taken = moments + largest;
  options.whole = options.memory;
  options.memory = options.memory > taken ? options.memory - taken : 0;  // the stream says what it needs
  options.whole_for = allowed;
  return options;
}

}  // namespace

Json to_json(const TensorLog& log) {
  Json j = {{"tensor", log.tensor},       {"algorithm", log.algorithm}, {"tokens", log.rows},
            {"error_rtn", log.error_rtn}, {"error", log.error},         {"damp", log.damp},
            {"seconds", log.seconds}};
  if (log.iterations) j["iterations"] = *log.iterations;
  if (log.best_iteration) j["best_iteration"] = *log.best_iteration;
  if (!log.note.empty()) j["note"] = log.note;
  return j;
}

Json to_json(const LayerLog& log) {
  return {{"layer", log.layer}, {"tensors", log.tensors},       {"error_rtn", log.error_rtn},
          {"error", log.error}, {"forward_passes", log.passes}, {"seconds", log.seconds}};
}

std::vector<size_t> layerwise_entries(const Plan& plan, const arch::Architecture& model) {
  std::set<std::string> reached;
  for (size_t i = 0; i < model.layers; ++i) {
    Graph graph = model.layer(i);
    for (const engine::Node& node : graph.nodes()) {
      for (size_t k = 0; k < node.op->linears.size(); ++k) {
        const WeightUse& use = node.op->weights[k];
        if (!use.part) reached.insert(use.tensor);
      }
    }
  }
  std::vector<size_t> entries;
  for (size_t i = 0; i < plan.entries.size(); ++i) {
    const PlanEntry& e = plan.entries[i];
    if (e.scheme < 0) continue;
    const Algorithm& a = *parse_algorithm(e.algorithm).back().algorithm;
    if (a.runs_model && reached.contains(e.tensor->name)) entries.push_back(i);
  }
  return entries;
}

namespace {

// One result on its way through the layers.
class Result {
 public:
  Result(const LayerwiseRun& run, const Windows& windows, StreamOptions options,
         const Capture& full)
      : run_(run), moments_(moments_of_experts(*run.plan, options.memory)),
        options_(shared(*run.plan, options)), weights_(*run.store, *run.plan, *run.results),
        tuner_(*run.store, *run.plan, *run.model, weights_, windows, options_),
        stream_(*run.model, weights_, windows, options_, spill_states()),
        work_(run, weights_, options_.precision, moments_, full,
              [this](const TensorLog& line) { add(line); }) {
    for (size_t i = 0; i < run.model->layers; ++i) {
      std::vector<size_t> of = tuner_.entries(i);
      if (std::ranges::all_of(of, [&](size_t e) { return run_.results->has(e); })) of.clear();
      if (!of.empty()) full_layers_ = i + 1;
      learned_.push_back(std::move(of));
    }
    for (size_t i = 0; i < run.plan->entries.size(); ++i) {
      const PlanEntry& e = run.plan->entries[i];
      bool drifts = e.scheme >= 0 && drift_counts(e) && !run.results->has(i);
      if (drifts) full_layers_ = run.model->layers;
    }
  }

  const StreamOptions& options() const { return options_; }
  // Of so many layers it wants to know what the unquantized model makes of them.
  size_t full_layers() const { return full_layers_; }
  uint64_t steps() const {
    uint64_t sum = uint64_t{stream_.rows()} * run_.model->layers;
    for (size_t i = 0; i < full_layers_; ++i) sum += learned_[i].empty() ? 0 : tuner_.steps(i);
    return sum;
  }

  void embed() { stream_.embed(); }
  void expect(size_t i, Capture& full) { work_.expect(i, run_.model->layer(i), full); }

  // `full` has run layer i, if it runs that far.
  void layer(size_t i, const Stream* full, Progress& progress) {
    auto start = std::chrono::steady_clock::now();
    line_ = {};
    line_.layer = run_.model->layer_name(i);
    if (i < full_layers_) line_.passes += full->passes();
    if (!learned_[i].empty()) {
      stream_.release();
      learn(i, *full, progress);
    }
    stream_.layer(i, work_, progress);
    line_.passes += stream_.passes();
    std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
    line_.seconds = took.count();
    if (run_.log && line_.tensors > 0) run_.log(to_json(line_));
  }
  void release() { stream_.release(); }

  // What came out other than asked for.
  void tell() const {
    size_t fallen = 0;
    std::string why;
    for (const auto& [note, count] : fallen_) {
      fallen += count;
      why += (why.empty() ? "" : "; ") + std::to_string(count) + ": " + note;
    }
    if (fallen == 0 || !run_.warn) return;
    run_.warn(std::to_string(fallen) + " of the " + std::to_string(tensors_) +
              " tensors quantized in this run fell back to mse or rtn (" + why + "); --log FILE names them");
  }

 private:
  void add(const TensorLog& line, double share = 1) {
    ++line_.tensors;
    ++tensors_;
    if (!line.note.empty()) ++fallen_[line.note];
    line_.error += share * line.error;
    line_.error_rtn += share * line.error_rtn;
    if (run_.log) run_.log(to_json(line));
  }

  void learn(size_t i, const Stream& full, Progress& progress) {
    auto start = std::chrono::steady_clock::now();
    autoround::Outcome out = tuner_.tune(i, full, stream_, progress);
    std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
    for (const auto& m : out.matrices) {
      if (!run_.results->has(m.entry)) {
        run_.results->put(m.entry, m.rounded.codes, m.rounded.small);
      }
      add({.tensor = run_.plan->entries[m.entry].tensor->name,
           .algorithm = out.algorithm,
           .note = out.note,
           .rows = out.rows,
           .error = out.error,
           .error_rtn = out.error_rtn,
           .seconds = took.count(),
           .iterations = out.iterations,
           .best_iteration = out.best},
          &m == &out.matrices.front() ? 1 : 0);
    }
    line_.passes += out.passes;
  }

  const LayerwiseRun& run_;
  uint64_t moments_;
  StreamOptions options_;
  QuantizedWeights weights_;
  autoround::Tuner tuner_;  // before the stream: it asks for more
  Stream stream_;
  Layerwise work_;
  LayerLog line_;  // of the layer that runs
  size_t tensors_ = 0;
  std::map<std::string, size_t> fallen_;  // by why
  size_t full_layers_ = 0;
  std::vector<std::vector<size_t>> learned_;  // entries, by layer
};

}  // namespace

void run_layerwise(std::span<const LayerwiseRun> runs, const Windows& windows,
                   const StreamOptions& options, Progress& progress) {
  size_t rows = windows.tokens(), full_layers = 0;
  Capture seen(rows);
  std::vector<std::unique_ptr<Result>> results;
  uint64_t steps = 0;
  for (const LayerwiseRun& run : runs) {
    results.push_back(std::make_unique<Result>(run, windows, options, seen));
    full_layers = std::max(full_layers, results.back()->full_layers());
    steps += results.back()->steps();
  }
  const arch::Architecture& model = *runs.front().model;
  engine::WeightSource plain(*runs.front().store);
  std::optional<Stream> full;
  if (full_layers > 0)
    full.emplace(model, plain, windows, results.front()->options(), spill_states());
  progress.begin("quantizing by layers", steps + uint64_t{rows} * full_layers,
                 Progress::Unit::steps);
  for (auto& r : results) r->embed();
  if (full) full->embed();
  for (size_t i = 0; i < model.layers; ++i) {
    progress.item(model.layer_name(i));
    if (i < full_layers) {
      seen.clear();
      for (auto& r : results) r->expect(i, seen);
      full->layer(i, seen, progress);
      full->release();
    }
    for (auto& r : results) {
      r->layer(i, full ? &*full : nullptr, progress);
      if (results.size() > 1) r->release();  // one layer in memory, whatever the number of results
    }
  }
  progress.end();
  for (auto& r : results) r->tell();
}

}  // namespace qp
