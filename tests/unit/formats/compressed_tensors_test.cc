// compressed-tensors' stored forms of all versions against bytes of reference/compressed-tensors.md
// 3.13, its static and local activations, KV cache, g_idx, and what it must refuse.
#include <gtest/gtest.h>

#include "tests/unit/support/family.h"

namespace qp {
namespace {

const std::string kLinear = "model.layers.0.mlp.up_proj";
const std::string kWeight = kLinear + ".weight";

Json args(int bits, const char* type, const char* strategy, int group = 0) {
  Json a = {{"num_bits", bits}, {"type", type}, {"strategy", strategy}, {"symmetric", true}, {"dynamic", false}};
  if (group > 0) a["group_size"] = group;
  return a;
}
Json config(const char* format, Json weights, Json input = nullptr) {
  return {{"quant_method", "compressed-tensors"}, {"format", format}, {"version", "0.18.0"},
          {"config_groups", {{"group_0", {{"targets", {"Linear"}}, {"weights", weights}, {"input_activations", input}}}}}};
}
Json& group(MadeCheckpoint& c) { return c.quantization["config_groups"]["group_0"]; }

TestTensor i32_tensor(std::string name, Shape shape, const std::vector<uint32_t>& words) {
  return {std::move(name), DType::i32, shape, raw_bytes(words)};
}
TestTensor shape_tensor(int64_t rows, int64_t cols) {
  return {kWeight + "_shape", DType::i64, Shape{2}, raw_bytes(std::vector<int64_t>{rows, cols})};
}

// Example A: q = 1, -1, 7, -8, 0, 3, -4, 5.
const Values kExampleA = {1, -1, 7, -8, 0, 3, -4, 5};
MadeCheckpoint packed() {
  MadeCheckpoint c;
  c.quantization = config("pack-quantized", args(4, "int", "group", 8));
  c.tensors = {i32_tensor(kWeight + "_packed", {1, 1}, {0xD4B80F79}), shape_tensor(1, 8), f32_tensor(kWeight + "_scale", {1, 1}, {1})};
  return c;
}
// The same codes a byte each, with INT8 activations.
MadeCheckpoint w4a8() {
  MadeCheckpoint c;
  Json token = args(8, "int", "token");
  token["dynamic"] = true;
  c.quantization = config("int-quantized", args(4, "int", "group", 8), token);
  c.tensors = {bytes_tensor(kWeight, DType::i8, {1, 8}, {1, -1, 7, -8, 0, 3, -4, 5}), f32_tensor(kWeight + "_scale", {1, 1}, {1})};
  return c;
}

TEST(CompressedTensors, PackedWithAndWithoutShape) {
  EXPECT_EQ(values_of(packed(), kWeight), kExampleA);
  expect_same(write_as(packed(), "compressed-tensors"), packed());
  MadeCheckpoint old = packed();
  old.remove(kWeight + "_shape");
  EXPECT_EQ(values_of(old, kWeight), kExampleA);
}

TEST(CompressedTensors, FourBitsInBytes) {
  EXPECT_EQ(values_of(w4a8(), kWeight), kExampleA);
  Exported e = write_as(w4a8(), "compressed-tensors");
  expect_same(e, w4a8());
  EXPECT_EQ(e.quantization["format"], "int-quantized");
  MadeCheckpoint naive = w4a8();  // weights alone
  naive.quantization = config("naive-quantized", args(4, "int", "group", 8));
  EXPECT_EQ(values_of(naive, kWeight), kExampleA);
  naive.quantization = config("fakequant", args(4, "int", "group", 8));  // infers pack-quantized
  EXPECT_TRUE(contains(reading_fails(naive), "expected weight_packed"));
}

TEST(CompressedTensors, Fp8ActivationsArePacked) {
  MadeCheckpoint c = packed();
  Json token = args(8, "float", "token");
  token["dynamic"] = true;
  group(c)["input_activations"] = token;
  Exported e = write_as(c, "compressed-tensors");
  expect_same(e, c);
  EXPECT_EQ(e.quantization["format"], "pack-quantized");
}

TEST(CompressedTensors, OddWidthsOfBothVersions) {
  Values want;
  for (int i = 0; i < 12; ++i) want.push_back(static_cast<float>(i % 8 - 4));
  MadeCheckpoint c = packed();
  c.quantization = config("pack-quantized", args(3, "int", "channel"));
  c.tensors = {i32_tensor(kWeight + "_packed", {1, 2}, {0x88FAC688, 0x00000006}), shape_tensor(1, 12), f32_tensor(kWeight + "_scale", {1, 1}, {1})};
  EXPECT_EQ(values_of(c, kWeight), want);  // 0.18: codes cross words
  c.quantization["version"] = "0.17.1";
  c.at(kWeight + "_packed") = i32_tensor(kWeight + "_packed", {1, 2}, {0x08FAC688, 0x0000001A});
  EXPECT_EQ(values_of(c, kWeight), want);  // 10 a word
  group(c)["weights"]["symmetric"] = false;
  c.tensors.push_back(i32_tensor(kWeight + "_zero_point", {1, 1}, {4}));
  EXPECT_TRUE(contains(reading_fails(c), "0.17 packed them"));
}

TEST(CompressedTensors, ZeroPointsInBytes) {
  MadeCheckpoint c = packed();
  group(c)["weights"]["symmetric"] = false;
  c.tensors.push_back(bytes_tensor(kWeight + "_zero_point", DType::i8, {1, 1}, {-2}));
  EXPECT_EQ(values_of(c, kWeight), (Values{3, 1, 9, -6, 2, 5, -2, 7}));
  Exported e = write_as(c, "compressed-tensors");  // packed along the rows now: -2 + 8
  EXPECT_EQ(e.tensors[kWeight + "_zero_point"].bytes, raw_bytes(std::vector<uint32_t>{6}));
  MadeCheckpoint bytes = w4a8();
  group(bytes)["weights"]["symmetric"] = false;
  bytes.tensors.push_back(bytes_tensor(kWeight + "_zero_point", DType::i8, {1, 1}, {-2}));
  EXPECT_EQ(values_of(bytes, kWeight), (Values{3, 1, 9, -6, 2, 5, -2, 7}));
  expect_same(write_as(bytes, "compressed-tensors"), bytes);
}

TEST(CompressedTensors, SymmetricZeroPointsOfOldVersions) {
  MadeCheckpoint c = packed();
  c.tensors.push_back(bytes_tensor(kWeight + "_zero_point", DType::i8, {1, 1}, {0}));
  EXPECT_EQ(values_of(c, kWeight), kExampleA);
  c.at(kWeight + "_zero_point").bytes[0] = 1;
  EXPECT_TRUE(contains(reading_fails(c), "not zero"));
}

TEST(CompressedTensors, ActivationOrder) {
  MadeCheckpoint c = packed();
  group(c)["weights"]["group_size"] = 4;
  group(c)["weights"]["actorder"] = "group";
  c.at(kWeight + "_scale") = f32_tensor(kWeight + "_scale", {1, 2}, {1, 10});
  c.tensors.push_back(i32_tensor(kWeight + "_g_idx", {8}, {1, 0, 1, 0, 1, 0, 1, 0}));
  EXPECT_EQ(values_of(c, kWeight), (Values{10, -1, 70, -8, 0, 3, -40, 5}));
  Exported e = write_as(c, "compressed-tensors");
  expect_same(e, c);
  EXPECT_EQ(e.quantization["config_groups"]["group_0"]["weights"]["actorder"], "group");
  c.at(kWeight + "_g_idx") = i32_tensor(kWeight + "_g_idx", {8}, std::vector<uint32_t>(8, 0xFFFFFFFF));
  EXPECT_EQ(values_of(c, kWeight), (Values{1, -1, 7, -8, 0, 30, -40, 50}));  // -1: not used
  c.at(kWeight + "_g_idx") = i32_tensor(kWeight + "_g_idx", {8}, {1, 0, 1, 0, 1, 0, 1, 2});
  EXPECT_TRUE(contains(reading_fails(c), "names group 2 of 2"));
}

MadeCheckpoint static_fp8() {
  MadeCheckpoint c;
  c.quantization = config("float-quantized", args(8, "float", "tensor"), args(8, "float", "tensor"));
  c.quantization["kv_cache_scheme"] = args(8, "float", "tensor");
  c.tensors = {bytes_tensor(kWeight, DType::f8_e4m3, {1, 2}, {0x38, 0xC0}), f32_tensor(kWeight + "_scale", {1}, {0.5}),
               f32_tensor(kLinear + ".input_scale", {1}, {0.25}),
               f32_tensor("model.layers.0.self_attn.k_scale", {1}, {0.125}),
               f32_tensor("model.layers.0.self_attn.v_scale", {1}, {3})};
  return c;
}

TEST(CompressedTensors, StaticActivationsAndKvCache) {
  EXPECT_EQ(values_of(static_fp8(), kWeight), (Values{0.5, -1}));
  Exported e = write_as(static_fp8(), "compressed-tensors");
  expect_same(e, static_fp8());
  EXPECT_EQ(e.quantization["kv_cache_scheme"]["type"], "float");
  MadeCheckpoint old = static_fp8();  // its older names
  old.at("model.layers.0.self_attn.k_scale").name = "model.layers.0.self_attn.k_proj.output_scale";
  old.at("model.layers.0.self_attn.v_scale").name = "model.layers.0.self_attn.v_proj.output_scale";
  expect_same(write_as(old, "compressed-tensors"), static_fp8());
  MadeCheckpoint asymmetric = static_fp8();
  group(asymmetric)["input_activations"]["type"] = "int";
  group(asymmetric)["input_activations"]["symmetric"] = false;
  asymmetric.tensors.push_back(bytes_tensor(kLinear + ".input_zero_point", DType::i8, {1}, {-3}));
  expect_same(write_as(asymmetric, "compressed-tensors"), asymmetric);
}

TEST(CompressedTensors, LocalActivations) {
  MadeCheckpoint c;
  Json weights = args(4, "float", "tensor_group", 16), input = weights;
  weights["scale_dtype"] = input["scale_dtype"] = "torch.float8_e4m3fn";
  input["dynamic"] = "local";
  c.quantization = config("nvfp4-pack-quantized", weights, input);
  c.tensors = {bytes_tensor(kWeight + "_packed", DType::u8, {1, 8}, {0x21, 0x43, 0x65, 0x07, 0xA9, 0, 0, 0}),
               bytes_tensor(kWeight + "_scale", DType::f8_e4m3, {1, 1}, {0x40}),
               f32_tensor(kWeight + "_global_scale", {1}, {4}), f32_tensor(kLinear + ".input_global_scale", {1}, {700})};
  EXPECT_EQ(values_of(c, kWeight), (Values{0.25, 0.5, 0.75, 1, 1.5, 2, 3, 0, -0.25, -0.5, 0, 0, 0, 0, 0, 0}));
  expect_same(write_as(c, "compressed-tensors"), c);
  c.remove(kLinear + ".input_global_scale");
  EXPECT_TRUE(reading_fails(c).starts_with("3: ") && contains(reading_fails(c), "input_global_scale"));
}

TEST(CompressedTensors, BadInput) {
  auto fails = [](const MadeCheckpoint& c, const char* kind, const char* what) {
    std::string error = reading_fails(c);
    EXPECT_TRUE(error.starts_with(kind) && contains(error, what)) << error;
  };
  MadeCheckpoint c = static_fp8();
  c.remove(kLinear + ".input_scale");
  fails(c, "3: ", "has no input_scale");
  c = static_fp8();
  c.remove("model.layers.0.self_attn.v_scale");
  fails(c, "3: ", "has no v_scale");
  c = static_fp8();
  c.quantization["kv_cache_scheme"]["strategy"] = "attn_head";
  fails(c, "5: ", "per head");
  c = static_fp8();
  group(c)["output_activations"] = args(8, "float", "tensor");
  fails(c, "5: ", "quantizes outputs");
  for (const char* format : {"marlin-24", "sparse-24-bitmask"}) {
    c = packed();
    c.quantization["format"] = format;
    fails(c, "5: ", format);
  }
  c = packed();
  c.quantization["sparsity_config"] = {{"format", "sparse-bitmask"}};
  fails(c, "5: ", "sparse-bitmask");
  c = packed();
  c.quantization["format"] = "float-quantized";
  fails(c, "3: ", "cannot hold");
  c = packed();
  c.tensors.push_back(f32_tensor(kLinear + ".odd", {1}, {1}));
  fails(c, "3: ", "odd");
  c = w4a8();
  c.at(kWeight) = f32_tensor(kWeight, {1, 8}, kExampleA);
  fails(c, "3: ", "not compressed");
  c = packed();
  c.at(kWeight + "_shape") = shape_tensor(1, 9);
  fails(c, "3: ", "weight_shape");
}

}  // namespace
}  // namespace qp
