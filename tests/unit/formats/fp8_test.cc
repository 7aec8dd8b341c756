// fp8, mxfp8, w8a8_*, mxfp4 against bytes worked out by hand (reference/fp8-torchao-quark-modelslim.md).
// E4M3: 0x38 is 1, 0x40 2, 0x30 0.5, 0xB8 -1. E8M0: 127 is 1, 128 2, 126 0.5.
#include <gtest/gtest.h>

#include "formats/verify/structure.h"
#include "tests/unit/support/family.h"

namespace qp {
namespace {

const std::string kLinear = "model.layers.0.mlp.up_proj";
const std::string kWeight = kLinear + ".weight";

std::vector<int> repeat(int byte, size_t n) { return std::vector<int>(n, byte); }

// 3 x 5 in blocks of 2 x 4: ragged both ways.
MadeCheckpoint blocks() {
  MadeCheckpoint c;
  c.quantization = {{"quant_method", "fp8"}, {"activation_scheme", "dynamic"}, {"fmt", "e4m3"}, {"weight_block_size", {2, 4}}};
  c.tensors = {bytes_tensor(kWeight, DType::f8_e4m3, {3, 5}, repeat(0x38, 15)),
               f32_tensor(kWeight + "_scale_inv", {2, 2}, {2.5f, 3, 5, 7}),
               f32_tensor("lm_head.weight", {2, 2}, {1, 2, 3, 4})};
  return c;
}

TEST(Fp8, BlockScalesMultiply) {
  EXPECT_EQ(values_of(blocks(), kWeight), (Values{2.5, 2.5, 2.5, 2.5, 3, 2.5, 2.5, 2.5, 2.5, 3, 5, 5, 5, 5, 7}));
  MadeCheckpoint c = blocks();
  c.at(kWeight).bytes[1] = '\xB8';
  EXPECT_EQ(values_of(c, kWeight)[1], -2.5);
}

TEST(Fp8, BlocksAreWrittenAsTheyWereRead) {
  Exported e = write_as(blocks(), "fp8");
  expect_same(e, blocks());
  EXPECT_EQ(e.quantization["quant_method"], "fp8");
  EXPECT_EQ(e.quantization["activation_scheme"], "dynamic");
  EXPECT_EQ(e.quantization["weight_block_size"], Json({2, 4}));
  EXPECT_EQ(e.quantization["modules_to_not_convert"], Json({"lm_head"}));
  EXPECT_FALSE(e.quantization.contains("scale_fmt"));
}

TEST(Fp8, PowersOfTwoAreSaid) {
  MadeCheckpoint c = blocks();
  c.at(kWeight + "_scale_inv").bytes = raw_bytes(Values{2, 0.5f, 1, 8});
  EXPECT_EQ(write_as(c, "fp8").quantization["scale_fmt"], "ue8m0");
}

TEST(Fp8, DeepSeekV4ScalesAreRead) {
  MadeCheckpoint c = blocks();
  c.remove(kWeight + "_scale_inv");
  c.tensors.push_back(bytes_tensor(kLinear + ".scale", DType::f8_e8m0, {2, 2}, {128, 126, 127, 130}));
  EXPECT_EQ(values_of(c, kWeight), (Values{2, 2, 2, 2, 0.5, 2, 2, 2, 2, 0.5, 1, 1, 1, 1, 8}));
  Exported e = write_as(c, "fp8");
  EXPECT_EQ(e.error, "");
  EXPECT_EQ(e.tensors[kWeight + "_scale_inv"].bytes, raw_bytes(Values{2, 0.5f, 1, 8}));
  EXPECT_EQ(e.quantization["scale_fmt"], "ue8m0");
}

TEST(Fp8, Fp4ExpertsOfDeepSeekV4) {
  MadeCheckpoint c = blocks();
  std::string expert = "layers.0.ffn.experts.3.w1";
  // Codes 1 and 2 are 0.5 and 1: byte 0x21; the scale doubles.
  c.tensors.push_back(bytes_tensor(expert + ".weight", DType::i8, {1, 16}, repeat(0x21, 16)));
  c.tensors.push_back(bytes_tensor(expert + ".scale", DType::f8_e8m0, {1, 1}, {128}));
  Values v = values_of(c, expert + ".weight");
  ASSERT_EQ(v.size(), 32u);
  EXPECT_EQ((Values{v[0], v[1], v[30], v[31]}), (Values{1, 2, 1, 2}));
}

MadeCheckpoint per_tensor(bool is_static) {
  MadeCheckpoint c;
  c.quantization = {{"quant_method", "fp8"}, {"activation_scheme", is_static ? "static" : "dynamic"}};
  c.tensors = {bytes_tensor(kWeight, DType::f8_e4m3, {2, 2}, {0x38, 0x40, 0x30, 0xB8}), f32_tensor(kWeight + "_scale", {1}, {0.25})};
  if (is_static) c.tensors.push_back(f32_tensor(kLinear + ".input_scale", {1}, {0.125}));
  return c;
}

TEST(Fp8, OneScaleForTheTensor) {
  for (bool is_static : {false, true}) {
    EXPECT_EQ(values_of(per_tensor(is_static), kWeight), (Values{0.25, 0.5, 0.125, -0.25}));
    Exported e = write_as(per_tensor(is_static), "fp8");
    expect_same(e, per_tensor(is_static));
    EXPECT_EQ(e.quantization["activation_scheme"], is_static ? "static" : "dynamic");
  }
}

TEST(Fp8, RowScalesOfFbgemm) {
  MadeCheckpoint c = per_tensor(false);
  c.quantization = {{"quant_method", "fbgemm_fp8"}, {"activation_scale_ub", 1200.0}};
  c.at(kWeight + "_scale") = f32_tensor(kWeight + "_scale", {2, 1}, {2, 4});
  EXPECT_EQ(values_of(c, kWeight), (Values{2, 4, 2, -4}));
  EXPECT_TRUE(contains(write_as(c, "fp8").error, "5: "));
  EXPECT_EQ(write_as(c, "w8a8_fp8").error, "");
}

MadeCheckpoint mxfp8() {
  MadeCheckpoint c;
  c.quantization = {{"quant_method", "mxfp8"}, {"activation_scheme", "dynamic"}, {"weight_block_size", {1, 32}}, {"scale_fmt", "ue8m0"}};
  c.tensors = {bytes_tensor(kWeight, DType::f8_e4m3, {2, 64}, repeat(0x38, 128)),
               bytes_tensor(kWeight + "_scale_inv", DType::u8, {2, 2}, {127, 128, 126, 130})};
  return c;
}

TEST(Fp8, Mxfp8) {
  Values v = values_of(mxfp8(), kWeight);
  EXPECT_EQ((Values{v[0], v[32], v[64], v[96]}), (Values{1, 2, 0.5, 8}));
  Exported e = write_as(mxfp8(), "fp8");
  expect_same(e, mxfp8());
  EXPECT_EQ(e.quantization["quant_method"], "mxfp8");
}

TEST(Fp8, BadInput) {
  auto fails = [](MadeCheckpoint c, const char* what) {
    std::string error = reading_fails(c);
    EXPECT_TRUE(error.starts_with("3: ") && contains(error, what)) << error;
  };
  MadeCheckpoint c = blocks();
  c.remove(kWeight + "_scale_inv");
  fails(c, "without a weight_scale_inv");
  c = blocks();
  c.at(kWeight + "_scale_inv") = f32_tensor(kWeight + "_scale_inv", {1, 2}, {1, 2});
  fails(c, "does not fit");
  c = blocks();
  c.quantization["weight_block_size"] = {2, 0};
  fails(c, "weight_block_size");
  c = blocks();
  c.quantization["activation_scheme"] = "static";
  fails(c, "static");
  c = per_tensor(true);
  c.remove(kLinear + ".input_scale");
  fails(c, "has no input_scale");
  c = per_tensor(false);
  c.tensors.push_back(f32_tensor(kLinear + ".qzeros", {1}, {0}));
  fails(c, "qzeros");
  c = per_tensor(false);
  c.at(kWeight).dtype = DType::f8_e4m3fnuz;
  fails(c, "FNUZ");
  c = per_tensor(false);
  c.tensors.push_back(f32_tensor(kWeight + "_scale_inv", {1}, {0.25}));
  fails(c, "two scales");
}

TEST(Fp8, CheckFindsWhatTheListGetsWrong) {
  auto rules = [](const MadeCheckpoint& c) {
    TempDir dir;
    c.write(dir);
    std::set<std::string> out;
    for (const Finding& f : check_directory(dir.path()).findings) {
      if (f.severity == Severity::error) out.insert(f.rule);
    }
    return out;
  };
  using Rules = std::set<std::string>;
  MadeCheckpoint c = blocks();
  c.quantization["modules_to_not_convert"] = {"lm_head"};
  EXPECT_EQ(rules(c), Rules{});
  c.quantization["modules_to_not_convert"] = {"lm_head", "up_proj"};
  EXPECT_EQ(rules(c), Rules{"ignored-quantized"});
  c = blocks();
  c.tensors.push_back(f32_tensor("model.layers.0.mlp.gate_proj.weight", {1, 2}, {1, 2}));
  c.quantization["modules_to_not_convert"] = {"lm_head", "gate"};  // "gate" is not "gate_proj"
  EXPECT_EQ(rules(c), Rules{"not-quantized"});
  c.quantization["modules_to_not_convert"] = {"lm_head", "model.layers.0.mlp.gate_proj"};
  EXPECT_EQ(rules(c), Rules{});
}

// ---- w8a8

MadeCheckpoint w8a8_int8() {
  MadeCheckpoint c;
  c.quantization = {{"quant_method", "w8a8_int8"}, {"is_dynamic", true}};
  c.tensors = {bytes_tensor(kWeight, DType::i8, {2, 2}, {1, 0xFF, 127, 0x80}), f32_tensor(kWeight + "_scale", {2, 1}, {0.5, 2}),
               f32_tensor("lm_head.weight", {2, 2}, {1, 2, 3, 4})};
  return c;
}

TEST(W8a8, Int8) {
  EXPECT_EQ(values_of(w8a8_int8(), kWeight), (Values{0.5, -0.5, 254, -256}));
  Exported e = write_as(w8a8_int8(), "w8a8_int8");
  expect_same(e, w8a8_int8());
  EXPECT_EQ(e.quantization, (Json{{"is_dynamic", true}, {"ignore", {"lm_head"}}, {"quant_method", "w8a8_int8"}}));
}

TEST(W8a8, Fp8RepeatsTheScaleOfATensor) {
  Exported e = write_as(per_tensor(false), "w8a8_fp8");
  EXPECT_EQ(e.error, "");
  EXPECT_EQ(e.tensors[kWeight + "_scale"].shape.str(), "[2, 1]");
  EXPECT_EQ(e.tensors[kWeight + "_scale"].bytes, raw_bytes(Values{0.25, 0.25}));
}

TEST(W8a8, Refusals) {
  MadeCheckpoint c = per_tensor(false);
  c.tensors.push_back(f32_tensor("model.layers.0.mlp.gate_proj.weight", {1, 2}, {1, 2}));
  std::string error = write_as(c, "w8a8_fp8").error;
  EXPECT_TRUE(error.starts_with("5: ") && contains(error, "gate_proj")) << error;
  EXPECT_TRUE(contains(write_as(blocks(), "w8a8_fp8").error, "5: "));
  EXPECT_TRUE(contains(write_as(blocks(), "w8a8_int8").error, "5: "));
  EXPECT_TRUE(contains(write_as(per_tensor(true), "w8a8_fp8").error, "input_scale"));
  c = w8a8_int8();
  c.remove(kWeight + "_scale");
  EXPECT_TRUE(contains(reading_fails(c), "has no weight_scale"));
}

// AMD's E4M3FNUZ has another bias: the same bytes are half the numbers. It is refused by name.
TEST(Fp8, FnuzIsNotTakenForE4m3) {
  MadeCheckpoint c = mxfp8();
  for (TestTensor& t : c.tensors) {
    if (t.dtype == DType::f8_e4m3) t.dtype = DType::f8_e4m3fnuz;
  }
  std::string error = reading_fails(c);
  EXPECT_TRUE(contains(error, "3: ") && contains(error, "F8_E4M3FNUZ")) << error;
}

// ---- gpt-oss

// Two experts of 3 rows (out) by 64 columns (in). Row r of expert e has code e + r + 1 everywhere but
// in its first column, where the code is 7 (6.0); block 1 has the scale 2.
MadeCheckpoint gpt_oss() {
  MadeCheckpoint c;
  c.quantization = {{"quant_method", "mxfp4"}};
  std::vector<int> blocks, scales;
  for (int e = 0; e < 2; ++e) {
    for (int r = 0; r < 3; ++r) {
      int code = e + r + 1;
      for (int b = 0; b < 32; ++b) blocks.push_back(code << 4 | (b == 0 ? 7 : code));
      scales.insert(scales.end(), {127, 128});
    }
  }
  std::string name = "model.layers.0.mlp.experts.gate_up_proj";
  c.tensors = {bytes_tensor(name + "_blocks", DType::u8, {2, 3, 2, 16}, blocks), bytes_tensor(name + "_scales", DType::u8, {2, 3, 2}, scales),
               f32_tensor(name + "_bias", {2, 3}, {1, 2, 3, 4, 5, 6})};
  return c;
}

TEST(GptOss, ValuesAreTransposed) {
  TempDir dir;
  gpt_oss().write(dir);
  auto store = open_model(dir.path());
  const Tensor* t = store->model().find("model.layers.0.mlp.experts.gate_up_proj");
  ASSERT_NE(t, nullptr);
  EXPECT_EQ(t->shape.str(), "[2, 64, 3]");
  EXPECT_EQ(t->coded_shape().str(), "[2, 3, 64]");
  Values v = values_of(*store, t->name);
  ASSERT_EQ(v.size(), 2u * 64 * 3);
  const float kE2m1[] = {0, 0.5f, 1, 1.5f, 2, 3, 4, 6};
  for (int e = 0; e < 2; ++e) {
    for (int i = 0; i < 64; ++i) {
      for (int r = 0; r < 3; ++r) {
        float want = (i == 0 ? 6.0f : kE2m1[e + r + 1]) * (i < 32 ? 1.0f : 2.0f);
        EXPECT_EQ(v[static_cast<size_t>((e * 64 + i) * 3 + r)], want) << e << " " << i << " " << r;
      }
    }
  }
  // In pieces, across the border between experts and from the middle of a block.
  RowSource source(*store, *t);
  RowScratch scratch;
  for (uint64_t first : {1u, 31u, 63u, 100u}) {
    const float* part = source.get_f32(first, 20, scratch, true);
    EXPECT_TRUE(std::equal(part, part + 60, v.begin() + static_cast<long>(first) * 3)) << first;
  }
}

TEST(GptOss, RoundTrip) {
  Exported e = write_as(gpt_oss(), "mxfp4");
  expect_same(e, gpt_oss());
  EXPECT_EQ(e.quantization["quant_method"], "mxfp4");
  EXPECT_TRUE(contains(write_as(mxfp8(), "mxfp4").error, "5: "));
}

TEST(GptOss, BadInput) {
  std::string name = "model.layers.0.mlp.experts.gate_up_proj";
  MadeCheckpoint c = gpt_oss();
  c.remove(name + "_scales");
  EXPECT_TRUE(contains(reading_fails(c), "has no"));
  c = gpt_oss();
  c.remove(name + "_blocks");
  EXPECT_TRUE(contains(reading_fails(c), "_blocks"));
  c = gpt_oss();
  c.at(name + "_scales").shape = {2, 2, 3};
  EXPECT_TRUE(contains(reading_fails(c), "does not fit its blocks"));
  c = gpt_oss();
  c.at(name + "_blocks").shape = {2, 3, 4, 8};
  EXPECT_TRUE(contains(reading_fails(c), "is no stack of blocks"));
}

}  // namespace
}  // namespace qp
