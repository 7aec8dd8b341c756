// AWQ against the bytes of the reference (reference/int4-formats.md 1.3): every version, what is
// refused, and what is written.
#include <gtest/gtest.h>

#include "tests/unit/support/linear_model.h"

namespace qp {
namespace {

bool has(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }
#define EXPECT_SAYS(text, part) EXPECT_TRUE(has(text, part)) << (text)

// Example A4: 8 rows, 4 columns, one group; every column has codes 0..7 over the rows. Zero point of
// row n is n + 1 (nibbles in the same order); scale 0.5.
LinearModel a4() {
  LinearModel m;
  m.quantization() = {{"quant_method", "awq"}, {"bits", 4}, {"group_size", 4}, {"zero_point", true}, {"version", "gemm"}};
  m.set("qweight", DType::i32, {4, 1}, std::vector<uint32_t>(4, 0x75316420));
  m.set<uint32_t>("qzeros", DType::i32, {1, 1}, {0x86427531});
  m.set_f16("scales", {1, 8}, std::vector<float>(8, 0.5f));
  return m;
}

TEST(Awq, ReadsTheWorkedExample) {
  auto store = a4().open();
  for (float v : linear_values(*store)) EXPECT_EQ(v, -0.5f);
  EXPECT_FALSE(store->model().schemes.front().weights.symmetric);
}

TEST(Awq, CentredZeroPointsAreSymmetric) {
  for (bool zero_point : {true, false}) {
    LinearModel m = a4();
    m.quantization()["zero_point"] = zero_point;
    m.set<uint32_t>("qzeros", DType::i32, {1, 1}, {0x88888888});
    auto store = m.open();
    EXPECT_TRUE(store->model().schemes.front().weights.symmetric);
    std::vector<float> v = linear_values(*store);
    for (size_t n = 0; n < 8; ++n) EXPECT_EQ(v[n * 4], 0.5f * (static_cast<float>(n) - 8));
    Exported out(*store, "awq");
    EXPECT_EQ(out.config().at("zero_point"), true);
    EXPECT_EQ(out.words("qzeros"), std::vector<uint32_t>{0x88888888});
    EXPECT_EQ(out.words("qweight"), std::vector<uint32_t>(4, 0x75316420));
  }
}

TEST(Awq, EightBitsInPlainOrder) {
  LinearModel m = a4();
  m.quantization()["bits"] = 8;
  m.set("qweight", DType::i32, {4, 1}, std::vector<uint32_t>(4, 0xFF7F0100));
  m.set<uint32_t>("qzeros", DType::i32, {1, 1}, {0x80808080});
  m.set_f16("scales", {1, 4}, std::vector<float>(4, 1));
  std::vector<float> v = linear_values(*m.open());
  EXPECT_EQ((std::vector<float>{v[0], v[4], v[8], v[12]}), (std::vector<float>{-128, -127, -1, 127}));
}

TEST(Awq, NamesOfOldConfigs) {
  LinearModel m = a4();
  m.config.erase("quantization_config");
  m.files = {{"quant_config.json", R"({"zero_point": true, "q_group_size": 4, "w_bit": 4, "version": "GEMM"})"}};
  for (float v : linear_values(*m.open())) EXPECT_EQ(v, -0.5f);
}

TEST(Awq, Gemv) {
  // 2 rows of 32 columns, group 32 (one group, padded to 4 words); codes k mod 8; zero point 3.
  LinearModel m;
  m.quantization() = {{"quant_method", "awq"}, {"bits", 4}, {"group_size", 32}, {"zero_point", true}, {"version", "gemv"}};
  m.set("qweight", DType::i32, {2, 4}, std::vector<uint32_t>(8, 0x76543210));
  m.set<uint32_t>("qzeros", DType::i32, {2, 4}, {3, 0, 0, 0, 3, 0, 0, 0});
  std::vector<float> scales(64, 0);
  scales[0] = 1;
  scales[32] = 2;
  m.set_f16("scales", {2, 32}, scales);
  auto store = m.open();
  std::vector<float> v = linear_values(*store);
  for (size_t k = 0; k < 32; ++k) {
    EXPECT_EQ(v[k], static_cast<float>(k % 8) - 3);
    EXPECT_EQ(v[32 + k], 2 * (static_cast<float>(k % 8) - 3));
  }
  m.set<uint32_t>("qzeros", DType::i32, {2, 1}, {3, 3});
  EXPECT_SAYS(m.refusal(), "its qzeros does not fit");
}

TEST(Awq, GemvFast) {
  // 4 rows of 64 columns, one group of 64; every code 5; qzeros = -(scale * 3), one line of padding.
  LinearModel m;
  m.quantization() = {{"quant_method", "awq"}, {"bits", 4}, {"group_size", 64}, {"zero_point", true}, {"version", "gemv_fast"}};
  m.set("qweight", DType::i16, {1, 64}, std::vector<uint16_t>(64, 0x5555));
  m.set_f16("scales", {2, 4}, {0.1f, 0.2f, 0.3f, 0.7f, 0, 0, 0, 0});
  m.set_f16("qzeros", {2, 4}, {-0.3f, -0.6f, -0.9f, -2.1f, 0, 0, 0, 0});
  auto store = m.open();
  std::vector<float> v = linear_values(*store);
  EXPECT_EQ(v[0], 2 * f16_to_f32(f32_to_f16(0.1f)));
  EXPECT_EQ(v[3 * 64 + 63], 2 * f16_to_f32(f32_to_f16(0.7f)));
  m.set_f16("qzeros", {2, 4}, {-0.35f, -0.6f, -0.9f, -2.1f, 0, 0, 0, 0});
  EXPECT_SAYS(m.refusal(), "no integer");
}

TEST(Awq, RefusesBadInput) {
  auto broken = [](const std::function<void(LinearModel&)>& change) {
    LinearModel m = a4();
    change(m);
    return m.refusal();
  };
  for (const char* part : {"qzeros", "scales"}) {
    EXPECT_SAYS(broken([&](LinearModel& m) { m.remove(part); }), "has no " + std::string(part));
  }
  EXPECT_SAYS(broken([](LinearModel& m) { m.set_f16("scales", {2, 8}, std::vector<float>(16)); }), "its scales does not fit");
  EXPECT_SAYS(broken([](LinearModel& m) { m.quantization()["version"] = "gemm_v9"; }), "gemm_v9");
  EXPECT_SAYS(broken([](LinearModel& m) { m.quantization()["bits"] = 3; }), "'bits'");
  EXPECT_SAYS(broken([](LinearModel& m) { m.quantization()["group_size"] = 3; }), "no whole number of groups");
  EXPECT_SAYS(broken([](LinearModel& m) { m.quantization()["zero_point"] = false; }), "symmetric");
  EXPECT_SAYS(broken([](LinearModel& m) { m.quantization()["modules_to_not_convert"] = {"mlp"}; }), "modules_to_not_convert");
  EXPECT_SAYS(broken([](LinearModel& m) { m.set("g_idx", DType::i32, {4}, std::vector<int32_t>(4)); }), "g_idx");
  EXPECT_SAYS(broken([](LinearModel& m) { m.files = {{"quant_config.json", R"({"w_bit": 8})"}}; }), "'bits'");
}

TEST(Awq, RefusesToMix) {
  LinearModel m = a4();
  auto store = m.open();
  ExportOptions two;
  two.num_bits = 2;
  EXPECT_SAYS(write_refusal(*store, "awq", two), "asks for fewer");
}

}  // namespace
}  // namespace qp
