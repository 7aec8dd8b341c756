#include "lib/eval/score.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>

#include "lib/base/error.h"
#include "lib/base/interrupt.h"
#include "lib/engine/ops/rows.h"
#include "lib/eval/head.h"
#include "lib/kernels/forward.h"

namespace qp {
namespace {

constexpr size_t kRows = 256;  // rows of logits at a time

// The softmax of one token under one model, as far as blocks have gone by.
struct Running {
  float max = -std::numeric_limits<float>::infinity();
  double sum = 0;
  float target = 0;
  uint32_t top = 0;

  double log_sum() const { return static_cast<double>(max) + std::log(sum); }
  double nll() const { return log_sum() - static_cast<double>(target); }
};

class Side {
 public:
  Side(const StreamedModel& model, gemm::Precision precision)
      : model_(model), head_(model.arch, model.weights, precision), hidden_(model.arch.hidden) {}

  Head& head() { return head_; }
  const float* row(size_t i) const { return logits_.data() + i * head_.width(); }

  // Logits of these tokens in the loaded block.
  void compute(const ScoredToken* tokens, size_t count) {
    states_.resize(count * hidden_);
    for (size_t i = 0; i < count;) {  // rows that lie one after the other are read at once
      size_t n = 1;
      while (i + n < count && tokens[i + n].row == tokens[i].row + n) ++n;
      model_.stream.read(tokens[i].row, n, states_.data() + i * hidden_);
      i += n;
    }
    head_.norm(states_.data(), count, states_.data());
    logits_.resize(count * head_.width());
    head_.logits(states_.data(), count, logits_.data());
  }

  // What the block adds to a token besides the sums.
  void look(size_t i, const ScoredToken& token, float max_before, Running& running) const {
    const float* x = row(i);
    size_t first = head_.first(), n = head_.width();
    auto id = static_cast<size_t>(token.token);
    if (id >= first && id < first + n) running.target = x[id - first];
    if (running.max > max_before) {
      running.top = static_cast<uint32_t>(first + static_cast<size_t>(
          std::find(x, x + n, running.max) - x));
    }
  }

 private:
  const StreamedModel& model_;
  Head head_;
  size_t hidden_;
  std::vector<float> states_, logits_;
};

void check_finite(const Running& r, const ScoredToken& t, const StreamedModel& model) {
  if (std::isfinite(r.max) && std::isfinite(r.sum) && std::isfinite(r.target)) return;
  throw input_error("gives logits that are not finite (window " + std::to_string(t.window) +
                    ", token " + std::to_string(t.position) + ")")
      .file(model.weights.store().label())
      .tensor(model.arch.head.tensor)
      .hint("the weights are damaged, or the model overflows");
}

}  // namespace

void check_scorable(const arch::Architecture& model, const arch::Architecture* base,
                    const std::vector<ScoredToken>& tokens, gemm::Precision precision, uint64_t memory) {
  size_t vocab = model.head.rows;
  if (base != nullptr && base->head.rows != vocab) {
    throw usage_error("the vocabularies differ: " + std::to_string(vocab) + " tokens in the "
                      "checkpoint, " + std::to_string(base->head.rows) + " in the base")
        .hint("give the base that the checkpoint was made from");
  }
  for (const ScoredToken& t : tokens) {
    if (t.token < 0 || static_cast<size_t>(t.token) >= vocab) {
      throw input_error("token " + std::to_string(t.token) + " is not in the vocabulary (" +
                        std::to_string(vocab) + " tokens)")
          .hint("the tokens are another model's");
    }
  }
  uint64_t need = 0;
  for (const arch::Architecture* m : {&model, base}) {
    if (m == nullptr) continue;
    engine::WeightUse use = m->head;
    use.rows = std::min(use.rows, Head::kBlock);
    need += WeightSource::bytes(use, precision) + kRows * (use.rows + 2 * use.cols) * sizeof(float);
  }
  if (need > memory) {
    throw limit_error("the output head needs " + std::to_string((need >> 20) + 1) +
                      "M of memory (allowed are " + std::to_string(memory >> 20) + "M)")
        .tensor(model.head.tensor)
        .hint("give a larger --max-memory");
  }
}

PairScores score_tokens(const StreamedModel& model, const StreamedModel* base,
                        const std::vector<ScoredToken>& tokens, gemm::Precision precision,
                        uint64_t memory, Progress& progress) {
  check_scorable(model.arch, base == nullptr ? nullptr : &base->arch, tokens, precision, memory);
  const kernels::ForwardTable& k = kernels::forward();
  Side mine(model, precision);
  std::optional<Side> other;
  if (base != nullptr) other.emplace(*base, precision);
  size_t n = tokens.size();
  std::vector<Running> running(n), base_running(base == nullptr ? 0 : n);
  std::vector<double> gap(base == nullptr ? 0 : n);
  for (size_t block = 0; block < mine.head().blocks(); ++block) {
    mine.head().load(block);
    if (other) other->head().load(block);
    for (size_t at = 0; at < n; at += kRows) {
      throw_if_interrupted();
      size_t count = std::min(kRows, n - at);
      mine.compute(tokens.data() + at, count);
      if (other) other->compute(tokens.data() + at, count);
      size_t width = mine.head().width();
      engine::for_rows(count, [&](size_t i) {
        Running& r = running[at + i];
        float before = r.max;
        k.log_sum_exp(mine.row(i), width, &r.max, &r.sum);
        mine.look(i, tokens[at + i], before, r);
        if (!other) return;
        Running& b = base_running[at + i];
        before = b.max;
        k.log_sum_exp_gap(other->row(i), mine.row(i), width, &b.max, &b.sum, &gap[at + i]);
        other->look(i, tokens[at + i], before, b);
      });
      progress.add(count);
    }
  }
  PairScores out;
  for (size_t i = 0; i < n; ++i) {
    check_finite(running[i], tokens[i], model);
    out.model.nll.push_back(running[i].nll());
    out.model.top.push_back(running[i].top);
    if (base == nullptr) continue;
    const Running& b = base_running[i];
    check_finite(b, tokens[i], *base);
    out.base.nll.push_back(b.nll());
    out.base.top.push_back(b.top);
    // sum of p (log p - log q), p = exp(x - log_sum): never below 0 but for rounding.
    double kl = gap[i] / b.sum - b.log_sum() + running[i].log_sum();
    out.kl.push_back(std::max(kl, 0.0));
  }
  return out;
}

}  // namespace qp
