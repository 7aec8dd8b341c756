// bitsandbytes against the worked example B4 and JSON of reference/int4-formats.md 1.4. What its own
// library writes is compared by tests/peers/bitsandbytes.py.
#include <gtest/gtest.h>

#include "lib/algorithm/codebook.h"
#include "tests/unit/support/family.h"

namespace qp {
namespace {

const std::string kLinear = "model.layers.0.mlp.up_proj";
const std::string kWeight = kLinear + ".weight";

TestTensor text_tensor(std::string name, const std::string& text) {
  return {std::move(name), DType::u8, Shape{text.size()}, text};
}
Values table(std::span<const float, 16> t) { return {t.begin(), t.end()}; }

// A row of 64 columns, B4's bytes eight times; absmax 1.
MadeCheckpoint four_bits(const std::string& type) {
  MadeCheckpoint c;
  c.quantization = {{"quant_method", "bitsandbytes"}, {"load_in_4bit", true}, {"load_in_8bit", false}, {"bnb_4bit_quant_type", type}};
  std::vector<int> bytes;
  for (int i = 0; i < 8; ++i) {
    for (int b : type == "nf4" ? std::vector<int>{0x01, 0x27, 0x8A, 0xCF} : std::vector<int>{0xBA, 0xD0, 0x67, 0x53}) bytes.push_back(b);
  }
  c.tensors = {bytes_tensor(kWeight, DType::u8, {32, 1}, bytes), f32_tensor(kWeight + ".absmax", {1}, {1}),
               f32_tensor(kWeight + ".quant_map", {16}, table(type == "nf4" ? codebook::nf4() : codebook::fp4())),
               text_tensor(kWeight + ".quant_state.bitsandbytes__" + type,
                           "{\"quant_type\": \"" + type + "\", \"blocksize\": 64, \"dtype\": \"float32\", \"shape\": [1, 64]}")};
  return c;
}

TEST(Bitsandbytes, HighNibbleFirst) {
  Values nf4 = values_of(four_bits("nf4"), kWeight);
  nf4.resize(8);
  EXPECT_EQ(nf4, (Values{-1.0f, -0.6961928009986877f, -0.5250730514526367f, 0, 0.07958029955625534f, 0.24611230194568634f,
                         0.44070982933044434f, 1}));
  // B, A, D, 0, 6, 7, 5, 3: twelfths -12, -8, -6, 0, 2, 3, 6, 12.
  Values fp4 = values_of(four_bits("fp4"), kWeight);
  fp4.resize(8);
  EXPECT_EQ(fp4, (Values{-1, -8 / 12.0f, -0.5, 0, 2 / 12.0f, 0.25, 0.5, 1}));
}

TEST(Bitsandbytes, WrittenAsItWasRead) {
  for (const char* type : {"nf4", "fp4"}) {
    Exported e = write_as(four_bits(type), "bitsandbytes");
    expect_same(e, four_bits(type));
    EXPECT_EQ(e.quantization["bnb_4bit_quant_type"], type);
    EXPECT_EQ(e.quantization["load_in_4bit"], true);
    EXPECT_TRUE(e.quantization["llm_int8_skip_modules"].is_null());
  }
  MadeCheckpoint c = four_bits("nf4");  // dynamic 4 bits: a linear that is skipped
  c.tensors.push_back(f32_tensor("model.layers.0.mlp.down_proj.weight", {1, 2}, {1, 2}));
  Exported e = write_as(c, "bitsandbytes");
  expect_same(e, c);
  EXPECT_EQ(e.quantization["llm_int8_skip_modules"], Json({"lm_head", "model.layers.0.mlp.down_proj"}));
}

TEST(Bitsandbytes, NestedScales) {
  MadeCheckpoint c = four_bits("nf4");
  const auto& map = codebook::dynamic_map();
  EXPECT_EQ(map[127], 0.0f);
  EXPECT_EQ(map[255], 1.0f);
  EXPECT_NEAR(map[0], -0.99296874f, 1e-7f);
  EXPECT_NEAR(map[126], -5.5e-7f, 1e-12f);
  c.at(kWeight + ".absmax") = bytes_tensor(kWeight + ".absmax", DType::u8, {1}, {255});
  c.tensors.push_back(f32_tensor(kWeight + ".nested_absmax", {1}, {3}));
  c.tensors.push_back(f32_tensor(kWeight + ".nested_quant_map", {256}, {map.begin(), map.end()}));
  std::string state = "{\"quant_type\": \"nf4\", \"blocksize\": 64, \"dtype\": \"float32\", \"shape\": [1, 64], "
                      "\"nested_blocksize\": 256, \"nested_dtype\": \"float32\", \"nested_offset\": 0.03125}";
  c.at(kWeight + ".quant_state.bitsandbytes__nf4") = text_tensor(kWeight + ".quant_state.bitsandbytes__nf4", state);
  EXPECT_EQ(values_of(c, kWeight)[0], -3.03125f);  // 1 * 3 + 1 / 32
  Exported e = write_as(c, "bitsandbytes");
  expect_same(e, c);
  EXPECT_EQ(e.quantization["bnb_4bit_use_double_quant"], true);
}

TEST(Bitsandbytes, BytesUnderAnotherDtype) {
  MadeCheckpoint c = four_bits("nf4");  // bnb_4bit_quant_storage bfloat16
  TestTensor& w = c.at(kWeight);
  w.dtype = DType::bf16;
  w.shape = Shape{16, 1};
  EXPECT_EQ(values_of(c, kWeight)[1], -0.6961928009986877f);
}

MadeCheckpoint int8() {
  MadeCheckpoint c;
  c.quantization = {{"quant_method", "bitsandbytes"}, {"load_in_4bit", false}, {"load_in_8bit", true}};
  c.tensors = {bytes_tensor(kWeight, DType::i8, {2, 2}, {127, -64, 0, 0}), f32_tensor(kLinear + ".SCB", {2}, {2, 0}),
               bytes_tensor(kLinear + ".weight_format", DType::u8, {}, {0})};
  return c;
}

TEST(Bitsandbytes, EightBits) {
  Values v = values_of(int8(), kWeight);
  EXPECT_FLOAT_EQ(v[0], 2);
  EXPECT_FLOAT_EQ(v[1], -128.0f / 127);
  EXPECT_EQ(v[2], 0);
  Exported e = write_as(int8(), "bitsandbytes");  // a row of zeros is no error
  expect_same(e, int8());
  EXPECT_EQ(e.quantization["load_in_8bit"], true);
}

TEST(Bitsandbytes, BadInput) {
  auto fails = [](const MadeCheckpoint& c, const char* kind, const char* what) {
    std::string error = reading_fails(c);
    EXPECT_TRUE(error.starts_with(kind) && contains(error, what)) << error;
  };
  std::string state = kWeight + ".quant_state.bitsandbytes__nf4";
  MadeCheckpoint c = four_bits("nf4");
  c.remove(kWeight + ".absmax");
  fails(c, "3: ", "absmax");
  c = four_bits("nf4");
  c.remove(state);
  fails(c, "3: ", "quant_state");
  c = four_bits("nf4");
  c.remove(kWeight);
  fails(c, "3: ", "not there");
  c = four_bits("nf4");
  c.at(state) = text_tensor(state, R"({"quant_type": "nf4", "blocksize": 64, "dtype": "float32", "shape": [2, 64]})");
  fails(c, "3: ", "expected 64 bytes");
  c.at(state) = text_tensor(state, R"({"quant_type": "nf4", "blocksize": 48, "dtype": "float32", "shape": [1, 64]})");
  fails(c, "3: ", "blocksize");
  c.at(state) = text_tensor(state, R"({"quant_type": "nf4", "blocksize": 64, "dtype": "float32", "shape": [1, 64], "x": 1})");
  fails(c, "3: ", "unknown key");
  c.at(state) = text_tensor(state, R"({"quant_type": "nf4", "blocksize": 64, "dtype": "float32", "shape": [64, 1]})");
  fails(c, "5: ", "share a byte");
  c = four_bits("nf4");
  c.quantization["load_in_8bit"] = true;
  fails(c, "3: ", "both");
  c.quantization["load_in_4bit"] = false;
  fails(c, "3: ", "4-bit codes");
  c = int8();
  c.at(kLinear + ".weight_format").bytes[0] = 2;
  fails(c, "3: ", "old GPUs");
  c = int8();
  c.remove(kLinear + ".SCB");
  fails(c, "3: ", "SCB");
}

TEST(Bitsandbytes, Refuses) {
  MadeCheckpoint both = four_bits("nf4");
  both.quantization.erase("load_in_4bit");
  TestTensor w = int8().at(kWeight), scale = int8().at(kLinear + ".SCB");
  w.name = "model.layers.0.mlp.down_proj.weight";
  scale.name = "model.layers.0.mlp.down_proj.SCB";
  both.tensors.push_back(w);
  both.tensors.push_back(scale);
  Exported e = write_as(both, "bitsandbytes");
  EXPECT_TRUE(e.error.starts_with("5: ") && contains(e.error, "another width")) << e.error;
  e = write_as(four_bits("nf4"), "compressed-tensors");
  EXPECT_TRUE(e.error.starts_with("5: ") && contains(e.error, "codebook")) << e.error;
}

}  // namespace
}  // namespace qp
