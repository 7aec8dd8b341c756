#include "lib/calibration/calibrate.h"

#include <chrono>
#include <cstring>

#include "lib/base/error.h"
#include "lib/base/interrupt.h"
#include "lib/calibration/checkpoint.h"
#include "lib/calibration/collector.h"
#include "lib/calibration/observer.h"
#include "lib/kernels/kernels.h"
#include "lib/qmap/copy.h"
#include "lib/qmap/identity.h"
#include "lib/qmap/writer.h"

namespace qp {
namespace {

// A kill costs no finished layer; a power cut costs those of this time. Layers that take longer are
// all durable.
constexpr auto kSyncEvery = std::chrono::seconds(10);

std::vector<std::byte> pack_windows(const Windows& windows) {
  std::vector<uint32_t> words;
  for (size_t w = 0; w < windows.size(); ++w) {
    words.push_back(static_cast<uint32_t>(windows[w].size()));
  }
  for (int32_t id : windows.ids) words.push_back(static_cast<uint32_t>(id));
  auto bytes = std::as_bytes(std::span(words));
  return {bytes.begin(), bytes.end()};
}

// One run: what it writes, and how far it is.
class Run {
 public:
  Run(const Store& store, const arch::Architecture& model, const engine::WeightSource& weights,
      const Windows& windows, const CalibrateOptions& options, QmapOutput& output,
      Progress& progress)
      : store_(store), arch_(model), windows_(windows), options_(options), output_(output),
        progress_(progress), writer_(output.fd(), output.label()), model_(store.model()),
        tokens_(pack_windows(windows)),
        checkpoint_(named() ? output.label() + ".partial" : "", run_name(), output.resuming()),
        stream_(model, weights, windows, options.stream, checkpoint_.take_states()) {}

  CalibrateResult run() {
    CalibrateResult result;
    try {
      carry(store_, model_, writer_);
      calibration_.options = options_.described;
      calibration_.windows = windows_.size();
      calibration_.token_count = stream_.rows();
      calibration_.tokens = writer_.append(tokens_);
      layers(result);
      report(result);
      model_.provenance.push_back(options_.provenance);
      model_.calibration = std::make_shared<const Calibration>(std::move(calibration_));
      store_.throw_if_changed();
      result.id = writer_.finish(model_, output_.base(), output_.unnamed(), output_.sync());
    } catch (const Interrupted&) {
      leave();
      throw;
    } catch (Error& e) {
      bool worth = e.kind() == ErrorKind::system;  // a full disk may have room later
      if (worth && leave() && e.hint().empty()) throw std::move(e).hint("continue with --resume");
      throw;
    }
    return result;
  }

 private:
  bool named() const { return !output_.unnamed() && output_.label() != "standard output"; }

  // Everything that the statistics depend on.
  std::string run_name() const {
    Hasher128 h;
    std::string text = identity(store_.model()).hex() + options_.described.dump();
    h.update(std::as_bytes(std::span(text)));
    h.update(tokens_);
    return h.digest().hex() + " " + QP_VERSION + " " + gemm::backend(options_.stream.precision);
  }

  // True when there is something to resume from.
  bool leave() {
    bool worth = checkpoint_.named() && done_ > 0;
    output_.keep_partial(worth);
    if (worth) checkpoint_.keep();
    return worth;
  }

  void layers(CalibrateResult& result) {
    uint64_t total = uint64_t{stream_.rows()} * arch_.layers;
    progress_.begin("calibrating", total, Progress::Unit::steps);
    for (const Json& line : checkpoint_.finished()) take_over(line);
    result.resumed = done_;
    progress_.add(uint64_t{stream_.rows()} * done_);
    if (done_ > 0) {
      stream_.resume(done_, checkpoint_.state(), checkpoint_.durable());
    } else {
      stream_.embed();
    }
    Collector collector({needs_histogram(options_.observer), windows_.size()});
    for (size_t i = done_; i < arch_.layers; ++i) {
      progress_.item(arch_.layer_name(i));
      collector.begin(arch_.layer(i));
      stream_.layer(i, &collector, progress_);
      add(collector);
      done_ = i + 1;
    }
    progress_.end();
  }

  // A finished layer's statistics, into the file and, if that has a name, into the journal.
  void add(Collector& collector) {
    Calibration layer;
    layer.windows = calibration_.windows;
    layer.tokens = calibration_.tokens;
    for (const InputSums& sums : collector.take_inputs()) {
      InputStatistics meta;
      std::vector<std::byte> bytes = pack(sums, meta);
      meta.extent = writer_.append(bytes);
      meta.observed = observe(sums, options_.observer);
      layer.inputs.push_back(std::move(meta));
    }
    layer.routers = collector.take_routers();
    layer.caches = collector.take_caches();
    if (checkpoint_.named()) {
      auto now = std::chrono::steady_clock::now();
      bool sync = output_.sync() && now - synced_ > kSyncEvery;
      if (sync) {
        sync_fd(output_.fd(), output_.label());
        stream_.sync();
        synced_ = std::chrono::steady_clock::now();
      }
      layer.token_count = calibration_.token_count;
      checkpoint_.add(to_json(layer), stream_.state(), sync);
    }
    append(layer);
  }

  void append(const Calibration& layer) {
    auto move = [](auto& to, const auto& from) { to.insert(to.end(), from.begin(), from.end()); };
    move(calibration_.inputs, layer.inputs);
    move(calibration_.routers, layer.routers);
    move(calibration_.caches, layer.caches);
  }

  void take_over(const Json& line) {
    Calibration layer = calibration_from_json(line);
    for (const InputStatistics& s : layer.inputs) {
      if (!(writer_.place(s.extent.length).offset == s.extent.offset)) {
        throw input_error("does not fit the unfinished file").file(output_.label() + ".partial.journal").hint(
            "use --force to start again");
      }
    }
    append(layer);
    ++done_;
  }

  void report(CalibrateResult& result) const {
    for (const RouterStatistics& r : calibration_.routers) result.experts += r.counts.size();
    for (const InputStatistics& s : calibration_.inputs) {
      if (s.rows == 0) result.unreached.push_back(s.module);
    }
  }

  const Store& store_;
  const arch::Architecture& arch_;
  const Windows& windows_;
  const CalibrateOptions& options_;
  QmapOutput& output_;
  Progress& progress_;
  QmapWriter writer_;
  Model model_;
  std::vector<std::byte> tokens_;
  Checkpoint checkpoint_;
  Stream stream_;
  Calibration calibration_;
  size_t done_ = 0;  // layers
  std::chrono::steady_clock::time_point synced_ = std::chrono::steady_clock::now();
};

}  // namespace

CalibrateResult calibrate(const Store& store, const arch::Architecture& model,
                          const engine::WeightSource& weights, const Windows& windows,
                          const CalibrateOptions& options, QmapOutput& output,
                          Progress& progress) {
  return Run(store, model, weights, windows, options, output, progress).run();
}

Windows read_windows(const Store& store) {
  if (!store.model().calibration) {
    throw usage_error("holds no token windows").file(store.label()).hint("make it with qcalibrate");
  }
  const Calibration& c = *store.model().calibration;
  if (c.windows == 0) {
    throw usage_error("holds statistics, but no token windows").file(store.label()).hint("run qcalibrate --text on the model");
  }
  store.verify(c.tokens, "token windows");
  std::span<const std::byte> bytes = store.stored(c.tokens);
  Windows windows;
  windows.ids.resize(c.token_count);
  std::memcpy(windows.ids.data(), bytes.data() + 4 * c.windows, 4 * c.token_count);
  for (uint64_t w = 0; w < c.windows; ++w) {
    uint32_t n;
    std::memcpy(&n, bytes.data() + 4 * w, 4);
    windows.offsets.push_back(windows.offsets.back() + n);
  }
  if (windows.offsets.back() != c.token_count) {
    throw input_error("has token windows that do not add up to their tokens").file(store.label());
  }
  return windows;
}

}  // namespace qp
