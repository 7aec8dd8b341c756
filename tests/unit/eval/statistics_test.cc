// Statistics by hand, and properties of drawing.
#include "lib/eval/statistics.h"

#include <gtest/gtest.h>

#include <cmath>

#include "lib/base/error.h"
#include "lib/eval/choices.h"
#include "lib/eval/generate.h"
#include "lib/kernels/forward.h"

namespace qp {
namespace {

TEST(Statistics, MeanAndItsError) {
  Estimate e = mean_of(std::vector<double>{1, 2, 3, 6});
  EXPECT_DOUBLE_EQ(e.value, 3);
  EXPECT_DOUBLE_EQ(e.error, std::sqrt(14.0 / 4 / 3));  // variance 14/4 over n - 1
  EXPECT_DOUBLE_EQ(share_of(1, 5).error, std::sqrt(0.2 * 0.8 / 4));
  Perplexity p = perplexity_of(std::vector<double>{std::log(2.0), std::log(8.0)});
  EXPECT_NEAR(p.ppl.value, 4, 1e-12);
}

TEST(Statistics, DivergenceOfPairs) {
  PairScores s;
  for (int i = 0; i <= 100; ++i) {
    s.kl.push_back(i);
    s.base.nll.push_back(1 + i % 3);
    s.model.nll.push_back(1.5 + i % 3);  // always half a nat worse
    s.base.top.push_back(7);
    s.model.top.push_back(i < 25 ? 6 : 7);
  }
  Divergence d = divergence_of(s);
  EXPECT_DOUBLE_EQ(d.kl.value, 50);
  EXPECT_DOUBLE_EQ(d.kl_median, 50);
  EXPECT_NEAR(d.kl_percentiles[0], 90, 1e-9);
  EXPECT_NEAR(d.kl_percentiles[3], 99.9, 1e-9);
  EXPECT_DOUBLE_EQ(d.kl_max, 100);
  EXPECT_DOUBLE_EQ(d.top1.value, 76.0 / 101);
  EXPECT_NEAR(d.ratio.value, std::exp(0.5), 1e-12);
  EXPECT_NEAR(d.ratio.error, 0, 1e-12);  // paired: no error, whatever the spread of both
  EXPECT_NEAR(d.correlation, 1, 1e-12);
}

TEST(Statistics, LogSumExpGapIsDivergence) {
  // Against the definition in long double, in blocks with rising maxima.
  std::vector<float> p, q;
  for (int i = 0; i < 1000; ++i) {
    p.push_back(static_cast<float>(std::sin(i * 1.7) * 4 + i * 0.01));
    q.push_back(static_cast<float>(std::sin(i * 1.7 + 0.1) * 4 + i * 0.01 + 30));
  }
  long double zp = 0, zq = 0, kl = 0;
  for (float x : p) zp += std::exp(static_cast<long double>(x));
  for (float x : q) zq += std::exp(static_cast<long double>(x));
  for (size_t i = 0; i < p.size(); ++i) {
    long double lp = static_cast<long double>(p[i]) - std::log(zp), lq = static_cast<long double>(q[i]) - std::log(zq);
    kl += std::exp(lp) * (lp - lq);
  }
  float max_p = -INFINITY, max_q = -INFINITY;
  double sum_p = 0, sum_q = 0, gap = 0;
  for (size_t at = 0; at < p.size(); at += 125) {
    kernels::forward().log_sum_exp_gap(p.data() + at, q.data() + at, 125, &max_p, &sum_p, &gap);
    kernels::forward().log_sum_exp(q.data() + at, 125, &max_q, &sum_q);
  }
  double ours = gap / sum_p - (static_cast<double>(max_p) + std::log(sum_p)) +
                static_cast<double>(max_q) + std::log(sum_q);
  EXPECT_NEAR(ours, static_cast<double>(kl), 1e-6 * static_cast<double>(kl) + 1e-6);
}

TEST(PickToken, FollowsTheDistribution) {
  std::vector<float> logits = {0, std::log(2.0f), std::log(5.0f)};  // 1/8, 2/8, 5/8
  EXPECT_EQ(pick_token(logits, 0, 1, 0.99), 2u);
  EXPECT_EQ(pick_token(logits, 1, 1, 0.0), 2u);
  EXPECT_EQ(pick_token(logits, 1, 1, 0.624), 2u);
  EXPECT_EQ(pick_token(logits, 1, 1, 0.626), 1u);
  EXPECT_EQ(pick_token(logits, 1, 1, 0.876), 0u);
  EXPECT_EQ(pick_token(logits, 1, 0.8, 0.999), 1u);  // 5/8 < 0.8 <= 7/8: two are left
  EXPECT_EQ(pick_token(logits, 1, 0.0, 0.999), 2u);
  EXPECT_EQ(pick_token(logits, 0.01, 1, 0.999), 2u);
}

TEST(Choices, WhiteSpaceGoesWithTheChoice) {
  std::vector<std::string> seen;
  auto encode = [&](const std::string& text) {  // a token per byte
    seen.push_back(text);
    return std::vector<int32_t>(text.begin(), text.end());
  };
  std::vector<ChoiceItem> items = {{"ab  ", {"c", "de"}, 1}, {"x", {"y", " z"}, 0}, {"", {"w", "v"}, 0}};
  ChoiceTokens t = cut_choices(items, encode, -1, 9, 100);
  EXPECT_EQ(seen, (std::vector<std::string>{"ab", "ab  c", "ab", "ab  de", "x", "x y", "x", "x z", "", "w", "", "v"}));
  ASSERT_EQ(t.windows.size(), 6u);
  auto window = [&](size_t i) { return std::vector<int32_t>(t.windows[i].begin(), t.windows[i].end()); };
  EXPECT_EQ(window(0), (std::vector<int32_t>{'a', 'b', ' ', ' '}));
  EXPECT_EQ(window(4), (std::vector<int32_t>{9}));
  ASSERT_EQ(t.scored.size(), 3u + 4 + 2 + 2 + 1 + 1);
  EXPECT_EQ(t.scored[0].row, 1u);  // "b" predicts the first space
  std::vector<double> nll(t.scored.size(), 1.0);
  auto scores = score_choices(items, t, nll);
  EXPECT_EQ(scores[0].log_likelihood, (std::vector<double>{-3, -4}));
  EXPECT_EQ(scores[0].picked, 0u);
  EXPECT_EQ(scores[0].picked_norm, 1u);  // -3 per byte, -2 per byte
}

TEST(Choices, LongItemsKeepTheirEnd) {
  auto encode = [](const std::string& text) { return std::vector<int32_t>(text.begin(), text.end()); };
  ChoiceTokens t = cut_choices({{"abcdefgh", {"i", "jk"}, 0}}, encode, 1, -1, 4);
  EXPECT_EQ(t.windows.ids, (std::vector<int32_t>{'f', 'g', 'h', ' ', 'g', 'h', ' ', 'j'}));
  EXPECT_EQ(t.scored[0].row, 2u);
  EXPECT_THROW(cut_choices({{"a", {"bcdefg", "c"}, 0}}, encode, 1, -1, 4), Error);
}

}  // namespace
}  // namespace qp
