#include "lib/engine/ops/moe.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "lib/base/error.h"
#include "lib/engine/ops/linear.h"
#include "lib/engine/ops/rows.h"

namespace qp::engine {
namespace {

constexpr float kMinusInfinity = -std::numeric_limits<float>::infinity();

// Indices of the k largest, largest first; of equals the first.
void top(const float* x, size_t n, size_t k, std::vector<size_t>& order) {
  order.resize(n);
  for (size_t i = 0; i < n; ++i) order[i] = i;
  std::partial_sort(order.begin(), order.begin() + static_cast<std::ptrdiff_t>(k), order.end(),
                    [&](size_t a, size_t b) { return x[a] > x[b] || (x[a] == x[b] && a < b); });
  order.resize(k);
}

}  // namespace

Route::Route(RouteSpec spec) : spec_(std::move(spec)) {
  if (!spec_.bias.empty()) weights.push_back({spec_.bias, Form::values, 1, spec_.experts});
  if (spec_.top_k == 0 || spec_.top_k > spec_.experts || spec_.groups == 0 ||
      spec_.experts % spec_.groups != 0 || spec_.top_groups == 0 ||
      spec_.top_groups > spec_.groups ||
      spec_.experts / spec_.groups * spec_.top_groups < spec_.top_k) {
    throw input_error("has expert counts that make no sense").file("config.json");
  }
}

void Route::scores(const float* logits, std::vector<float>& score) const {
  score.assign(logits, logits + spec_.experts);
  if (spec_.score == RouteSpec::Score::softmax) {
    kernels::forward().softmax(score.data(), score.size(), kMinusInfinity);
  } else if (spec_.score == RouteSpec::Score::sigmoid) {
    for (float& s : score) s = 1 / (1 + std::exp(-s));
  }
}

void Route::choose(const float* score, const float* bias, std::vector<float>& room,
                   float* ids) const {
  room.assign(score, score + spec_.experts);
  for (size_t e = 0; bias != nullptr && e < spec_.experts; ++e) room[e] += bias[e];
  std::vector<size_t> order;
  if (spec_.group_score != RouteSpec::Groups::none && spec_.groups > 1) {
    size_t size = spec_.experts / spec_.groups;
    std::vector<float> best(spec_.groups);
    for (size_t g = 0; g < spec_.groups; ++g) {
      bool two = spec_.group_score == RouteSpec::Groups::best_two && size > 1;
      top(room.data() + g * size, size, two ? 2 : 1, order);
      for (size_t i : order) best[g] += room[g * size + i];
    }
    top(best.data(), best.size(), spec_.top_groups, order);
    std::vector<bool> kept(spec_.groups);
    for (size_t g : order) kept[g] = true;
    for (size_t e = 0; e < spec_.experts; ++e) {
      if (!kept[e / size]) room[e] = kMinusInfinity;
    }
  }
  top(room.data(), spec_.experts, spec_.top_k, order);
  for (size_t i = 0; i < spec_.top_k; ++i) ids[i] = static_cast<float>(order[i]);
}

void Route::forward(const Step& step, std::span<const ConstMatrix> in, Matrix out) const {
  const float* bias = spec_.bias.empty() ? nullptr : step.weights[0].values.data();
  for_rows(out.rows, [&](size_t r) {
    std::vector<float> score, room;
    scores(in[0].row(r), score);
    float* ids = out.row(r);
    float* weight = ids + spec_.top_k;
    choose(score.data(), bias, room, ids);
    float sum = 0;
    for (size_t i = 0; i < spec_.top_k; ++i) weight[i] = score[static_cast<size_t>(ids[i])];
    if (spec_.score == RouteSpec::Score::softmax_of_chosen) {
      kernels::forward().softmax(weight, spec_.top_k, kMinusInfinity);
    }
    for (size_t i = 0; i < spec_.top_k; ++i) sum += weight[i];
    float factor = spec_.normalize ? spec_.factor / (sum + 1e-20f) : spec_.factor;
    for (size_t i = 0; i < spec_.top_k; ++i) weight[i] *= factor;
  });
  if (step.hook == nullptr) return;
  std::vector<uint32_t> ids(out.rows * spec_.top_k);
  for (size_t i = 0; i < ids.size(); ++i) {
    ids[i] = static_cast<uint32_t>(out.row(i / spec_.top_k)[i % spec_.top_k]);
  }
  step.hook->routed(spec_.module, ids, spec_.top_k, spec_.experts);
}

void Route::backward(const Step& step, std::span<const ConstMatrix> in, ConstMatrix dout,
                     std::span<const Matrix> din) const {
  const float* bias = spec_.bias.empty() ? nullptr : step.weights[0].values.data();
  for_rows(dout.rows, [&](size_t r) {
    std::vector<float> score, room, ids(spec_.top_k), d(spec_.top_k), chosen(spec_.top_k);
    scores(in[0].row(r), score);
    choose(score.data(), bias, room, ids.data());
    auto at = [&](size_t i) { return static_cast<size_t>(ids[i]); };
    for (size_t i = 0; i < spec_.top_k; ++i) chosen[i] = score[at(i)];
    bool late = spec_.score == RouteSpec::Score::softmax_of_chosen;
    if (late) kernels::forward().softmax(chosen.data(), chosen.size(), kMinusInfinity);
    float sum = 0, mean = 0;
    for (float c : chosen) sum += c;
    for (size_t i = 0; i < spec_.top_k; ++i) d[i] = spec_.factor * dout.row(r)[spec_.top_k + i];
    if (spec_.normalize) {
      for (size_t i = 0; i < spec_.top_k; ++i) mean += d[i] * chosen[i] / sum;
      for (float& v : d) v = (v - mean) / sum;
    }
    float* dx = din[0].row(r);
    float inner = 0;
    for (size_t i = 0; i < spec_.top_k; ++i) inner += d[i] * chosen[i];
    if (spec_.score == RouteSpec::Score::sigmoid) {
      for (size_t i = 0; i < spec_.top_k; ++i) dx[at(i)] += d[i] * chosen[i] * (1 - chosen[i]);
    } else if (late) {
      for (size_t i = 0; i < spec_.top_k; ++i) dx[at(i)] += chosen[i] * (d[i] - inner);
    } else {
      for (size_t e = 0; e < spec_.experts; ++e) dx[e] -= score[e] * inner;
      for (size_t i = 0; i < spec_.top_k; ++i) dx[at(i)] += chosen[i] * d[i];
    }
  });
}

Expert::Expert(ExpertSpec spec) : spec_(std::move(spec)) {
  weights = spec_.matrices;
  weights.insert(weights.end(), spec_.biases.begin(), spec_.biases.end());
  size_t last = spec_.modules.size() - 1;
  for (size_t i = 0; i < spec_.modules.size(); ++i) {
    linears.push_back({spec_.modules[i], i == last ? spec_.modules[last] : spec_.modules[0]});
  }
}

// The rows of this expert and what it makes of them.
struct Expert::Run {
  std::vector<uint32_t> rows;  // of the batch
  std::vector<float> share;    // the route's weight; 0 for rows that came only to be seen
  std::vector<size_t> slot;    // column of the weight in the route
  std::vector<float> x, gate, up, inner, y;
  std::vector<float> seen_x, seen_inner;  // what the hook put in place
};

void Expert::activate(const Run& run, size_t row, float* out) const {
  size_t n = spec_.inner;
  if (spec_.clamp <= 0) {
    kernels::forward().gated(spec_.act, run.gate.data() + row * n, run.up.data() + row * n, n, out);
    return;
  }
  const float* both = run.gate.data() + row * 2 * n;
  std::vector<float> gate(n), up(n);
  for (size_t i = 0; i < n; ++i) {
    gate[i] = std::min(both[2 * i], spec_.clamp);
    up[i] = std::clamp(both[2 * i + 1], -spec_.clamp, spec_.clamp) + 1;
  }
  kernels::forward().gated(kernels::Act::quick_gelu, gate.data(), up.data(), n, out);
}

void Expert::compute(const Step& step, std::span<const ConstMatrix> in, Run& run) const {
  size_t top_k = spec_.top_k;
  auto self = static_cast<float>(spec_.index);
  for (size_t r = 0; r < in[0].rows; ++r) {
    const float* route = in[1].row(r);
    size_t slot = 0;
    while (slot < top_k && route[slot] != self) ++slot;
    if (slot == top_k && !step.all_experts) continue;
    run.rows.push_back(static_cast<uint32_t>(r));
    run.slot.push_back(slot);
    run.share.push_back(slot == top_k ? 0 : route[top_k + slot]);
  }
  size_t n = run.rows.size(), hidden = spec_.hidden, inner = spec_.inner;
  if (n == 0) return;
  run.x.resize(n * hidden);
  for_rows(n, [&](size_t i) {
    const float* x = in[0].row(run.rows[i]);
    std::copy(x, x + hidden, run.x.data() + i * hidden);
  });
  size_t last = spec_.matrices.size() - 1;
  gemm::Left left(run.x.data(), hidden, n);
  auto multiply = [&](size_t m, const std::vector<float>& x, size_t k, std::vector<float>& y,
                      std::vector<float>& seen) {
    ConstMatrix input{x.data(), n, k};
    if (step.hook != nullptr) input = step.hook->before(linears[m], input, run.rows, seen);
    const float* bias =
        spec_.biases.empty() ? nullptr : step.weights[spec_.matrices.size() + m].values.data();
    size_t out = spec_.matrices[m].rows;
    y.resize(n * out);
    gemm::Left own(input.data, k, n);
    gemm::multiply(input.data == run.x.data() ? left : own, step.weights[m].packed, bias, y.data(),
                   out, false);
  };
  multiply(0, run.x, hidden, run.gate, run.seen_x);
  if (last == 2) multiply(1, run.x, hidden, run.up, run.seen_x);
  if (last == 2 && spec_.clamp > 0) {  // as if the two were one tensor
    std::vector<float> both(2 * run.gate.size());
    for (size_t i = 0; i < run.gate.size(); ++i) {
      both[2 * i] = run.gate[i];
      both[2 * i + 1] = run.up[i];
    }
    run.gate = std::move(both);
  }
  run.inner.resize(n * inner);
  for_rows(n, [&](size_t i) { activate(run, i, run.inner.data() + i * inner); });
  multiply(last, run.inner, inner, run.y, run.seen_inner);
}

void Expert::forward(const Step& step, std::span<const ConstMatrix> in, Matrix out) const {
  if (out.data != in[2].data) std::copy(in[2].data, in[2].data + out.rows * out.cols, out.data);
  Run run;
  compute(step, in, run);
  for_rows(run.rows.size(), [&](size_t i) {
    if (run.share[i] == 0) return;
    kernels::forward().add_scaled(run.y.data() + i * spec_.hidden, run.share[i], spec_.hidden,
                                  out.row(run.rows[i]));
  });
}

void Expert::backward(const Step& step, std::span<const ConstMatrix> in, ConstMatrix dout,
                      std::span<const Matrix> din) const {
  const kernels::ForwardTable& k = kernels::forward();
  for_rows(dout.rows, [&](size_t r) { k.add_scaled(dout.row(r), 1, spec_.hidden, din[2].row(r)); });
  Step quiet = step;
  quiet.hook = nullptr;
  Run run;
  compute(quiet, in, run);
  size_t n = run.rows.size(), hidden = spec_.hidden, inner = spec_.inner;
  if (n == 0) return;
  std::vector<float> dy(n * hidden), dinner(n * inner), dx(n * hidden);
  for_rows(n, [&](size_t i) {
    const float* d = dout.row(run.rows[i]);
    k.add_scaled(d, run.share[i], hidden, dy.data() + i * hidden);
    if (run.slot[i] < spec_.top_k) {
      din[1].row(run.rows[i])[spec_.top_k + run.slot[i]] +=
          k.dot(d, run.y.data() + i * hidden, hidden);
    }
  });
  size_t last = spec_.matrices.size() - 1;
  linear_backward(step, spec_.matrices[last], {run.inner.data(), n, inner}, {dy.data(), n, hidden},
                  {dinner.data(), n, inner});
  Matrix to{dx.data(), n, hidden};
  ConstMatrix x{run.x.data(), n, hidden};
  if (spec_.clamp <= 0) {
    std::vector<float> dgate(n * inner), dup(n * inner);
    k.gated_grad(spec_.act, run.gate.data(), run.up.data(), dinner.data(), n * inner, dgate.data(),
                 dup.data());
    linear_backward(step, spec_.matrices[0], x, {dgate.data(), n, inner}, to);
    linear_backward(step, spec_.matrices[1], x, {dup.data(), n, inner}, to);
  } else {
    std::vector<float> both(n * 2 * inner);
    for_rows(n, [&](size_t i) {
      for (size_t j = 0; j < inner; ++j) {
        float g = run.gate[(i * inner + j) * 2], u = run.gate[(i * inner + j) * 2 + 1];
        float gc = std::min(g, spec_.clamp), uc = std::clamp(u, -spec_.clamp, spec_.clamp) + 1;
        float dg = 0, du = 0, d = dinner[i * inner + j];
        k.gated_grad(kernels::Act::quick_gelu, &gc, &uc, &d, 1, &dg, &du);
        both[(i * inner + j) * 2] = g <= spec_.clamp ? dg : 0;
        both[(i * inner + j) * 2 + 1] = std::fabs(u) <= spec_.clamp ? du : 0;
      }
    });
    if (last == 1) {
      linear_backward(step, spec_.matrices[0], x, {both.data(), n, 2 * inner}, to);
    } else {
      std::vector<float> dgate(n * inner), dup(n * inner);
      for (size_t i = 0; i < n * inner; ++i) {
        dgate[i] = both[2 * i];
        dup[i] = both[2 * i + 1];
      }
      linear_backward(step, spec_.matrices[0], x, {dgate.data(), n, inner}, to);
      linear_backward(step, spec_.matrices[1], x, {dup.data(), n, inner}, to);
    }
  }
  for_rows(n, [&](size_t i) {
    k.add_scaled(dx.data() + i * hidden, 1, hidden, din[0].row(run.rows[i]));
  });
}

void Zeros::forward(const Step&, std::span<const ConstMatrix>, Matrix out) const {
  std::fill(out.data, out.data + out.rows * out.cols, 0.0f);
}

}  // namespace qp::engine
