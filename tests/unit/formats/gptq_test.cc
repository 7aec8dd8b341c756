// GPTQ against the bytes of the reference (reference/int4-formats.md 1.1): the worked example G4, zero
// points of both versions, g_idx, overrides, what is refused.
#include <gtest/gtest.h>

#include <numeric>

#include "formats/hf/fit.h"
#include "tests/unit/support/linear_model.h"

namespace qp {
namespace {

bool has(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }
#define EXPECT_SAYS(text, part) EXPECT_TRUE(has(text, part)) << (text)

std::string regroup_refusal(const Store& store, uint64_t size) {
  std::vector<LedgerEntry> ledger;
  try {
    fitted(store, {.group_size = size}, ledger);
  } catch (const Error& e) {
    return e.what();
  }
  return "";
}

// Example G4: 8 columns, one group; row 0 has codes 0..7, row 1 15..8, the others 8; scale 0.5.
LinearModel g4() {
  LinearModel m;
  m.quantization() = {{"quant_method", "gptq"}, {"bits", 4}, {"group_size", 8}, {"desc_act", false}, {"sym", true},
                      {"checkpoint_format", "gptq"}};
  std::vector<uint32_t> codes(8, 0x88888888);
  codes[0] = 0x76543210;
  codes[1] = 0x89ABCDEF;
  m.set("qweight", DType::i32, {1, 8}, codes);
  m.set<uint32_t>("qzeros", DType::i32, {1, 1}, {0x77777777});
  m.set_f16("scales", {1, 8}, std::vector<float>(8, 0.5f));
  m.set("g_idx", DType::i32, {8}, std::vector<int32_t>(8, 0));
  return m;
}

void expect_g4(const Store& store) {
  std::vector<float> v = linear_values(store);
  ASSERT_EQ(v.size(), 64u);
  for (size_t k = 0; k < 8; ++k) {
    EXPECT_EQ(v[k], 0.5f * (static_cast<float>(k) - 8));
    EXPECT_EQ(v[8 + k], 0.5f * (7 - static_cast<float>(k)));
    EXPECT_EQ(v[16 + k], 0);
  }
}

TEST(Gptq, ReadsTheWorkedExample) {
  auto store = g4().open();
  expect_g4(*store);
  const Tensor& t = *store->model().find(LinearModel::kModule + ".weight");
  EXPECT_EQ(t.part(Role::zero_point), nullptr);  // symmetric
  EXPECT_EQ(t.part(Role::g_idx), nullptr);       // column / group
  EXPECT_EQ(store->model().format, "gptq");
}

TEST(Gptq, VersionsOfZeroPoints) {
  LinearModel m = g4();
  m.quantization()["checkpoint_format"] = "gptq_v2";
  m.set<uint32_t>("qzeros", DType::i32, {1, 1}, {0x88888888});
  expect_g4(*m.open());
  // Asymmetric: fields 0..7 are zero points 1..8 in v1.
  m = g4();
  m.quantization()["sym"] = false;
  m.set<uint32_t>("qzeros", DType::i32, {1, 1}, {0x76543210});
  EXPECT_EQ(linear_values(*m.open())[0], 0.5f * (0 - 1));
  EXPECT_EQ(linear_values(*m.open())[8 + 7], 0.5f * (8 - 2));
  // GPTQModel takes the 1 from whole words: zero points 0, 1, 1, .. are 0x11111110 - 0x11111111.
  m.quantization()["meta"] = {{"quantizer", {"gptqmodel:7.7.0"}}};
  m.set<uint32_t>("qzeros", DType::i32, {1, 1}, {0xFFFFFFFF});
  EXPECT_EQ(linear_values(*m.open())[1], 0.5f * 1);
  EXPECT_EQ(linear_values(*m.open())[8], 0.5f * (15 - 1));
}

TEST(Gptq, ThreeBitsAndPlanes) {
  for (bool planar : {false, true}) {
    LinearModel m;
    m.quantization() = {{"quant_method", "gptq"}, {"bits", 3}, {"group_size", -1}, {"sym", true}, {"desc_act", false}};
    if (planar) m.quantization()["checkpoint_format"] = "gptq_p";
    std::vector<uint32_t> g3 = planar ? std::vector<uint32_t>{0xE4E4E4E4, 0xE4E4E4E4, 0xF0F0F0F0}
                                      : std::vector<uint32_t>{0x88FAC688, 0xC688FAC6, 0xFAC688FA};
    std::vector<uint32_t> codes;
    for (uint32_t w : g3) codes.insert(codes.end(), 32, w);
    m.set("qweight", DType::i32, {3, 32}, codes);
    // Zero point 4: in planes the low two bits are 0, the high one is 1.
    m.set("qzeros", DType::i32, {1, 3}, planar ? std::vector<uint32_t>{0, 0, 0xFFFFFFFF}
                                               : std::vector<uint32_t>{0xDB6DB6DB, 0xB6DB6DB6, 0x6DB6DB6D});
    m.set_f16("scales", {1, 32}, std::vector<float>(32, 2.0f));
    m.set("g_idx", DType::i32, {32}, std::vector<int32_t>(32, 0));
    std::vector<float> v = linear_values(*m.open());
    for (size_t i = 0; i < v.size(); ++i) ASSERT_EQ(v[i], 2 * (static_cast<float>(i % 8) - 4)) << i;
  }
}

TEST(Gptq, GroupsInTheOrderOfGIdx) {
  LinearModel m = g4();
  m.quantization()["group_size"] = 4;
  m.quantization()["desc_act"] = true;
  m.set<uint32_t>("qzeros", DType::i32, {2, 1}, {0x77777777, 0x77777777});
  std::vector<float> scales(8, 0.5f);
  scales.resize(16, 2.0f);
  m.set_f16("scales", {2, 8}, scales);
  m.set<int32_t>("g_idx", DType::i32, {8}, {0, 1, 0, 1, 0, 1, 0, 1});
  auto store = m.open();
  std::vector<float> v = linear_values(*store);
  EXPECT_EQ(v[0], 0.5f * -8);
  EXPECT_EQ(v[1], 2.0f * -7);
  Exported out(*store, "gptq");
  EXPECT_EQ(out.words("g_idx"), (std::vector<uint32_t>{0, 1, 0, 1, 0, 1, 0, 1}));
  EXPECT_EQ(out.config().at("desc_act"), true);
  EXPECT_EQ(linear_values(out.store()), v);
  EXPECT_SAYS(write_refusal(*store, "awq"), "g_idx");
  EXPECT_SAYS(write_refusal(*store, "auto-round"), "g_idx");
  EXPECT_SAYS(regroup_refusal(*store, 2), "cannot be repeated");
}

TEST(Gptq, OverridesOfModules) {
  LinearModel m = g4();
  m.quantization()["bits"] = 8;
  m.quantization()["group_size"] = 128;
  m.quantization()["dynamic"] = {{"+:.*down_proj", {{"bits", 2}}},
                                 {".*\\.mlp\\.", {{"bits", 4}, {"group_size", 8}}},
                                 {"+:.*up_proj", {{"bits", 3}}}};
  expect_g4(*m.open());
  // Matched from the start, not to the end; first the negative ones.
  m.quantization()["dynamic"] = {{"layers", {{"bits", 2}}}, {"model\\.layers", {{"bits", 4}, {"group_size", 8}}}};
  expect_g4(*m.open());
  m.quantization()["dynamic"]["-:.*up"] = Json::object();
  EXPECT_SAYS(m.refusal(), "not quantized");
}

TEST(Gptq, ConfigInAFileOfItsOwn) {
  LinearModel m = g4();
  m.files = {{"quantize_config.json", m.quantization().dump()}};
  expect_g4(*m.open());
  m.config.erase("quantization_config");
  expect_g4(*m.open());
  m = g4();
  Json other = m.quantization();
  other["group_size"] = 128;
  m.files = {{"quantize_config.json", other.dump()}};
  EXPECT_SAYS(m.refusal(), "group_size");
}

TEST(Gptq, RefusesBadInput) {
  auto broken = [](const std::function<void(LinearModel&)>& change) {
    LinearModel m = g4();
    change(m);
    std::string text = m.refusal();
    return text;
  };
  for (const char* part : {"qzeros", "scales", "g_idx"}) {
    std::string text = broken([&](LinearModel& m) { m.remove(part); });
    EXPECT_SAYS(text, "has no " + std::string(part));
    EXPECT_SAYS(text, LinearModel::kModule);
  }
  EXPECT_SAYS(broken([](LinearModel& m) { m.set("qzeros", DType::i32, {1, 2}, std::vector<uint32_t>(2, 0x77777777)); }), "its qzeros does not fit");
  EXPECT_SAYS(broken([](LinearModel& m) { m.set_f16("scales", {2, 8}, std::vector<float>(16, 1)); }), "its scales does not fit");
  EXPECT_SAYS(broken([](LinearModel& m) { m.set("qweight", DType::i16, {2, 8}, std::vector<int16_t>(16)); }), "its qweight does not fit");
  EXPECT_SAYS(broken([](LinearModel& m) { m.set<int32_t>("g_idx", DType::i32, {8}, {0, 0, 0, 0, 0, 0, 0, 1}); }), "names group 1");
  EXPECT_SAYS(broken([](LinearModel& m) { m.set<int32_t>("g_idx", DType::i32, {8}, {0, 0, 0, 0, 0, 0, 0, -1}); }), "names group -1");
  EXPECT_SAYS(broken([](LinearModel& m) { m.set<uint32_t>("qzeros", DType::i32, {1, 1}, {0x77777770}); }), "zero point of 1 in row 0");
  EXPECT_SAYS(broken([](LinearModel& m) {
                m.quantization()["sym"] = false;
                m.set<uint32_t>("qzeros", DType::i32, {1, 1}, {0x777777F7});
              }), "zero point of 16 in row 1");
  EXPECT_SAYS(broken([](LinearModel& m) { m.quantization()["checkpoint_format"] = "gptq_v9"; }), "gptq_v9");
  EXPECT_SAYS(broken([](LinearModel& m) { m.quantization()["bits"] = 5; }), "5-bit codes");
  EXPECT_SAYS(broken([](LinearModel& m) { m.quantization()["bits"] = "4"; }), "'bits'");
  EXPECT_SAYS(broken([](LinearModel& m) { m.quantization()["group_size"] = 0; }), "group_size");
  EXPECT_SAYS(broken([](LinearModel& m) { m.set("amax", DType::i32, {1}, std::vector<int32_t>(1)); }), "'amax'");
  EXPECT_SAYS(broken([](LinearModel& m) {
                m.quantization()["group_size"] = 4;
                m.set("qzeros", DType::i32, {2, 1}, std::vector<uint32_t>(2, 0x77777777));
                m.set_f16("scales", {2, 8}, std::vector<float>(16, 1));
                m.set<int32_t>("g_idx", DType::i32, {8}, {0, 1, 0, 1, 0, 1, 0, 1});
              }), "desc_act false");
}

TEST(Gptq, MarlinIsReadBack) {
  // 64 rows, 16 columns in a single tile row: word 0 holds k 0 and 1, .. of columns 0 and 8.
  LinearModel m;
  m.quantization() = {{"quant_method", "gptq"}, {"bits", 4}, {"group_size", -1}, {"sym", true}, {"is_marlin_format", true}};
  m.set("B", DType::i32, {1, 128}, std::vector<uint32_t>(128, 0x99999999));
  std::vector<float> scales(64);
  std::iota(scales.begin(), scales.end(), 1.0f);
  m.set_f16("s", {1, 64}, scales);
  std::vector<float> v = linear_values(*m.open());
  // Code 9 everywhere; runs of 32 scales: entry 2 is that of row 8, entry 8 that of row 2.
  EXPECT_EQ(v[0], 1.0f);
  EXPECT_EQ(v[8 * 16], 3.0f);
  EXPECT_EQ(v[2 * 16], 9.0f);
  m.quantization()["sym"] = false;
  EXPECT_SAYS(m.refusal(), "marlin");
}

TEST(Gptq, WritesWhatItRead) {
  LinearModel m = g4();
  auto store = m.open();
  Exported out(*store, "gptq");
  EXPECT_EQ(out.words("qweight")[0], 0x76543210u);
  EXPECT_EQ(out.words("qweight")[1], 0x89ABCDEFu);
  EXPECT_EQ(out.words("qzeros"), std::vector<uint32_t>{0x77777777});
  EXPECT_EQ(out.words("scales"), std::vector<uint32_t>(4, 0x38003800));
  EXPECT_EQ(out.words("g_idx"), std::vector<uint32_t>(8, 0));
  Json q = out.config();
  for (const char* key : {"desc_act", "sym", "bits", "group_size", "lm_head"}) EXPECT_TRUE(q.contains(key)) << key;
  EXPECT_EQ(q.at("checkpoint_format"), "gptq");
  EXPECT_EQ(parse_json(out.text("quantize_config.json"), ""), q);
}

TEST(Gptq, AsymmetricIsWrittenAsVersion2) {
  LinearModel m = g4();
  m.quantization()["sym"] = false;
  m.quantization()["checkpoint_format"] = "gptq_v2";
  m.set<uint32_t>("qzeros", DType::i32, {1, 1}, {0xF6543210});
  auto store = m.open();
  Exported out(*store, "gptq");
  EXPECT_EQ(out.words("qzeros"), std::vector<uint32_t>{0xF6543210});
  EXPECT_EQ(out.config().at("checkpoint_format"), "gptq_v2");
}

TEST(Gptq, ToAwqAndBack) {
  auto store = g4().open();
  Exported awq(*store, "awq");
  // Input 0: channels 0, 1 have codes 0 and 15, the others 8; nibbles hold channels 0,2,4,6,1,3,5,7.
  EXPECT_EQ(awq.words("qweight")[0], 0x888F8880u);
  EXPECT_EQ(awq.words("qweight")[7], 0x88888887u);
  EXPECT_EQ(awq.words("qzeros"), std::vector<uint32_t>{0x88888888});
  expect_g4(awq.store());
  Exported again(awq.store(), "gptq"), first(*store, "gptq");
  for (const char* part : {"qweight", "qzeros", "scales", "g_idx"}) EXPECT_EQ(again.words(part), first.words(part)) << part;
  EXPECT_EQ(again.config(), first.config());
}

TEST(Gptq, SmallerGroupsAndWiderCodesKeepEveryValue) {
  auto store = g4().open();
  ExportOptions options;
  options.num_bits = 8;
  std::vector<LedgerEntry> ledger;
  Exported out(*fitted(*store, {.group_size = 2}, ledger), "gptq", options);
  expect_g4(out.store());
  EXPECT_EQ(out.config().at("group_size"), 2);
  EXPECT_EQ(out.config().at("bits"), 8);
  EXPECT_EQ(out.words("qzeros"), std::vector<uint32_t>(8, 0x7F7F7F7F));
  EXPECT_EQ(out.words("qweight")[0], 0x7B7A7978u);  // code + 120
  EXPECT_EQ(out.words("g_idx"), (std::vector<uint32_t>{0, 0, 1, 1, 2, 2, 3, 3}));
  EXPECT_SAYS(regroup_refusal(*store, 3), "does not divide");
  options.num_bits = 3;
  EXPECT_SAYS(write_refusal(*store, "gptq", options), "asks for fewer");
}

TEST(Gptq, RefusesScalesThatF16CannotHold) {
  LinearModel m = g4();
  m.set("scales", DType::f32, {1, 8}, std::vector<float>(8, 0.1f));
  auto store = m.open();
  try {
    Exported(*store, "gptq");
    ADD_FAILURE() << "it was written";
  } catch (const Error& e) {
    EXPECT_EQ(e.kind(), ErrorKind::limit);
    EXPECT_SAYS(std::string(e.what()), "F16 cannot hold");
  }
}

TEST(Gptq, LeavesOutWhatIsNotQuantized) {
  LinearModel m = g4();
  m.config["num_hidden_layers"] = 2;
  m.tensors.push_back(bf16_tensor("model.layers.0.mlp.gate.weight", {4, 8}));
  m.tensors.push_back(bf16_tensor("model.layers.0.self_attn.q_proj.weight", {8, 8}));
  m.tensors.push_back(bf16_tensor("model.layers.1.self_attn.q_proj.weight", {8, 8}));
  m.tensors.push_back(bf16_tensor("model.visual.blocks.0.attn.qkv.weight", {8, 8}));
  m.tensors.push_back(bf16_tensor("lm_head.weight", {8, 8}));
  auto store = m.open();
  Json dynamic = plan_as(*store, "gptq").files.empty() ? Json() : parse_json(plan_as(*store, "gptq").files[0].text, "")["dynamic"];
  std::vector<std::string> keys;
  for (const auto& [key, value] : dynamic.items()) keys.push_back(key);
  EXPECT_EQ(keys, (std::vector<std::string>{
                      "-:(.*\\.)?visual(\\..*)?$", "-:model\\.layers\\.0\\.mlp\\.gate$",
                      "-:model\\.layers\\.\\d+\\.self_attn\\.(q_proj|k_proj|v_proj|qkv_proj)$"}));
  Json awq = parse_json(plan_as(*store, "awq").config, "")["quantization_config"];
  EXPECT_EQ(awq["modules_to_not_convert"], (Json{"gate", "q_proj", "visual", "lm_head"}));
}

}  // namespace
}  // namespace qp
