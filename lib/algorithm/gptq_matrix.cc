#include "lib/algorithm/gptq_matrix.h"

#include <algorithm>
#include <cmath>

#include "lib/algorithm/descent.h"
#include "lib/algorithm/quantizer.h"
#include "lib/algorithm/read_matrix.h"
#include "lib/base/error.h"
#include "lib/base/parallel.h"

namespace qp::gptq {
namespace {

constexpr std::string_view kOrders[] = {"none", "desc_act", "group"};  // of enum Order

// A choice of codes: their grid and the rounded quotients.
struct Choice {
  std::string algorithm;
  Grid grid;
  std::vector<float> q;
  double error = 0;
};

class Matrix {
 public:
  Matrix(const Store& store, const PlanEntry& entry, const Scheme& scheme, float range,
         const Moments& moments, ScaleSign sign, uint64_t tokens)
      : scheme_(scheme), tensor_(*entry.source), range_(range), moments_(moments), sign_(sign),
        tokens_(tokens), w_(read_matrix(store, tensor_)) {}

  void follow_drift(const Factor& factor, double alpha) {
    gptq::follow_drift(moments_, factor, alpha, w_.data(), tensor_.shape.rows());
  }

  Choice rounded(const std::string& algorithm, Fit fit) const {
    Choice c{algorithm, grid(fit), std::vector<float>(w_.size())};
    c.grid.fit_all(w_.data(), {}, fit);
    c.grid.round_all(w_.data(), c.q.data());
    c.error = error(c);
    return c;
  }

  Choice clipped() const {
    Choice c{"clip", grid(Fit::search), std::vector<float>(w_.size())};
    c.grid.fit_by_moments(w_.data(), moments_.h.data());
    c.grid.round_all(w_.data(), c.q.data());
    c.error = error(c);
    return c;
  }

  Choice compensated(const Factor& factor, const Options& options) const {
    Choice c{"gptq", grid(options.fit), w_};
    quantize(factor, options, c.grid, c.q.data());
    c.error = error(c);
    if (options.sweeps == 0) return c;
    Choice d = c;
    double damp = std::max(factor.damp, kDescentDamp);
    descend(moments_, damp, options.precision, d.grid, w_.data(), options.sweeps, d.q.data());
    d.error = error(d);
    if (d.error <= c.error) return d;
    return c;  // bf16 products of outliers may mislead
  }

 private:
  Grid grid(Fit fit) const {
    Grid g(scheme_, tensor_.dtype, tensor_.shape.rows(), tensor_.shape.cols(), range_);
    if (fit != Fit::range) g.allow(sign_);
    return g;
  }

  double error(const Choice& c) const {
    if (tokens_ == 0) return 0;
    size_t rows = c.grid.rows(), cols = c.grid.cols();
    std::vector<float> d(w_.size());
    parallel_for(rows, [&](size_t row, int) {
      float* out = d.data() + row * cols;
      c.grid.values(c.q.data() + row * cols, row, out);
      for (size_t i = 0; i < cols; ++i) out[i] -= w_[row * cols + i];
    });
    return output_error(moments_, d.data(), rows) / static_cast<double>(tokens_);
  }

  const Scheme& scheme_;
  const Tensor& tensor_;
  float range_;
  const Moments& moments_;
  ScaleSign sign_;
  uint64_t tokens_;
  std::vector<float> w_;
};

}  // namespace

Options options_of(const AlgorithmStep& step) {
  Options o;
  o.damp = step.number("damp", o.damp, 1e-6, 1);
  o.order = static_cast<Order>(step.word("order", kOrders, static_cast<size_t>(o.order)));
  o.fit = step.flag("clip", true) ? Fit::search : Fit::range;
  o.sign = scale_sign(step);
  o.static_groups = step.flag("static_groups", false);
  o.sweeps = static_cast<size_t>(step.number("sweeps", static_cast<double>(o.sweeps), 0, 100));
  if (step.options.contains("alpha")) o.alpha = step.number("alpha", 0, 0, 1);
  return o;
}

std::vector<PartSpec> parts_of(const AlgorithmStep& step, const Scheme& scheme,
                               const Shape& shape) {
  Options o = options_of(step);
  bool sorted = o.order == Order::desc_act && !o.static_groups;
  if (!sorted || scheme.weights.strategy != Strategy::group) return {};
  return {{Role::g_idx, DType::i32, Shape{shape.cols()}}};
}

void check(const AlgorithmStep& step, const Scheme& scheme) {
  Options o = options_of(step);
  if (o.order != Order::desc_act) return;
  const QuantArgs& w = scheme.weights;
  bool groups = w.strategy == Strategy::group || w.strategy == Strategy::tensor_group;
  if (groups && (w.type != NumType::integer || w.strategy == Strategy::tensor_group)) {
    throw usage_error("gptq: order=desc_act goes with integers in groups, not with " + scheme.name)
        .hint("use order=group");
  }
  if (groups && !o.static_groups && scheme.input_activations) {
    throw usage_error("gptq: order=desc_act leaves a g_idx, which engines do not take beside quantized "
                      "activations (" + scheme.name + ")")
        .hint("use order=group, or order=desc_act:static_groups=true");
  }
}

Outcome quantize_matrix(const Store& store, const PlanEntry& entry, const Scheme& scheme,
                        float range, const Moments& moments, const std::optional<Factor>& factor,
                        const Options& options, bool clip, uint64_t tokens) {
  Matrix matrix(store, entry, scheme, range, moments, options.sign, tokens);
  Outcome out;
  std::optional<Choice> chosen;
  if (factor && !moments.drift.empty()) matrix.follow_drift(*factor, share_of(moments, options));
  if (clip && tokens > 0) {
    chosen.emplace(matrix.clipped());
  } else if (factor) {
    chosen.emplace(matrix.compensated(*factor, options));
  } else {
    out.note =
        tokens == 0 ? "no token came to its input" : "the moments of its input cannot be factored";
  }
  Choice rtn = matrix.rounded("rtn", Fit::range);
  out.error_rtn = rtn.error;
  if (chosen && !(chosen->error <= rtn.error)) {
    out.note = std::isfinite(chosen->error) ? "the output would be worse than with rtn"
                                            : "the result is not finite";
    chosen.reset();
  }
  if (!chosen && scheme.weights.strategy != Strategy::tensor) {
    Choice mse = matrix.rounded("mse", Fit::search);
    if (mse.error <= rtn.error) chosen.emplace(std::move(mse));
  }
  const Choice& best = chosen ? *chosen : rtn;
  if (auto row = best.grid.overflow()) refuse_overflow(store, *entry.tensor, *row);
  out.algorithm = best.algorithm;
  out.error = best.error;
  out.small = best.grid.finish();
  size_t per_row = best.grid.code_bytes();
  out.codes.resize(best.grid.rows() * per_row);
  parallel_for(best.grid.rows(), [&](size_t row, int) {
    auto* to = reinterpret_cast<uint8_t*>(out.codes.data() + row * per_row);
    best.grid.encode(best.q.data() + row * best.grid.cols(), 1, to);
  });
  return out;
}

}  // namespace qp::gptq
