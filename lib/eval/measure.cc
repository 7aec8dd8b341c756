#include "lib/eval/measure.h"

#include <algorithm>
#include <cmath>
#include <optional>

#include "lib/base/hash.h"
#include "lib/engine/ops/rows.h"
#include "lib/eval/head.h"
#include "lib/eval/statistics.h"
#include "lib/kernels/kernels.h"

namespace qp {
namespace {

Stream make_stream(RunnableModel& model, const Windows& windows, const MeasureOptions& options) {
  StreamOptions o;
  o.precision = options.precision;
  o.memory = options.memory;
  // A scale over all rows is one over a window, whatever the batch.
  if (model.hook() != nullptr && model.activations().per_tensor()) o.batch_windows = 1;
  return Stream(model.arch(), model.weights(), windows, o, spill_states());
}

LayerError compare_states(const Stream& a, const Stream& b, size_t hidden) {
  constexpr size_t kRows = 256;
  const kernels::Table& k = kernels::active();
  std::vector<float> x(kRows * hidden), y(kRows * hidden);
  std::vector<kernels::ErrorSums> sums(kRows);
  kernels::ErrorSums all;
  double cosines = 0;
  for (size_t at = 0; at < a.rows(); at += kRows) {
    size_t n = std::min(kRows, a.rows() - at);
    a.read(at, n, x.data());
    b.read(at, n, y.data());
    engine::for_rows(n, [&](size_t i) {
      sums[i] = {};
      k.compare(x.data() + i * hidden, y.data() + i * hidden, hidden, &sums[i]);
    });
    for (size_t i = 0; i < n; ++i) {
      all.diff2 += sums[i].diff2;
      all.b2 += sums[i].b2;
      double length = std::sqrt(sums[i].a2 * sums[i].b2);
      cosines += sums[i].diff2 == 0 ? 1 : length > 0 ? sums[i].ab / length : 0;
    }
  }
  auto rows = static_cast<double>(a.rows());
  double relative = all.b2 > 0 ? std::sqrt(all.diff2 / all.b2) : all.diff2 > 0 ? HUGE_VAL : 0;
  return {all.diff2 / rows / static_cast<double>(hidden), relative, cosines / rows};
}

std::string hash_of(const Windows& windows) {
  Hasher64 h;
  for (size_t w = 0; w < windows.size(); ++w) {
    uint64_t n = windows[w].size();
    h.update(std::as_bytes(std::span(&n, 1)));
    h.update(std::as_bytes(windows[w]));
  }
  return hex64(h.digest());
}

}  // namespace

RunnableModel::RunnableModel(const Store& store, gemm::Precision precision, bool quantize)
    : weights_(store), arch_(arch::make_architecture(store.model(), weights_)), quantize_(quantize),
      activations_(store, precision) {}

Measured measure(RunnableModel& model, RunnableModel* base, const Windows& windows,
                 const std::vector<ScoredToken>& tokens, const MeasureOptions& options,
                 Progress& progress) {
  check_scorable(model.arch(), base == nullptr ? nullptr : &base->arch(), tokens, options.precision, options.memory);
  Measured out;
  Stream mine = make_stream(model, windows, options);
  std::optional<Stream> other;
  if (base != nullptr) other.emplace(make_stream(*base, windows, options));
  size_t layers = model.arch().layers, base_layers = base == nullptr ? 0 : base->arch().layers;
  bool alike = base != nullptr && layers == base_layers && model.arch().hidden == base->arch().hidden;
  size_t blocks = (model.arch().head.rows + Head::kBlock - 1) / Head::kBlock;
  uint64_t steps = uint64_t{mine.rows()} * (layers + base_layers) + uint64_t{tokens.size()} * blocks;
  progress.begin("evaluating", steps, Progress::Unit::steps);
  mine.embed();
  if (other) other->embed();
  for (size_t i = 0; i < std::max(layers, base_layers); ++i) {
    progress.item("layer " + std::to_string(i));
    if (i < layers) mine.layer(i, model.hook(), progress);
    if (i < base_layers) other->layer(i, base->hook(), progress);
    if (alike) out.layers.push_back(compare_states(mine, *other, model.arch().hidden));
  }
  progress.item("head");
  StreamedModel a{model.arch(), model.weights(), mine};
  std::optional<StreamedModel> b;
  if (base != nullptr) b.emplace(StreamedModel{base->arch(), base->weights(), *other});
  out.scores = score_tokens(a, b ? &*b : nullptr, tokens, options.precision, options.memory, progress);
  progress.end();
  return out;
}

void measure_perplexity(RunnableModel& model, RunnableModel* base, const TextWindows& text,
                        const MeasureOptions& options, Progress& progress, EvalResult& result) {
  Measured m = measure(model, base, text.windows, text.scored, options, progress);
  result.windows = text.windows.size();
  result.left_out = text.left_out;
  result.tokens_hash = hash_of(text.windows);
  result.perplexity = perplexity_of(m.scores.model.nll);
  if (base == nullptr) return;
  result.base_perplexity = perplexity_of(m.scores.base.nll);
  result.divergence = divergence_of(m.scores);
  result.layers = std::move(m.layers);
  fill_charts(m.scores, text.scored, result);
}

}  // namespace qp
