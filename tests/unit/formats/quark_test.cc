// Quark against bytes worked out by hand (reference/fp8-torchao-quark-modelslim.md 4).
#include <gtest/gtest.h>

#include "formats/quark/quark.h"
#include "lib/algorithm/rtn.h"
#include "lib/config/presets.h"
#include "tests/unit/support/family.h"
#include "tests/unit/support/tensor_store.h"

namespace qp {
namespace {

const std::string kUp = "model.layers.0.mlp.up_proj";

Json spec(const char* dtype, const char* scheme, bool dynamic = false, Json group = nullptr) {
  return {{"dtype", dtype}, {"qscheme", scheme}, {"is_dynamic", dynamic}, {"group_size", group}, {"symmetric", true}};
}

MadeCheckpoint quark(Json weight, Json input, std::vector<TestTensor> tensors) {
  MadeCheckpoint c;
  c.quantization = {{"quant_method", "quark"}, {"global_quant_config", {{"weight", weight}, {"input_tensors", input}}},
                    {"layer_quant_config", Json::object()}, {"layer_type_quant_config", Json::object()}, {"exclude", {"lm_head"}},
                    {"export", {{"kv_cache_group", Json::array()}, {"pack_method", "reorder"}}}};
  c.tensors = std::move(tensors);
  return c;
}
TestTensor scalar(const std::string& name, float v) { return f32_tensor(name, {}, {v}); }

MadeCheckpoint fp8_static() {
  return quark(spec("fp8_e4m3", "per_tensor"), spec("fp8_e4m3", "per_tensor"),
               {bytes_tensor(kUp + ".weight", DType::f8_e4m3, {2, 2}, {0x38, 0x40, 0x30, 0xB8}), scalar(kUp + ".weight_scale", 0.25),
                scalar(kUp + ".input_scale", 2)});
}

// Nibbles of the word 0x75316420 are the elements 0 to 7 in order.
MadeCheckpoint int4_fp8(int scale_stages) {
  std::vector<TestTensor> t = {{kUp + ".weight", DType::i32, {2, 1}, raw_bytes(std::vector<uint32_t>{0x75316420u, 0xFDB9ECA8u})}};
  if (scale_stages == 2) {
    t.push_back(scalar(kUp + ".weight_scale", 0.5));
    t.push_back(f32_tensor(kUp + ".weight_scale_2", {2}, {2, 4}));
    return quark(Json::array({spec("fp8_e4m3", "per_tensor"), spec("int4", "per_channel")}), spec("fp8_e4m3", "per_tensor", true), t);
  }
  t.push_back(f32_tensor(kUp + ".weight_scale", {2}, {1, 2}));
  return quark(spec("int4", "per_channel"), nullptr, t);
}

TEST(Quark, Fp8) {
  EXPECT_EQ(values_of(fp8_static(), kUp + ".weight"), (Values{0.25, 0.5, 0.125, -0.25}));
  Exported e = write_as(fp8_static(), "quark");
  expect_same(e, fp8_static());
  EXPECT_EQ(e.quantization["export"]["kv_cache_group"], Json::array());
  EXPECT_EQ(e.quantization["global_quant_config"]["input_tensors"]["is_dynamic"], false);
  MadeCheckpoint channel = quark(spec("fp8_e4m3", "per_channel"), spec("fp8_e4m3", "per_channel", true),
                             {fp8_static().at(kUp + ".weight"), f32_tensor(kUp + ".weight_scale", {2}, {2, 4})});
  EXPECT_EQ(values_of(channel, kUp + ".weight"), (Values{2, 4, 2, -4}));
  expect_same(write_as(channel, "quark"), channel);
}

// [K, N / 8] words: channel n of a word 0x75316420 has n. Two groups of 4 along K = 8.
MadeCheckpoint int4_groups(bool zeros) {
  const std::vector<uint32_t> words = {0x75316420u, 0, 0, 0, 0, 0, 0, 0x75316420u};
  const std::vector<uint32_t> zero_points = {zeros ? 0x75316420u : 0u, 0};
  Json weight = spec(zeros ? "uint4" : "int4", "per_group", false, 4);
  weight["symmetric"] = !zeros;
  return quark(weight, nullptr,
               {{kUp + ".weight", DType::i32, {8, 1}, raw_bytes(words)},
                f32_tensor(kUp + ".weight_scale", {2, 8}, {1, 1, 1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2, 2, 2}),
                {kUp + ".weight_zero_point", DType::i32, {2, 1}, raw_bytes(zero_points)}});
}

TEST(Quark, Int4InGroups) {
  Values plain, shifted;
  for (int n = 0; n < 8; ++n) {
    auto v = static_cast<float>(n);
    plain.insert(plain.end(), {v, 0, 0, 0, 0, 0, 0, 2 * v});
    shifted.insert(shifted.end(), {0, -v, -v, -v, 0, 0, 0, 2 * v});
  }
  EXPECT_EQ(values_of(int4_groups(false), kUp + ".weight"), plain);
  EXPECT_EQ(values_of(int4_groups(true), kUp + ".weight"), shifted);
  for (bool zeros : {false, true}) {
    Exported e = write_as(int4_groups(zeros), "quark");
    expect_same(e, int4_groups(zeros));
    EXPECT_EQ(e.quantization["global_quant_config"]["weight"]["group_size"], 4);
  }
  MadeCheckpoint c = int4_groups(false);
  c.at(kUp + ".weight").bytes[0] = static_cast<char>(0x28);  // two's complement: channel 0 has -8
  plain[0] = -8;
  EXPECT_EQ(values_of(c, kUp + ".weight"), plain);
  c.at(kUp + ".weight_zero_point").bytes[0] = 1;
  EXPECT_TRUE(contains(reading_fails(c), "symmetric")) << reading_fails(c);
  c = int4_groups(true);
  c.quantization["export"]["pack_method"] = "order";
  EXPECT_TRUE(contains(reading_fails(c), "plain order")) << reading_fails(c);
  c = int4_groups(true);
  c.quantization["global_quant_config"]["weight"]["group_size"] = 3;
  EXPECT_TRUE(contains(reading_fails(c), "groups of 3")) << reading_fails(c);
}

TEST(Quark, ReorderedNibblesAndTwoStages) {
  Values codes = {0, 1, 2, 3, 4, 5, 6, 7, -8, -7, -6, -5, -4, -3, -2, -1}, one, two;
  for (size_t i = 0; i < 16; ++i) {
    one.push_back(codes[i] * (i < 8 ? 1.0f : 2.0f));
    two.push_back(codes[i] * (i < 8 ? 1.0f : 2.0f));  // 2 * 0.5 and 4 * 0.5
  }
  EXPECT_EQ(values_of(int4_fp8(1), kUp + ".weight"), one);
  EXPECT_EQ(values_of(int4_fp8(2), kUp + ".weight"), two);
  expect_same(write_as(int4_fp8(1), "quark"), int4_fp8(1));
  expect_same(write_as(int4_fp8(2), "quark"), int4_fp8(2));
  MadeCheckpoint c = int4_fp8(1);
  c.quantization["export"]["pack_method"] = "order";
  EXPECT_EQ(values_of(c, kUp + ".weight")[1], 2);
}

TEST(Quark, OneStageBecomesTwoWithoutRounding) {
  MadeCheckpoint c = int4_fp8(1);
  c.quantization["global_quant_config"]["input_tensors"] = spec("fp8_e4m3", "per_tensor", true);
  c.at(kUp + ".weight_scale") = f32_tensor(kUp + ".weight_scale", {2}, {0.3f, 3});
  Exported e = write_as(c, "quark");
  EXPECT_EQ(e.error, "");
  // 3 * 7 / 448 = 0.047 lies under 2^-4: the INT4 values then reach 336 of E4M3's 448.
  EXPECT_EQ(e.tensors[kUp + ".weight_scale"].bytes, raw_bytes(Values{0.0625f}));
  EXPECT_EQ(e.tensors[kUp + ".weight_scale_2"].bytes, raw_bytes(Values{0.3f * 16, 48}));
}

TEST(Quark, Int8AndMxfp4) {
  MadeCheckpoint int8 = quark(spec("int8", "per_tensor"), spec("int8", "per_tensor"),
                          {bytes_tensor(kUp + ".weight", DType::i8, {1, 2}, {1, 0x80}), scalar(kUp + ".weight_scale", 0.5), scalar(kUp + ".input_scale", 2),
                           bytes_tensor(kUp + ".weight_zero_point", DType::i8, {}, {0}), bytes_tensor(kUp + ".input_zero_point", DType::i8, {}, {0})});
  EXPECT_EQ(values_of(int8, kUp + ".weight"), (Values{0.5, -64}));
  expect_same(write_as(int8, "quark"), int8);
  int8.at(kUp + ".weight_zero_point").bytes = "\x01";
  EXPECT_TRUE(contains(reading_fails(int8), "is not zero"));
  Json mx = spec("fp4", "per_group", false, 32), mx_input = spec("fp4", "per_group", true, 32);
  MadeCheckpoint fp4 = quark(mx, mx_input, {bytes_tensor(kUp + ".weight", DType::u8, {1, 16}, std::vector<int>(16, 0x21)),
                                        bytes_tensor(kUp + ".weight_scale", DType::u8, {1, 1}, {128})});
  Values v = values_of(fp4, kUp + ".weight");
  EXPECT_EQ((Values{v[0], v[1], v[31]}), (Values{1, 2, 2}));
  expect_same(write_as(fp4, "quark"), fp4);
}

TEST(Quark, LayersOfTheirOwn) {
  MadeCheckpoint c = fp8_static();
  std::string down = "model.layers.0.mlp.down_proj", gate = "model.layers.0.mlp.gate_proj";
  c.tensors.push_back(bytes_tensor(gate + ".weight", DType::f8_e4m3, {1, 1}, {0x38}));
  c.tensors.push_back(scalar(gate + ".weight_scale", 1));
  c.tensors.push_back(scalar(gate + ".input_scale", 1.5));
  c.tensors.push_back(bytes_tensor(down + ".weight", DType::f8_e4m3, {2, 1}, {0x38, 0x38}));
  c.tensors.push_back(f32_tensor(down + ".weight_scale", {2}, {2, 4}));
  c.quantization["layer_quant_config"]["*down_proj"] = {{"weight", spec("fp8_e4m3", "per_channel")}, {"input_tensors", nullptr}};
  EXPECT_EQ(values_of(c, down + ".weight"), (Values{2, 4}));
  Exported e = write_as(c, "quark");
  expect_same(e, c);
  EXPECT_EQ(e.quantization["layer_quant_config"].size(), 1u);
  EXPECT_EQ(e.quantization["layer_quant_config"][down]["weight"]["qscheme"], "per_channel");
}

TEST(Quark, KvCache) {
  MadeCheckpoint c = fp8_static();
  c.tensors.push_back(scalar("model.layers.0.self_attn.k_proj.output_scale", 0.5));
  c.tensors.push_back(scalar("model.layers.0.self_attn.v_proj.output_scale", 0.25));
  EXPECT_EQ(values_of(c, "model.layers.0.self_attn.v_scale"), Values{0.25});
  Exported e = write_as(c, "quark");
  EXPECT_EQ(e.error, "");
  EXPECT_EQ(e.quantization["export"]["kv_cache_group"], Json({"*k_proj", "*v_proj"}));
  EXPECT_TRUE(e.tensors.contains("model.layers.0.self_attn.v_proj.output_scale"));
}

TEST(Quark, Refusals) {
  MadeCheckpoint c = fp8_static();
  c.remove(kUp + ".input_scale");
  EXPECT_TRUE(contains(reading_fails(c), "has no input_scale"));
  c = fp8_static();
  c.quantization["global_quant_config"]["weight"] = spec("fp6_e3m2", "per_group", false, 32);
  EXPECT_TRUE(contains(reading_fails(c), "fp6_e3m2"));
  c = fp8_static();
  c.quantization["export"]["pack_method"] = "shuffle";
  EXPECT_TRUE(contains(reading_fails(c), "pack_method"));
  c = fp8_static();
  c.quantization.erase("global_quant_config");
  EXPECT_TRUE(contains(reading_fails(c), "global_quant_config"));
}

// quark_int4fp8_moe (reference 4.4): s_fp8 = 14 / 448, s_row = 1 and 2, stored s_row / s_fp8.
TEST(Quark, Int4UnderFp8ByHand) {
  std::vector<float> weights = {7, -7, 1, 2, 3, -1, 0, -3, -14, 2, 4, 6, 8, 10, 12, 1};
  TensorStore made;
  made.add_float("w", DType::f32, {2, 8}, raw_bytes(weights));
  std::optional<Scheme> scheme = expert_scheme("QUARK_int4fp8_moe");
  ASSERT_TRUE(scheme);
  EXPECT_EQ(find_scheme("Quark-INT4FP8-MoE").code_kind(), CodeKind::e4m3);
  RtnQuantizer q(made.store(), made.tensor(0), *scheme, tensor_absmax(made.store(), made.tensor(0)));
  RowsScratch scratch;
  q.chunk(reinterpret_cast<const std::byte*>(weights.data()), 0, 2, scratch);
  // Code + 8; the last, 0.5, is a tie that goes to 0.
  std::string codes("\x1f\xa9\x7b\x58\x91\xba\xdc\x8e", 8);
  EXPECT_EQ(std::string(reinterpret_cast<const char*>(scratch.codes.data()), 8), codes);
  SmallParts small = q.finish();
  auto floats = [](const std::vector<std::byte>& bytes) {
    Values v(bytes.size() / 4);
    std::memcpy(v.data(), bytes.data(), bytes.size());
    return v;
  };
  EXPECT_EQ(floats(small.scale), (Values{32, 64}));
  EXPECT_EQ(floats(*small.find(Role::scale_2)), Values{0.03125});

  TensorStore stored;
  std::string name = "model.layers.0.mlp.experts.0.w1.weight";
  stored.add_quantized(name, *scheme, {2, 8}, DType::f32, {codes, raw_bytes(Values{32, 64}), raw_bytes(Values{0.03125})});
  EXPECT_EQ(values_of(stored.store(), name), (Values{7, -7, 1, 2, 3, -1, 0, -3, -14, 2, 4, 6, 8, 10, 12, 0}));
  Exported e = write_as(stored.store(), "quark");
  EXPECT_EQ(e.error, "");
  std::string m = "model.layers.0.mlp.experts.0.w1.";
  EXPECT_EQ(e.tensors[m + "weight"].bytes, raw_bytes(std::vector<uint32_t>{0xDF290317u, 0x05316429u}));
  EXPECT_EQ(e.tensors[m + "weight_scale"].bytes, raw_bytes(Values{0.03125}));
  EXPECT_EQ(e.tensors[m + "weight_scale_2"].bytes, raw_bytes(Values{32, 64}));
}

}  // namespace
}  // namespace qp
