// Runs a model over many windows, layer by layer, in memory that depends on neither the number of
// layers nor of windows: hidden states live in two files that take turns, the weights of one layer
// (or of waves of it) in memory.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "lib/arch/arch.h"
#include "lib/base/file.h"
#include "lib/base/progress.h"
#include "lib/engine/graph.h"

namespace qp {

using engine::Batch, engine::ConstMatrix, engine::Graph, engine::LinearHook, engine::WeightSource;

// Token ids, a vector per window.
using Windows = std::vector<std::vector<int32_t>>;


struct StreamOptions {
  gemm::Precision precision = gemm::Precision::bf16;
  uint64_t memory = uint64_t{4} << 30;  // anonymous bytes the run may use
  size_t batch_windows = 0;             // windows at a time; 0: as many as fill batch_tokens
  size_t batch_tokens = 2048;
  bool all_experts = false;
};

class Stream {
 public:
  // `states`: two files for hidden states (make_spill(), or named ones to resume from).
  // Errors: limit, when not even the smallest step fits in options.memory, naming the tensor and
  // the smallest value that works.
  Stream(const arch::Architecture& model, const WeightSource& weights, const Windows& windows,
         StreamOptions options, std::array<Fd, 2> states);

  // Before layer 0.
  void embed();
  // Layer i, reading the states layer i - 1 left. Nothing that was written before it is touched
  // until it is done, so an interrupted layer can be run again.
  // Errors: input, activations that are not finite, naming the layer.
  void layer(size_t i, LinearHook* hook, Progress& progress);
  // Takes up after `done` layers that an earlier process finished with the same two files.
  void resume(size_t done) { done_ = done; }
  void sync();  // the states of the last layer are durable

  // Hidden states of rows [first, first + count), all windows one after the other.
  void read(size_t first, size_t count, float* out) const;
  size_t rows() const { return starts_.back(); }
  const std::vector<size_t>& starts() const { return starts_; }
  // Bytes the largest step takes with these options.
  uint64_t peak_bytes() const { return peak_; }

 private:
  struct Wave {
    size_t first, last;  // nodes
  };
  void check(const Graph& graph) const;
  std::vector<Wave> waves(const Graph& graph, size_t layer) const;
  Batch batch(size_t first_window, size_t last_window) const;
  uint64_t batch_bytes(const Graph& graph) const;
  void run_wave(const Graph& graph, const Wave& wave, size_t layer, LinearHook* hook,
                Progress& progress);
  void check_finite(ConstMatrix x, size_t first_row, size_t layer) const;
  void transfer(bool write, int fd, uint64_t at, float* data, size_t floats) const;

  const arch::Architecture& model_;
  const WeightSource& weights_;
  const Windows& windows_;
  StreamOptions options_;
  std::array<Fd, 2> states_;
  Fd between_;  // values that live from one wave to the next
  std::vector<size_t> starts_ = {0};
  std::vector<std::pair<size_t, size_t>> batches_;  // windows [first, last)
  size_t longest_ = 0, largest_batch_ = 0;
  size_t done_ = 0;  // layers whose result is in states_[done_ % 2]
  uint64_t peak_ = 0;
};

}  // namespace qp
