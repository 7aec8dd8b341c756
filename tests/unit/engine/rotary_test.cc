// Numbers worked out in f64 elsewhere (reference/architectures.md, section 11).
#include <gtest/gtest.h>

#include <numbers>

#include "lib/base/error.h"
#include "lib/engine/ops/rope.h"

namespace qp::engine {
namespace {

const Json kGptOss = {{"rope_type", "yarn"},  {"factor", 32.0},
                      {"beta_fast", 32.0},    {"beta_slow", 1.0},
                      {"truncate", false},    {"original_max_position_embeddings", 4096}};
const Json kDeepSeek = {{"type", "yarn"}, {"factor", 40},         {"beta_fast", 32},
                        {"beta_slow", 1}, {"mscale", 1.0},        {"mscale_all_dim", 1.0},
                        {"original_max_position_embeddings", 4096}};

void expect_close(double value, double expected) {
  EXPECT_NEAR(value, expected, 2e-6 * std::abs(expected));
}

TEST(Rotary, Unscaled) {
  Rotary r(Json(), 10000, 64, Json::object());
  auto f = r.inv_freq(10);
  ASSERT_EQ(f.size(), 32u);
  expect_close(f[0], 1);
  for (size_t i = 0; i < f.size(); ++i) expect_close(f[i], std::pow(10000.0, -2.0 * double(i) / 64));
  EXPECT_EQ(r.attention_scaling(), 1);
}

TEST(Rotary, Llama3) {
  Json scaling = {{"rope_type", "llama3"},   {"factor", 8.0}, {"low_freq_factor", 1.0},
                  {"high_freq_factor", 4.0}, {"original_max_position_embeddings", 8192}};
  auto f = Rotary(scaling, 500000, 128, {{"max_position_embeddings", 131072}}).inv_freq(10);
  expect_close(f[1], 0.814617234);
  expect_close(f[28], 0.00321144599);
  expect_close(f[29], 0.00216657076);
  expect_close(f[30], 0.00137189357);
  expect_close(f[34], 0.000178507813);
  expect_close(f[35], 9.55621235e-05);
  expect_close(f[63], 3.06892599e-07);
}

TEST(Rotary, YarnWithoutTruncation) {
  Rotary r(kGptOss, 150000, 64, {{"max_position_embeddings", 131072}});
  auto f = r.inv_freq(10);
  expect_close(f[7], 0.0737445682);
  expect_close(f[8], 0.0508132748);
  expect_close(f[9], 0.0317056962);
  expect_close(f[12], 0.00679495949);
  expect_close(f[17], 0.000129318701);
  expect_close(f[31], 3.02351143e-07);
  expect_close(static_cast<double>(r.attention_scaling()), 1.34657359);
}

TEST(Rotary, YarnOfDeepSeek) {
  Rotary r(kDeepSeek, 10000, 64, {{"max_position_embeddings", 163840}});
  auto f = r.inv_freq(10);
  expect_close(f[10], 0.0562341325);
  expect_close(f[11], 0.0390069266);
  expect_close(f[16], 0.0055);
  expect_close(f[23], 3.33380358e-05);
  expect_close(f[24], 2.5e-05);
  EXPECT_EQ(r.attention_scaling(), 1);
  expect_close(r.mscale_all_dim(), 1.36888795);
  expect_close(std::pow(192, -0.5) * r.mscale_all_dim() * r.mscale_all_dim(), 0.135233779);
}

TEST(Rotary, LongRopeChoosesItsListByLength) {
  Json scaling = {{"type", "su"}, {"short_factor", {1.0, 2.0}}, {"long_factor", {4.0, 8.0}}};
  Rotary r(scaling, 10000, 4,
           {{"max_position_embeddings", 131072}, {"original_max_position_embeddings", 4096}});
  expect_close(r.inv_freq(4096)[1], 0.01 / 2);
  expect_close(r.inv_freq(4097)[1], 0.01 / 8);
  expect_close(static_cast<double>(r.attention_scaling()), 1.19023807);
}

TEST(Rotary, LinearInBothSpellings) {
  Json old = {{"type", "linear"}, {"factor", 2}};
  Json now = {{"rope_type", "linear"}, {"factor", 2}, {"rope_theta", 10000}};
  EXPECT_EQ(Rotary(old, 10000, 8, Json::object()).inv_freq(1),
            Rotary(now, 777, 8, Json::object()).inv_freq(1));
  expect_close(Rotary(old, 10000, 8, Json::object()).inv_freq(1)[0], 0.5);
}

TEST(Rotary, DynamicStretchesLongWindowsOnly) {
  Rotary r({{"rope_type", "dynamic"}, {"factor", 2.0}}, 10000, 64, {{"max_position_embeddings", 32}});
  Rotary plain(Json(), 10000, 64, Json::object());
  EXPECT_EQ(r.inv_freq(32), plain.inv_freq(32));
  double base = 10000 * std::pow(2.0 * 64 / 32 - 1, 64.0 / 62);
  expect_close(r.inv_freq(64)[5], std::pow(base, -10.0 / 64));
}

// A quarter turn of (1, 0, 0, 0) by the first of two angles. The pairs are (0, 2) and (1, 3).
TEST(Rotary, Turns) {
  auto rotary = std::make_shared<Rotary>(Json(), 1e12, 4, Json::object());
  Batch batch;
  std::vector<int32_t> ids = {0, 0};
  batch.add(ids.data(), 2);
  for (bool interleaved : {false, true}) {
    Rope rope(rotary, 1, 4, 0, interleaved);
    std::vector<float> x = {9, 9, 9, 9, 1, 0, 0, 0}, y(8);
    ConstMatrix in{x.data(), 2, 4};
    rope.forward(Step{batch}, {&in, 1}, Matrix{y.data(), 2, 4});
    std::vector<float> still(y.begin(), y.begin() + 4);
    EXPECT_EQ(still, std::vector<float>(4, 9));  // position 0
    EXPECT_NEAR(y[4], std::cos(1.0f), 1e-6);     // position 1 turns by 1
    EXPECT_NEAR(y[6], std::sin(1.0f), 1e-6);
    EXPECT_EQ(y[5], 0);
  }
}

void expect_refused(const Json& scaling, double theta, size_t dim, const Json& config,
                    const std::string& key) {
  try {
    Rotary r(scaling, theta, dim, config);
    FAIL() << scaling.dump() << " was taken";
  } catch (const Error& e) {
    EXPECT_EQ(e.kind(), ErrorKind::input);
    EXPECT_NE(std::string(e.what()).find(key), std::string::npos) << e.what();
  }
}

TEST(Rotary, RefusesWhatMakesNoSense) {
  const Json none = Json::object();
  expect_refused({{"rope_type", "spiral"}}, 10000, 8, none, "spiral");
  expect_refused({{"rope_type", 3}}, 10000, 8, none, "rope_type");
  expect_refused(none, 0, 8, none, "rope_theta");
  expect_refused({{"rope_theta", "big"}}, 10000, 8, none, "rope_theta");
  expect_refused(none, 10000, 7, none, "head_dim");
  expect_refused({{"type", "linear"}, {"factor", 0}}, 10000, 8, none, "factor");
  expect_refused({{"type", "linear"}, {"factor", "2"}}, 10000, 8, none, "factor");
  expect_refused({{"type", "yarn"}, {"original_max_position_embeddings", -1}}, 10000, 8, none,
                 "original_max_position_embeddings");
  expect_refused({{"type", "dynamic"}, {"factor", 2}}, 10000, 8, {{"max_position_embeddings", 0}},
                 "max_position_embeddings");
  expect_refused({{"type", "llama3"}, {"factor", 2}, {"low_freq_factor", 4}, {"high_freq_factor", 4}},
                 10000, 8, none, "high_freq_factor");
  expect_refused({{"type", "longrope"}, {"long_factor", {1, 2, 3, 4}}}, 10000, 8, none,
                 "short_factor");
  expect_refused({{"type", "longrope"}, {"long_factor", {1, 2, "x", 4}}}, 10000, 8, none,
                 "long_factor");
}

}  // namespace
}  // namespace qp::engine
