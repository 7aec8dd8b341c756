// Single ops on numbers worked by hand (reference/architectures.md, section 11).
#include <gtest/gtest.h>

#include <cmath>

#include "lib/base/error.h"
#include "lib/engine/ops/attention.h"
#include "lib/engine/ops/elementwise.h"
#include "lib/engine/ops/moe.h"
#include "lib/engine/ops/norm.h"

namespace qp::engine {
namespace {

Batch rows(size_t n) {
  Batch batch;
  std::vector<int32_t> ids(n);
  batch.add(ids.data(), n);
  return batch;
}

// What an op makes of matrices with `n` rows.
std::vector<float> apply(const Op& op, size_t n, const std::vector<std::vector<float>>& inputs,
                         const std::vector<std::vector<float>>& values = {}) {
  Batch batch = rows(n);
  std::vector<Weight> weights(values.size());
  for (size_t i = 0; i < values.size(); ++i) weights[i].values = values[i];
  Step step{batch};
  step.weights = weights;
  std::vector<ConstMatrix> in;
  for (const auto& m : inputs) in.push_back({m.data(), n, m.size() / n});
  std::vector<float> out(n * op.width());
  op.forward(step, in, Matrix{out.data(), n, op.width()});
  return out;
}

void expect_near(const std::vector<float>& a, const std::vector<double>& b, double tolerance = 1e-6) {
  ASSERT_EQ(a.size(), b.size());
  for (size_t i = 0; i < a.size(); ++i) EXPECT_NEAR(static_cast<double>(a[i]), b[i], tolerance) << i;
}

TEST(Ops, Activations) {
  expect_near(apply(Activation(act_from_name("silu"), 1), 1, {{1}}), {0.7310585786});
  expect_near(apply(Activation(act_from_name("gelu_new"), 2), 1, {{1, -1}}),
              {0.8411919906, -0.1588080094});
  expect_near(apply(Activation(act_from_name("gelu_pytorch_tanh"), 1), 1, {{1}}), {0.8411919906});
  expect_near(apply(Activation(act_from_name("gelu"), 1), 1, {{1}}), {0.8413447461});
  expect_near(apply(Activation(act_from_name("relu"), 2), 1, {{-3, 2}}), {0, 2});
}

TEST(Ops, Norms) {
  NormSpec rms{NormSpec::Kind::rms, 0, false}, gemma{NormSpec::Kind::rms_plus_one, 0, false};
  expect_near(apply(Norm("n", 2, 2, rms), 1, {{3, 4}}, {{1, 1}}), {0.848528, 1.131371});
  expect_near(apply(Norm("n", 2, 2, gemma), 1, {{3, 4}}, {{0, 0}}), {0.848528, 1.131371});
  // Two heads of two components, each by itself.
  expect_near(apply(Norm("n", 4, 2, rms), 1, {{3, 4, 6, 8}}, {{1, 2}}),
              {0.848528, 2.262742, 0.848528, 2.262742});
}

// All scores are equal, so the result is the mean of the values that a query sees.
TEST(Ops, SlidingWindow) {
  AttentionSpec spec;
  spec.window = 4;
  std::vector<float> zero(6), v = {1, 2, 4, 8, 16, 32};
  expect_near(apply(Attention(spec), 6, {zero, zero, v}),
              {1, 1.5, 7 / 3.0, 15 / 4.0, 30 / 4.0, 60 / 4.0}, 1e-5);
}

TEST(Ops, SinkTakesItsShare) {
  AttentionSpec spec;
  spec.sinks = "sinks";
  // Query 1 has two scores of 0 and a sink of ln 2: 1/4, 1/4, and half for the sink.
  expect_near(apply(Attention(spec), 2, {{0, 0}, {0, 0}, {1, 3}}, {{std::log(2.0f)}}),
              {1 / 3.0, 1.0});
}

TEST(Ops, ScoresAreCapped) {
  AttentionSpec spec;
  spec.softcap = 2;
  double s = 2 * std::tanh(10.0 / 2);  // q = 10, k = 0, 1
  double p = std::exp(s) / (1 + std::exp(s));
  std::vector<float> y = apply(Attention(spec), 2, {{0, 10}, {0, 1}, {0, 1}});
  EXPECT_NEAR(static_cast<double>(y[1]), p, 1e-6);
}

RouteSpec route(size_t experts, size_t top_k) {
  RouteSpec spec;
  spec.experts = experts;
  spec.top_k = top_k;
  return spec;
}

TEST(Ops, RouterBySoftmax) {
  std::vector<float> logits = {std::log(1.0f), std::log(4.0f), std::log(3.0f), std::log(2.0f)};
  RouteSpec spec = route(4, 2);
  expect_near(apply(Route(spec), 1, {logits}), {1, 2, 0.4, 0.3});
  spec.normalize = true;  // Mixtral
  expect_near(apply(Route(spec), 1, {logits}), {1, 2, 4 / 7.0, 3 / 7.0});
  spec.normalize = false;
  spec.score = RouteSpec::Score::softmax_of_chosen;  // gpt-oss
  expect_near(apply(Route(spec), 1, {logits}), {1, 2, 4 / 7.0, 3 / 7.0});
}

TEST(Ops, RouterOfDeepSeekV3ChoosesWithABias) {
  auto logit = [](double s) { return static_cast<float>(std::log(s / (1 - s))); };
  std::vector<float> logits = {logit(0.9), logit(0.2), logit(0.6), logit(0.5)};
  RouteSpec spec = route(4, 2);
  spec.score = RouteSpec::Score::sigmoid;
  spec.bias = "bias";
  spec.normalize = true;
  spec.factor = 2.5f;
  // The bias lifts expert 1 above expert 2; its weight stays 0.2.
  expect_near(apply(Route(spec), 1, {logits}, {{0, 0.5f, 0, 0}}),
              {0, 1, 2.5 * 0.9 / 1.1, 2.5 * 0.2 / 1.1});
  // Of two groups, (0.9, 0.2) has the smaller sum once 3 is lifted: only 2 and 3 can be chosen.
  spec.groups = 2;
  spec.top_groups = 1;
  spec.group_score = RouteSpec::Groups::best_two;
  expect_near(apply(Route(spec), 1, {logits}, {{0, 0, 0, 0.3f}}),
              {3, 2, 2.5 * 0.5 / 1.1, 2.5 * 0.6 / 1.1});
}

TEST(Ops, RouterKeepsToTheBestGroups) {
  std::vector<float> logits = {std::log(5.0f), std::log(0.1f), std::log(4.0f), std::log(3.0f)};
  RouteSpec spec = route(4, 2);
  spec.groups = 2;
  spec.top_groups = 1;
  spec.group_score = RouteSpec::Groups::best;  // DeepSeek-V2: by the largest, here expert 0
  expect_near(apply(Route(spec), 1, {logits}), {0, 1, 5 / 12.1, 0.1 / 12.1});
}

// gate 10 and up -10 are clamped to 7 and -7; both matrices are [1], [1, 1].
TEST(Ops, ExpertOfGptOss) {
  ExpertSpec spec;
  spec.matrices = {{"both", Form::matrix, 2, 1}, {"down", Form::matrix, 1, 1}};
  spec.modules = {"both", "down"};
  spec.clamp = 7;
  Expert expert(spec);
  std::vector<Weight> weights(2);
  std::vector<float> both = {10, -10}, one = {1};
  weights[0].packed = gemm::Packed(2, 1, gemm::Precision::f32);
  weights[0].packed.pack_all(both.data(), 1);
  weights[1].packed = gemm::Packed(1, 1, gemm::Precision::f32);
  weights[1].packed.pack_all(one.data(), 1);
  Batch batch = rows(2);
  Step step{batch, gemm::Precision::f32};
  step.weights = weights;
  std::vector<float> x = {1, 1}, way = {0, 0.5f, 3, 0.5f}, sum = {100, 100}, out(2);
  std::vector<ConstMatrix> in = {{x.data(), 2, 1}, {way.data(), 2, 2}, {sum.data(), 2, 1}};
  expert.forward(step, in, Matrix{out.data(), 2, 1});
  // The second row went to expert 3.
  expect_near(out, {100 - 0.5 * 41.9997188, 100}, 1e-4);
}

// The same with gate and up in two tensors, as checkpoints with experts apart have them.
TEST(Ops, ExpertOfGptOssApart) {
  ExpertSpec spec;
  for (const char* name : {"gate", "up", "down"}) {
    spec.matrices.push_back({name, Form::matrix, 1, 1});
    spec.modules.push_back(name);
  }
  spec.clamp = 7;
  Expert expert(spec);
  std::vector<Weight> weights(3);
  std::vector<float> values = {10, -10, 1};
  for (size_t i = 0; i < 3; ++i) {
    weights[i].packed = gemm::Packed(1, 1, gemm::Precision::f32);
    weights[i].packed.pack_all(&values[i], 1);
  }
  Batch batch = rows(2);
  Step step{batch, gemm::Precision::f32};
  step.weights = weights;
  std::vector<float> x = {1, 1}, way = {0, 0.5f, 3, 0.5f}, sum = {100, 100}, out(2);
  std::vector<ConstMatrix> in = {{x.data(), 2, 1}, {way.data(), 2, 2}, {sum.data(), 2, 1}};
  expert.forward(step, in, Matrix{out.data(), 2, 1});
  expect_near(out, {100 - 0.5 * 41.9997188, 100}, 1e-4);
}

TEST(Ops, RefuseCountsThatCannotBe) {
  EXPECT_THROW(Route(route(4, 5)), Error);
  EXPECT_THROW(Route(route(4, 0)), Error);
  RouteSpec uneven = route(4, 2);
  uneven.groups = 3;
  EXPECT_THROW(Route{uneven}, Error);
  EXPECT_THROW(act_from_name("softplus"), Error);
}

}  // namespace
}  // namespace qp::engine
