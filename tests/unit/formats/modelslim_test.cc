// ModelSlim's labels against reference/fp8-torchao-quark-modelslim.md 5.3 and 5.4.
#include <gtest/gtest.h>

#include "tests/unit/support/family.h"

namespace qp {
namespace {

const std::string kLinear = "model.layers.0.mlp.up_proj";
const std::string kWeight = kLinear + ".weight";

struct Modelslim : MadeCheckpoint {
  Json description = Json::object();
  std::unique_ptr<Store> open(const TempDir& dir) const {
    dir.write("config.json", config.dump());
    dir.write("quant_model_description.json", description.dump());
    write_safetensors(dir / "quant_model_weights.safetensors", tensors);
    return open_model(dir.path());
  }
};
Modelslim make(const char* label, std::vector<TestTensor> tensors) {
  Modelslim c;
  c.tensors = std::move(tensors);
  for (const TestTensor& t : c.tensors)
    c.description[t.name] = t.name.ends_with(".bias") ? "FLOAT" : label;
  return c;
}

Values values(const Modelslim& c) {
  TempDir dir;
  return values_of(*c.open(dir), kWeight);
}
// Written, self-check included, and its raw tensors.
struct Written {
  std::map<std::string, TestTensor> tensors;
  Json description;
};
Written rewritten(const Modelslim& c) {
  TempDir from, to;
  auto store = c.open(from);
  ExportPlan plan = find_format("modelslim")->plan(*store, {});
  Written out;
  out.description = parse_json(plan.files.at(0).text, plan.files.at(0).name);
  Progress progress;
  WriteOptions options;
  options.directory = to / "out";
  options.sync = false;
  write_checkpoint(*store, plan, options, progress);
  auto file = MappedFile::open(to / "out/quant_model_weights.safetensors");
  SafetensorsHeader header = parse_safetensors(file->bytes(), "out");
  for (const SafetensorsEntry& e : header.entries) {
    auto bytes = file->bytes().subspan(header.data_offset + e.begin, e.end - e.begin);
    out.tensors[e.name] = {
        e.name, e.dtype, e.shape, {reinterpret_cast<const char*>(bytes.data()), bytes.size()}};
  }
  return out;
}
void expect_rewritten(const Modelslim& c) {
  Written w = rewritten(c);
  for (const TestTensor& t : c.tensors) {
    EXPECT_EQ(w.tensors[t.name].bytes, t.bytes) << t.name;
    EXPECT_EQ(w.tensors[t.name].shape.str(), t.shape.str()) << t.name;
    EXPECT_EQ(w.description[t.name], c.description[t.name]) << t.name;
  }
  EXPECT_EQ(w.tensors.size(), c.tensors.size());
}

Modelslim dynamic8() {
  return make("W8A8_DYNAMIC", {bytes_tensor(kWeight, DType::i8, {2, 2}, {1, -128, 127, 0}),
                               f32_tensor(kWeight + "_scale", {2, 1}, {0.5, 2}),
                               f32_tensor(kWeight + "_offset", {2, 1}, {0, 0})});
}

TEST(Modelslim, Dynamic8) {
  EXPECT_EQ(values(dynamic8()), (Values{0.5, -64, 254, 0}));
  expect_rewritten(dynamic8());
  EXPECT_EQ(rewritten(dynamic8()).description["model_quant_type"], "W8A8_DYNAMIC");
}

TEST(Modelslim, WeightsAloneMayHaveOffsets) {
  Modelslim c = dynamic8();
  for (auto& [name, label] : c.description.items()) label = "W8A16";
  c.at(kWeight + "_offset") = f32_tensor(kWeight + "_offset", {2, 1}, {-3, 4});
  EXPECT_EQ(values(c), (Values{2, -62.5, 246, -8}));
  expect_rewritten(c);
}

// The signs of quant_bias and the product s_x s_w, worked out: rows 1, 2 | -3, 4; s_w 0.5, 2; s_x
// 0.25; o_x 10; bias 1, -2. deq 0.125, 0.5; row sums 3, 1; 1 / 0.125 - 30 = -22; -2 / 0.5 - 10 =
// -14.
Modelslim static8() {
  return make("W8A8", {bytes_tensor(kWeight, DType::i8, {2, 2}, {1, 2, -3, 4}),
                       f32_tensor(kLinear + ".bias", {2}, {1, -2}),
                       f32_tensor(kLinear + ".input_scale", {1}, {0.25}),
                       f32_tensor(kLinear + ".input_offset", {1}, {10}),
                       f32_tensor(kLinear + ".deq_scale", {2}, {0.125, 0.5}),
                       {kLinear + ".quant_bias", DType::i32, Shape{2},
                        raw_bytes(std::vector<int32_t>{-22, -14})}});
}

TEST(Modelslim, Static8) {
  Modelslim c = static8();
  EXPECT_EQ(values(c), (Values{0.5, 1, -6, 8}));  // s_w = deq_scale / s_x
  Written w = rewritten(c);
  EXPECT_EQ(w.tensors[kLinear + ".quant_bias"].bytes, raw_bytes(std::vector<int32_t>{-22, -14}));
  // An F32 model, which is not BF16: the bits of the F32 in 64.
  EXPECT_EQ(w.tensors[kLinear + ".deq_scale"].bytes,
            raw_bytes(std::vector<int64_t>{0x3E000000, 0x3F000000}));
  EXPECT_EQ(w.tensors[kWeight + "_scale"].bytes, raw_bytes(Values{0.5, 2}));
  EXPECT_EQ(w.description[kLinear + ".bias"], "FLOAT");
  c.at(kLinear + ".deq_scale") = {kLinear + ".deq_scale", DType::i64, Shape{2},
                                  raw_bytes(std::vector<int64_t>{0x3E000000, 0x3F000000})};
  EXPECT_EQ(values(c), (Values{0.5, 1, -6, 8}));
  c.config["torch_dtype"] = "bfloat16";
  EXPECT_EQ(rewritten(c).tensors[kLinear + ".deq_scale"].bytes, raw_bytes(Values{0.125, 0.5}));
}

TEST(Modelslim, DerivedScalesGiveTheProductAgain) {
  Modelslim c = static8();  // products of scales that no division alone brings back
  float s_x = 0.3f, s_w[2] = {0.7f, 0.1f};
  c.at(kLinear + ".input_scale") = f32_tensor(kLinear + ".input_scale", {1}, {s_x});
  c.at(kLinear + ".deq_scale") =
      f32_tensor(kLinear + ".deq_scale", {2}, {s_x * s_w[0], s_x * s_w[1]});
  Written w = rewritten(c);
  Values scale(2);
  std::memcpy(scale.data(), w.tensors[kWeight + "_scale"].bytes.data(), 8);
  EXPECT_EQ(scale[0] * s_x, s_x * s_w[0]);
  EXPECT_EQ(scale[1] * s_x, s_x * s_w[1]);
}

TEST(Modelslim, FourBitPairsOfRows) {
  // q0 = 1, q1 = -2: 0xE1. scale_bias = 8 s sum(q).
  Modelslim c = make("W4A8_DYNAMIC", {bytes_tensor(kWeight, DType::i8, {1, 2}, {0xE1, 0x73}),
                                      f32_tensor(kWeight + "_scale", {2, 1}, {0.5, 2}),
                                      f32_tensor(kWeight + "_offset", {2, 1}, {0, 0}),
                                      f32_tensor(kLinear + ".scale_bias", {2, 1}, {16, 80})});
  EXPECT_EQ(values(c), (Values{0.5, 1.5, -4, 14}));
  expect_rewritten(c);
}

TEST(Modelslim, FourBitsAByte) {
  Modelslim c = make("W4A4_DYNAMIC", {bytes_tensor(kWeight, DType::i8, {1, 4}, {-8, 7, 0, -1}),
                                      f32_tensor(kWeight + "_scale", {1, 1}, {0.5}),
                                      f32_tensor(kWeight + "_offset", {1, 1}, {0})});
  EXPECT_EQ(values(c), (Values{-4, 3.5, 0, -0.5}));
  expect_rewritten(c);
}

TEST(Modelslim, Floats) {
  Modelslim row =
      make("WFP8AFP8_DYNAMIC", {bytes_tensor(kWeight, DType::f8_e4m3, {1, 2}, {0x38, 0xC0}),
                                f32_tensor(kWeight + "_scale", {1, 1}, {0.5}),
                                f32_tensor(kWeight + "_offset", {1, 1}, {0})});
  EXPECT_EQ(values(row), (Values{0.5, -1}));
  expect_rewritten(row);
  Modelslim mx = make("W8A8_MXFP8",
                      {bytes_tensor(kWeight, DType::f8_e4m3, {1, 32}, std::vector<int>(32, 0x38)),
                       bytes_tensor(kWeight + "_scale", DType::u8, {1, 1}, {128})});
  EXPECT_EQ(values(mx), Values(32, 2));
  expect_rewritten(mx);
}

TEST(Modelslim, BadInput) {
  auto fails = [](const Modelslim& c, const char* kind, const char* what) {
    EXPECT_TRUE(opening_fails(c).starts_with(kind) && contains(opening_fails(c), what))
        << opening_fails(c);
  };
  Modelslim c = dynamic8();
  c.remove(kWeight + "_scale");
  fails(c, "3: ", "weight_scale");
  c = dynamic8();
  c.remove(kWeight);
  fails(c, "3: ", "not in the weights");
  c = dynamic8();
  c.description.erase(kWeight);
  fails(c, "3: ", "not in quant_model_description.json");
  c = dynamic8();
  c.description[kWeight] = "FLOAT";
  fails(c, "3: ", "FLOAT");
  c = dynamic8();
  c.description[kWeight] = "W4A4_FLATQUANT_DYNAMIC";
  fails(c, "5: ", "W4A4_FLATQUANT_DYNAMIC");
  c = dynamic8();
  c.at(kWeight + "_offset") = f32_tensor(kWeight + "_offset", {2, 1}, {1, 0});
  fails(c, "3: ", "weight_offset");
  c = dynamic8();
  c.description["kv_quant_type"] = "C8";
  fails(c, "5: ", "KV cache");
  c = static8();
  c.at(kLinear + ".deq_scale") = f32_tensor(kLinear + ".deq_scale", {2}, {0.125, -0.5});
  fails(c, "3: ", "deq_scale");
}

}  // namespace
}  // namespace qp
