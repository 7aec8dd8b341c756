// Runs a model over token windows and writes what its linears saw.
#pragma once

#include <string>
#include <vector>

#include "lib/base/progress.h"
#include "lib/calibration/observer.h"
#include "lib/pipe/handover.h"
#include "lib/qmap/store.h"
#include "lib/stream/stream.h"

namespace qp {

struct CalibrateOptions {
  StreamOptions stream;
  Observer observer;
  Json described;          // Calibration::options
  Json provenance;         // this run's entry
};

struct CalibrateResult {
  Hash128 id;
  size_t resumed = 0;                  // layers taken over from an unfinished run
  size_t experts = 0;                  // seen in all layers
  std::vector<std::string> unreached;  // modules that no token came to
};

// The output refers to the model's files (tensors of an unnamed qmap are copied) and holds the
// statistics. Threads, memory and batch size change no bit of it. With a named output, every
// finished layer is durable, and an interrupted run can be resumed.
// Errors: input (activations that are not finite), limit (memory), system. The caller commits.
CalibrateResult calibrate(const Store& store, const arch::Architecture& model,
                          const engine::WeightSource& weights, const Windows& windows,
                          const CalibrateOptions& options, QmapOutput& output,
                          Progress& progress);

// The token windows of a calibrated checkpoint. Errors: input.
Windows read_windows(const Store& store);

}  // namespace qp
