// The small floats against their definitions, exhaustively.
#include "lib/tensor/minifloat.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

namespace qp {
namespace {

// (1 + m / 2^mantissa) * 2^(e - bias), or a subnormal.
double defined_value(unsigned code, int exponent_bits, int mantissa_bits) {
  int bias = (1 << (exponent_bits - 1)) - 1;
  auto m = static_cast<double>(code & ((1u << mantissa_bits) - 1)) / (1 << mantissa_bits);
  int e = static_cast<int>(code >> mantissa_bits) & ((1 << exponent_bits) - 1);
  double a = e == 0 ? std::ldexp(m, 1 - bias) : std::ldexp(1 + m, e - bias);
  return (code >> (exponent_bits + mantissa_bits) & 1) != 0 ? -a : a;
}

// Checks the rounding between each pair of neighbours: at the middle the even one, one F32 beside
// it the nearer one. Both signs. Magnitude codes 0 .. last.
template <class Decode, class Encode>
void check_rounding(unsigned last, unsigned sign_bit, Decode decode, Encode encode) {
  for (unsigned code = 0; code < last; ++code) {
    double low = decode(code), high = decode(code + 1);
    auto middle = static_cast<float>((low + high) / 2);
    unsigned even = code % 2 == 0 ? code : code + 1;
    constexpr float kMax = std::numeric_limits<float>::max();
    if (static_cast<double>(middle) == (low + high) / 2) {
      ASSERT_EQ(encode(middle), even) << middle;
      ASSERT_EQ(encode(-middle), even | (middle > 0 ? sign_bit : 0)) << -middle;
      ASSERT_EQ(encode(std::nextafter(middle, 0.0f)), code);
      ASSERT_EQ(encode(std::nextafter(middle, kMax)), code + 1);
      ASSERT_EQ(encode(-std::nextafter(middle, kMax)), (code + 1) | sign_bit);
    }
    ASSERT_EQ(encode(static_cast<float>(low)), code);
    ASSERT_EQ(encode(static_cast<float>(high)), code + 1);
  }
}

TEST(Minifloat, F16) {
  for (unsigned h = 0; h < 65536; ++h) {
    float f = f16_to_f32(static_cast<uint16_t>(h));
    if ((h & 0x7c00u) != 0x7c00u) {
      ASSERT_EQ(f, defined_value(h, 5, 10));
      ASSERT_EQ(std::signbit(f), h >= 0x8000u);
      ASSERT_EQ(f32_to_f16(f), h);
    } else if ((h & 0x3ffu) == 0) {
      ASSERT_TRUE(std::isinf(f));
      ASSERT_EQ(f32_to_f16(f), h);
    } else {
      ASSERT_TRUE(std::isnan(f));
      ASSERT_EQ(f32_to_f16(f), h | 0x200u);
    }
  }
  check_rounding(0x7bff, 0x8000, [](unsigned c) { return defined_value(c, 5, 10); }, f32_to_f16);
  EXPECT_EQ(f32_to_f16(65519.996f), 0x7bff);
  EXPECT_EQ(f32_to_f16(65520.0f), 0x7c00);  // half way to 2^16
  EXPECT_EQ(f32_to_f16(-1e30f), 0xfc00);
  EXPECT_EQ(f32_to_f16(0x1p-149f), 0);
}

TEST(Minifloat, Bf16) {
  for (unsigned h = 0; h < 65536; ++h) {
    float f = bf16_to_f32(static_cast<uint16_t>(h));
    if ((h & 0x7f80u) != 0x7f80u) {
      ASSERT_EQ(f, defined_value(h, 8, 7));
      ASSERT_EQ(f32_to_bf16(f), h);
    } else if ((h & 0x7fu) == 0) {
      ASSERT_TRUE(std::isinf(f));
      ASSERT_EQ(f32_to_bf16(f), h);
    } else {
      ASSERT_TRUE(std::isnan(f));
      ASSERT_EQ(f32_to_bf16(f), h | 0x40u);
    }
  }
  check_rounding(0x7f7f, 0x8000, [](unsigned c) { return defined_value(c, 8, 7); }, f32_to_bf16);
  EXPECT_EQ(f32_to_bf16(std::numeric_limits<float>::max()), 0x7f80);
}

TEST(Minifloat, E4m3) {
  for (unsigned c = 0; c < 256; ++c) {
    float f = e4m3_to_f32(static_cast<uint8_t>(c));
    if ((c & 0x7fu) == 0x7fu) {
      ASSERT_TRUE(std::isnan(f));
      continue;
    }
    ASSERT_EQ(f, defined_value(c, 4, 3));
    ASSERT_EQ(f32_to_e4m3(f), c);
  }
  check_rounding(0x7e, 0x80, [](unsigned c) { return defined_value(c, 4, 3); }, f32_to_e4m3);
  constexpr float kInf = std::numeric_limits<float>::infinity();
  EXPECT_EQ(f32_to_e4m3(kInf), 0x7e);
  EXPECT_EQ(f32_to_e4m3(-500.0f), 0xfe);
  EXPECT_EQ(f32_to_e4m3(-0.0f), 0x80);
  EXPECT_EQ(f32_to_e4m3(-0x1p-149f), 0x80);
  EXPECT_EQ(f32_to_e4m3(std::nanf("")), 0x7f);
  EXPECT_EQ(f32_to_e4m3(-std::nanf("")), 0x7f);
}

TEST(Minifloat, E2m1) {
  constexpr float kValues[] = {0, 0.5f, 1, 1.5f, 2, 3, 4, 6};
  for (unsigned c = 0; c < 8; ++c) {
    EXPECT_EQ(e2m1_to_f32(static_cast<uint8_t>(c)), kValues[c]);
    EXPECT_EQ(e2m1_to_f32(static_cast<uint8_t>(c | 8)), -kValues[c]);
  }
  EXPECT_TRUE(std::signbit(e2m1_to_f32(8)));
  check_rounding(7, 8, [&](unsigned c) { return double{kValues[c]}; }, f32_to_e2m1);
  constexpr float kTies[] = {0.25f, 0.75f, 1.25f, 1.75f, 2.5f, 3.5f, 5};
  constexpr unsigned kCodes[] = {0, 2, 2, 4, 4, 6, 6};
  for (size_t i = 0; i < 7; ++i) EXPECT_EQ(f32_to_e2m1(kTies[i]), kCodes[i]);
  EXPECT_EQ(f32_to_e2m1(-0.0f), 0);
  EXPECT_EQ(f32_to_e2m1(-0x1p-149f), 8);
  EXPECT_EQ(f32_to_e2m1(-1e30f), 15);
  EXPECT_EQ(f32_to_e2m1(std::nanf("")), 7);
}

TEST(Minifloat, E8m0) {
  for (int e = 0; e < 255; ++e) {
    ASSERT_EQ(e8m0_to_f32(static_cast<uint8_t>(e)), std::ldexp(1.0f, e - 127));
  }
  EXPECT_TRUE(std::isinf(e8m0_to_f32(255)));
}

}  // namespace
}  // namespace qp
