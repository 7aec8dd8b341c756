#include "formats/verify/structure.h"

#include <gtest/gtest.h>

#include <set>

#include "lib/base/error.h"
#include "tests/unit/support/model_dir.h"

namespace qp {
namespace {

using Rules = std::set<std::string>;

Rules rules(const std::vector<Finding>& findings) {
  Rules out;
  for (const Finding& f : findings) {
    out.insert(std::string(name_of(f.severity)) + " " + f.rule);
    EXPECT_FALSE(f.what.empty()) << f.rule;
    bool known = std::ranges::any_of(structure_rules(), [&](const StructureRule& r) { return r.id == f.rule; });
    EXPECT_TRUE(known) << f.rule << " is not in structure_rules()";
  }
  return out;
}

Rules stored(const TinyLlama& model) {
  TempDir dir;
  model.write(dir);
  return rules(check_directory(dir.path()).findings);
}
Rules sharded(const std::function<void(Json&)>& change) {
  TempDir dir;
  TinyLlama().write_sharded(dir, change);
  return rules(check_directory(dir.path()).findings);
}
Rules promises(const TinyLlama& model) {
  TempDir dir;
  model.write(dir);
  return rules(check_promises(open_model(dir.path())->model()));
}

TEST(Structure, SoundModelsHaveNoFindings) {
  EXPECT_EQ(stored({}), Rules{});
  EXPECT_EQ(promises({}), Rules{});
  EXPECT_EQ(sharded(nullptr), Rules{});
  TinyLlama fp8;
  fp8.quantize_fp8();
  EXPECT_EQ(stored(fp8), Rules{});
  EXPECT_EQ(promises(fp8), Rules{});
}

TEST(Structure, IndexAgainstShards) {
  EXPECT_EQ(sharded([](Json& i) { i["weight_map"]["model.extra.weight"] = "model-00001-of-00002.safetensors"; }),
            Rules{"error missing-tensor"});
  EXPECT_EQ(sharded([](Json& i) { i["weight_map"].erase("lm_head.weight"); }), Rules({"error stray-tensor", "warning total-size"}));
  EXPECT_EQ(sharded([](Json& i) { i["weight_map"]["lm_head.weight"] = "model-00001-of-00002.safetensors"; }),
            Rules({"error stray-tensor", "warning total-size"}));
  EXPECT_EQ(sharded([](Json& i) { i["metadata"]["total_size"] = 7; }), Rules{"warning total-size"});
  EXPECT_EQ(sharded([](Json& i) { i["weight_map"]["lm_head.weight"] = "../secret.safetensors"; }),
            Rules({"error index", "error stray-tensor", "warning total-size"}));
  EXPECT_TRUE(sharded([](Json& i) { i = Json::array(); }).contains("error index"));
}

TEST(Structure, MissingAndSurplusShards) {
  TempDir dir;
  TinyLlama model;
  model.write_sharded(dir);
  write_safetensors(dir / "left-over.safetensors", {model.tensors[0]});
  EXPECT_EQ(rules(check_directory(dir.path()).findings), Rules{"warning stray-shard"});
  std::filesystem::remove(dir / "model-00002-of-00002.safetensors");
  EXPECT_TRUE(rules(check_directory(dir.path()).findings).contains("error missing-shard"));
  std::filesystem::remove(dir / "model.safetensors.index.json");
  std::filesystem::remove(dir / "left-over.safetensors");
  EXPECT_EQ(rules(check_directory(dir.path()).findings), Rules{"error missing-shard"});
}

TEST(Structure, DamagedFiles) {
  TempDir dir;
  TinyLlama().write(dir);
  std::filesystem::resize_file(dir / "model.safetensors", std::filesystem::file_size(dir / "model.safetensors") - 1);
  EXPECT_EQ(rules(check_directory(dir.path()).findings), Rules{"error shard"});
  TinyLlama().write(dir);
  dir.write("config.json", "{\"a\":");
  EXPECT_EQ(rules(check_directory(dir.path()).findings), Rules{"error config"});
  TinyLlama().write(dir);
  dir.write("tokenizer.json", "{\"a\":");
  EXPECT_EQ(rules(check_directory(dir.path()).findings), Rules{"error companion"});
}

TEST(Structure, MissingCompanionsAreNotes) {
  TempDir dir;
  TinyLlama().write(dir);
  std::filesystem::remove(dir / "tokenizer.json");
  std::filesystem::remove(dir / "generation_config.json");
  EXPECT_EQ(rules(check_directory(dir.path()).findings), Rules({"note tokenizer", "note generation-config"}));
}

TEST(Structure, QuantizationConfigAgainstTensors) {
  TinyLlama fp8;
  fp8.quantize_fp8();
  const std::string q = "model.layers.1.self_attn.q_proj.weight";

  TinyLlama m = fp8;
  m.config["quantization_config"]["ignore"].push_back("model.layers.1.self_attn.q_proj");
  EXPECT_EQ(stored(m), Rules{"error ignored-quantized"});

  m = fp8;
  m.at(q) = bf16_tensor(q, {8, 8});
  m.remove(q + "_scale");
  EXPECT_EQ(stored(m), Rules{"error not-quantized"});
  m.config["quantization_config"]["ignore"].push_back("re:.*layers.1.self_attn.q_proj");
  EXPECT_EQ(stored(m), Rules{});

  m = fp8;
  m.config["quantization_config"]["ignore"] = Json::array();
  EXPECT_EQ(stored(m), Rules{"error not-quantized"});  // lm_head

  m = fp8;
  m.config["quantization_config"]["config_groups"]["group_0"]["targets"] = {"re:.*mlp.*", "re:.*k_proj", "re:.*[vo]_proj"};
  EXPECT_EQ(stored(m), Rules{"error untargeted-quantized"});

  m = fp8;
  m.remove(q);
  EXPECT_EQ(stored(m), Rules{"error orphan-scale"});

  m = fp8;
  m.config.erase("quantization_config");
  EXPECT_EQ(stored(m), Rules{"error undeclared-quantization"});

  m = fp8;
  m.config["quantization_config"]["config_groups"]["group_0"]["targets"] = {"re:("};
  EXPECT_TRUE(stored(m).contains("error quantization-config"));
}

TEST(Structure, LayoutOfParts) {
  TinyLlama fp8;
  fp8.quantize_fp8();
  const std::string q = "model.layers.0.self_attn.q_proj.weight";

  TinyLlama m = fp8;
  m.tensors.push_back({"model.layers.0.self_attn.q_proj.weight_zero_point", DType::i8, {8, 1}, std::string(8, '\0')});
  EXPECT_EQ(stored(m), Rules{"error zero-point-layout"});

  m = fp8;
  m.at(q + "_scale") = bf16_tensor(q + "_scale", {4, 1});
  EXPECT_EQ(stored(m), Rules{"error scale-layout"});
  m.at(q + "_scale") = bf16_tensor(q + "_scale", {8});
  EXPECT_EQ(stored(m), Rules{"warning scale-layout"});
  m.at(q + "_scale") = {q + "_scale", DType::u8, {8, 1}, std::string(8, '\1')};
  EXPECT_EQ(stored(m), Rules{"error scale-layout"});

  m = fp8;
  m.at(q).dtype = DType::i8;
  EXPECT_EQ(stored(m), Rules{"error weight-layout"});

  m = fp8;
  m.tensors.push_back({"model.layers.0.self_attn.q_proj.weight_packed", DType::u8, {8, 8}, std::string(64, '\1')});
  EXPECT_TRUE(stored(m).contains("error leftover-weight"));

  m = fp8;
  m.config["quantization_config"]["config_groups"]["group_0"]["input_activations"]["dynamic"] = false;
  m.config["quantization_config"]["config_groups"]["group_0"]["input_activations"]["strategy"] = "tensor";
  EXPECT_EQ(stored(m), Rules{"error input-scale-layout"});
}

TEST(Promises, Shapes) {
  TinyLlama m;
  m.config["vocab_size"] = 13;
  EXPECT_EQ(promises(m), Rules{"error vocab-size"});
  m.config["vocab_size"] = 11;  // padded rows are common
  EXPECT_EQ(promises(m), Rules{"warning vocab-size"});
  m = {};
  m.config["hidden_size"] = 16;
  EXPECT_EQ(promises(m), Rules({"error vocab-size", "error module-shape"}));
  m = {};
  m.config["intermediate_size"] = 32;
  EXPECT_EQ(promises(m), Rules{"error module-shape"});
  m = {};
  m.config["num_key_value_heads"] = 2;
  EXPECT_EQ(promises(m), Rules{"error module-shape"});
}

TEST(Promises, Layers) {
  TinyLlama m;
  m.config["num_hidden_layers"] = 3;
  EXPECT_EQ(promises(m), Rules{"error layer-count"});
  m.config["num_hidden_layers"] = 1;
  EXPECT_EQ(promises(m), Rules{"warning layer-count"});
  m.config["num_nextn_predict_layers"] = 1;
  EXPECT_EQ(promises(m), Rules{});
  TinyLlama one_less;
  for (auto& t : std::vector(one_less.tensors)) {
    if (t.name.find("layers.1.") == std::string::npos) continue;
    t.name.replace(t.name.find("layers.1."), 9, "layers.2.");
    one_less.tensors.push_back(t);
  }
  one_less.config["num_hidden_layers"] = 3;
  EXPECT_EQ(promises(one_less), Rules{});
  one_less.remove("model.layers.1.mlp.up_proj.weight");
  EXPECT_EQ(promises(one_less), Rules{"error missing-module"});
}

TEST(Promises, ExpertsDtypeAndHead) {
  TinyLlama m;
  for (int e : {0, 1, 3}) m.tensors.push_back(bf16_tensor("model.layers.0.moe.experts." + std::to_string(e) + ".w1.weight", {8, 8}));
  m.config["num_experts"] = 4;
  EXPECT_TRUE(promises(m).contains("error expert-count"));
  m = {};
  m.config["torch_dtype"] = "float16";
  EXPECT_EQ(promises(m), Rules{"warning dtype"});
  m = {};
  m.remove("lm_head.weight");
  EXPECT_EQ(promises(m), Rules{"error tied-head"});
  m.config["tie_word_embeddings"] = true;
  EXPECT_EQ(promises(m), Rules{});
  m.config.erase("tie_word_embeddings");
  EXPECT_EQ(promises(m), Rules{"note tied-head"});
}

// Configs of any type in any place are no reason to stop.
TEST(Promises, HostileConfig) {
  TinyLlama m;
  m.config["hidden_size"] = "wide";
  m.config["vocab_size"] = -5;
  m.config["num_hidden_layers"] = Json::array({1});
  m.config["head_dim"] = 9e99;
  m.config["text_config"] = 3;
  m.config["tie_word_embeddings"] = "no";
  m.config["torch_dtype"] = 7;
  EXPECT_NO_THROW(promises(m));
  m = {};
  m.config["num_hidden_layers"] = int64_t{1} << 62;
  m.config["num_attention_heads"] = int64_t{1} << 62;
  EXPECT_TRUE(promises(m).contains("error layer-count"));
}

}  // namespace
}  // namespace qp
