// The references' formulas, by hand (reference/modelopt.md 2, fp8-torchao-quark-modelslim.md 1.3).
#include "lib/scheme/numerics.h"

#include <gtest/gtest.h>

#include <array>
#include <cmath>

#include "lib/base/error.h"

namespace qp::numerics {
namespace {

QuantArgs integer(int bits) { return {.num_bits = bits, .strategy = Strategy::channel, .scale_dtype = {}}; }
QuantArgs fp8() { return {.num_bits = 8, .type = NumType::floating, .strategy = Strategy::block, .scale_dtype = {}}; }

TEST(Numerics, DivisorsOfIntegers) {
  EXPECT_EQ(scale_of(rules("compressed-tensors"), integer(8), DType::f32, 127.5f), 1.0f);
  EXPECT_EQ(scale_of(rules("modelopt"), integer(8), DType::bf16, 127.0f), 1.0f);
  EXPECT_EQ(scale_of(rules("modelopt"), integer(4), DType::bf16, 7.0f), 1.0f);
  EXPECT_EQ(scale_of(rules("modelslim"), integer(4), DType::bf16, 14.0f), 2.0f);
}

TEST(Numerics, AZeroBlockOfFp8) {
  EXPECT_EQ(scale_of(rules("deepgemm"), fp8(), DType::bf16, 0), 1e-4f / 448.0f);
  EXPECT_EQ(scale_of(rules("transformers"), fp8(), DType::bf16, 0), 1.0f);
  EXPECT_EQ(scale_of(rules("modelopt"), fp8(), DType::bf16, 0), 1.0f);
  EXPECT_EQ(scale_of(rules("modelslim"), integer(8), DType::bf16, 0), 0x1p-23f);
  EXPECT_EQ(scale_of(rules("compressed-tensors"), fp8(), DType::bf16, 0), 0x1p-7f);
}

TEST(Numerics, ARatioIsStoredAsItsInverse) {
  const Rules& r = rules("transformers");
  float amax = 0.3f, ratio = 448.0f * (1.0f / amax);
  EXPECT_EQ(ratio_of(r, fp8(), amax), ratio);
  EXPECT_EQ(scale_of(r, fp8(), DType::bf16, amax), 1.0f / ratio);
  EXPECT_EQ(ratio_of(r, fp8(), 0), 1.0f);
}

TEST(Numerics, QuarkComputesFloatsInTheDtypeOfTheWeight) {
  const Rules& r = rules("quark");
  EXPECT_EQ(scale_of(r, fp8(), DType::bf16, 0.6875f), round_to(DType::bf16, 0.6875f / 448.0f));
  EXPECT_EQ(scale_of(r, fp8(), DType::f32, 0.6875f), 0.6875f / 448.0f);
  EXPECT_FALSE(in_f32(r, fp8()));
  EXPECT_TRUE(in_f32(r, integer(8)));  // the scale is rounded, the quotient is not
  EXPECT_EQ(scale_of(r, integer(8), DType::bf16, 0.6875f), round_to(DType::bf16, 0.6875f / 127.5f));
}

TEST(Numerics, IntegersOfSglang) {
  EXPECT_EQ(scale_of(rules("sglang"), integer(8), DType::bf16, 127.0f), 1.0f);
  EXPECT_EQ(scale_of(rules("sglang"), integer(8), DType::bf16, 0), 1e-10f / 127.0f);
  EXPECT_EQ(ratio_of(rules("sglang"), integer(8), 3.0f), 127.0f / 3.0f);
}

TEST(Numerics, ModelOptsExponentsGoUp) {
  // MXFP4: ceil(log2(b / 6)); 6 -> 0, 6.5 -> 1, 3 -> -1, 0 -> the least.
  std::array<float, 5> amax = {6.0f, 6.5f, 3.0f, 0.0f, 12.0f}, effective{};
  std::array<uint8_t, 5> code{};
  mx_scales(rules("modelopt"), amax, 2, code.data(), effective.data());
  EXPECT_EQ(code, (std::array<uint8_t, 5>{127, 128, 126, 0, 128}));
  EXPECT_EQ(effective[1], 2.0f);
  // MXFP8: ceil(log2(b / 448)).
  amax = {448.0f, 449.0f, 224.0f, 0.0f, 1.0f};
  mx_scales(rules("modelopt"), amax, 8, code.data(), effective.data());
  EXPECT_EQ(code, (std::array<uint8_t, 5>{127, 128, 126, 0, 119}));  // 1/448: 2^-8.8
}

TEST(Numerics, TiesOfModelOptsMxfp4GoToZero) {
  EXPECT_EQ(e2m1_ties_to_zero(0.75f), 1);
  EXPECT_EQ(e2m1_ties_to_zero(std::nextafter(0.75f, 1.0f)), 2);
  EXPECT_EQ(e2m1_ties_to_zero(1.75f), 3);
  EXPECT_EQ(e2m1_ties_to_zero(3.5f), 5);
  EXPECT_EQ(e2m1_ties_to_zero(5.0f), 6);
  EXPECT_EQ(e2m1_ties_to_zero(100.0f), 7);
  EXPECT_EQ(e2m1_ties_to_zero(0.0f), 8);  // an exact zero is written as -0
  EXPECT_EQ(e2m1_ties_to_zero(-6.0f), 15);
}

TEST(Numerics, SecondStages) {
  EXPECT_EQ(second_stage_of(rules("modelopt"), DType::bf16, 2688.0f), 1.0f);
  EXPECT_EQ(second_stage_of(rules("modelopt"), DType::bf16, 0), 1.0f);
  EXPECT_EQ(second_stage_of(rules("compressed-tensors"), DType::f32, 1.0f), 2688.0f);
  // Local scales: E4M3 of amax / (6 * scale_2); 0 counts as 1; the least is 2^-9.
  std::array<float, 3> amax = {6.0f, 0.0f, 1e-6f}, effective{};
  std::array<uint8_t, 3> code{};
  nvfp4_scales(amax, 1.0f, code.data(), effective.data());
  EXPECT_EQ(code, (std::array<uint8_t, 3>{0x38, 0x38, 0x01}));
  EXPECT_EQ(effective[2], 0x1p-9f);
}

TEST(Numerics, RefusesWhatItDoesNotKnow) {
  EXPECT_THROW(rules("numpy"), Error);
  EXPECT_EQ(find_rules("awq"), nullptr);
  Scheme mx;
  mx.weights = {.num_bits = 8, .type = NumType::floating, .strategy = Strategy::group, .group_size = 32,
                .scale_dtype = DType::f8_e8m0};
  EXPECT_EQ(why_not(rules("modelopt"), mx), "");
  EXPECT_NE(why_not(rules("deepgemm"), mx), "");
  for (const Rules& r : all_rules()) EXPECT_EQ(&rules(r.name), &r);
}

}  // namespace
}  // namespace qp::numerics
