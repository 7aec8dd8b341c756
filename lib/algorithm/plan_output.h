// One result of a run: its file laid out by a plan, what has been written of it, its journal. What
// fills it are rows of the source (data-free algorithms, copies) and lib/algorithm/layerwise.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <unordered_map>
#include <vector>

#include "lib/algorithm/activations.h"
#include "lib/algorithm/importance.h"
#include "lib/algorithm/journal.h"
#include "lib/algorithm/layerwise.h"
#include "lib/algorithm/quantize.h"
#include "lib/algorithm/quantizer.h"
#include "lib/algorithm/ranges.h"
#include "lib/algorithm/row_batch.h"
#include "lib/qmap/writer.h"

namespace qp {

class PlanOutput : public ResultStore {
 public:
  // `maxima`: of tensors, found so far for any result. `flush` walks the rows added so far. Keeps
  // references to all. Errors: ActivationScales.
  PlanOutput(const Store& store, const PlanRun& run, Progress& progress,
             std::map<std::string, float>& maxima, std::function<void()> flush);
  ~PlanOutput() override;

  // Places every extent, and takes up what an earlier run has left. Errors: system; usage, an
  // unfinished file of another run.
  void begin();
  const Plan& plan() const { return plan_; }

  // Whether an earlier run has finished entry i; then it is taken as done.
  bool take_over(size_t i);
  bool by_layers(size_t i) const { return by_layers_.contains(i); }
  // What add() wants to know of all rows of entry i before any is quantized; may flush.
  float range(size_t i);
  // Adds the rows of entry i.
  void add(size_t i, float range, RowBatch& batch);

  // Whether entries are left to run_layerwise(), and what that needs. `running`: the model as it is
  // run, experts apart where the plan has them apart.
  bool runs_model() const { return !by_layers_.empty(); }
  const Store& running() const { return apart_ ? *apart_ : store_; }
  const arch::Architecture& architecture() const { return *arch_; }
  const Windows& windows() const { return windows_; }
  const QuantizeOptions& options() const { return options_; }
  // ResultStore
  bool has(size_t entry) const override { return done_[entry]; }
  void put(size_t entry, std::span<const std::byte> codes, const SmallParts& small) override;
  Tensor get(size_t entry, Model& model) const override;

  // Everything is written: closes the file. The journal stays until the output has its name.
  QuantizeResult finish();
  // After an error: true when there is something that a later run can take up.
  bool keep_partial();
  void give_up();

 private:
  void lay_out();
  std::vector<PartSpec> layer_parts(size_t i, const Scheme& scheme) const;
  Part computed(const PartSpec& spec, std::span<const std::byte> bytes);
  void add_cache_scales();
  void open_journal();
  bool intact(size_t i, const Journal::Hashes& hashes);
  void take_experts_apart();
  void prepare_layers();
  std::string data_free(size_t i) const;
  void guard(RowJob& job, size_t i);
  [[noreturn]] void explain(Error& error, size_t i) const;
  void finished(size_t i);
  void add_copy(const PlanEntry& e, Tensor& t, std::vector<RowJob>& jobs);
  void add_quantize(const PlanEntry& e, Tensor& t, const std::string& algorithm, float range,
                    std::vector<RowJob>& jobs);
  void write_small(Tensor& t, const SmallParts& small);

  const Store& store_;
  const Plan& plan_;
  const QuantizeOptions& options_;
  QmapOutput& output_;
  Progress& progress_;
  ActivationScales activations_;
  Importance importance_;
  Ranges ranges_;
  QmapWriter writer_;
  Model model_;
  size_t resumed_ = 0;
  std::vector<bool> done_;      // by entry
  std::set<size_t> by_layers_;  // entries that are quantized by running the model ..
  std::set<size_t> replaced_;   // scales of the cache that were there before
  Windows windows_;             // .. over these
  std::unique_ptr<Store> apart_;
  std::unique_ptr<engine::WeightSource> weights_;
  std::unique_ptr<arch::Architecture> arch_;
  std::optional<Journal> journal_;
  const std::function<void(uint64_t)> advance_ = [this](uint64_t n) { progress_.add(n); };
  std::vector<RowsScratch> scratch_;
  std::unordered_map<std::string_view, size_t> left_;  // unfinished tensors of a layer
};

}  // namespace qp
