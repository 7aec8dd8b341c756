// auto-round (reference/int4-formats.md 1.5): packings and their zero points, negative scales, mixed
// bits, the microscaling schemes.
#include <gtest/gtest.h>

#include "tests/unit/support/linear_model.h"

namespace qp {
namespace {

bool has(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }
#define EXPECT_SAYS(text, part) EXPECT_TRUE(has(text, part)) << (text)

LinearModel w4() {
  LinearModel m;
  m.quantization() = {{"quant_method", "auto-round"}, {"packing_format", "auto_round:auto_gptq"}, {"bits", 4},
                      {"group_size", 8}, {"sym", true}, {"data_type", "int"}};
  m.set("qweight", DType::i32, {1, 8}, std::vector<uint32_t>(8, 0x76543210));
  m.set<uint32_t>("qzeros", DType::i32, {1, 1}, {0x77777777});
  m.set_f16("scales", {1, 8}, std::vector<float>(8, -0.5f));
  return m;
}

TEST(AutoRound, SpellingsAndNegativeScales) {
  for (const char* packing : {"auto_round:auto_gptq", "auto_round:gptq", "auto"}) {
    for (const char* method : {"auto-round", "auto_round", "intel/auto-round"}) {
      LinearModel m = w4();
      m.quantization()["packing_format"] = packing;
      m.quantization()["quant_method"] = method;
      EXPECT_EQ(linear_values(*m.open())[0], -0.5f * (0 - 8));
    }
  }
  auto store = w4().open();
  Exported out(*store, "auto-round");
  EXPECT_EQ(out.words("scales"), std::vector<uint32_t>(4, 0xB800B800));
  EXPECT_EQ(out.words("qzeros"), std::vector<uint32_t>{0x77777777});
  EXPECT_EQ(out.config().at("packing_format"), "auto_round:auto_gptq");
  EXPECT_EQ(parse_json(out.text("quantization_config.json"), ""), out.config());
  // The same bytes are GPTQ's.
  EXPECT_EQ(Exported(*store, "gptq").words("qweight"), out.words("qweight"));
}

TEST(AutoRound, OwnPackingHasZeroPointsAsTheyAre) {
  LinearModel m = w4();
  m.quantization()["packing_format"] = "auto_round";
  m.quantization()["sym"] = false;
  m.set<uint32_t>("qzeros", DType::i32, {1, 1}, {0x00000003});
  auto store = m.open();
  EXPECT_EQ(linear_values(*store)[0], -0.5f * (0 - 3));
  // Four bits and zero points: AWQ's layout.
  Exported out(*store, "auto-round");
  EXPECT_EQ(out.config().at("packing_format"), "auto_round:auto_awq");
  EXPECT_EQ(out.words("qzeros"), std::vector<uint32_t>{0x00000003});
  ExportOptions wide;
  wide.num_bits = 8;
  Exported eight(*store, "auto-round", wide);
  EXPECT_EQ(eight.config().at("packing_format"), "auto_round");
  EXPECT_EQ(eight.words("qzeros"), (std::vector<uint32_t>{3, 0}));
}

TEST(AutoRound, ExtraConfig) {
  LinearModel m = w4();
  m.quantization()["bits"] = 2;
  m.quantization()["extra_config"] = {{".*up_proj.*", {{"bits", 4}}}};
  EXPECT_EQ(linear_values(*m.open())[1], -0.5f * (1 - 8));
  m.quantization()["extra_config"] = {{".*up_proj.*", {{"bits", 3}}}, {LinearModel::kModule, {{"bits", 4}}}};
  EXPECT_EQ(linear_values(*m.open())[1], -0.5f * (1 - 8));  // its name before patterns
  m.quantization()["extra_config"] = {{LinearModel::kModule, {{"bits", 16}, {"data_type", "float"}}}};
  EXPECT_SAYS(m.refusal(), "16 bits");
}

TEST(AutoRound, SaysWhatIsNotQuantized) {
  LinearModel m = w4();
  m.config["num_hidden_layers"] = 2;
  for (const char* layer : {"0", "1"}) {
    m.tensors.push_back(bf16_tensor("model.layers." + std::string(layer) + ".self_attn.o_proj.weight", {8, 8}));
  }
  m.tensors.push_back(bf16_tensor("lm_head.weight", {8, 8}));
  auto store = m.open();
  Json q = parse_json(plan_as(*store, "auto-round").files.at(0).text, "");
  EXPECT_EQ(q["block_name_to_quantize"], "model.layers");
  EXPECT_EQ(q["extra_config"], (Json{{"^model\\.layers\\.\\d+\\.self_attn\\.o_proj$", {{"bits", 16}, {"data_type", "float"}}}}));
}

TEST(AutoRound, Mxfp4) {
  LinearModel m;
  m.quantization() = {{"quant_method", "auto-round"}, {"packing_format", "auto_round:llm_compressor"}, {"bits", 4},
                      {"group_size", 32}, {"sym", true}, {"data_type", "mx_fp"}, {"act_bits", 4}, {"act_data_type", "mx_fp"}};
  m.set("weight_packed", DType::u8, {1, 16}, std::vector<uint8_t>(16, 0xA2));  // 1 low, -1 high
  m.set<uint8_t>("weight_scale", DType::u8, {1, 1}, {128});                    // 2
  auto store = m.open();
  std::vector<float> v = linear_values(*store);
  EXPECT_EQ(v[0], 2);
  EXPECT_EQ(v[1], -2);
  Exported out(*store, "auto-round");
  EXPECT_EQ(out.config().at("act_data_type"), "mx_fp");
  EXPECT_EQ(linear_values(out.store()), v);
  EXPECT_SAYS(write_refusal(*store, "gptq"), "no integer codes");
  m.remove("weight_scale");
  EXPECT_SAYS(m.refusal(), "has no weight_scale");
}

TEST(AutoRound, Nvfp4) {
  LinearModel m;
  m.quantization() = {{"quant_method", "auto-round"}, {"packing_format", "auto_round:llm_compressor"}, {"bits", 4},
                      {"group_size", 16}, {"sym", true}, {"data_type", "nv_fp"}, {"act_bits", 4},
                      {"act_data_type", "nv_fp4_with_static_gs"}};
  m.set("weight_packed", DType::u8, {1, 8}, std::vector<uint8_t>(8, 0x77));  // 6
  m.set<uint8_t>("weight_scale", DType::f8_e4m3, {1, 1}, {0x40});            // 2
  m.set<float>("weight_global_scale", DType::f32, {1}, {4});
  m.set<float>("input_global_scale", DType::f32, {1}, {8});
  auto store = m.open();
  EXPECT_EQ(linear_values(*store)[0], 6 * 2 / 4.0f);
  Exported out(*store, "auto-round");
  EXPECT_EQ(out.words("input_global_scale"), std::vector<uint32_t>{0x41000000});
  m.remove("input_global_scale");
  EXPECT_SAYS(m.refusal(), "has no input_global_scale");
}

TEST(AutoRound, RefusesBadInput) {
  auto broken = [](const std::function<void(LinearModel&)>& change) {
    LinearModel m = w4();
    change(m);
    return m.refusal();
  };
  EXPECT_SAYS(broken([](LinearModel& m) { m.remove("scales"); }), "has no scales");
  EXPECT_SAYS(broken([](LinearModel& m) { m.quantization()["packing_format"] = "auto_round:mlx"; }), "auto_round:mlx");
  EXPECT_SAYS(broken([](LinearModel& m) { m.quantization()["data_type"] = "fp"; }), "data_type");
  EXPECT_SAYS(broken([](LinearModel& m) { m.quantization()["group_size"] = -2; }), "group_size");
  EXPECT_SAYS(broken([](LinearModel& m) { m.set<uint32_t>("qzeros", DType::i32, {1, 1}, {0x88888888}); }), "zero point");
  EXPECT_SAYS(broken([](LinearModel& m) { m.files = {{"quantization_config.json", R"({"bits": 8})"}}; }), "'bits'");
}

}  // namespace
}  // namespace qp
