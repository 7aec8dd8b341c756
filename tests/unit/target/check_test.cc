// Engines' tables, divisibility and bytes per rank, on models made of names and shapes alone.
#include <gtest/gtest.h>

#include <set>

#include "lib/base/error.h"
#include "lib/target/engine.h"
#include "lib/target/target.h"

namespace qp::target {
namespace {

// One Llama layer, hidden 256, 4 heads of 64 with 2 of keys, inner 512; AWQ in groups of 64.
Checkpoint awq_llama(uint64_t inner) {
  Checkpoint c;
  c.config = Json::parse(
      R"({"architectures": ["LlamaForCausalLM"], "model_type": "llama", "torch_dtype": "float16",
    "hidden_size": 256, "num_attention_heads": 4, "num_key_value_heads": 2, "num_hidden_layers": 1, "vocab_size": 64})");
  c.config["intermediate_size"] = inner;
  c.method = "awq";
  c.quant = Json::parse(
      R"({"quant_method": "awq", "bits": 4, "group_size": 64, "zero_point": true, "version": "gemm",
    "modules_to_not_convert": ["lm_head"]})");
  auto add = [&](const std::string& name, DType d, Shape s) {
    c.tensors.push_back({name, d, s, *byte_size(d, s)});
  };
  auto linear = [&](const std::string& name, uint64_t n, uint64_t k) {
    std::string module = "model.layers.0." + name;
    add(module + ".qweight", DType::i32, {k, n / 8});
    add(module + ".qzeros", DType::i32, {k / 64, n / 8});
    add(module + ".scales", DType::f16, {k / 64, n});
  };
  add("model.embed_tokens.weight", DType::f16, {64, 256});
  add("lm_head.weight", DType::f16, {64, 256});
  add("model.norm.weight", DType::f16, {256});
  linear("self_attn.q_proj", 256, 256);
  linear("self_attn.k_proj", 128, 256);
  linear("self_attn.v_proj", 128, 256);
  linear("self_attn.o_proj", 256, 256);
  linear("mlp.gate_proj", inner, 256);
  linear("mlp.up_proj", inner, 256);
  linear("mlp.down_proj", 256, inner);
  return c;
}

std::set<std::string> ids(const Result& r) {
  std::set<std::string> out;
  for (const Finding& f : r.findings) out.insert(f.id);
  return out;
}

// A linear [n, k]: n k / 2 bytes of codes, per group of 64: n / 2 of zeros and 2 n of scales.
constexpr uint64_t bytes(uint64_t n, uint64_t k) { return n * k / 2 + k / 64 * (n / 2 + 2 * n); }

TEST(Target, BytesPerRank) {
  Checkpoint c = awq_llama(512);
  uint64_t heads = 2 * 64 * 256 * 2, norm = 512;
  uint64_t kv = 2 * bytes(128, 256);
  uint64_t rest = 2 * bytes(256, 256) + 2 * bytes(512, 256) + bytes(256, 512);
  Options o;
  Result r = check(c, engine_from_name("vllm"), o);
  EXPECT_EQ(r.outcome, Outcome::loads);
  EXPECT_EQ(r.rank_bytes, heads + norm + kv + rest);
  o.tp = 2;
  r = check(c, engine_from_name("vllm"), o);
  EXPECT_EQ(r.rank_bytes, heads / 2 + norm + kv / 2 + rest / 2);
  o.tp = 4;  // two heads of keys: each is on two ranks
  r = check(c, engine_from_name("vllm"), o);
  EXPECT_EQ(r.rank_bytes, heads / 4 + norm + kv / 2 + rest / 4);
}

TEST(Target, GroupsOnEveryRank) {
  Options o;
  o.tp = 2;
  Checkpoint c = awq_llama(192);  // 96 inputs per rank: one group and a half
  Result r = check(c, engine_from_name("sglang"), o);
  EXPECT_EQ(r.outcome, Outcome::refuses);
  EXPECT_TRUE(ids(r).contains("sglang.input-not-aligned"));
  o.tp = 1;
  EXPECT_EQ(check(c, engine_from_name("sglang"), o).outcome, Outcome::loads);
}

TEST(Target, HeadsAndExperts) {
  Options o;
  o.tp = 3;
  EXPECT_TRUE(ids(check(awq_llama(512), engine_from_name("vllm"), o)).contains("vllm.tp-heads"));
  o = {};
  o.ep = 2;
  EXPECT_TRUE(ids(check(awq_llama(512), engine_from_name("vllm"), o)).contains("vllm.ep-experts"));
}

TEST(Target, VerdictsOfTensors) {
  Checkpoint c = awq_llama(512);
  c.tensors[3].shape = Shape{256, 16};     // q_proj.qweight of half the outputs
  c.tensors.erase(c.tensors.begin() + 8);  // k_proj.scales
  Result r = check(c, engine_from_name("vllm"), {});
  EXPECT_EQ(r.verdicts[3], Verdict::wrong_shape);
  ASSERT_EQ(r.missing.size(), 1U);
  EXPECT_EQ(r.missing[0].name, "model.layers.0.self_attn.k_proj.scales");
  EXPECT_EQ(r.missing[0].verdict, Verdict::uninitialised);
  EXPECT_EQ(r.outcome, Outcome::refuses);
}

TEST(Target, HostileConfigs) {
  for (
      const char* text :
      {"null", "[]", R"({"architectures": 1, "hidden_size": "x", "text_config": []})",
       R"({"architectures": ["LlamaForCausalLM"], "num_experts": 1e300, "num_hidden_layers": -1})"}) {
    for (const char* method : {"compressed-tensors", "gptq", "awq", "fp8", "auto-round", "modelopt",
                               "quark", "modelslim", "w8a8_int8", "nonsense"}) {
      Checkpoint c = awq_llama(512);
      c.config = Json::parse(text);
      c.method = method;
      for (
          const char* quant :
          {"{}",
           R"({"config_groups": {"a": [], "b": {"targets": 1, "weights": {"num_bits": "x", "group_size": -7, "block_structure": "axb"}}}})",
           R"({"bits": -1, "group_size": 0, "dynamic": {"(": 1}, "weight_block_size": [0, "x"], "quantized_layers": [1]})"}) {
        c.quant = Json::parse(quant);
        for (const Engine* e : engines())
          EXPECT_NO_THROW(check(c, *e, {})) << method << " " << quant;
      }
    }
  }
}

TEST(Target, EveryRuleHasItsSource) {
  for (const Engine* e : engines()) {
    std::set<std::string> seen;
    for (const Rule& r : rules_of(*e)) {
      EXPECT_TRUE(seen.insert(rule_id(*e, r)).second) << rule_id(*e, r);
      EXPECT_FALSE(r.source.empty() || r.what.empty() || r.hint.empty()) << rule_id(*e, r);
    }
    for (const Support& s : e->support) EXPECT_FALSE(s.scheme.empty());
  }
  EXPECT_THROW(engine_from_name("tgi"), Error);
  EXPECT_EQ(name_of(engine_from_name("SGLang@0.5.9")), "sglang");
}

}  // namespace
}  // namespace qp::target
