// Watches a layer run and sums what enters its linears.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "lib/calibration/fixed.h"
#include "lib/engine/graph.h"
#include "lib/engine/op.h"
#include "lib/qmap/calibration.h"

namespace qp {

// The sums of one input of linears while they are made; InputStatistics without its extent.
struct InputSums {
  std::string module;
  std::vector<std::string> readers;
  uint64_t rows = 0;
  std::vector<Fixed> sum_abs, sum_sq;  // per channel
  std::vector<float> amax;             // per channel
  std::vector<float> history;          // amax of each window
  std::vector<uint64_t> bins;          // empty, or kBins counts
};

constexpr uint32_t kHistogramBins = 1 << 14;

// The bytes of InputStatistics::extent; `meta` receives everything but the extent.
std::vector<std::byte> pack(const InputSums& sums, InputStatistics& meta);
// The inverse. Errors: defect, when the bytes have another size (a store has checked them).
InputSums unpack(const InputStatistics& meta, std::span<const std::byte> bytes, uint64_t windows);

struct CollectOptions {
  bool histogram = false;
  uint64_t windows = 0;  // of the whole run
};

class Collector : public engine::LinearHook {
 public:
  explicit Collector(CollectOptions options) : options_(options) {}

  // Expects the linears of a layer. Those that no row reaches are there all the same, with 0 rows.
  void begin(const engine::Graph& layer);
  std::vector<InputSums> take_inputs() { return std::move(inputs_); }
  std::vector<RouterStatistics> take_routers() { return std::move(routers_); }
  std::vector<CacheStatistics> take_caches() { return std::move(caches_); }

  void batch(const engine::Batch& batch, size_t first_window) override;
  // Errors: input, a number that is not finite, or too large to sum.
  engine::ConstMatrix before(const engine::LinearUse& linear, engine::ConstMatrix x,
                             std::span<const uint32_t> rows, std::vector<float>& storage) override;
  void keys_values(const std::string& block, engine::ConstMatrix k,
                   engine::ConstMatrix v) override;
  void routed(const std::string& module, std::span<const uint32_t> ids, size_t top_k,
              size_t experts) override;

 private:
  void add_columns(InputSums& sums, engine::ConstMatrix x,
                   const std::vector<std::pair<size_t, size_t>>& windows, size_t first_window);
  void add_histogram(InputSums& sums, engine::ConstMatrix x);

  CollectOptions options_;
  const engine::Batch* batch_ = nullptr;
  size_t first_window_ = 0;
  std::vector<InputSums> inputs_;
  std::map<std::string, size_t> input_of_;  // module -> index of its input
  std::vector<RouterStatistics> routers_;
  std::vector<CacheStatistics> caches_;
};

}  // namespace qp
