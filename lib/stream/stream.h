// Runs a model over many windows, layer by layer, in memory that depends on neither the number of
// layers nor of windows: hidden states live in files that take turns, the weights of one layer
// (or of waves of it) in memory.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "lib/arch/arch.h"
#include "lib/base/file.h"
#include "lib/base/progress.h"
#include "lib/engine/graph.h"
#include "lib/text/windows.h"

namespace qp {

using engine::Batch, engine::ConstMatrix, engine::Graph, engine::LinearHook, engine::WeightSource;


struct StreamOptions {
  gemm::Precision precision = gemm::Precision::bf16;
  uint64_t memory = uint64_t{4} << 30;  // anonymous bytes the run may use
  size_t batch_windows = 0;             // windows at a time; 0: as many as fill batch_tokens
  size_t batch_tokens = 2048;
  bool all_experts = false;
  // Where `memory` is a share of what the user allows: that, and what it must be for a given share.
  uint64_t whole = 0;
  std::function<uint64_t(uint64_t)> whole_for;
  uint64_t allowed() const { return whole_for ? whole : memory; }
  uint64_t allowed_for(uint64_t bytes) const { return whole_for ? whole_for(bytes) : bytes; }
};

// Files of hidden states: two take turns, and the one last made durable is left alone.
using States = std::array<Fd, 3>;
States spill_states();  // without a name, gone with the process

// Work on the weights of a layer while it runs (quantizing them). The layer is cut into parts, none of
// which runs before everything that enters it was seen.
class LayerWork {
 public:
  virtual ~LayerWork() = default;
  // The nodes that parts begin at, ascending.
  virtual std::vector<size_t> cuts(size_t layer, const Graph& graph) = 0;
  // A batch has come to the part that begins at `node`; batches come in order.
  virtual void enter(size_t node, const Graph& graph, const engine::Values& values) = 0;
  // All have: weights of the part may change.
  virtual void settle(size_t node) = 0;
  // How often nodes [first, last), the part or as much of it as fits into memory, run beforehand for
  // their hook alone; who watches; and that they have: weights may change again.
  virtual size_t rehearsals(size_t first, size_t last) = 0;
  virtual LinearHook* watcher(size_t rehearsal) = 0;
  virtual void rehearsed(size_t rehearsal) = 0;
};

class Stream {
 public:
  // `states`: files for hidden states (make_spill(), or named ones to resume from).
  // Errors: limit, when not even the smallest step fits in options.memory, naming the tensor and
  // the smallest value that works.
  Stream(const arch::Architecture& model, const WeightSource& weights, const Windows& windows,
         StreamOptions options, States states);

  // Before layer 0.
  void embed();
  // Layer i, reading the states layer i - 1 left. Nothing that was written before it is touched
  // until it is done, so an interrupted layer can be run again.
  // Errors: input, activations that are not finite, naming the layer.
  void layer(size_t i, LinearHook* hook, Progress& progress);
  // The same, with work on its weights between its parts.
  void layer(size_t i, LayerWork& work, Progress& progress);
  // Takes up after `done` layers that an earlier process finished with the same files, the last of
  // them in file `state`, durable or not.
  void resume(size_t done, size_t state, bool durable);
  // Gives back memory that is kept from layer to layer.
  void release();
  size_t state() const { return current_; }  // the file of the last layer's result
  void sync();                               // makes it durable

  // Hidden states of rows [first, first + count), all windows one after the other.
  void read(size_t first, size_t count, float* out) const;
  size_t rows() const { return starts_.back(); }
  const std::vector<size_t>& starts() const { return starts_; }
  // Bytes the largest step takes with these options.
  uint64_t peak_bytes() const { return peak_; }
  // How often the last layer's tokens went through it: 1, and what ran beforehand for its hook alone,
  // in parts of the layer's nodes.
  double passes() const { return passes_; }

 private:
  static constexpr size_t kNone = 3;
  struct Wave {
    size_t first, last;  // nodes
  };
  // Who looks on when a wave runs, and whether its results count.
  struct Looker {
    LinearHook* hook = nullptr;
    LayerWork* work = nullptr;  // whose next part begins where the wave ends
    bool rehearsal = false;
  };
  void make_batches(size_t tokens);
  void check_memory() const;
  uint64_t largest_step() const;
  void check(const Graph& graph) const;
  std::vector<Wave> waves(const Graph& graph, std::span<const size_t> cuts = {}) const;
  Batch batch(size_t first_window, size_t last_window) const;
  uint64_t batch_bytes(const Graph& graph) const;
  void load(const Graph& graph, const Wave& wave);
  void run_wave(const Graph& graph, const Wave& wave, size_t layer, const Looker& looker,
                Progress& progress);
  void check_finite(ConstMatrix x, size_t first_row, size_t layer) const;
  void transfer(bool write, int fd, uint64_t at, float* data, size_t floats) const;

  const arch::Architecture& model_;
  const WeightSource& weights_;
  const Windows& windows_;
  StreamOptions options_;
  States states_;
  Fd between_;  // values that live from one wave to the next
  std::vector<size_t> starts_ = {0};  // first row of each window, and the number of rows
  std::vector<std::pair<size_t, size_t>> batches_;  // windows [first, last)
  size_t longest_ = 0, largest_batch_ = 0;
  size_t next_state() const;

  engine::Pool pool_;
  std::vector<std::vector<engine::Weight>> loaded_;  // of the wave that runs, or ran last

  size_t done_ = 0;     // layers whose result is in states_[current_]
  size_t current_ = 0;
  size_t durable_ = kNone;
  uint64_t peak_ = 0;
  double passes_ = 0;
};

}  // namespace qp
