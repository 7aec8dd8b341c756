// All BF16 values through the codes, and the quotients that are hardest to round.
#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>

#include "tests/unit/kernels/kernel_data.h"

namespace qp::kernels {
namespace {

class Exhaustive : public ::testing::TestWithParam<const Table*> {
 protected:
  const Table& k() const { return *GetParam(); }
  const Table& scalar() const { return *supported().data[0]; }
};

std::vector<uint16_t> all_bf16() {
  std::vector<uint16_t> all(65536);
  std::iota(all.begin(), all.end(), uint16_t{0});
  return all;
}

// The code 0..last whose value is nearest to a, an even one at ties.
template <class Value>
unsigned nearest(double a, unsigned last, Value value) {
  unsigned best = 0;
  for (unsigned c = 1; c <= last; ++c) {
    double d = std::abs(value(c) - a), least = std::abs(value(best) - a);
    if (d < least || (d == least && c % 2 == 0)) best = c;
  }
  return best;
}

TEST_P(Exhaustive, CodesOfAllBf16) {
  auto all = all_bf16();
  float one = 1;
  std::vector<uint8_t> fp8(65536), fp4(32768), int8(65536);
  k().e4m3_codes(Src::bf16, all.data(), 65536, 65536, &one, false, fp8.data());
  k().e2m1_codes(Src::bf16, all.data(), 65536, 65536, &one, true, fp4.data());
  k().int_codes(Src::bf16, all.data(), 65536, 65536, &one, nullptr, 8, int8.data());
  for (unsigned i = 0; i < 65536; ++i) {
    float x = bf16_to_f32(static_cast<uint16_t>(i));
    unsigned nibble = fp4[i / 2] >> (i % 2 * 4) & 15u;
    if (std::isnan(x)) {
      ASSERT_EQ(fp8[i], 0x7f);
      ASSERT_EQ(nibble, 7u);
      ASSERT_EQ(int8[i], 0);
      continue;
    }
    double a = std::abs(double{x});
    auto e4m3 = [](unsigned c) { return double{e4m3_to_f32(static_cast<uint8_t>(c))}; };
    auto e2m1 = [](unsigned c) { return double{e2m1_to_f32(static_cast<uint8_t>(c))}; };
    ASSERT_EQ(fp8[i], nearest(std::min(a, 448.0), 0x7e, e4m3) | (std::signbit(x) ? 0x80u : 0u));
    ASSERT_EQ(nibble, nearest(std::min(a, 6.0), 7, e2m1) | (x < 0 ? 8u : 0u));
    double q = std::nearbyint(std::clamp(double{x}, -128.0, 127.0));
    ASSERT_EQ(int8[i], static_cast<uint8_t>(q + 128));
  }
}

// The shortcut for BF16 weights with BF16 scales: all pairs of mantissas, all exponents of x.
TEST_P(Exhaustive, QuotientsOfBf16) {
  auto all = all_bf16();
  std::vector<uint8_t> a(65536), b(65536);
  for (int exponent : {-49, -7, 0, 12}) {
    for (int m = 0; m < 128; ++m) {
      float scale = std::ldexp(1 + static_cast<float>(m) / 128, exponent);
      for (int bits : {4, 8}) {
        scalar().int_codes(Src::bf16, all.data(), 65536, 65536, &scale, nullptr, bits, a.data());
        k().int_codes(Src::bf16, all.data(), 65536, 65536, &scale, nullptr, bits, b.data());
        ASSERT_EQ(a, b) << scale;
      }
      scalar().e4m3_codes(Src::bf16, all.data(), 65536, 65536, &scale, true, a.data());
      k().e4m3_codes(Src::bf16, all.data(), 65536, 65536, &scale, true, b.data());
      ASSERT_EQ(a, b) << scale;
    }
  }
}

// Weights a few units from points where the code of x / scale changes, for arbitrary scales.
TEST_P(Exhaustive, QuotientsNearTies) {
  Random random(17);
  constexpr size_t kN = 2048;
  std::vector<uint8_t> a(kN), b(kN);
  for (int round = 0; round < 400; ++round) {
    Src src = kSources[round % 3];
    float scale = std::ldexp(1 + static_cast<float>(random.below(1u << 23)) * 0x1p-23f,
                             -static_cast<int>(random.below(30)));
    if (round % 5 == 0) scale = round_to(src, scale);
    std::vector<float> x;
    while (x.size() < kN) x.push_back(random.tie(scale));
    Row row(src, x);
    scalar().int_codes(src, row.data(), kN, kN, &scale, nullptr, 8, a.data());
    k().int_codes(src, row.data(), kN, kN, &scale, nullptr, 8, b.data());
    ASSERT_EQ(a, b) << scale;
    scalar().e4m3_codes(src, row.data(), kN, kN, &scale, false, a.data());
    k().e4m3_codes(src, row.data(), kN, kN, &scale, false, b.data());
    ASSERT_EQ(a, b) << scale;
    for (size_t group : {size_t{16}, size_t{32}, kN}) {
      std::vector<float> scales;  // easy ones that differ a little
      for (size_t g = 0; g < kN; g += group) {
        scales.push_back(std::min(0.99f, scale * (1 + static_cast<float>(g % 64) / 64)));
        if (group == 32) scales.back() = round_to(Src::bf16, scales.back());
      }
      for (bool mode : {false, true}) {
        scalar().e2m1_codes(src, row.data(), kN, group, scales.data(), mode, a.data());
        k().e2m1_codes(src, row.data(), kN, group, scales.data(), mode, b.data());
        ASSERT_EQ(a, b) << scale;
        scalar().e4m3_codes(src, row.data(), kN, group, scales.data(), mode, a.data());
        k().e4m3_codes(src, row.data(), kN, group, scales.data(), mode, b.data());
        ASSERT_EQ(a, b) << scale;
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Kernels, Exhaustive,
                         ::testing::ValuesIn(supported().begin(), supported().end()),
                         [](const auto& tested) { return std::string(tested.param->isa); });

}  // namespace
}  // namespace qp::kernels
