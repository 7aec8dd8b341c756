// torchao's classes from hand-made arrays and metadata
// (reference/fp8-torchao-quark-modelslim.md 3.4). What the library itself writes and loads is
// compared by tests/peers/torchao.py.
#include <gtest/gtest.h>

#include "tests/unit/support/family.h"

namespace qp {
namespace {

const std::string kLinear = "model.layers.0.mlp.up_proj";
const std::string kWeight = kLinear + ".weight", kRaw = kLinear + "._weight_";

struct Torchao : MadeCheckpoint {
  std::vector<std::pair<std::string, std::string>> metadata;
  Torchao() {
    quantization = {
        {"quant_method", "torchao"},
        {"quant_type",
         {{"default", {{"_type", "AnyConfig"}, {"_version", 2}, {"_data", Json::object()}}}}}};
  }
  std::unique_ptr<Store> open(const TempDir& dir) const {
    Json all = config;
    all["quantization_config"] = quantization;
    dir.write("config.json", all.dump());
    std::vector<SafetensorsEntry> entries;
    for (const TestTensor& t : tensors) entries.push_back({t.name, t.dtype, t.shape, 0, 0});
    std::string text = safetensors_header(entries, metadata);
    for (const TestTensor& t : tensors) text += t.bytes;
    dir.write("model.safetensors", text);
    return open_model(dir.path());
  }
};

Values values(const Torchao& c) {
  TempDir dir;
  return values_of(*c.open(dir), kWeight);
}
Exported rewritten(const Torchao& c) {
  TempDir dir;
  return write_as(*c.open(dir), "torchao");
}

Torchao int8() {
  Torchao c;
  c.tensors = {bytes_tensor(kRaw + "qdata", DType::i8, {2, 2}, {1, -128, 127, 0}),
               f32_tensor(kRaw + "scale", {2, 1}, {0.5, 2}),
               bytes_tensor(kRaw + "zero_point", DType::i8, {2, 1}, {0, 0})};
  c.metadata = {
      {kWeight,
       R"({"_type": "Int8Tensor", "_data": {"act_quant_kwargs": null, "reduce_range": false, "block_size": [1, 2], "dtype": {"_type": "torch.dtype", "_data": "float32"}}, "_tensor_data_names": ["zero_point", "qdata", "scale"]})"}};
  return c;
}

TEST(Torchao, Int8) {
  EXPECT_EQ(values(int8()), (Values{0.5, -64, 254, 0}));
  Exported e = rewritten(int8());
  expect_same(e, int8());
  EXPECT_EQ(e.quantization["quant_type"]["default"]["_type"], "Int8WeightOnlyConfig");
  EXPECT_EQ(e.quantization["quant_type"]["default"]["_version"], 2);
  Torchao asymmetric = int8();
  asymmetric.at(kRaw + "zero_point").bytes[1] = 1;
  EXPECT_TRUE(contains(opening_fails(asymmetric), "not zero"));
}

TEST(Torchao, MetadataIsWrittenLetterByLetter) {
  TempDir dir;
  auto store = int8().open(dir);
  ExportPlan plan = find_format("torchao")->plan(*store, {});
  ASSERT_EQ(plan.metadata.size(), 2u);
  EXPECT_EQ(plan.metadata[0], int8().metadata[0]);
  EXPECT_EQ(plan.metadata[1].second, "[\"" + kWeight + "\"]");
}

TEST(Torchao, Float8) {
  Torchao c;
  c.tensors = {bytes_tensor(kRaw + "qdata", DType::f8_e4m3, {2, 2}, {0x38, 0xC0, 0x30, 0x40}),
               f32_tensor(kRaw + "scale", {2, 1}, {0.5, 2})};
  std::string rest =
      R"("kernel_preference": {"_type": "KernelPreference", "_data": "AUTO"}, "dtype": {"_type": "torch.dtype", "_data": "float32"}}, "_tensor_data_names": ["qdata", "scale"]})";
  c.metadata = {
      {kWeight,
       R"({"_type": "Float8Tensor", "_data": {"block_size": [1, 2], "mm_config": null, "act_quant_kwargs": null, )" +
           rest}};
  EXPECT_EQ(values(c), (Values{0.5, -1, 1, 4}));
  expect_same(rewritten(c), c);
  c.at(kRaw + "scale") =
      f32_tensor(kRaw + "scale", {1, 1}, {0.5});  // per tensor, activations as well
  c.metadata = {
      {kWeight,
       R"({"_type": "Float8Tensor", "_data": {"block_size": [2, 2], "mm_config": null, "act_quant_kwargs": {"_type": "QuantizeTensorToFloat8Kwargs", "_data": {"granularity": {"_type": "PerTensor", "_data": {}}}}, )" +
           rest}};
  EXPECT_EQ(values(c), (Values{0.5, -1, 0.25, 1}));
  Exported e = rewritten(c);
  expect_same(e, c);
  EXPECT_EQ(e.quantization["quant_type"]["default"]["_data"]["granularity"][1]["_type"],
            "PerTensor");
}

TEST(Torchao, Int4HasFloatZeroPointsTransposed) {
  Torchao
      c;  // 2 x 4, groups of 2; low nibble first, two's complement: 1, -2 | 7, -8 // 0, 3 | -1, 2
  c.tensors = {bytes_tensor(kRaw + "qdata", DType::i8, {2, 2}, {0xE1, 0x87, 0x30, 0x2F}),
               f32_tensor(kRaw + "scale", {2, 2}, {1, 10, 2, 20}),
               f32_tensor(kRaw + "zero_point", {2, 2}, {0.5, 0, 0.25, -1})};
  c.metadata = {
      {kWeight,
       R"({"_type": "Int4Tensor", "_data": {"block_size": [1, 2], "shape": [2, 4]}, "_tensor_data_names": ["qdata", "scale", "zero_point"]})"}};
  EXPECT_EQ(values(c), (Values{1.5, -1.5, 14.25, -15.75, 0, 30, -21, 39}));
  expect_same(rewritten(c), c);
}

TEST(Torchao, OneCodeAByte) {
  Torchao c;
  c.tensors = {bytes_tensor(kRaw + "qdata", DType::i8, {1, 4}, {-4, 3, 0, 1}),
               f32_tensor(kRaw + "scale", {1, 2}, {1, 2}),
               bytes_tensor(kRaw + "zero_point", DType::i8, {1, 2}, {0, 0})};
  c.metadata = {
      {kWeight,
       R"({"_type": "IntxUnpackedToInt8Tensor", "_data": {"target_dtype": {"_type": "torch.dtype", "_data": "int3"}, "block_size": [1, 2], "dtype": {"_type": "torch.dtype", "_data": "float32"}, "activation_quantization": null}, "_tensor_data_names": ["qdata", "scale", "zero_point"]})"}};
  EXPECT_EQ(values(c), (Values{-4, 3, 0, 2}));
  expect_same(rewritten(c), c);
  c.at(kRaw + "zero_point").bytes = std::string("\xFF\x02", 2);
  EXPECT_EQ(values(c), (Values{-3, 4, -4, -2}));
  expect_same(rewritten(c), c);
}

TEST(Torchao, BadInput) {
  Torchao c = int8();
  c.metadata.clear();
  EXPECT_TRUE(opening_fails(c).starts_with("3: ") && contains(opening_fails(c), "metadata"));
  c = int8();
  c.metadata[0].second = R"({"_type": "Int4TilePackedTo4dTensor", "_data": {}})";
  EXPECT_TRUE(opening_fails(c).starts_with("5: ") &&
              contains(opening_fails(c), "Int4TilePackedTo4dTensor"));
  c = int8();
  c.remove(kRaw + "scale");
  EXPECT_TRUE(contains(opening_fails(c), "_weight_scale"));
  c = int8();
  c.remove(kRaw + "qdata");
  EXPECT_TRUE(contains(opening_fails(c), "not there"));
  c = int8();
  c.at(kRaw + "scale") = f32_tensor(kRaw + "scale", {3, 1}, {1, 2, 3});
  EXPECT_TRUE(contains(opening_fails(c), "does not fit"));
}

}  // namespace
}  // namespace qp
