#include "lib/eval/statistics.h"

#include <algorithm>
#include <cmath>
#include <map>

namespace qp {
namespace {

// Of values in order, between neighbours linearly.
double percentile(std::span<const double> sorted, double percent) {
  double at = percent / 100 * static_cast<double>(sorted.size() - 1);
  auto i = static_cast<size_t>(at);
  double part = at - static_cast<double>(i);
  double next = sorted[std::min(i + 1, sorted.size() - 1)];
  return part == 0 ? sorted[i] : (1 - part) * sorted[i] + part * next;
}

// exp of a mean; the error to first order.
Estimate exp_of(Estimate log) {
  double value = std::exp(log.value);
  return {value, value * log.error};
}

double mean(std::span<const double> x) {
  double sum = 0;
  for (double v : x) sum += v;
  return sum / static_cast<double>(x.size());
}

}  // namespace

Estimate mean_of(std::span<const double> x) {
  if (x.empty()) return {};
  double m = mean(x), squares = 0;
  for (double v : x) squares += (v - m) * (v - m);
  auto n = static_cast<double>(x.size());
  return {m, x.size() > 1 ? std::sqrt(squares / n / (n - 1)) : 0};
}

Estimate share_of(uint64_t hits, uint64_t count) {
  if (count == 0) return {};
  auto n = static_cast<double>(count);
  double p = static_cast<double>(hits) / n;
  return {p, count > 1 ? std::sqrt(p * (1 - p) / (n - 1)) : 0};
}

Perplexity perplexity_of(std::span<const double> nll) {
  Estimate log = mean_of(nll);
  return {nll.size(), log, exp_of(log)};
}

Divergence divergence_of(const PairScores& s) {
  Divergence d;
  size_t n = s.kl.size();
  if (n == 0) return d;
  d.kl = mean_of(s.kl);
  std::vector<double> sorted = s.kl;
  std::ranges::sort(sorted);
  d.kl_median = percentile(sorted, 50);
  d.kl_max = sorted.back();
  for (size_t i = 0; i < d.kPercents.size(); ++i) {
    d.kl_percentiles[i] = percentile(sorted, d.kPercents[i]);
  }
  uint64_t same = 0;
  std::vector<double> ratio(n), dp(n), dp2(n), product(n);
  double mine = mean(s.model.nll), base = mean(s.base.nll);
  for (size_t i = 0; i < n; ++i) {
    same += s.model.top[i] == s.base.top[i] ? 1u : 0u;
    ratio[i] = s.model.nll[i] - s.base.nll[i];
    dp[i] = std::exp(-s.model.nll[i]) - std::exp(-s.base.nll[i]);
    dp2[i] = dp[i] * dp[i];
    product[i] = (s.model.nll[i] - mine) * (s.base.nll[i] - base);
  }
  d.top1 = share_of(same, n);
  // The variance of the difference is that of both less twice their covariance.
  d.log_ratio = mean_of(ratio);
  d.ratio = exp_of(d.log_ratio);
  double errors = mean_of(s.model.nll).error * mean_of(s.base.nll).error;
  double covariance = n > 1 ? mean(product) / static_cast<double>(n - 1) : 0;
  d.correlation = errors > 0 ? covariance / errors : 1;
  d.mean_dp = mean(dp);
  Estimate squares = mean_of(dp2);
  d.rms_dp.value = std::sqrt(squares.value);
  if (d.rms_dp.value > 0) d.rms_dp.error = 0.5 / d.rms_dp.value * squares.error;
  return d;
}

void fill_charts(const PairScores& s, std::span<const ScoredToken> tokens, EvalResult& result) {
  constexpr size_t kBins = 64;
  constexpr double kLeast = 1e-8;  // what is below cannot be told from rounding
  uint32_t last = 1;
  for (const ScoredToken& t : tokens) last = std::max(last, t.position);
  size_t wide = (last + kBins) / kBins;
  std::map<size_t, std::pair<double, size_t>> by_position;
  std::map<int, uint64_t> by_size;
  for (size_t i = 0; i < s.kl.size(); ++i) {
    auto& [sum, count] = by_position[tokens[i].position / wide * wide];
    sum += s.kl[i];
    ++count;
    ++by_size[static_cast<int>(std::floor(10 * std::log10(std::max(s.kl[i], kLeast))))];
  }
  for (const auto& [position, bin] : by_position) {
    result.kl_by_position.emplace_back(position, bin.first / static_cast<double>(bin.second));
  }
  for (const auto& [bin, count] : by_size) {
    result.kl_histogram.emplace_back(std::pow(10, bin / 10.0), count);
  }
}

}  // namespace qp
