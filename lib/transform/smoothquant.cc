// SmoothQuant (Xiao et al., 2023; reference/int4-formats.md 2.7).
#include <algorithm>
#include <cmath>
#include <map>
#include <set>

#include "lib/arch/arch.h"
#include "lib/base/error.h"
#include "lib/base/interrupt.h"
#include "lib/calibration/collector.h"
#include "lib/transform/steps.h"

namespace qp::transform {
namespace {

constexpr float kLeast = 1e-5f;

// How much of the outliers moves. What a linear makes has larger outliers than what a norm makes,
// and one scale from calibration leaves nothing between them and the rest. Measured as KL on
// docs-lm and SmolLM2-135M, norms and linears: int8 0.00042, 0.0159 with (0.8, none), 0.00040,
// 0.0124 with (0.8, 0.5), 0.00038, 0.0186 with (0.8, 0.8); int8-static 0.011, 1 with (0.8, none),
// 0.0014, 0.058 with (0.8, 0.8), 0.0012, 0.056 with (0.8, 0.9), 0.0009, 0.115 with (1, 1).
double usual_alpha(Fold::Kind kind, const Subject& subject, const PlanEntry& reader) {
  if (kind == Fold::Kind::norm) return 0.8;
  if (reader.scheme < 0) return 0.5;
  const auto& inputs = subject.scheme(reader).input_activations;
  return inputs && inputs->strategy == Strategy::tensor && inputs->dynamic == Dynamic::no ? 0.9
                                                                                          : 0.5;
}

// max |x| of what modules read, per channel.
class Maxima {
 public:
  Maxima(const Store& store, bool rotated) : store_(store), rotated_(rotated) {
    const auto& calibration = store.model().calibration;
    imported_ = calibration && calibration->windows == 0;
    if (!calibration || imported_) return;
    for (const InputStatistics& s : calibration->inputs) {
      for (const std::string& reader : s.readers) of_.emplace(reader, &s);
    }
  }

  // Of the value that a fold's matrices read: the largest of what each of them saw, as an expert sees
  // its own tokens alone. Empty: no token came to any.
  std::vector<float> of(const Fold& fold) const {
    std::vector<float> most;
    std::set<const InputStatistics*> seen;
    for (const Consumer& c : fold.consumers) {
      auto it = of_.find(c.input);
      if (it == of_.end() || !seen.insert(it->second).second || it->second->rows == 0) continue;
      const InputStatistics& s = *it->second;
      std::vector<float> amax =
          unpack(s, store_.stored(s.extent), store_.model().calibration->windows).amax;
      most.resize(std::max(most.size(), amax.size()));
      for (size_t i = 0; i < amax.size(); ++i) most[i] = std::max(most[i], amax[i]);
    }
    if (seen.empty()) refuse(fold.consumers.front().input);
    return most;
  }

 private:
  [[noreturn]] void refuse(const std::string& module) const {
    throw usage_error(imported_ ? "smoothquant needs max |x| of its input, which an importance matrix does not have"
                                : "smoothquant needs statistics of its input")
        .file(store_.label())
        .tensor(module)
        .hint(rotated_ ? "none outlive a rotation: take it first (-s none -a rotate), run qcalibrate on the "
                         "result, then smoothquant"
                       : "make them with qcalibrate MODEL --text FILE -o calib.qmap, and quantize that");
  }

  const Store& store_;
  bool rotated_, imported_ = false;
  std::map<std::string, const InputStatistics*, std::less<>> of_;  // by reader
};

}  // namespace

Edits smoothquant(const Subject& subject) {
  engine::WeightSource weights(subject.store);
  auto model = arch::make_architecture(subject.store.model(), weights);
  AlgorithmStep step = subject.step("smoothquant");
  Maxima maxima(subject.store, subject.uses("rotate"));
  Edits edits;
  size_t done = 0, unseen = 0, weights_alone = 0;
  subject.progress.begin("smoothing", model->layers, Progress::Unit::steps);
  for (size_t layer = 0; layer < model->layers; ++layer) {
    for (const Fold& fold : find_folds(model->layer(layer))) {
      throw_if_interrupted();
      auto smoothed = [&](const Consumer& c) {
        return subject.entry(c.module, "smoothquant") != nullptr;
      };
      auto first = std::ranges::find_if(fold.consumers, smoothed);
      if (first == fold.consumers.end()) continue;
      const PlanEntry& reader = *subject.entry(first->module, "smoothquant");
      double usual = usual_alpha(fold.kind, subject, reader);
      auto alpha = static_cast<float>(step.number("alpha", usual, 0, 1));
      // Channels of a norm over heads are seen several times.
      std::vector<float> x(fold.channels), w(fold.channels, kLeast), scales(fold.channels);
      std::vector<float> amax = maxima.of(fold);
      if (amax.empty()) {
        ++unseen;
        continue;
      }
      for (size_t c = 0; c < amax.size(); ++c) x[fold.of[c]] = std::max(x[fold.of[c]], amax[c]);
      for (const Consumer& c : fold.consumers) {
        if (!smoothed(c)) continue;
        std::vector<float> values = weights.matrix(c.use);
        for (size_t i = 0; i < values.size(); ++i) {
          float& most = w[fold.of[i % c.use.cols]];
          most = std::max(most, std::fabs(values[i]));
        }
      }
      for (size_t c = 0; c < fold.channels; ++c) {
        float s = x[c] > 0 ? std::pow(x[c], alpha) / std::pow(w[c], 1 - alpha) : 1;
        scales[c] = std::isfinite(s) ? std::max(s, kLeast) : 1;
      }
      apply(fold, std::move(scales), weights, edits);
      ++done;
      if (reader.scheme >= 0 && !subject.scheme(reader).input_activations) ++weights_alone;
    }
    subject.progress.add(1);
  }
  subject.progress.end();
  auto warn = [&](const std::string& text) {
    if (subject.options.warn) subject.options.warn(text);
  };
  if (unseen > 0) {
    warn("smoothquant leaves " + std::to_string(unseen) +
         " inputs as they are, which no token reached (experts?); more text, or qcalibrate "
         "--moe-all-experts, lets it see them");
  }
  if (weights_alone > 0) {
    warn("smoothquant makes inputs easier to quantize and weights harder; the scheme quantizes weights "
         "alone, so awq would serve it better");
  }
  if (done == 0 && unseen == 0) warn("smoothquant finds nothing whose readers are quantized: nothing is smoothed");
  return edits;
}

}  // namespace qp::transform
