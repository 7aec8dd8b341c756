// Shapes of parameters, worked by hand from the tables of the reference pages.
#include "lib/target/scheme.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "lib/base/error.h"

namespace qp::target {
namespace {

std::optional<Shape> shape(std::string_view set, std::string_view suffix, const Scheme& s, Dims d) {
  for (const Param& p : param_set(set).params) {
    if (p.suffix == suffix) return shape_of(p, s, d);
  }
  return std::nullopt;
}

TEST(Scheme, Shapes) {
  Scheme s;
  s.bits = 3;
  s.group = 128;
  // 3 bits, K = 320: 960 bits are 30 words; 3 groups, the last one ragged.
  EXPECT_EQ(shape("ct-pack", "weight_packed", s, {96, 320}), (Shape{96, 30}));
  EXPECT_EQ(shape("ct-pack", "weight_scale", s, {96, 320}), (Shape{96, 3}));
  EXPECT_EQ(shape("ct-pack", "weight_zero_point", s, {96, 320}), (Shape{9, 3}));
  s.bits = 4;
  EXPECT_EQ(shape("gptq", "qweight", s, {96, 256}), (Shape{32, 96}));
  EXPECT_EQ(shape("gptq", "qzeros", s, {96, 256}), (Shape{2, 12}));
  EXPECT_EQ(shape("awq", "qweight", s, {96, 256}), (Shape{256, 12}));
  s.group = 0;
  EXPECT_EQ(shape("gptq", "scales", s, {96, 256}), (Shape{1, 96}));
  s.block_n = s.block_k = 128;
  EXPECT_EQ(shape("fp8-block", "weight_scale_inv", s, {129, 256}), (Shape{2, 2}));
  EXPECT_EQ(shape("ct-nvfp4", "weight_scale", s, {64, 96}), (Shape{64, 6}));
  EXPECT_EQ(shape("ct-nvfp4", "weight_scale", s, {0, 96}), std::nullopt);
}

TEST(Scheme, SizesFromCodes) {
  Scheme s;
  s.bits = 4;
  const Param& packed = param_set("ct-pack").params[0];
  Dims d = dims_from(packed, s, {96, 40});
  EXPECT_EQ(d.n, 96U);
  EXPECT_EQ(d.k, 320U);
  const Param& awq = param_set("awq").params[0];
  d = dims_from(awq, s, {256, 12});
  EXPECT_EQ(d.n, 96U);
  EXPECT_EQ(d.k, 256U);
}

TEST(Scheme, OneElementOfAnyRank) {
  Param one{"weight_scale", "F32", "1"};
  EXPECT_TRUE(fits(one, Shape(), Shape{1}));
  EXPECT_TRUE(fits(one, Shape{1}, Shape{1}));
  EXPECT_FALSE(fits(one, Shape{3}, Shape{1}));
  EXPECT_FALSE(fits(one, Shape{1, 1}, Shape{1}));
}

TEST(Scheme, WhatIsNeeded) {
  Scheme s;
  const auto& params = param_set("ct-pack").params;
  auto zero = std::ranges::find(params, "weight_zero_point", &Param::suffix);
  EXPECT_FALSE(created(*zero, s));
  s.symmetric = false;
  EXPECT_TRUE(needed(*zero, s));
  EXPECT_THROW(param_set("no such"), Error);
}

}  // namespace
}  // namespace qp::target
