// Good files. Values are those that make_torch_fixtures.py put in, mostly arange.
#include "formats/container/torch_file.h"

#include <numeric>

#include "tests/unit/formats/torch_fixture.h"

namespace qp {
namespace {

using Floats = std::vector<float>;

Floats floats(const std::string& content, const TorchFile& file, const std::string& name) {
  const TorchTensor& t = torch_tensor(file, name);
  EXPECT_EQ(t.dtype, DType::f32) << name;
  return torch_elements<float>(content, t);
}

class TorchViews : public testing::TestWithParam<const char*> {};

TEST_P(TorchViews, StridesAndOffsetsAreHonoured) {
  const std::string content = torch_fixture(GetParam());
  const TorchFile file = parse_torch(content);
  ASSERT_EQ(file.tensors.size(), 8u);
  EXPECT_TRUE(file.skipped.empty());
  Floats all(12);
  std::iota(all.begin(), all.end(), 0.0f);
  EXPECT_EQ(floats(content, file, "base"), all);
  EXPECT_EQ(floats(content, file, "transposed"), (Floats{0, 4, 8, 1, 5, 9, 2, 6, 10, 3, 7, 11}));
  EXPECT_EQ(floats(content, file, "sliced"), (Floats{5, 6, 9, 10}));
  EXPECT_EQ(floats(content, file, "row"), (Floats{8, 9, 10, 11}));
  EXPECT_EQ(floats(content, file, "scalar"), Floats{2.5f});
  EXPECT_EQ(floats(content, file, "empty"), Floats{});
  EXPECT_EQ(torch_tensor(file, "transposed").shape, (Shape{4, 3}));
  EXPECT_EQ(torch_tensor(file, "transposed").strides, (std::vector<uint64_t>{1, 4}));
  EXPECT_EQ(torch_tensor(file, "scalar").shape, Shape{});
  EXPECT_EQ(torch_tensor(file, "empty").shape, (Shape{0, 3}));
  EXPECT_EQ(torch_tensor(file, "empty_tail").shape, (Shape{0, 4}));
}

TEST_P(TorchViews, ContiguousMeansDenseRowMajor) {
  const TorchFile file = parse_torch(torch_fixture(GetParam()));
  for (const char* name : {"base", "row", "tied", "scalar", "empty", "empty_tail"}) {
    EXPECT_TRUE(torch_tensor(file, name).contiguous) << name;
  }
  EXPECT_FALSE(torch_tensor(file, "transposed").contiguous);
  EXPECT_FALSE(torch_tensor(file, "sliced").contiguous);
}

TEST_P(TorchViews, TiedTensorsShareTheirStorage) {
  const TorchFile file = parse_torch(torch_fixture(GetParam()));
  const TorchTensor& base = torch_tensor(file, "base");
  EXPECT_EQ(base.storage_bytes, 48u);
  EXPECT_EQ(base.offset, base.storage_offset);
  EXPECT_EQ(torch_tensor(file, "tied").offset, base.offset);
  EXPECT_EQ(torch_tensor(file, "row").storage_offset, base.storage_offset);
  EXPECT_EQ(torch_tensor(file, "row").offset, base.offset + 32);
  EXPECT_NE(torch_tensor(file, "scalar").storage_offset, base.storage_offset);
}

INSTANTIATE_TEST_SUITE_P(Forms, TorchViews, testing::Values("views.pt", "views_stream.pt"),
                         [](const auto& p) { return std::string(p.index ? "stream" : "zip"); });

// The bytes of 0, 1, 2, 3 in each dtype; float formats by hand from their bit layouts.
template <class T>
void expect_counts(const std::string& file_name, const std::string& name, DType dtype,
                   std::vector<T> expected) {
  const std::string content = torch_fixture(file_name);
  const TorchFile file = parse_torch(content);
  const TorchTensor& t = torch_tensor(file, name);
  EXPECT_EQ(t.dtype, dtype) << name;
  EXPECT_EQ(torch_elements<T>(content, t), expected) << name;
}

TEST(TorchFileTest, EveryDtype) {
  expect_counts<float>("dtypes_0.pt", "float32", DType::f32, {0, 1, 2, 3});
  expect_counts<double>("dtypes_0.pt", "float64", DType::f64, {0, 1, 2, 3});
  expect_counts<uint16_t>("dtypes_0.pt", "float16", DType::f16, {0, 0x3c00, 0x4000, 0x4200});
  expect_counts<uint16_t>("dtypes_0.pt", "bfloat16", DType::bf16, {0, 0x3f80, 0x4000, 0x4040});
  expect_counts<uint8_t>("dtypes_1.pt", "uint8", DType::u8, {0, 1, 2, 3});
  expect_counts<int8_t>("dtypes_1.pt", "int8", DType::i8, {0, 1, 2, 3});
  expect_counts<int16_t>("dtypes_1.pt", "int16", DType::i16, {0, 1, 2, 3});
  expect_counts<int32_t>("dtypes_1.pt", "int32", DType::i32, {0, 1, 2, 3});
  expect_counts<int64_t>("dtypes_2.pt", "int64", DType::i64, {0, 1, 2, 3});
  expect_counts<uint8_t>("dtypes_2.pt", "bool", DType::boolean, {0, 1, 1, 1});
  expect_counts<uint16_t>("dtypes_2.pt", "uint16", DType::u16, {0, 1, 2, 3});
  expect_counts<uint32_t>("dtypes_2.pt", "uint32", DType::u32, {0, 1, 2, 3});
  expect_counts<uint64_t>("dtypes_3.pt", "uint64", DType::u64, {0, 1, 2, 3});
  expect_counts<uint8_t>("dtypes_3.pt", "float8_e4m3fn", DType::f8_e4m3, {0, 0x38, 0x40, 0x44});
  expect_counts<uint8_t>("dtypes_3.pt", "float8_e5m2", DType::f8_e5m2, {0, 0x3c, 0x40, 0x42});
  expect_counts<uint64_t>("dtypes_3.pt", "complex64", DType::c64,
                          {0, 0x3f800000, 0x40000000, 0x40400000});
}

TEST(TorchFileTest, EveryElementSizeOfTheStreamForm) {
  expect_counts<double>("dtypes_stream.pt", "float64", DType::f64, {0, 1, 2, 3});
  expect_counts<uint16_t>("dtypes_stream.pt", "bfloat16", DType::bf16, {0, 0x3f80, 0x4000, 0x4040});
  expect_counts<int16_t>("dtypes_stream.pt", "int16", DType::i16, {0, 1, 2, 3});
  expect_counts<uint8_t>("dtypes_stream.pt", "bool", DType::boolean, {0, 1, 1, 1});
}

TEST(TorchFileTest, StateDictOfAModule) {
  const std::string content = torch_fixture("module.pt");
  const TorchFile file = parse_torch(content);
  ASSERT_EQ(file.tensors.size(), 2u);
  EXPECT_EQ(file.tensors[0].name, "weight");
  EXPECT_EQ(floats(content, file, "weight"), (Floats{0, 1, 2, 3, 4, 5}));
  EXPECT_EQ(torch_elements<int64_t>(content, torch_tensor(file, "steps")),
            std::vector<int64_t>{7});
  EXPECT_TRUE(file.skipped.empty());  // _metadata is an attribute, not an entry
}

TEST(TorchFileTest, ParametersAndTensorsWithAttributes) {
  const std::string parameter = torch_fixture("parameter.pt");
  const std::string tagged = torch_fixture("attribute.pt");
  EXPECT_EQ(floats(parameter, parse_torch(parameter), "w"), (Floats{0, 1, 2}));
  EXPECT_EQ(floats(tagged, parse_torch(tagged), "w"), (Floats{0, 1}));
}

TEST(TorchFileTest, TrainingCheckpoint) {
  const std::string content = torch_fixture("checkpoint.pt");
  const TorchFile file = parse_torch(content);
  ASSERT_EQ(file.tensors.size(), 2u);
  EXPECT_EQ(file.tensors[0].name, "b");  // the order of the file, not of the alphabet
  EXPECT_EQ(file.tensors[1].name, "a");
  EXPECT_EQ(floats(content, file, "b"), (Floats{0, 1}));
  EXPECT_EQ(file.skipped,
            (std::vector<std::string>{"epoch", "lr", "seed", "big", "device", "size", "kind",
                                      "tags", "raw", "none", "optimizer"}));
}

TEST(TorchFileTest, TensorsBesideTheWeightsAreTold) {
  const TorchFile file = parse_torch(torch_fixture("beside.pt"));
  ASSERT_EQ(file.tensors.size(), 1u);
  EXPECT_EQ(file.tensors[0].name, "w");
  EXPECT_EQ(file.skipped, (std::vector<std::string>{"ema", "mean", "step", "more"}));
  EXPECT_EQ(file.beside, (std::vector<std::string>{"ema", "mean"}));
  EXPECT_TRUE(parse_torch(torch_fixture("checkpoint.pt")).beside.empty());
}

TEST(TorchFileTest, NestedDictsAreJoinedWithDots) {
  const std::string content = torch_fixture("nested.pt");
  const TorchFile file = parse_torch(content);
  ASSERT_EQ(file.tensors.size(), 3u);
  EXPECT_EQ(floats(content, file, "a.b"), (Floats{0, 1}));
  EXPECT_EQ(floats(content, file, "a.c.d"), Floats{0});
  EXPECT_EQ(floats(content, file, "blocks.0"), (Floats{0, 1, 2}));
  EXPECT_EQ(file.skipped, std::vector<std::string>{"a.n"});
}

// Element 1 of a view that is elements 2, 3, 4 of the storage 0..5.
TEST(TorchFileTest, StreamOfPython2WithStorageView) {
  const std::string content = torch_fixture("python2_stream.pt");
  const TorchFile file = parse_torch(content);
  EXPECT_EQ(floats(content, file, "weight"), (Floats{3, 4}));
  EXPECT_EQ(torch_tensor(file, "weight").storage_bytes, 12u);
}

TEST(TorchFileTest, ZipsOfPythonsZipfile) {
  for (const char* name : {"zip64.pt", "rezipped.pt"}) {
    const std::string content = torch_fixture(name);
    EXPECT_EQ(floats(content, parse_torch(content), "w"), (Floats{0, 1, 2, 3})) << name;
  }
  // The fixture does have what it is named after.
  EXPECT_NE(torch_fixture("zip64.pt").find("PK\x06\x06"), std::string::npos);
}

}  // namespace
}  // namespace qp
