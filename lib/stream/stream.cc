#include "lib/stream/stream.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "lib/base/error.h"
#include "lib/base/interrupt.h"
#include "lib/base/parallel.h"
#include "lib/kernels/forward.h"
#include "lib/pipe/handover.h"

namespace qp {

using engine::Matrix, engine::Node, engine::Pool, engine::Step, engine::Value, engine::Values,
    engine::Weight, engine::WeightUse;

namespace {

constexpr uint64_t kFixed = 64 << 20;  // packing buffers, tables of angles and the program itself

std::string size_text(uint64_t bytes) { return std::to_string((bytes >> 20) + 1) + "MiB"; }

}  // namespace

States spill_states() { return {make_spill(), make_spill(), make_spill()}; }

Stream::Stream(const arch::Architecture& model, const WeightSource& weights,
               const Windows& windows, StreamOptions options, States states)
    : model_(model), weights_(weights), windows_(windows), options_(options),
      states_(std::move(states)) {
  for (size_t w = 0; w < windows_.size(); ++w) {
    starts_.push_back(starts_.back() + windows_[w].size());
    longest_ = std::max(longest_, windows_[w].size());
  }
  weights.check(model_.head);
  for (const Graph& graph : {model_.embedding(), model_.final_norm()}) check(graph);
  for (size_t i = 0; i < model_.layers; ++i) check(model_.layer(i));
  size_t tokens = std::max<size_t>(1, options_.batch_tokens);
  while (true) {  // a smaller batch costs speed, and changes no bit
    make_batches(tokens);
    try {
      peak_ = largest_step();
      return;
    } catch (const Error& e) {
      bool smallest = options_.batch_windows > 0 || batches_.size() == windows_.size();
      if (e.kind() != ErrorKind::limit || smallest) throw;
    }
    tokens /= 2;
  }
}

void Stream::make_batches(size_t tokens) {
  batches_.clear();
  largest_batch_ = 0;
  for (size_t first = 0; first < windows_.size();) {
    size_t last = first + 1;
    auto fits = [&] {
      if (options_.batch_windows > 0) return last - first < options_.batch_windows;
      return starts_[last + 1] - starts_[first] <= tokens;
    };
    while (last < windows_.size() && fits()) ++last;
    batches_.emplace_back(first, last);
    largest_batch_ = std::max(largest_batch_, starts_[last] - starts_[first]);
    first = last;
  }
}

// The smallest steps, single nodes: the largest of them, in all layers, is the least that works.
void Stream::check_memory() const {
  uint64_t most = 0;
  size_t layer = 0;
  std::string tensor;
  for (size_t i = 0; i < model_.layers; ++i) {
    Graph graph = model_.layer(i);
    uint64_t fixed = batch_bytes(graph);
    for (const Node& node : graph.nodes()) {
      uint64_t need = fixed;
      for (const WeightUse& use : node.op->weights) need += WeightSource::bytes(use, options_.precision);
      if (need <= most || node.op->weights.empty()) continue;
      most = need;
      layer = i;
      tensor = node.op->weights.front().tensor;
    }
  }
  if (most <= options_.memory) return;
  std::string least = size_text(options_.allowed_for(most));
  throw limit_error("needs " + least + " of memory in layer " + std::to_string(layer) + " (allowed are " +
                    std::to_string(options_.allowed() >> 20) + "MiB)")
      .tensor(tensor)
      .hint("--max-memory " + least + " is the least that works" +
            (largest_batch_ > longest_ ? "; or use a smaller --batch-size" : ""));
}

uint64_t Stream::largest_step() const {
  check_memory();
  uint64_t peak = 0;
  for (size_t i = 0; i < model_.layers; ++i) {  // all layers: experts may begin late
    Graph graph = model_.layer(i);
    for (const Wave& wave : waves(graph)) {
      uint64_t bytes = batch_bytes(graph);
      for (size_t n = wave.first; n < wave.last; ++n) {
        for (const WeightUse& use : graph.nodes()[n].op->weights) {
          bytes += WeightSource::bytes(use, options_.precision);
        }
      }
      peak = std::max(peak, bytes);
    }
  }
  return peak;
}

// What config.json says against what is stored, before any size is believed.
void Stream::check(const Graph& graph) const {
  for (const Node& node : graph.nodes()) {
    for (const WeightUse& use : node.op->weights) weights_.check(use);
  }
}

// Values, for the largest batch, and what hooks, experts, attention and packing need beside them.
uint64_t Stream::batch_bytes(const Graph& graph) const {
  uint64_t beside = 0;
  for (const Node& node : graph.nodes()) {
    uint64_t own = 0;
    for (const WeightUse& use : node.op->weights) own += use.cols + use.rows;
    beside = std::max(beside, own);
  }
  uint64_t widest = engine::Layout(graph).floats() + beside;
  uint64_t scores = uint64_t{3} * 128 * longest_ * static_cast<uint64_t>(threads());
  return (widest * largest_batch_ + scores) * sizeof(float) + kFixed;
}

// As many nodes a wave as fit into memory, one at the least; cuts end them, too.
std::vector<Stream::Wave> Stream::waves(const Graph& graph, std::span<const size_t> cuts) const {
  uint64_t fixed = batch_bytes(graph);
  uint64_t room = options_.memory > fixed ? options_.memory - fixed : 0;
  std::vector<Wave> result = {{0, 0}};
  uint64_t used = 0;
  for (size_t i = 0; i < graph.nodes().size(); ++i) {
    uint64_t need = 0;
    const std::vector<WeightUse>& uses = graph.nodes()[i].op->weights;
    for (const WeightUse& use : uses) need += WeightSource::bytes(use, options_.precision);
    bool cut = std::ranges::find(cuts, i) != cuts.end();
    if (used + need > room || cut) {
      result.back().last = i;
      result.push_back({i, i});
      used = 0;
    }
    used += need;
  }
  result.back().last = graph.nodes().size();
  return result;
}

Batch Stream::batch(size_t first, size_t last) const {
  Batch b;
  for (size_t w = first; w < last; ++w) b.add(windows_[w].data(), windows_[w].size());
  return b;
}

void Stream::transfer(bool write, int fd, uint64_t at, float* data, size_t floats) const {
  auto bytes = std::as_writable_bytes(std::span(data, floats));
  try {
    write ? write_all(fd, bytes, at, spill_directory()) : read_all(fd, bytes, at, spill_directory());
  } catch (Error& e) {
    throw std::move(e).hint("QPIPE_TMPDIR names a directory with more room");
  }
}

void Stream::read(size_t first, size_t count, float* out) const {
  transfer(false, states_[current_].get(), uint64_t{first} * model_.hidden * sizeof(float), out,
           count * model_.hidden);
}

void Stream::sync() {
  sync_fd(states_[current_].get(), "hidden states");
  durable_ = current_;
}

void Stream::resume(size_t done, size_t state, bool durable) {
  if (state >= states_.size()) throw defect_error("no such file of hidden states");
  done_ = done;
  current_ = state;
  durable_ = durable ? state : kNone;
}

void Stream::release() {
  loaded_.clear();
  loaded_.shrink_to_fit();
  pool_.shrink(0);
}

// The file that is neither being read nor kept for after a power cut.
size_t Stream::next_state() const {
  size_t i = 0;
  while (i == current_ || i == durable_) ++i;
  return i;
}

void Stream::embed() {
  Graph graph = model_.embedding();
  std::vector<std::vector<Weight>> weights = engine::load_weights(graph, weights_, options_.precision);
  for (auto [first, last] : batches_) {
    throw_if_interrupted();
    Batch b = batch(first, last);
    Values values(graph, pool_, b.rows());
    run(graph, 0, graph.nodes().size(), Step{b, options_.precision}, weights, values, false);
    Matrix out = values.make(graph.output());
    transfer(true, states_[0].get(), uint64_t{starts_[first]} * model_.hidden * sizeof(float),
             out.data, out.rows * out.cols);
  }
  done_ = current_ = 0;
  durable_ = kNone;
}

void Stream::check_finite(ConstMatrix x, size_t first_row, size_t layer) const {
  parallel_for(x.rows, [&](size_t r, int) {
    if (kernels::forward().all_finite(x.row(r), x.cols)) return;
    size_t row = first_row + r;
    auto w = static_cast<size_t>(std::upper_bound(starts_.begin(), starts_.end(), row) -
                                 starts_.begin() - 1);
    throw input_error("layer " + model_.layer_name(layer) +
                      " gives activations that are not finite (window " + std::to_string(w) +
                      ", token " + std::to_string(row - starts_[w]) + ")")
        .file(weights_.store().label())
        .hint("the weights are damaged, or the model overflows");
  });
}

// The last wave's memory serves where the ops are alike, as those of most layers are.
void Stream::load(const Graph& graph, const Wave& wave) {
  if (loaded_.size() != wave.last - wave.first) loaded_.clear();
  loaded_.resize(wave.last - wave.first);
  for (size_t i = wave.first; i < wave.last; ++i) {
    const std::vector<WeightUse>& uses = graph.nodes()[i].op->weights;
    std::vector<Weight>& loaded = loaded_[i - wave.first];
    loaded.resize(uses.size());
    for (size_t k = 0; k < uses.size(); ++k) {
      loaded[k] = weights_.load(uses[k], options_.precision, std::move(loaded[k]));
    }
  }
}

void Stream::run_wave(const Graph& graph, const Wave& wave, size_t layer, const Looker& looker,
                      Progress& progress) {
  load(graph, wave);
  // Where a value that crosses waves lies: values one after the other, rows inside.
  auto place = [&](Value v, size_t row) {
    uint64_t before = 0;
    for (Value u = 1; u < v; ++u) before += graph.width(u);
    return (before * rows() + uint64_t{row} * graph.width(v)) * sizeof(float);
  };
  bool last_wave = wave.last == graph.nodes().size();
  for (auto [first, last] : batches_) {
    throw_if_interrupted();
    Batch b = batch(first, last);
    Values values(graph, pool_, b.rows());
    for (Value v = 0; v < graph.values(); ++v) {
      bool before = v == 0 ? true : graph.nodes()[v - 1].out <= wave.first;
      if (!before || graph.last_use(v) < wave.first) continue;
      Matrix m = values.make(v);
      if (v == 0) {
        read(starts_[first], m.rows, m.data);
      } else {
        transfer(false, between_.get(), place(v, starts_[first]), m.data, m.rows * m.cols);
      }
    }
    Step step{b, options_.precision};
    step.hook = looker.hook;
    step.all_experts = options_.all_experts;
    if (looker.hook != nullptr) looker.hook->batch(b, first);
    run(graph, wave.first, wave.last, step, loaded_, values, false);
    if (looker.rehearsal) continue;
    if (looker.work != nullptr) looker.work->enter(wave.last, graph, values);
    for (Value v = 1; v < graph.values() && !last_wave; ++v) {
      bool made = v - 1 >= wave.first && v - 1 < wave.last;
      if (!made || graph.last_use(v) < wave.last) continue;
      Matrix m = values.make(v);
      transfer(true, between_.get(), place(v, starts_[first]), m.data, m.rows * m.cols);
    }
    if (last_wave) {
      Matrix out = values.make(graph.output());
      check_finite(out, starts_[first], layer);
      transfer(true, states_[next_state()].get(),
               uint64_t{starts_[first]} * model_.hidden * sizeof(float), out.data,
               out.rows * out.cols);
    }
    progress.add(uint64_t{b.rows()} * (wave.last - wave.first) / graph.nodes().size());
  }
}

void Stream::layer(size_t i, LinearHook* hook, Progress& progress) {
  if (i != done_) throw defect_error("layers are run in order");
  Graph graph = model_.layer(i);
  std::vector<Wave> parts = waves(graph);
  pool_.shrink(engine::Layout(graph).floats() * largest_batch_);
  if (parts.size() > 1 && !between_) between_ = make_spill();
  for (const Wave& wave : parts) run_wave(graph, wave, i, {hook}, progress);
  passes_ = 1;
  current_ = next_state();
  ++done_;
}

void Stream::layer(size_t i, LayerWork& work, Progress& progress) {
  if (i != done_) throw defect_error("layers are run in order");
  Graph graph = model_.layer(i);
  std::vector<size_t> cuts = work.cuts(i, graph);
  std::vector<Wave> parts = waves(graph, cuts);
  pool_.shrink(engine::Layout(graph).floats() * largest_batch_);
  if (!between_) between_ = make_spill();
  size_t nodes = 0;
  auto is_cut = [&](size_t node) { return std::ranges::find(cuts, node) != cuts.end(); };
  for (const Wave& wave : parts) {
    // A layer that begins with a cut has an empty first wave, in which its input is seen.
    if (is_cut(wave.first) && wave.last > wave.first) work.settle(wave.first);
    for (size_t r = 0, n = work.rehearsals(wave.first, wave.last); r < n; ++r) {
      run_wave(graph, wave, i, {work.watcher(r), nullptr, true}, progress);
      work.rehearsed(r);
      nodes += wave.last - wave.first;
    }
    nodes += wave.last - wave.first;
    run_wave(graph, wave, i, {nullptr, is_cut(wave.last) ? &work : nullptr, false}, progress);
  }
  passes_ = static_cast<double>(nodes) / static_cast<double>(graph.nodes().size());
  current_ = next_state();
  ++done_;
}

}  // namespace qp
