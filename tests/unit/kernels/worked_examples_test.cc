// The worked examples of the compressed-tensors formats, computed with that library, and other
// facts about its arithmetic. Every instruction set must give them.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "tests/unit/kernels/kernel_data.h"

namespace qp::kernels {
namespace {

using Bytes = std::vector<uint8_t>;
using Floats = std::vector<float>;

float bf16(uint16_t bits) { return bf16_to_f32(bits); }

class Examples : public ::testing::TestWithParam<const Table*> {
 protected:
  const Table& k() const { return *GetParam(); }

  Bytes ints(Src s, const Floats& w, float scale, int bits, const float* zero = nullptr) const {
    Row row(s, w);
    Bytes out((w.size() * size_t(bits) + 7) / 8);
    k().int_codes(s, row.data(), w.size(), w.size(), &scale, zero, bits, out.data());
    return out;
  }
  // Integers as weights of scale 1.
  Bytes packed(const Floats& q, int bits) const { return ints(Src::bf16, q, 1, bits); }
  Bytes e4m3(Src s, const Floats& w, float scale, bool drop = true) const {
    Row row(s, w);
    Bytes out(w.size());
    k().e4m3_codes(s, row.data(), w.size(), w.size(), &scale, drop, out.data());
    return out;
  }
  float absmax(Src s, const Floats& w) const {
    Row row(s, w);
    float m = 0;
    k().group_absmax(s, row.data(), w.size(), w.size(), &m);
    return m;
  }
};

// Example G; K and M use the 16 values below.
const Floats kG = {0.1f, -0.25f, 0.5f, -0.75f, 1, 0.3333f, -0.05f, 0};
const Floats kSixteen = {0.1f, -0.25f, 0.5f, -0.75f, 1,     0.3333f, -0.05f, 0,
                         3.4f, -3.5f,  0.02f, -0.02f, 1.25f, -1.75f,  2.5f,   0.25f};

TEST_P(Examples, PackingOfFourBits) {
  EXPECT_EQ(packed({1, -1, 7, -8, 0, 3, -4, 5}, 4), (Bytes{0x79, 0x0f, 0xb8, 0xd4}));
  EXPECT_EQ(packed({-8, -7, -6, -5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 6, 7}, 4),
            (Bytes{0x10, 0x32, 0x54, 0x76, 0x98, 0xba, 0xdc, 0xfe}));
  EXPECT_EQ(packed({0, 1, 2, 3, 4, 5, 6, 7, -8, -1}, 4), (Bytes{0x98, 0xba, 0xdc, 0xfe, 0x70}));
}

TEST_P(Examples, PackingOfOtherWidths) {
  EXPECT_EQ(packed({0, 1, -1, 127, -128, 5}, 8), (Bytes{0x80, 0x81, 0x7f, 0xff, 0x00, 0x85}));
  Floats three;
  for (int i = 0; i < 32; ++i) three.push_back(static_cast<float>(i % 8 - 4));
  EXPECT_EQ(packed(three, 3), (Bytes{0x88, 0xc6, 0xfa, 0x88, 0xc6, 0xfa, 0x88, 0xc6, 0xfa, 0x88,
                                     0xc6, 0xfa}));
  three.resize(12);
  EXPECT_EQ(packed(three, 3), (Bytes{0x88, 0xc6, 0xfa, 0x88, 0x06}));
  EXPECT_EQ(packed({-32, -31, -1, 0, 1, 2, 30, 31}, 6),
            (Bytes{0x40, 0xf0, 0x81, 0xa1, 0xe8, 0xff}));
}

TEST_P(Examples, PackingOfZeroPoints) {  // a column of zero points is packed like a row of codes
  EXPECT_EQ(packed({0, 1, 2, 3, -1, -2, -3, -8}, 4), (Bytes{0x98, 0xba, 0x67, 0x05}));
  EXPECT_EQ(packed({7, 6, 5, 4, -5, -6, -7, -8}, 4), (Bytes{0xef, 0xcd, 0x23, 0x01}));
  EXPECT_EQ(packed({0, 1, -8}, 4), (Bytes{0x98, 0x00}));
}

TEST_P(Examples, Int4Symmetric) {
  EXPECT_EQ(absmax(Src::bf16, kG), 1.0f);
  EXPECT_EQ(f32_to_bf16(1 / 7.5f), 0x3e09);
  EXPECT_EQ(ints(Src::bf16, kG, bf16(0x3e09), 4), (Bytes{0x69, 0x2c, 0xaf, 0x88}));
  const uint8_t codes[] = {0x69, 0x2c, 0xaf, 0x88};
  float scale = bf16(0x3e09), values[8];
  k().int_values(codes, 8, 8, &scale, nullptr, 4, values);
  uint16_t bits[8];
  k().from_f32(Src::bf16, values, 8, bits);
  const uint16_t expected[] = {0x3e09, 0xbe89, 0x3f09, 0xbf4e, 0x3f70, 0x3e89};
  for (size_t i = 0; i < 6; ++i) EXPECT_EQ(bits[i], expected[i]);
  // In BF16 the quotients of the extremes round to 7.46875, in F16 they are exactly 7.5.
  EXPECT_EQ(ints(Src::bf16, {-1, 1}, bf16(0x3e09), 4), (Bytes{0xf1}));
  EXPECT_EQ(ints(Src::f16, {-1, 1}, f16_to_f32(0x3044), 4), (Bytes{0xf0}));
}

TEST_P(Examples, Int4Asymmetric) {
  Floats w = {0.1f, -0.25f, 0.5f, -0.3f, 1, 0.3333f, -0.05f, 0};
  Row row(Src::bf16, w);
  float lo = 0, hi = 0, zero = -4;
  k().group_minmax(Src::bf16, row.data(), w.size(), w.size(), &lo, &hi);
  EXPECT_EQ(lo, -0.30078125f);
  EXPECT_EQ(hi, 1.0f);
  EXPECT_EQ(ints(Src::bf16, w, bf16(0x3db1), 4, &zero), (Bytes{0x15, 0x0a, 0x8f, 0x43}));
}

TEST_P(Examples, Int8) {
  Bytes u = ints(Src::bf16, kG, bf16(0x3c01), 8);
  const int expected[] = {13, -32, 64, -96, 127, 42, -6, 0};
  for (size_t i = 0; i < 8; ++i) EXPECT_EQ(u[i] - 128, expected[i]);
  EXPECT_EQ(ints(Src::bf16, {42.5f, 63.5f, -42.5f, -43.5f}, 1, 8),
            (Bytes{128 + 42, 128 + 64, 128 - 42, 128 - 44}));
}

TEST_P(Examples, Fp8) {
  EXPECT_EQ(e4m3(Src::bf16, kG, bf16(0x3b12)),
            (Bytes{0x63, 0xee, 0x76, 0xfa, 0x7e, 0x71, 0xdb, 0x00}));
  // Rounded to BF16 first: 84.03 becomes 84, a tie.
  EXPECT_EQ(e4m3(Src::bf16, {0.671875f}, 0.00799560546875f), (Bytes{0x6a}));
  EXPECT_EQ(e4m3(Src::f32, {0.671875f}, 0.00799560546875f), (Bytes{0x6b}));
  EXPECT_EQ(e4m3(Src::bf16, {-0.0f, -0x1p-60f, 0.0f}, 1, true), (Bytes{0x00, 0x80, 0x00}));
  EXPECT_EQ(e4m3(Src::bf16, {-0.0f, -0x1p-60f, 0.0f}, 1, false), (Bytes{0x80, 0x80, 0x00}));
}

TEST_P(Examples, Int4RoundsTheQuotientFirst) {
  EXPECT_EQ(ints(Src::bf16, {2.546875f}, 1.015625f, 4), (Bytes{8 + 2}));
  EXPECT_EQ(ints(Src::f32, {2.546875f}, 1.015625f, 4), (Bytes{8 + 3}));
  EXPECT_EQ(ints(Src::f32, {7.5f, -7.5f}, 1, 4), (Bytes{0x0f}));  // clamped to 7; to -8 by rounding
}

TEST_P(Examples, Mxfp4) {
  Floats w = kSixteen;
  for (float x : kSixteen) w.push_back(-x);
  Row row(Src::bf16, w);
  float amax = 0, scale = 0;
  uint8_t e = 0;
  k().group_absmax(Src::bf16, row.data(), 32, 32, &amax);
  k().mx_scales(Src::bf16, &amax, 1, 2, &e, &scale);
  EXPECT_EQ(amax, 3.5f);
  EXPECT_EQ(e, 0x7f);
  EXPECT_EQ(scale, 1.0f);
  Bytes out(16);
  k().e2m1_codes(Src::bf16, row.data(), 32, 32, &scale, true, out.data());
  EXPECT_EQ(out, (Bytes{0x80, 0xa1, 0x12, 0x08, 0xe5, 0x80, 0xc2, 0x04, 0x08, 0x29, 0x9a, 0x00,
                        0x6d, 0x08, 0x4a, 0x8c}));
}

TEST_P(Examples, Mxfp8) {
  float amax = 3.5f, scale = 0;
  uint8_t e = 0;
  k().mx_scales(Src::bf16, &amax, 1, 8, &e, &scale);
  EXPECT_EQ(e, 0x79);
  EXPECT_EQ(scale, 0x1p-6f);
  EXPECT_EQ(e4m3(Src::bf16, kSixteen, scale),
            (Bytes{0x4d, 0xd8, 0x60, 0xe4, 0x68, 0x5b, 0xc5, 0x00, 0x76, 0xf6, 0x3a, 0xba, 0x6a,
                   0xee, 0x72, 0x58}));
}

TEST_P(Examples, Nvfp4) {
  Floats w = kSixteen;
  for (float x : kSixteen) w.push_back(round_to(Src::bf16, round_to(Src::bf16, x) * 0.1f));
  Row row(Src::bf16, w);
  Floats amax(2), effective(2);
  Bytes local(2), out(16);
  k().group_absmax(Src::bf16, row.data(), 32, 16, amax.data());
  k().nvfp4_scales(Src::bf16, amax.data(), 2, 768.0f, local.data(), effective.data());
  EXPECT_EQ(local, (Bytes{0x7e, 0x63}));
  EXPECT_EQ(effective, (Floats{448.0f / 768.0f, 44.0f / 768.0f}));
  k().e2m1_codes(Src::bf16, row.data(), 32, 16, effective.data(), false, out.data());
  EXPECT_EQ(out, (Bytes{0x90, 0xb2, 0x13, 0x08, 0xf7, 0x80, 0xd4, 0x16, 0x90, 0xb2, 0x13, 0x08,
                        0xf7, 0x80, 0xd4, 0x16}));
}

TEST_P(Examples, Nvfp4OfZeros) {
  Floats amax(3), effective(3);
  Bytes local(3), out(8, 1);
  k().nvfp4_scales(Src::bf16, amax.data(), 3, 1.0f, local.data(), effective.data());
  EXPECT_EQ(local, Bytes(3, 0x20));
  EXPECT_EQ(effective, Floats(3, 0.125f));
  Row row(Src::bf16, {0, -0.0f, -0x1p-100f, 0x1p-100f});
  k().e2m1_codes(Src::bf16, row.data(), 4, 4, effective.data(), false, out.data());
  EXPECT_EQ(out[0], 0x00);
  EXPECT_EQ(out[1], 0x08);  // the tiny negative one keeps its sign
}

TEST_P(Examples, MxExponents) {
  constexpr float kMax = std::numeric_limits<float>::max();
  struct {
    Src src;
    float amax;
    int fp4, fp8;
  } cases[] = {
      {Src::bf16, 1.7421875f, 125, 119}, {Src::bf16, 1.75f, 126, 120},
      {Src::bf16, 7.0f, 128, 122},       {Src::bf16, 6.0f, 127, 121},
      {Src::f32, 1.7499999f, 125, 119},  {Src::f32, 1.75f, 126, 120},
      {Src::f16, 1.7490234f, 125, 119},  {Src::f16, 1.75f, 126, 120},
      {Src::bf16, 0.0f, 0, 0},           {Src::f32, 0.0f, 0, 0},
      {Src::f16, 0.0f, 127, 127},        {Src::bf16, 0x1p-130f, 0, 0},
      {Src::f16, 0x1p-15f, 127, 127},    {Src::f16, 0x1.8p-15f, 111, 105},
      {Src::f16, 0x1p-14f, 111, 105},    {Src::f16, 65504.0f, 255, 255},
      {Src::f32, kMax, 255, 255},        {Src::f32, 0x1p-120f, 5, 0},
  };
  for (auto& c : cases) {
    uint8_t e = 0;
    float scale = 0;
    k().mx_scales(c.src, &c.amax, 1, 2, &e, &scale);
    EXPECT_EQ(e, c.fp4) << c.amax;
    EXPECT_EQ(scale, e8m0_to_f32(e));
    k().mx_scales(c.src, &c.amax, 1, 8, &e, &scale);
    EXPECT_EQ(e, c.fp8) << c.amax;
  }
}

TEST_P(Examples, ReductionsOfUnusualValues) {
  constexpr float kInf = std::numeric_limits<float>::infinity();
  for (Src s : kSources) {
    EXPECT_EQ(absmax(s, {1, -kInf, 2}), kInf);
    EXPECT_TRUE(std::isnan(absmax(s, {1, -std::nanf(""), kInf})));
    Row row(s, {-0.0f, -0.0f, 0.5f, -2, std::nanf(""), 1});
    float lo[3], hi[3];
    k().group_minmax(s, row.data(), 6, 2, lo, hi);
    EXPECT_EQ(lo[0], 0);
    EXPECT_FALSE(std::signbit(lo[0]) || std::signbit(hi[0]));
    EXPECT_EQ(lo[1], -2);
    EXPECT_EQ(hi[1], 0.5f);
    EXPECT_TRUE(std::isnan(lo[2]) && std::isnan(hi[2]));
  }
}

TEST_P(Examples, PackedCodesComeBack) {
  Random random(5);
  for (int bits = 2; bits <= 8; ++bits) {
    for (size_t n = 1; n <= 200; ++n) {
      Floats q;
      for (size_t i = 0; i < n; ++i) {
        q.push_back(static_cast<float>(static_cast<int>(random.below(size_t{1} << bits))) -
                    static_cast<float>(1 << (bits - 1)));
      }
      Bytes in = packed(q, bits);
      Floats back(n);
      float scale = 1;
      k().int_values(in.data(), n, n, &scale, nullptr, bits, back.data());
      ASSERT_EQ(back, q);
      std::vector<uint64_t> counts(256);
      k().histogram(in.data(), n, bits, counts.data());
      uint64_t total = 0;
      for (uint64_t c : counts) total += c;
      ASSERT_EQ(total, n);
    }
  }
}

TEST_P(Examples, CompareSums) {
  Floats a = {1, 2, std::nanf(""), -4}, b = {1, 3, 0, -2};
  ErrorSums s;
  k().compare(a.data(), b.data(), 4, &s);
  k().compare(a.data(), b.data(), 1, &s);
  EXPECT_EQ(s.diff2, 5);
  EXPECT_EQ(s.a2, 22);
  EXPECT_EQ(s.b2, 15);
  EXPECT_EQ(s.ab, 16);
  EXPECT_EQ(s.max_abs, 2);
  EXPECT_EQ(s.nonfinite, 1u);
}

INSTANTIATE_TEST_SUITE_P(Kernels, Examples,
                         ::testing::ValuesIn(supported().begin(), supported().end()),
                         [](const auto& tested) { return std::string(tested.param->isa); });

}  // namespace
}  // namespace qp::kernels
