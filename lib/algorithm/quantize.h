// Carries a plan out: reads a store tensor by tensor, writes the saved quantized checkpoint.
#pragma once

#include <functional>
#include <span>
#include <string>
#include <vector>

#include "lib/algorithm/layerwise.h"
#include "lib/base/progress.h"
#include "lib/pipe/handover.h"
#include "lib/plan/plan.h"
#include "lib/qmap/store.h"

namespace qp {

struct QuantizeOptions {
  bool refer = false;  // kept tensors stay references to the source's files
  // Companions of a pipeline's size (text encoders) stay references, too: for a result that lives
  // no longer than the pipe.
  bool refer_big_companions = false;
  Hash128 edits = {};     // names what was done to the store's model before (lib/transform)
  bool kv_cache = false;  // FP8 scales of keys and values, from the calibration
  Json provenance;        // this run's entry
  uint64_t memory = uint64_t{4} << 30;  // anonymous bytes that running the model may use
  gemm::Precision precision = gemm::Precision::bf16;  // of its products
  std::function<void(const Json&)> log;  // a line of each tensor and layer quantized by running it
  std::function<void(const std::string&)> warn;
};

struct QuantizeResult {
  Hash128 id;
  uint64_t output_bytes = 0;
  size_t resumed = 0;  // tensors taken over from an unfinished run
};

// Errors: usage, an algorithm that does not go with its scheme, or needs the token windows of
// qcalibrate.
void check_algorithms(const Store& store, const Plan& plan);

// One result that is wanted of a source.
struct PlanRun {
  const Plan* plan;
  QuantizeOptions options;
  QmapOutput* output;
};

// Makes all of them in one pass over the source: rows are read once for all, layers are run for one
// result after the other, the unquantized model once for all. Each is what run_plan() makes of it
// alone. `memory` and `precision` are those of the first. Nothing is committed: when one fails, all
// do. Extent offsets follow from a plan alone, so thread count and resuming change nothing. Errors:
// as Quantizer and run_layerwise; system (disk). The outputs are committed by the caller.
std::vector<QuantizeResult> run_plans(const Store& store, std::span<const PlanRun> runs,
                                      Progress& progress);
QuantizeResult run_plan(const Store& store, const Plan& plan, const QuantizeOptions& options,
                        QmapOutput& output, Progress& progress);

}  // namespace qp
