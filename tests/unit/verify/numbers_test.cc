#include "lib/verify/numbers.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "tests/unit/support/tensor_store.h"

namespace qp {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();
const float kNan = std::numeric_limits<float>::quiet_NaN();

// "error nan-scale" of every finding.
std::vector<std::string> rules(const std::vector<Finding>& findings) {
  std::vector<std::string> out;
  for (const Finding& f : findings) out.push_back(std::string(name_of(f.severity)) + " " + f.rule);
  return out;
}
using Rules = std::vector<std::string>;

// 64 codes of 8 bits that differ, so that only the scales can be at fault.
std::string codes(size_t n = 64) {
  std::string out(n, '\0');
  for (size_t i = 0; i < n; ++i) out[i] = static_cast<char>(i + 33);
  return out;
}

Rules of_int8(const std::string& bytes, const std::vector<float>& scales) {
  TensorStore s;
  s.add_quantized("w", int_scheme(8, Strategy::channel), {4, bytes.size() / 4}, DType::bf16, {bytes, bf16_bytes(scales)});
  return rules(check_numbers(s.store(), s.tensor(0)));
}

Rules of_floats(const std::vector<float>& values) {
  TensorStore s;
  s.add_float("w", DType::bf16, {2, values.size() / 2}, bf16_bytes(values));
  return rules(check_numbers(s.store(), s.tensor(0)));
}

TEST(Numbers, SoundInt8) { EXPECT_EQ(of_int8(codes(), {0.5f, 1, 2, 0.01f}), Rules{}); }

TEST(Numbers, Scales) {
  EXPECT_EQ(of_int8(codes(), {0.5f, kNan, 2, 1}), Rules{"error nan-scale"});
  EXPECT_EQ(of_int8(codes(), {0.5f, kInf, 2, 1}), Rules{"error nan-scale"});
  EXPECT_EQ(of_int8(codes(), {0.5f, 0, 2, 1}), Rules{"error zero-scale"});
  EXPECT_EQ(of_int8(codes(), {0.5f, -1, 2, 1}), Rules{"warning negative-scale"});
  EXPECT_EQ(of_int8(codes(), {0.5f, 1e-40f, 2, 1}), Rules{"warning tiny-scale"});
  EXPECT_EQ(of_int8(codes(), {1, 1, 1, 1}), Rules{"warning unit-scale"});
}

TEST(Numbers, FewNegativeScalesAreDamageManyAreNot) {
  for (size_t step : {2u, 32u}) {
    TensorStore s;
    std::vector<float> scales(64);
    for (size_t i = 0; i < scales.size(); ++i)
      scales[i] = (i % step == 1 ? -1.0f : 1.0f) * (1 + static_cast<float>(i) / 64);
    std::string codes(64 * 4, '\x9a');
    s.add_quantized("w", int_scheme(4, Strategy::group, 8), {64, 8}, DType::bf16, {codes, bf16_bytes(scales)});
    auto findings = check_numbers(s.store(), s.tensor(0));
    bool found = std::ranges::any_of(findings, [](const Finding& f) { return f.rule == "negative-scale"; });
    EXPECT_EQ(found, step == 32) << step;
  }
}

TEST(Numbers, WhereTheFirstBadScaleIs) {
  TensorStore s;
  s.add_quantized("w", int_scheme(8, Strategy::group, 8), {4, 16}, DType::bf16,
                  {codes(), bf16_bytes({1, 2, 3, 4, 5, kNan, kNan, 8})});
  auto findings = check_numbers(s.store(), s.tensor(0));
  ASSERT_EQ(findings.size(), 1u);
  EXPECT_EQ(findings[0].what, "2 scales are NaN or infinite (first in row 2)");
  EXPECT_EQ(findings[0].tensor, "w");
  EXPECT_FALSE(findings[0].hint.empty());
}

TEST(Numbers, F16SubnormalScale) {
  TensorStore s;
  std::vector<uint16_t> scales = {f32_to_f16(1e-6f), f32_to_f16(0.5f)};
  s.add_quantized("w", int_scheme(8, Strategy::channel), {2, 32}, DType::f16, {codes(), raw_bytes(scales)});
  EXPECT_EQ(rules(check_numbers(s.store(), s.tensor(0))), Rules{"warning tiny-scale"});
}

TEST(Numbers, Codes) {
  EXPECT_EQ(of_int8(std::string(64, '\x80'), {0.5f, 1, 2, 3}), Rules{"warning equal-codes"});
  std::string saturated(512, '\0');
  for (size_t i = 0; i < 512; ++i) saturated[i] = static_cast<char>(i % 3 == 0 ? 255 : i % 128);
  EXPECT_EQ(of_int8(saturated, {0.5f, 1, 2, 3}), Rules{"warning saturated"});
}

TEST(Numbers, NanCodeOfE4m3) {
  for (char nan : {'\x7f', '\xff'}) {
    std::string bytes = codes();
    bytes[17] = nan;
    TensorStore s;
    s.add_quantized("w", fp8_scheme(Strategy::tensor), {4, 16}, DType::bf16, {bytes, bf16_bytes({0.25f})});
    NumberStats stats;
    EXPECT_EQ(rules(check_numbers(s.store(), s.tensor(0), &stats)), Rules{"error nan-code"});
    EXPECT_EQ(stats.histogram[static_cast<unsigned char>(nan)], 1u);
  }
}

TEST(Numbers, HistogramOf4BitCodes) {
  TensorStore s;
  s.add_quantized("w", int_scheme(4, Strategy::group, 4), {1, 8}, DType::bf16,
                  {std::string("\x10\x32\x54\xf1", 4), bf16_bytes({0.5f, 2.0f})});
  NumberStats stats;
  EXPECT_EQ(rules(check_numbers(s.store(), s.tensor(0), &stats)), Rules{});
  EXPECT_EQ(stats.histogram, (std::vector<uint64_t>{1, 2, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1}));
  EXPECT_EQ(stats.saturated, 2u);  // codes 0 and 15
  EXPECT_EQ(stats.scale_min, 0.5f);
  EXPECT_EQ(stats.scale_max, 2.0f);
}

TEST(Numbers, ZeroPoints) {
  for (char zero : {'\x08', '\x10'}) {
    TensorStore s;
    s.add_quantized("w", int_scheme(4, Strategy::channel, 0, false), {1, 8}, DType::bf16,
                    {std::string("\x10\x32\x54\x76", 4), bf16_bytes({0.5f}), std::string(1, zero)});
    EXPECT_EQ(rules(check_numbers(s.store(), s.tensor(0))), zero == '\x08' ? Rules{} : Rules{"error zero-point"});
  }
}

TEST(Numbers, Nvfp4GlobalScale) {
  Scheme s4;
  s4.weights.num_bits = 4;
  s4.weights.type = NumType::floating;
  s4.weights.strategy = Strategy::tensor_group;
  s4.weights.group_size = 16;
  for (float global : {3.0f, 0.0f, -1.0f, kInf, kNan}) {
    TensorStore s;
    s.add_quantized("w", s4, {1, 16}, DType::bf16, {codes(8), std::string(1, '\x38'), raw_bytes<float>({global})});
    EXPECT_EQ(rules(check_numbers(s.store(), s.tensor(0))), global == 3.0f ? Rules{} : Rules{"error global-scale"}) << global;
  }
}

TEST(Numbers, MxScaleOf255IsNan) {
  Scheme mx;
  mx.weights.num_bits = 4;
  mx.weights.type = NumType::floating;
  mx.weights.strategy = Strategy::group;
  mx.weights.group_size = 32;
  mx.weights.scale_dtype = DType::f8_e8m0;
  // 0 is 2^-127 and 127 is 1.0: both have a meaning.
  for (int exponent : {0, 127, 255}) {
    TensorStore s;
    s.add_quantized("w", mx, {1, 32}, DType::bf16, {codes(16), std::string(1, static_cast<char>(exponent))});
    EXPECT_EQ(rules(check_numbers(s.store(), s.tensor(0))), exponent < 255 ? Rules{} : Rules{"error nan-scale"}) << exponent;
  }
}

TEST(Numbers, CalibratedScales) {
  for (auto [value, expected] : {std::pair{0.7f, Rules{}}, std::pair{1.0f, Rules{"warning unit-scale"}},
                                 std::pair{0.0f, Rules{"error nan-scale"}}, std::pair{kNan, Rules{"error nan-scale"}}}) {
    TensorStore s;
    Tensor& t = s.add_quantized("w", fp8_scheme(Strategy::tensor), {4, 16}, DType::bf16, {codes(), bf16_bytes({0.25f})});
    t.parts.push_back({Role::input_scale, DType::bf16, {1}, s.put(bf16_bytes({value})), nullptr});
    EXPECT_EQ(rules(check_numbers(s.store(), s.tensor(0))), expected) << value;
  }
}

TEST(Numbers, Floats) {
  EXPECT_EQ(of_floats({1, 2, -3, 0}), Rules{});
  EXPECT_EQ(of_floats({1, 2, kNan, 0}), Rules{"error nan-weight"});
  EXPECT_EQ(of_floats({1, 2, -kInf, 0}), Rules{"error nan-weight"});
  EXPECT_EQ(of_floats({0, 0, 0, 0}), Rules{"warning all-zero"});
}

TEST(Numbers, BadFloatsAreCountedAndFound) {
  TensorStore s;
  s.add_float("w", DType::f32, {3, 2}, raw_bytes<float>({1, 2, 3, kNan, kInf, 6}));
  NumberStats stats;
  auto findings = check_numbers(s.store(), s.tensor(0), &stats);
  ASSERT_EQ(findings.size(), 1u);
  EXPECT_EQ(findings[0].what, "2 values are NaN or infinite (first in row 1)");
  EXPECT_EQ(stats.nonfinite, 2u);
}

TEST(Numbers, F64AndBareFp8) {
  TensorStore s;
  s.add_float("d", DType::f64, {1, 2}, raw_bytes<double>({1, std::nan("")}));
  s.add_float("e4m3", DType::f8_e4m3, {1, 2}, "\x01\x7f");
  s.add_float("e5m2", DType::f8_e5m2, {1, 2}, "\x01\xfc");  // -infinity
  s.add_float("fine", DType::f8_e5m2, {1, 2}, "\x01\x7b");
  const Store& store = s.store();
  EXPECT_EQ(rules(check_numbers(store, s.tensor(0))), Rules{"error nan-weight"});
  EXPECT_EQ(rules(check_numbers(store, s.tensor(1))), Rules{"error nan-code"});
  EXPECT_EQ(rules(check_numbers(store, s.tensor(2))), Rules{"error nan-code"});
  EXPECT_EQ(rules(check_numbers(store, s.tensor(3))), Rules{});
}

}  // namespace
}  // namespace qp
