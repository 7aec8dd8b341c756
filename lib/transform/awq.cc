// AWQ's scale search (Lin et al., 2023; reference/int4-formats.md 2.5), on the full-precision
// model: per fold, the outputs of the region behind it with rounded weights are compared with those
// without.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <limits>

#include "lib/algorithm/grid.h"
#include "lib/arch/arch.h"
#include "lib/base/error.h"
#include "lib/base/interrupt.h"
#include "lib/base/parallel.h"
#include "lib/calibration/calibrate.h"
#include "lib/stream/capture.h"
#include "lib/stream/stream.h"
#include "lib/transform/regions.h"
#include "lib/transform/scale_journal.h"
#include "lib/transform/steps.h"

namespace qp::transform {
namespace {

using engine::ConstMatrix, engine::Graph, engine::Weight, engine::WeightUse;

constexpr size_t kSampleRows = 2048;  // but a window is never cut

struct Settings {
  size_t ratios = 20, tokens = 16384;
  bool duo = true, pre_scale = false;
};

// Keeps the rows that enter the down projection of an expert.
class InnerHook : public engine::LinearHook {
 public:
  InnerHook(const std::string& module, std::vector<double>& sum, size_t& rows)
      : module_(module), sum_(sum), rows_(rows) {}
  ConstMatrix before(const engine::LinearUse& linear, ConstMatrix x, std::span<const uint32_t>,
                     std::vector<float>&) override {
    if (linear.module != module_) return x;
    for (size_t r = 0; r < x.rows; ++r) {
      for (size_t c = 0; c < x.cols; ++c) sum_[c] += static_cast<double>(std::fabs(x.row(r)[c]));
    }
    rows_ += x.rows;
    return x;
  }

 private:
  const std::string& module_;
  std::vector<double>& sum_;
  size_t& rows_;
};

// Tokens that a region runs over at once.
struct Sample {
  engine::Batch batch;
  size_t first_row = 0;
  size_t end() const { return first_row + batch.rows(); }
};

// Whole windows, about `tokens` of them in all.
std::vector<Sample> make_samples(const Windows& windows, size_t tokens) {
  std::vector<Sample> samples;
  for (size_t w = 0, rows = 0; w < windows.size();) {
    Sample s;
    s.first_row = rows;
    do {
      s.batch.add(windows[w].data(), windows[w].size());
      rows += windows[w].size();
      ++w;
    } while (w < windows.size() && rows - s.first_row + windows[w].size() <= kSampleRows);
    if (rows > tokens && !samples.empty()) break;
    samples.push_back(std::move(s));
  }
  return samples;
}

// One fold's search.
class Search {
 public:
  Search(const Subject& subject, const engine::WeightSource& weights,
         const std::vector<Sample>& samples, const Capture& capture, const Graph& graph,
         const Fold& fold, const Settings& settings)
      : subject_(subject), weights_(weights), samples_(samples), capture_(capture), graph_(graph),
        fold_(fold), settings_(settings), precision_(subject.options.precision) {
    for (const Consumer& c : fold.consumers) {
      if (subject.entry(c.module, "awq") != nullptr) seeds_.push_back(c);
    }
  }

  const std::vector<Consumer>& seeds() const { return seeds_; }

  // The factors of the producer's channels, of least error; empty: 1 is best.
  std::vector<float> run(double& error_before, double& error_after) {
    std::vector<Region> regions = find_regions(graph_, seeds_);
    regions_ = regions.size();
    std::vector<std::vector<float>> candidates = {std::vector<float>(fold_.channels, 1.0f)};
    inputs_.assign(fold_.channels, 0);
    weight_share();
    mean_input(regions);
    for (size_t i = 0; i < settings_.ratios; ++i) {
      candidates.push_back(
          candidate(static_cast<double>(i) / static_cast<double>(settings_.ratios)));
    }
    std::vector<double> errors(candidates.size());
    for (const Region& region : regions) measure(region, candidates, errors);
    size_t best = 0;
    for (size_t i = 1; i < errors.size(); ++i) {
      if (errors[i] < errors[best]) best = i;
    }
    double n = static_cast<double>(std::max<size_t>(1, rows()));
    error_before = errors[0] / n;
    error_after = errors[best] / n;
    ratio_ = best == 0 ? -1 : static_cast<double>(best - 1) / static_cast<double>(settings_.ratios);
    return best == 0 ? std::vector<float>() : candidates[best];
  }
  double ratio() const { return ratio_; }  // -1: none
  // How often the tokens went through what is behind the fold.
  double passes() const {
    return static_cast<double>(forward_) / static_cast<double>(rows() * std::max<size_t>(1, regions_));
  }

 private:
  size_t rows() const { return samples_.back().end(); }

  std::vector<ConstMatrix> inputs(const Region& region, const Sample& b,
                                  std::vector<std::vector<float>>& room) const {
    std::vector<ConstMatrix> in;
    room.clear();
    for (engine::Value v : region.inputs)
      room.push_back(capture_.read(v, b.first_row, b.batch.rows()));
    for (size_t i = 0; i < room.size(); ++i) {
      in.push_back({room[i].data(), b.batch.rows(), graph_.width(region.inputs[i])});
    }
    return in;
  }

  std::vector<std::vector<Weight>> load(const Region& region) const {
    uint64_t need = 0, largest = 0, widths = 0;
    for (size_t n : region.nodes) {
      widths += graph_.width(graph_.nodes()[n].out);
      for (const WeightUse& use : graph_.nodes()[n].op->weights) {
        need += engine::WeightSource::bytes(use, precision_);
        largest = std::max<uint64_t>(largest, uint64_t{use.rows} * use.cols);
      }
    }
    for (engine::Value v : region.inputs) widths += graph_.width(v);
    size_t most = 0;
    for (const Sample& s : samples_) most = std::max(most, s.batch.rows());
    need += 12 * largest + most * sizeof(float) * widths;
    if (need > subject_.options.memory / 2) {
      throw limit_error("needs " + std::to_string(2 * need / 1'000'000 + 1) +
                        "MB of memory for the search of its scales")
          .file(subject_.store.label())
          .tensor(seeds_.front().use.tensor)
          .hint("use --max-memory " + std::to_string(2 * need / 1'000'000 + 1) + "MB or more");
    }
    std::vector<std::vector<Weight>> loaded;
    for (size_t n : region.nodes)
      loaded.push_back(load_weights(graph_.nodes()[n], weights_, precision_));
    return loaded;
  }

  // mean |x| per channel of the producer.
  void mean_input(const std::vector<Region>& regions) {
    std::vector<double> sum(fold_.of.size());
    size_t rows = 0;
    for (const Sample& b : samples_) {
      if (!fold_.inside) {
        std::vector<float> x = capture_.read(fold_.value, b.first_row, b.batch.rows());
        for (size_t i = 0; i < x.size(); ++i)
          sum[i % sum.size()] += static_cast<double>(std::fabs(x[i]));
        rows += b.batch.rows();
        continue;
      }
      RegionRunner runner(graph_, regions.front());
      std::vector<std::vector<float>> room;
      InnerHook hook(fold_.consumers.front().module, sum, rows);
      engine::Step step{b.batch, precision_};
      step.hook = &hook;
      auto in = inputs(regions.front(), b, room);
      forward_ += b.batch.rows();
      runner.run(step, loaded_.empty() ? loaded_ = load(regions.front()) : loaded_, in);
    }
    std::vector<size_t> seen(fold_.channels);
    for (size_t c = 0; c < fold_.of.size(); ++c) {
      inputs_[fold_.of[c]] += sum[c] / static_cast<double>(std::max<size_t>(1, rows));
      ++seen[fold_.of[c]];
    }
    for (size_t c = 0; c < fold_.channels; ++c)
      inputs_[c] /= static_cast<double>(std::max<size_t>(1, seen[c]));
  }

  // mean over all rows of |w| / max |w| of its group, per channel.
  void weight_share() {
    std::vector<double> sum(fold_.of.size());
    size_t rows = 0;
    for (const Consumer& c : seeds_) {
      const PlanEntry& entry = *subject_.entry(c.module, "awq");
      std::vector<float> w = weights_.matrix(c.use);
      size_t k = c.use.cols, group = subject_.scheme(entry).group_of(k);
      for (size_t r = 0; r < c.use.rows; ++r) {
        for (size_t g = 0; g < k; g += group) {
          size_t end = std::min(k, g + group);
          float most = 0;
          for (size_t i = g; i < end; ++i) most = std::max(most, std::fabs(w[r * k + i]));
          for (size_t i = g; i < end; ++i)
            sum[i] += static_cast<double>(std::fabs(w[r * k + i]) / (most + 1e-6f));
        }
      }
      rows += c.use.rows;
    }
    share_.assign(fold_.channels, 0);
    std::vector<size_t> seen(fold_.channels);
    for (size_t c = 0; c < sum.size(); ++c) {
      share_[fold_.of[c]] += sum[c] / static_cast<double>(rows);
      ++seen[fold_.of[c]];
    }
    for (size_t c = 0; c < fold_.channels; ++c)
      share_[c] /= static_cast<double>(std::max<size_t>(1, seen[c]));
  }

  std::vector<float> candidate(double ratio) const {
    std::vector<float> s(fold_.channels, 1.0f);
    double most = 0, least = std::numeric_limits<double>::infinity();
    std::vector<double> raw(fold_.channels);
    for (size_t c = 0; c < s.size(); ++c) {
      if (inputs_[c] == 0 && share_[c] == 0)
        continue;  // a channel of the producer that is not read
      double x = std::pow(inputs_[c], ratio);
      raw[c] = std::max(settings_.duo ? x / (std::pow(share_[c], 1 - ratio) + 1e-4) : x, 1e-4);
      most = std::max(most, raw[c]);
      least = std::min(least, raw[c]);
    }
    for (size_t c = 0; c < s.size(); ++c) {
      double f = raw[c] / std::sqrt(most * least);
      if (raw[c] > 0 && std::isfinite(f)) s[c] = static_cast<float>(f);
    }
    return s;
  }

  // A seed's weights, scaled, rounded as the scheme does and scaled back.
  gemm::Packed rounded(size_t seed, const std::vector<float>& scales) const {
    const Consumer& c = seeds_[seed];
    const PlanEntry& entry = *subject_.entry(c.module, "awq");
    std::vector<float> w = weights_.matrix(c.use), s = fold_.spread(scales);
    size_t k = c.use.cols;
    std::vector<float> most(c.use.rows);
    parallel_for(c.use.rows, [&](size_t r, int) {
      for (size_t i = 0; i < k; ++i) {
        float& x = w[r * k + i];
        x *= s[i];
        most[r] = std::max(most[r], std::fabs(x));
      }
    });
    Grid grid(subject_.scheme(entry), entry.tensor->dtype, c.use.rows, k,
              *std::ranges::max_element(most));
    grid.fit_all(w.data(), {}, Fit::range);
    std::vector<float> q(w.size());
    grid.round_all(w.data(), q.data());
    parallel_for(c.use.rows, [&](size_t r, int) {
      float* out = w.data() + r * k;
      grid.values(q.data() + r * k, r, out);
      for (size_t i = 0; i < k; ++i) out[i] /= s[i];
    });
    gemm::Packed packed(c.use.rows, k, precision_);
    packed.pack_all(w.data(), k);
    return packed;
  }

  // Adds the squared errors of a region's outputs with each candidate's weights.
  void measure(const Region& region, const std::vector<std::vector<float>>& candidates,
               std::vector<double>& errors) {
    std::vector<std::vector<Weight>> weights = loaded_.empty() ? load(region) : std::move(loaded_);
    loaded_.clear();
    RegionRunner runner(graph_, region);
    std::vector<RowFile> base;
    for (engine::Value v : region.outputs) base.emplace_back(graph_.width(v));
    for (size_t i = 0; i <= candidates.size(); ++i) {
      throw_if_interrupted();
      for (size_t k = 0; i > 0 && k < seeds_.size(); ++k) {
        auto at = std::ranges::find(region.nodes, seeds_[k].node);
        if (at == region.nodes.end()) continue;
        weights[static_cast<size_t>(at - region.nodes.begin())][seeds_[k].weight].packed =
            rounded(k, candidates[i - 1]);
      }
      double error = 0;
      for (const Sample& b : samples_) {
        std::vector<std::vector<float>> room;
        runner.run({b.batch, precision_}, weights, inputs(region, b, room));
        forward_ += b.batch.rows();
        for (size_t o = 0; o < base.size(); ++o) {
          ConstMatrix y = runner.output(o);
          if (i == 0)
            base[o].write(b.first_row, y);
          else
            error += distance(y, base[o].read(b.first_row, y.rows));
        }
      }
      if (i > 0) errors[i - 1] += error;
    }
  }

  static double distance(ConstMatrix y, const std::vector<float>& was) {
    std::vector<double> rows(y.rows);
    parallel_for(y.rows, [&](size_t r, int) {
      double sum = 0;
      for (size_t c = 0; c < y.cols; ++c) {
        double d = static_cast<double>(y.row(r)[c]) - static_cast<double>(was[r * y.cols + c]);
        sum += d * d;
      }
      rows[r] = sum;
    });
    double sum = 0;
    for (double d : rows) sum += d;
    return sum;
  }

  const Subject& subject_;
  const engine::WeightSource& weights_;
  const std::vector<Sample>& samples_;
  const Capture& capture_;
  const Graph& graph_;
  const Fold& fold_;
  const Settings& settings_;
  gemm::Precision precision_;
  std::vector<Consumer> seeds_;
  std::vector<std::vector<Weight>> loaded_;  // of an expert, once its inputs were seen
  std::vector<double> inputs_, share_;
  double ratio_ = -1;
  uint64_t forward_ = 0;  // tokens that went through a region, all regions together
  size_t regions_ = 0;
};

// AWQ weighs what rounding does: there must be rounding, to a grid.
void check_scheme(const Subject& subject, const PlanEntry& e) {
  if (subject.entry(e.info.module, "awq") != &e) return;
  if (subject.step("awq").flag("pre_scale", false)) {
    std::string_view last = parse_algorithm(e.algorithm).back().algorithm->name;
    if (last == "autoround") {
      throw usage_error("awq: pre_scale goes with algorithms that choose codes matrix by matrix, not with autoround")
          .file(subject.store.label())
          .hint("leave pre_scale out, or use gptq");
    }
  }
  std::string why =
      e.scheme < 0 ? "nothing is rounded without a scheme" : Grid::why_not(subject.scheme(e));
  if (why.empty()) return;
  throw usage_error("awq has nothing to weigh: " + why)
      .file(subject.store.label())
      .tensor(e.tensor->name)
      .hint(e.scheme < 0 ? "give -s SCHEME" : "use another scheme, or leave awq out");
}

// Linears whose input nothing before them can scale: those that are quantized get a pre_scale.
void add_unfolded(const Subject& subject, const Graph& graph, std::vector<Fold>& folds) {
  for (Fold& f : find_unfolded(graph, folds)) {
    std::erase_if(f.consumers, [&](const Consumer& c) {
      return subject.entry(c.module, "awq") == nullptr;
    });
    if (!f.consumers.empty()) folds.push_back(std::move(f));
  }
}

}  // namespace

Edits awq(const Subject& subject) {
  AlgorithmStep step = subject.step("awq");
  Settings settings;
  settings.ratios = static_cast<size_t>(step.number("ratios", 20, 1, 1000));
  settings.tokens = static_cast<size_t>(step.number("tokens", 16384, 1, 1e9));
  settings.duo = step.flag("duo", true);
  settings.pre_scale = step.flag("pre_scale", false);
  for (const PlanEntry& e : subject.plan.entries) check_scheme(subject, e);
  Windows windows = read_windows(subject.store);
  engine::WeightSource weights(subject.store);
  auto model = arch::make_architecture(subject.store.model(), weights);
  StreamOptions options;
  options.memory = subject.options.memory / 2;
  options.whole = subject.options.memory;
  options.whole_for = [](uint64_t half) { return 2 * half; };
  options.precision = subject.options.precision;
  Stream stream(*model, weights, windows, options, spill_states());
  ScaleJournal journal(subject, windows);
  std::vector<Sample> samples = make_samples(windows, settings.tokens);
  Capture capture(samples.back().end());
  Edits edits;
  subject.progress.begin("searching scales (awq)", uint64_t{stream.rows()} * model->layers,
                         Progress::Unit::steps);
  stream.embed();
  for (size_t layer = 0; layer < model->layers; ++layer) {
    subject.progress.item(model->layer_name(layer));
    Graph graph = model->layer(layer);
    std::vector<Fold> folds = find_folds(graph);
    if (settings.pre_scale) add_unfolded(subject, graph, folds);
    std::erase_if(folds, [&](const Fold& f) {
      return std::ranges::none_of(f.consumers, [&](const Consumer& c) {
        return subject.entry(c.module, "awq") != nullptr;
      });
    });
    capture.clear();
    std::optional<ScaleJournal::Factors> known = journal.find(layer, folds);
    for (const Fold& fold : folds) {
      if (known) break;
      Search search(subject, weights, samples, capture, graph, fold, settings);
      if (!fold.inside) capture.want(graph, fold.value, fold.consumers.front().node);
      for (const Region& r : find_regions(graph, search.seeds())) {
        for (engine::Value v : r.inputs) {
          auto reads = [&](size_t n) { return std::ranges::count(graph.nodes()[n].in, v) > 0; };
          capture.want(graph, v, *std::ranges::find_if(r.nodes, reads));
        }
      }
    }
    stream.layer(layer, capture, subject.progress);
    std::vector<std::vector<float>> found;
    for (size_t i = 0; i < folds.size(); ++i) {
      if (known) {
        found.push_back(known->at(i));
      } else {
        Search search(subject, weights, samples, capture, graph, folds[i], settings);
        double before = 0, after = 0;
        auto start = std::chrono::steady_clock::now();
        found.push_back(search.run(before, after));
        std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
        if (subject.options.log) {
          subject.options.log({{"input", folds[i].consumers.front().input},
                               {"algorithm", "awq"},
                               {"ratio", search.ratio()},
                               {"error_rtn", before},
                               {"error", after},
                               {"forward_passes", search.passes()},
                               {"seconds", took.count()}});
        }
      }
      if (found.back().empty()) continue;
      if (folds[i].kind == Fold::Kind::none)
        apply_pre_scale(folds[i], found.back(), weights, edits);
      else
        apply(folds[i], found.back(), weights, edits);
    }
    if (!known) journal.add(layer, found);
  }
  subject.progress.end();
  return edits;
}

}  // namespace qp::transform
