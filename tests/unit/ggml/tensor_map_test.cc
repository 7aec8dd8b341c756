// Names, shapes and the order of values of GGUF tensors, worked out by hand.
#include "lib/ggml/tensor_map.h"

#include <gtest/gtest.h>

#include <numeric>

#include "lib/base/error.h"

namespace qp::ggml {
namespace {

Model model(const char* architecture, Json config,
            const std::vector<std::pair<std::string, Shape>>& tensors) {
  Model m;
  m.config = std::move(config);
  m.config["architectures"] = Json::array({architecture});
  m.architecture = architecture;
  for (const auto& [name, shape] : tensors) {
    Tensor t;
    t.name = name;
    t.shape = shape;
    t.parts.push_back({Role::data, DType::bf16, shape, {}, nullptr});
    m.tensors.push_back(std::move(t));
  }
  return m;
}

Json sizes(uint64_t heads, uint64_t kv, uint64_t layers = 1) {
  return Json{{"num_attention_heads", heads},
              {"num_key_value_heads", kv},
              {"num_hidden_layers", layers},
              {"num_local_experts", 2}};
}

const MappedTensor& named(const TensorMap& map, std::string_view name) {
  for (const MappedTensor& t : map.tensors) {
    if (t.name == name) return t;
  }
  throw std::runtime_error("no tensor " + std::string(name));
}

// The numbers of the elements that a view takes, in its order.
std::vector<uint64_t> elements(const View& v) {
  std::vector<uint64_t> out(v.shape.elements().value());
  if (v.strides.empty()) {
    std::iota(out.begin(), out.end(), v.first);
    return out;
  }
  for (uint64_t i = 0; i < out.size(); ++i) {
    uint64_t rest = i, at = v.first;
    for (size_t k = v.shape.rank(); k-- > 0;) {
      at += rest % v.shape[k] * v.strides[k];
      rest /= v.shape[k];
    }
    out[i] = at;
  }
  return out;
}

using Numbers = std::vector<uint64_t>;

TEST(GgufMap, LlamaTurnsQueriesAndKeys) {
  Model m = model("LlamaForCausalLM", sizes(1, 1),
                  {{"model.layers.0.self_attn.q_proj.weight", {4, 2}},
                   {"model.layers.0.self_attn.q_proj.bias", {4}},
                   {"model.layers.0.self_attn.v_proj.weight", {4, 2}}});
  TensorMap map = map_tensors(m, family_of(m));
  // Rows 0, 1, 2, 3 become 0, 2, 1, 3 (reference/gguf.md 15.43).
  EXPECT_EQ(elements(named(map, "blk.0.attn_q.weight").pieces[0].view),
            (Numbers{0, 1, 4, 5, 2, 3, 6, 7}));
  EXPECT_EQ(elements(named(map, "blk.0.attn_q.bias").pieces[0].view), (Numbers{0, 2, 1, 3}));
  EXPECT_TRUE(named(map, "blk.0.attn_v.weight").pieces[0].view.strides.empty());
}

TEST(GgufMap, QwenLeavesThemAsTheyAre) {
  Model m =
      model("Qwen2ForCausalLM", sizes(1, 1), {{"model.layers.0.self_attn.q_proj.weight", {4, 2}}});
  EXPECT_TRUE(map_tensors(m, family_of(m)).tensors.at(0).pieces[0].view.strides.empty());
}

TEST(GgufMap, ExpertsBecomeOneTensor) {
  Model m = model("MixtralForCausalLM", sizes(1, 1),
                  {{"model.layers.0.block_sparse_moe.experts.1.w1.weight", {3, 2}},
                   {"model.layers.0.block_sparse_moe.experts.0.w1.weight", {3, 2}}});
  TensorMap map = map_tensors(m, family_of(m));
  ASSERT_EQ(map.tensors.size(), 1u);
  EXPECT_EQ(map.tensors[0].name, "blk.0.ffn_gate_exps.weight");
  EXPECT_EQ(map.tensors[0].shape, (Shape{2, 3, 2}));
  EXPECT_EQ(map.tensors[0].pieces[0].tensor, 1u);
  EXPECT_EQ(map.tensors[0].pieces[1].tensor, 0u);
}

TEST(GgufMap, StacksAreCut) {
  Model m = model("MixtralForCausalLM", sizes(1, 1),
                  {{"model.layers.0.mlp.experts.gate_up_proj", {2, 4, 1}}});
  TensorMap map = map_tensors(m, family_of(m));
  EXPECT_EQ(elements(named(map, "blk.0.ffn_gate_exps.weight").pieces[0].view),
            (Numbers{0, 1, 4, 5}));
  EXPECT_EQ(elements(named(map, "blk.0.ffn_up_exps.weight").pieces[0].view), (Numbers{2, 3, 6, 7}));
}

TEST(GgufMap, GptOssAlternatesAndTurns) {
  // One expert, 2 inputs, gate and up of 2 in columns g0 u0 g1 u1.
  Model m = model("GptOssForCausalLM", sizes(1, 1),
                  {{"model.layers.0.mlp.experts.gate_up_proj", {1, 2, 4}},
                   {"model.layers.0.mlp.experts.gate_up_proj_bias", {1, 4}}});
  TensorMap map = map_tensors(m, family_of(m));
  const MappedTensor& up = named(map, "blk.0.ffn_up_exps.weight");
  EXPECT_EQ(up.shape, (Shape{1, 2, 2}));
  EXPECT_EQ(elements(named(map, "blk.0.ffn_gate_exps.weight").pieces[0].view),
            (Numbers{0, 4, 2, 6}));
  EXPECT_EQ(elements(up.pieces[0].view), (Numbers{1, 5, 3, 7}));
  EXPECT_EQ(elements(named(map, "blk.0.ffn_up_exps.bias").pieces[0].view), (Numbers{1, 3}));
}

TEST(GgufMap, DeepSeekTakesKeysAndValuesApart) {
  Json config = sizes(1, 1);
  config["qk_nope_head_dim"] = 2;
  config["v_head_dim"] = 1;
  Model m = model("DeepseekV2ForCausalLM", config,
                  {{"model.layers.0.self_attn.kv_b_proj.weight", {3, 2}},
                   {"model.layers.1.self_attn.kv_b_proj.weight", {3, 2}},
                   {"model.embed_tokens.weight", {5, 2}}});
  TensorMap map = map_tensors(m, family_of(m));
  const MappedTensor& k = named(map, "blk.0.attn_k_b.weight");
  EXPECT_EQ(k.shape, (Shape{1, 2, 2}));
  EXPECT_EQ(elements(k.pieces[0].view), (Numbers{0, 2, 1, 3}));
  EXPECT_EQ(elements(named(map, "blk.0.attn_v_b.weight").pieces[0].view), (Numbers{4, 5}));
  ASSERT_EQ(map.dropped.size(), 1u);  // the layer behind the last
  EXPECT_EQ(map.dropped[0].first, 1u);
  EXPECT_EQ(map.tensors[2].name, "blk.0.attn_v_b.weight");
  EXPECT_EQ(map.tensors[0].name, "token_embd.weight");  // llama-quantize's order
}

TEST(GgufMap, GemmaAndGpt2) {
  Model m =
      model("Gemma2ForCausalLM", sizes(1, 1),
            {{"model.layers.0.post_attention_layernorm.weight", {2}}, {"lm_head.weight", {5, 2}}});
  TensorMap map = map_tensors(m, family_of(m));
  EXPECT_TRUE(named(map, "blk.0.post_attention_norm.weight").plus_one);
  EXPECT_EQ(map.dropped.size(), 1u);
  Json config{{"n_head", 1}, {"n_layer", 1}};
  Model g = model("GPT2LMHeadModel", config,
                  {{"transformer.h.0.attn.c_attn.weight", {2, 3}}, {"h.0.attn.c_attn.bias", {3}}});
  TensorMap turned = map_tensors(g, family_of(g));
  EXPECT_EQ(named(turned, "blk.0.attn_qkv.weight").shape, (Shape{3, 2}));
  EXPECT_EQ(elements(named(turned, "blk.0.attn_qkv.weight").pieces[0].view),
            (Numbers{0, 3, 1, 4, 2, 5}));
}

TEST(GgufMap, BlocksMoveByWholeRows) {
  Model m =
      model("LlamaForCausalLM", sizes(1, 1), {{"model.layers.0.self_attn.k_proj.weight", {4, 32}}});
  m.tensors[0].ggml = "q4_0";
  EXPECT_EQ(map_tensors(m, family_of(m)).tensors.size(), 1u);
  Json config = sizes(1, 1);
  config["qk_nope_head_dim"] = 32;
  config["v_head_dim"] = 32;
  Model d = model("DeepseekV3ForCausalLM", config,
                  {{"model.layers.0.self_attn.kv_b_proj.weight", {64, 32}}});
  d.tensors[0].ggml = "q4_0";
  EXPECT_THROW(map_tensors(d, family_of(d)), Error);
}

std::string why(const Model& m) {
  try {
    map_tensors(m, family_of(m));
  } catch (const Error& e) {
    return e.what();
  }
  return "";
}

TEST(GgufMap, SaysWhatIsWrong) {
  auto expect = [](const Model& m, std::string_view text) {
    EXPECT_NE(why(m).find(text), std::string::npos) << why(m);
  };
  expect(model("MambaForCausalLM", Json::object(), {}), "has no GGUF names");
  expect(model("LlamaForCausalLM", sizes(1, 1), {{"model.layers.0.self_attn.rotor.weight", {4}}}),
         "'model.layers.0.self_attn.rotor.weight': has no place");
  expect(model("LlamaForCausalLM", sizes(1, 1), {{"model.layers.1.mlp.up_proj.weight", {4, 2}}}),
         "is of layer 1");
  expect(
      model("LlamaForCausalLM", sizes(3, 3), {{"model.layers.0.self_attn.q_proj.weight", {4, 2}}}),
      "does not fit config.json");
  expect(model("MixtralForCausalLM", sizes(1, 1),
               {{"model.layers.0.mlp.experts.0.w1.weight", {4, 2}}}),
         "has 1 experts");
  expect(model("MixtralForCausalLM", sizes(1, 1),
               {{"model.layers.0.mlp.experts.0.w1.weight", {4, 2}},
                {"model.layers.0.mlp.experts.1.w1.weight", {4, 3}}}),
         "differs from expert 0");
  expect(model("LlamaForCausalLM", sizes(1, 1),
               {{"model.norm.weight", {4}}, {"language_model.model.norm.weight", {4}}}),
         "two names");
}

// A name goes to GGUF's and back.
TEST(GgufMap, NamesComeBack) {
  for (const Family* f : families()) {
    HfNames back(*f);
    for (const TensorRule& r : f->layer) {
      if (r.whole) continue;
      std::string gguf = "blk.7." + std::string(r.gguf) + ".weight";
      auto target = back.find(gguf);
      ASSERT_TRUE(target.has_value()) << gguf;
      EXPECT_EQ(target->layer, 7u);
    }
    EXPECT_FALSE(back.find("blk.07.attn_q.weight").has_value());
    EXPECT_FALSE(back.find("blk.attn_q.weight").has_value());
    EXPECT_FALSE(back.find("token_embd").has_value());
  }
}

TEST(GgufMap, FloatsThatStayF32) {
  EXPECT_TRUE(always_f32("blk.0.ffn_gate_inp.weight", Shape{8, 4}));
  EXPECT_TRUE(always_f32("blk.0.attn_norm.weight", Shape{4}));
  EXPECT_TRUE(always_f32("blk.0.ffn_up_exps.bias", Shape{8, 4}));
  EXPECT_FALSE(always_f32("blk.0.ffn_up.weight", Shape{8, 4}));
}

}  // namespace
}  // namespace qp::ggml
