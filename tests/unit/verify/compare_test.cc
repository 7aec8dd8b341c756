#include "lib/verify/compare.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <limits>

#include "lib/base/error.h"
#include "lib/base/parallel.h"
#include "tests/unit/support/tensor_store.h"

namespace qp {
namespace {

std::string f32(const std::vector<float>& v) { return raw_bytes(v); }

TensorErrors compare_floats(const std::vector<float>& a, const std::vector<float>& b) {
  TensorStore s;
  s.add_float("a", DType::f32, {1, a.size()}, f32(a));
  s.add_float("b", DType::f32, {1, b.size()}, f32(b));
  const Store& store = s.store();
  return compare_tensors(store, s.tensor(0), store, s.tensor(1));
}

TEST(Compare, HandWorked) {
  // Differences 0 0 0 -1; sum b^2 = 1+4+9+25, sum a^2 = 30, sum ab = 1+4+9+20.
  TensorErrors e = compare_floats({1, 2, 3, 4}, {1, 2, 3, 5});
  EXPECT_EQ(e.count, 4u);
  EXPECT_EQ(e.mse(), 0.25);
  EXPECT_EQ(e.signal(), 39.0 / 4);
  EXPECT_EQ(e.max_abs, 1.0);
  EXPECT_DOUBLE_EQ(e.sqnr_db(), 15.910646070264991);  // 10 log10 39
  EXPECT_DOUBLE_EQ(e.cosine(), 34 / std::sqrt(30.0 * 39.0));
  EXPECT_FALSE(e.identical());
}

TEST(Compare, IdenticalIsExact) {
  TensorErrors e = compare_floats({1, -2, 0}, {1, -2, -0.0f});
  EXPECT_TRUE(e.identical());
  EXPECT_EQ(e.sqnr_db(), std::numeric_limits<double>::infinity());
  EXPECT_EQ(e.cosine(), 1.0);
  EXPECT_EQ(db_text(e.sqnr_db()), "exact");
}

TEST(Compare, ZeroBase) {
  TensorErrors e = compare_floats({1, 0}, {0, 0});
  EXPECT_EQ(e.sqnr_db(), -std::numeric_limits<double>::infinity());
  EXPECT_EQ(e.cosine(), 0.0);
  EXPECT_TRUE(compare_floats({0, 0}, {0, 0}).identical());
}

TEST(Compare, NonFinitePairsAreCountedAndLeftOut) {
  float inf = std::numeric_limits<float>::infinity(), nan = std::numeric_limits<float>::quiet_NaN();
  TensorErrors e = compare_floats({nan, 1, 2, 3}, {0, inf, 2, 4});
  EXPECT_EQ(e.nonfinite, 2u);
  EXPECT_EQ(e.used(), 2u);
  EXPECT_EQ(e.mse(), 0.5);
  EXPECT_FALSE(compare_floats({nan}, {1}).identical());
  EXPECT_TRUE(std::isnan(compare_floats({nan}, {1}).sqnr_db()));
}

TEST(Compare, OtherShapeIsRefused) {
  TensorStore s;
  s.add_float("a", DType::f32, {2, 1}, f32({1, 2}));
  s.add_float("b", DType::f32, {1, 2}, f32({1, 2}));
  const Store& store = s.store();
  EXPECT_THROW(compare_tensors(store, s.tensor(0), store, s.tensor(1)), Error);
}

// x' = 1664525 x + 1013904223 mod 2^32; the upper 24 bits as a number in [-0.5, 0.5).
std::vector<float> noise(uint32_t seed, size_t n) {
  std::vector<float> out(n);
  for (float& v : out) {
    seed = seed * 1664525u + 1013904223u;
    v = static_cast<float>(seed >> 8) / 16777216.0f - 0.5f;
  }
  return out;
}

// Several chunks. Expected values by numpy 2 in float64: with b = noise(1), d = noise(2) and
// a = b + d * 0.0625 in float32, mean((a-b)^2) and so on.
TEST(Compare, AgreesWithNumpy) {
  constexpr size_t kRows = 300, kCols = 701;
  std::vector<float> b = noise(1, kRows * kCols), d = noise(2, kRows * kCols), a = b;
  for (size_t i = 0; i < a.size(); ++i) a[i] = b[i] + d[i] * 0.0625f;
  TensorStore s;
  s.add_float("a", DType::f32, {kRows, kCols}, f32(a));
  s.add_float("b", DType::f32, {kRows, kCols}, f32(b));
  const Store& store = s.store();
  TensorErrors e = compare_tensors(store, s.tensor(0), store, s.tensor(1));
  EXPECT_NEAR(e.mse(), 0.00032538970240138547, 1e-15);
  EXPECT_NEAR(e.sqnr_db(), 24.091102544792268, 1e-10);
  EXPECT_NEAR(e.cosine(), 0.9980568582070558, 1e-12);
  EXPECT_EQ(e.max_abs, 0.03124965727329254);
  EXPECT_NEAR(e.signal(), 0.08346685681373665, 1e-13);
}

TEST(Compare, ThreadsChangeNoBit) {
  constexpr size_t kRows = 257, kCols = 1000;
  std::vector<float> a = noise(7, kRows * kCols), b = noise(8, kRows * kCols);
  TensorStore s;
  s.add_float("a", DType::f32, {kRows, kCols}, f32(a));
  s.add_float("b", DType::f32, {kRows, kCols}, f32(b));
  const Store& store = s.store();
  set_threads(1);
  TensorErrors one = compare_tensors(store, s.tensor(0), store, s.tensor(1));
  set_threads(7);
  TensorErrors many = compare_tensors(store, s.tensor(0), store, s.tensor(1));
  set_threads(0);
  for (auto member : {&TensorErrors::diff2, &TensorErrors::a2, &TensorErrors::b2, &TensorErrors::ab, &TensorErrors::max_abs}) {
    EXPECT_EQ(std::bit_cast<uint64_t>(one.*member), std::bit_cast<uint64_t>(many.*member));
  }
}

// Codes 0..7 of 4 bits are -8..-1; two groups of 4 with scales 0.5 and 2, in BF16.
TEST(Compare, QuantizedValuesAreDequantized) {
  TensorStore s;
  Scheme scheme = int_scheme(4, Strategy::group, 4);
  s.add_quantized("w", scheme, {1, 8}, DType::bf16,
                  {std::string("\x10\x32\x54\x76", 4), bf16_bytes({0.5f, 2.0f})});
  s.add_float("base", DType::bf16, {1, 8}, bf16_bytes({-4, -3.5f, -3, -2.5f, -8, -6, -4, -1}));
  const Store& store = s.store();
  TensorErrors e = compare_tensors(store, s.tensor(0), store, s.tensor(1));
  EXPECT_EQ(e.diff2, 1.0);  // only the last differs: -2 and -1
  EXPECT_EQ(e.max_abs, 1.0);
  EXPECT_EQ(e.b2, 16 + 12.25 + 9 + 6.25 + 64 + 36 + 16 + 1);
}

// 3 * 0.3339.. is no BF16 number: the value compared is the rounded one.
TEST(Compare, DequantizedValuesAreRoundedToTheDtype) {
  float scale = bf16_to_f32(f32_to_bf16(0.334f));
  float exact = 3 * scale, rounded = bf16_to_f32(f32_to_bf16(exact));
  ASSERT_NE(exact, rounded);
  TensorStore s;
  s.add_quantized("w", int_scheme(8, Strategy::channel), {1, 1}, DType::bf16, {std::string("\x83", 1), bf16_bytes({scale})});
  s.add_float("v", DType::f32, {1, 1}, f32({rounded}));
  const Store& store = s.store();
  EXPECT_TRUE(compare_tensors(store, s.tensor(0), store, s.tensor(1)).identical());
}

TEST(Compare, EqualBytes) {
  TensorStore s;
  s.add_float("a", DType::i64, {2}, raw_bytes<int64_t>({1, 2}));
  s.add_float("b", DType::i64, {2}, raw_bytes<int64_t>({1, 2}));
  s.add_float("c", DType::i64, {2}, raw_bytes<int64_t>({1, 3}));
  s.add_float("d", DType::u64, {2}, raw_bytes<int64_t>({1, 2}));
  const Store& store = s.store();
  EXPECT_FALSE(has_values(s.tensor(0)));
  EXPECT_TRUE(equal_bytes(store, s.tensor(0), store, s.tensor(1)));
  EXPECT_FALSE(equal_bytes(store, s.tensor(0), store, s.tensor(2)));
  EXPECT_FALSE(equal_bytes(store, s.tensor(0), store, s.tensor(3)));
}

}  // namespace
}  // namespace qp
