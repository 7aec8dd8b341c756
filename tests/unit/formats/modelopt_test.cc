// ModelOpt: configs as its own functions print them (reference/modelopt.md 1.2, 1.3, 1.5), tensors as
// its table (1.6) and formulas (1.7) have them, in bytes worked out by hand.
#include "formats/modelopt/modelopt.h"
#include "formats/modelopt/state.h"

#include <gtest/gtest.h>

#include "tests/unit/support/family.h"

namespace qp {
namespace {

using modelopt::Entry;
using modelopt::Kind;
using Strings = std::vector<std::string>;

const std::string kUp = "model.layers.0.mlp.up_proj", kDown = "model.layers.0.mlp.down_proj";

// ---- config

std::string quantization(const std::vector<std::pair<std::string, Entry>>& layers, const std::string& kv = "") {
  return modelopt::hf_quant_config(layers, {"lm_head"}, kv)["quantization"].dump();
}

TEST(ModelOptConfig, AsItsOwnFunctionsPrint) {
  EXPECT_EQ(quantization({{kUp, {Kind::fp8, 0}}}, "FP8"), R"({"quant_algo":"FP8","kv_cache_quant_algo":"FP8","exclude_modules":["lm_head"]})");
  EXPECT_EQ(quantization({{kUp, {Kind::nvfp4, 16}}}),
            R"({"quant_algo":"NVFP4","kv_cache_quant_algo":null,"group_size":16,"exclude_modules":["lm_head"]})");
  EXPECT_EQ(quantization({{kUp, {Kind::int4_awq, 128}}}),
            R"({"quant_algo":"W4A16_AWQ","kv_cache_quant_algo":null,"group_size":128,"has_zero_point":false,"pre_quant_scale":true,"exclude_modules":["lm_head"]})");
  EXPECT_EQ(quantization({{kUp, {Kind::mxfp8, 32}}}),
            R"({"quant_algo":"MXFP8","kv_cache_quant_algo":null,"group_size":32,"exclude_modules":["lm_head"]})");
  EXPECT_EQ(quantization({{kUp, {Kind::mxfp4, 32}}}), R"({"quant_algo":"mxfp4","kv_cache_quant_algo":null,"exclude_modules":["lm_head"]})");
  EXPECT_EQ(quantization({{"model.layers.0.self_attn.q_proj", {Kind::fp8, 0}}, {kDown, {Kind::nvfp4, 16}}}, "FP8"),
            R"({"quant_algo":"MIXED_PRECISION","kv_cache_quant_algo":"FP8","quantized_layers":{"model.layers.0.self_attn.q_proj":{"quant_algo":"FP8"},"model.layers.0.mlp.down_proj":{"quant_algo":"NVFP4","group_size":16}}})");
}

TEST(ModelOptConfig, QuantizationConfig) {
  Json hf = modelopt::hf_quant_config({{kUp, {Kind::nvfp4, 16}}}, {"lm_head"}, "FP8");
  EXPECT_EQ(modelopt::quantization_config(hf).dump(),
            R"({"config_groups":{"group_0":{"input_activations":{"dynamic":false,"num_bits":4,"type":"float","group_size":16},"weights":{"dynamic":false,"num_bits":4,"type":"float","group_size":16},"targets":["Linear"]}},"ignore":["lm_head"],"quant_algo":"NVFP4","kv_cache_scheme":{"dynamic":false,"num_bits":8,"type":"float"},"producer":{"name":"modelopt","version":"0.47.0"},"quant_method":"modelopt"})");
  for (Kind kind : {Kind::fp8_channel, Kind::int4_awq, Kind::int8_static, Kind::int8_weight, Kind::mxfp8, Kind::mxfp4}) {
    Json q = modelopt::quantization_config(modelopt::hf_quant_config({{kUp, {kind, 32}}}, {}, "NVFP4"));
    EXPECT_FALSE(q.contains("config_groups")) << modelopt::algorithm(kind).name;
    EXPECT_EQ(q["kv_cache_scheme"], "NVFP4");
  }
  Json mixed = modelopt::quantization_config(modelopt::hf_quant_config({{"b", {Kind::fp8, 0}}, {"c", {Kind::nvfp4, 16}}, {"a", {Kind::fp8, 0}}}, {"x"}, ""));
  EXPECT_EQ(mixed["ignore"], Json::array());
  EXPECT_EQ(mixed["config_groups"]["group_0"]["targets"], Json({"a", "b"}));
  EXPECT_FALSE(mixed.contains("kv_cache_scheme"));
}

TEST(ModelOptConfig, ShortestSafePatterns) {
  EXPECT_EQ(modelopt::exclude_patterns({"lm_head", "model.layers.0.self_attn.q_proj", "model.layers.1.self_attn.q_proj", "model.layers.1.mlp.up_proj"},
                                       {"model.layers.0.mlp.up_proj"}),
            (Strings{"lm_head", "model.layers.0.self_attn*", "model.layers.1*"}));
  EXPECT_EQ(modelopt::exclude_patterns({"model.layers.1.mlp.up_proj"}, {"model.layers.10.mlp.up_proj"}), (Strings{"model.layers.1.*"}));
  EXPECT_EQ(modelopt::exclude_patterns({"model.layers.0.mlp.gate"}, {"model.layers.0.mlp.gate_proj"}), (Strings{"model.layers.0.mlp.gate"}));
}

TEST(ModelOptConfig, ExclusionsAreRead) {
  modelopt::Config c;
  c.exclude = {"*.attn.*", "lm_head", "model.layers.1.*", "gate"};
  for (const char* name : {"model.layers.3.attn.q_proj", "lm_head", "model.layers.1.mlp.up_proj", "model.layers.2.mlp.gate", "language_model.lm_head"}) {
    EXPECT_TRUE(modelopt::excluded(c, name)) << name;
  }
  for (const char* name : {"model.layers.10.mlp.up_proj", "model.layers.2.mlp.gate_proj"}) EXPECT_FALSE(modelopt::excluded(c, name)) << name;
}

TEST(ModelOptConfig, BadInput) {
  auto fails = [](const char* text, const char* what) {
    try {
      modelopt::read_config(parse_json(text, "config"));
      ADD_FAILURE() << text;
    } catch (const Error& e) {
      EXPECT_EQ(e.exit_code(), 3);
      EXPECT_TRUE(contains(e.what(), what)) << e.what();
    }
  };
  fails(R"({"quant_algo": "NVFP4_SVD"})", "NVFP4_SVD");
  fails(R"({})", "quant_algo");
  fails(R"({"quant_algo": "MIXED_PRECISION"})", "quantized_layers");
  fails(R"({"quant_algo": "FP8", "ignore": "lm_head"})", "ignore");
  fails(R"({"quant_algo": "FP8", "kv_cache_scheme": "FP3"})", "KV cache");
  fails(R"({"quantization": {"quant_algo": "NVFP4", "group_size": -4}})", "group_size");
}

// ---- tensors

MadeCheckpoint one(const char* algo, std::vector<TestTensor> tensors) {
  MadeCheckpoint c;
  c.quantization = {{"quant_method", "modelopt"}, {"quant_algo", algo}, {"ignore", {"lm_head"}}};
  c.tensors = std::move(tensors);
  return c;
}
TestTensor scalar(const std::string& name, float v) { return f32_tensor(name, {}, {v}); }

// Codes 1 and 2 (0.5, 1) in every byte, 0x21; scales 1 and 2 (0x38, 0x40).
MadeCheckpoint nvfp4(bool inputs = true) {
  MadeCheckpoint c = one(inputs ? "NVFP4" : "W4A16_NVFP4",
                     {bytes_tensor(kUp + ".weight", DType::u8, {1, 16}, std::vector<int>(16, 0x21)),
                      bytes_tensor(kUp + ".weight_scale", DType::f8_e4m3, {1, 2}, {0x38, 0x40}), scalar(kUp + ".weight_scale_2", 0.25)});
  if (inputs) c.tensors.push_back(scalar(kUp + ".input_scale", 0.5));
  return c;
}

TEST(ModelOpt, Nvfp4) {
  Values v = values_of(nvfp4(), kUp + ".weight");
  ASSERT_EQ(v.size(), 32u);
  EXPECT_EQ((Values{v[0], v[1], v[16], v[17]}), (Values{0.125, 0.25, 0.25, 0.5}));
  for (bool inputs : {true, false}) {
    Exported e = write_as(nvfp4(inputs), "modelopt");
    expect_same(e, nvfp4(inputs));
    EXPECT_EQ(e.quantization["quant_algo"], inputs ? "NVFP4" : "W4A16_NVFP4");
    EXPECT_EQ(parse_json(e.file("hf_quant_config.json"), "hf")["quantization"]["group_size"], 16);
  }
}

TEST(ModelOpt, Nvfp4AwqMultipliesTheInput) {
  MadeCheckpoint c = nvfp4();
  std::vector<float> pre(32, 1.0f);
  pre[1] = 4;
  c.tensors.push_back(f32_tensor(kUp + ".pre_quant_scale", {32}, pre));
  c.quantization["quant_algo"] = "NVFP4_AWQ";
  Values v = values_of(c, kUp + ".weight");
  EXPECT_EQ((Values{v[0], v[1], v[2]}), (Values{0.125, 1, 0.125}));
  Exported e = write_as(c, "modelopt");
  expect_same(e, c);
  EXPECT_EQ(e.quantization["quant_algo"], "NVFP4_AWQ");
}

TEST(ModelOpt, Nvfp4FromTheDividedConvention) {
  // compressed-tensors says 4 where ModelOpt says 0.25; codes and scales are the same bytes.
  TempDir dir;
  nvfp4().write(dir);
  Model m = load_checkpoint(dir.path(), {});
  Tensor& t = m.tensors.front();
  m.schemes[static_cast<size_t>(t.scheme)].numerics = "compressed-tensors";
  for (Part& p : t.parts) {
    float v = p.role == Role::scale_2 ? 4.0f : 2.0f;
    if (p.role != Role::scale_2 && p.role != Role::input_scale) continue;
    p.role = p.role == Role::scale_2 ? Role::global_scale : Role::input_global_scale;
    m.blobs.emplace_back(reinterpret_cast<const char*>(&v), 4);
    p.extent = {.file = kBlob, .offset = m.blobs.size() - 1, .length = 4, .xxh3 = {}};
  }
  dir.write("global", m.blobs[m.blobs.size() - 2] + m.blobs.back());
  auto file = MappedFile::open(dir / "global");
  m.files.push_back({dir / "global", 8, 0});
  uint64_t at = 0;
  for (Part& p : t.parts) {
    if (p.extent.file != kBlob) continue;
    p.extent = {.file = static_cast<uint32_t>(m.files.size()), .offset = at, .length = 4, .xxh3 = {}};
    at += 4;
  }
  Store store(std::move(m), nullptr, "test");
  expect_same(write_as(store, "modelopt"), nvfp4());
}

TEST(ModelOpt, Int4PacksPairsOfRows) {
  // q(0, k) = 1 and q(1, k) = -1: byte 0xF1.
  MadeCheckpoint c = one("W4A16_AWQ", {bytes_tensor(kUp + ".weight", DType::u8, {1, 4}, {0xF1, 0xF1, 0x87, 0x0F}),
                                   f32_tensor(kUp + ".weight_scale", {2, 2}, {1, 2, 3, 4})});
  EXPECT_EQ(values_of(c, kUp + ".weight"), (Values{1, 1, 14, -2, -3, -3, -32, 0}));
  Exported e = write_as(c, "modelopt");
  expect_same(e, c);
  c.quantization["group_size"] = 2;
  EXPECT_EQ(reading_fails(c), "");
  c.quantization["group_size"] = 4;
  EXPECT_TRUE(contains(reading_fails(c), "groups of 4"));
  c = one("W4A8_AWQ", {c.at(kUp + ".weight"), c.at(kUp + ".weight_scale"), scalar(kUp + ".weight_scale_2", 0.5), scalar(kUp + ".input_scale", 0.25)});
  EXPECT_EQ(values_of(c, kUp + ".weight")[3], -2);  // the FP8 stage's scale is no part of the value
  expect_same(write_as(c, "modelopt"), c);
}

TEST(ModelOpt, Fp8AndInt8) {
  auto weight = bytes_tensor(kUp + ".weight", DType::f8_e4m3, {2, 2}, {0x38, 0x40, 0x30, 0xB8});
  MadeCheckpoint tensor = one("FP8", {weight, scalar(kUp + ".weight_scale", 0.25), scalar(kUp + ".input_scale", 2)});
  EXPECT_EQ(values_of(tensor, kUp + ".weight"), (Values{0.25, 0.5, 0.125, -0.25}));
  MadeCheckpoint channel = one("FP8_PER_CHANNEL_PER_TOKEN", {weight, f32_tensor(kUp + ".weight_scale", {2}, {2, 4})});
  EXPECT_EQ(values_of(channel, kUp + ".weight"), (Values{2, 4, 2, -4}));
  std::vector<int> ones(129 * 130, 0x38);
  MadeCheckpoint block = one("fp8_pb_wo", {bytes_tensor(kUp + ".weight", DType::f8_e4m3, {129, 130}, ones),
                                       f32_tensor(kUp + ".weight_scale", {2, 1, 2, 1}, {1, 2, 3, 4})});
  Values v = values_of(block, kUp + ".weight");
  EXPECT_EQ((Values{v[0], v[129], v[128 * 130], v.back()}), (Values{1, 2, 3, 4}));
  auto codes = bytes_tensor(kUp + ".weight", DType::i8, {2, 2}, {1, 0xFF, 127, 0x80});
  MadeCheckpoint int8 = one("W8A16", {codes, f32_tensor(kUp + ".weight_scale", {2}, {0.5, 2})});
  EXPECT_EQ(values_of(int8, kUp + ".weight"), (Values{0.5, -0.5, 254, -256}));
  MadeCheckpoint smooth = one("W8A8_SQ_PER_CHANNEL", {codes, f32_tensor(kUp + ".weight_scale", {2}, {0.5, 2}), scalar(kUp + ".input_scale", 2),
                                                  f32_tensor(kUp + ".pre_quant_scale", {2}, {1, 3})});
  EXPECT_EQ(values_of(smooth, kUp + ".weight"), (Values{0.5, -1.5, 254, -768}));
  for (const MadeCheckpoint& c : {tensor, channel, block, int8, smooth}) {
    Exported e = write_as(c, "modelopt");
    expect_same(e, c);
    EXPECT_EQ(e.quantization["quant_algo"], c.quantization["quant_algo"]);
  }
}

TEST(ModelOpt, Mx) {
  std::vector<int> fp4(16, 0x21), fp8(32, 0x38);
  MadeCheckpoint four = one("mxfp4", {bytes_tensor(kUp + ".weight", DType::u8, {1, 16}, fp4), bytes_tensor(kUp + ".weight_scale", DType::u8, {1, 1}, {128})});
  EXPECT_EQ(values_of(four, kUp + ".weight")[1], 2);
  MadeCheckpoint mixed = one("W4A8_MXFP4_FP8", {four.tensors[0], four.tensors[1], scalar(kUp + ".input_scale", 2)});
  MadeCheckpoint eight = one("MXFP8", {bytes_tensor(kUp + ".weight", DType::f8_e4m3, {1, 32}, fp8), bytes_tensor(kUp + ".weight_scale", DType::u8, {1, 1}, {126})});
  EXPECT_EQ(values_of(eight, kUp + ".weight")[31], 0.5);
  for (const MadeCheckpoint& c : {four, mixed, eight}) expect_same(write_as(c, "modelopt"), c);
}

TEST(ModelOpt, KvCache) {
  std::string attention = "model.layers.0.self_attn";
  for (const char* name : {"FP8", "NVFP4"}) {
    MadeCheckpoint c = nvfp4();
    c.quantization["kv_cache_scheme"] = std::string(name) == "FP8" ? Json{{"dynamic", false}, {"num_bits", 8}, {"type", "float"}} : Json(name);
    c.tensors.push_back(scalar(attention + ".k_proj.k_scale", 0.5));
    c.tensors.push_back(scalar(attention + ".v_proj.v_scale", 0.25));
    EXPECT_EQ(values_of(c, attention + ".v_scale"), Values{0.25});
    Exported e = write_as(c, "modelopt");
    expect_same(e, c);
    EXPECT_EQ(e.quantization["kv_cache_scheme"], c.quantization["kv_cache_scheme"]);
  }
}

TEST(ModelOpt, MixedPrecision) {
  MadeCheckpoint c = nvfp4();
  c.tensors.push_back(bytes_tensor(kDown + ".weight", DType::f8_e4m3, {1, 1}, {0x38}));
  c.tensors.push_back(scalar(kDown + ".weight_scale", 0.25));
  c.tensors.push_back(scalar(kDown + ".input_scale", 0.25));
  c.quantization = {{"quant_method", "modelopt"}, {"quant_algo", "MIXED_PRECISION"},
                    {"quantized_layers", {{kUp, {{"quant_algo", "NVFP4"}, {"group_size", 16}}}, {kDown, {{"quant_algo", "FP8"}}}}}};
  EXPECT_EQ(values_of(c, kDown + ".weight"), Values{0.25});
  Exported e = write_as(c, "modelopt");
  expect_same(e, c);
  EXPECT_EQ(e.quantization["quantized_layers"], c.quantization["quantized_layers"]);
  c.quantization["quantized_layers"].erase(kDown);
  EXPECT_TRUE(contains(reading_fails(c), "quantized_layers"));
}

TEST(ModelOpt, HfQuantConfigAlone) {
  TempDir dir;
  MadeCheckpoint c = nvfp4();
  Json q = {{"producer", {{"name", "modelopt"}}}, {"quantization", {{"quant_algo", "NVFP4"}, {"group_size", 16}, {"kv_cache_quant_algo", nullptr}, {"exclude_modules", nullptr}}}};
  c.quantization = nullptr;
  c.write(dir);
  dir.write("hf_quant_config.json", q.dump());
  EXPECT_EQ(values_of(*open_model(dir.path()), kUp + ".weight")[1], 0.25);
}

TEST(ModelOpt, BadTensors) {
  auto fails = [](MadeCheckpoint c, const char* what) {
    std::string error = reading_fails(c);
    EXPECT_TRUE(error.starts_with("3: ") && contains(error, what)) << error;
  };
  for (const char* part : {"weight_scale_2", "input_scale"}) {
    MadeCheckpoint c = nvfp4();
    c.remove(kUp + "." + part);
    fails(c, part);
  }
  MadeCheckpoint c = nvfp4();
  c.remove(kUp + ".weight_scale");
  fails(c, "no weight_scale");
  c = nvfp4();
  c.at(kUp + ".weight_scale").shape = {2, 1};
  fails(c, "weight_scale");
  c = nvfp4();
  c.quantization["quant_algo"] = "FP8";
  fails(c, "does not fit");
  c = nvfp4();
  c.tensors.push_back(f32_tensor(kUp + ".svdquant_lora_a", {1, 1}, {0}));
  fails(c, "svdquant_lora_a");
  c = nvfp4();
  c.tensors.push_back(f32_tensor(kUp + ".pre_quant_scale", {3}, {0, 1, 2}));
  fails(c, "pre_quant_scale");
}

TEST(ModelOpt, WriterRefuses) {
  MadeCheckpoint dynamic;
  dynamic.quantization = {{"quant_method", "fp8"}, {"activation_scheme", "dynamic"}};
  dynamic.tensors = {bytes_tensor(kUp + ".weight", DType::f8_e4m3, {1, 1}, {0x38}), f32_tensor(kUp + ".weight_scale", {1}, {1})};
  std::string error = write_as(dynamic, "modelopt").error;
  EXPECT_TRUE(error.starts_with("5: ") && contains(error, kUp) && contains(error, "qcalibrate")) << error;
  dynamic.quantization["weight_block_size"] = {64, 64};
  dynamic.tensors[1] = f32_tensor(kUp + ".weight_scale_inv", {1, 1}, {1});
  EXPECT_TRUE(write_as(dynamic, "modelopt").error.starts_with("5: "));
}

// ---- saved state

std::vector<Tensor> attention(Shape shape) {
  Tensor t;
  t.name = "a.k_proj.weight";
  t.shape = shape;
  return {t};
}

TEST(ModelOptState, RangesBecomeACalibration) {
  Extent nothing{.file = 0, .offset = 64, .length = 0, .xxh3 = 1};
  Calibration c = modelopt::read_state(std::string(QP_TEST_DATA) + "/torch/modelopt_state.pt", attention({2, 2}), nothing);
  ASSERT_EQ(c.inputs.size(), 1u);
  EXPECT_EQ(c.inputs[0].readers, Strings{"a.k_proj"});
  EXPECT_EQ(c.inputs[0].observed, 2.5f);
  EXPECT_GT(c.inputs[0].rows, 0u);
  ASSERT_EQ(c.caches.size(), 1u);
  EXPECT_EQ(c.caches[0].block, "a");
  EXPECT_EQ(c.caches[0].k_amax, 7.0f);
  EXPECT_EQ(c.caches[0].v_amax, 0.5f);
  Calibration again = calibration_from_json(to_json(c));  // as a qmap keeps it
  EXPECT_EQ(again.inputs[0].observed, 2.5f);
}

TEST(ModelOptState, Refusals) {
  auto fails = [](const char* file, Shape shape) {
    try {
      modelopt::read_state(std::string(QP_TEST_DATA) + "/torch/" + file, attention(shape), {});
    } catch (const Error& e) {
      return std::to_string(e.exit_code()) + ": " + e.what();
    }
    return std::string();
  };
  EXPECT_TRUE(contains(fails("modelopt_state.pt", {3, 2}), "3: "));
  EXPECT_TRUE(contains(fails("modelopt_scaled.pt", {2, 2}), "5: "));
  EXPECT_TRUE(contains(fails("nested.pt", {2, 2}), "no quantizers"));
}

}  // namespace
}  // namespace qp
