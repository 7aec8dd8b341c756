// GGUF files as Models: names, row order, dtypes, config.json, shards.
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <fstream>

#include "formats/gguf.h"
#include "formats/gguf/llama.h"
#include "lib/base/error.h"
#include "lib/qmap/decode.h"
#include "tests/unit/formats/gguf_llama.h"

namespace qp {
namespace {

struct Loaded {
  Model model;
  std::vector<std::string> warnings;
  std::string text;  // the file
  const Tensor& at(std::string_view name) const {
    const Tensor* t = model.find(name);
    if (t == nullptr) throw std::runtime_error("no tensor " + std::string(name));
    return *t;
  }
};

Loaded load(std::string bytes, LoadOptions options = {}) {
  Loaded out;
  out.text = std::move(bytes);
  options.warn = [&](std::string w) { out.warnings.push_back(std::move(w)); };
  std::vector<GgufFile> shards = {parse_gguf(as_span(out.text), "m.gguf")};
  out.model = gguf_model(shards, options);
  return out;
}

TEST(GgufModel, LlamaNamesAndPlaces) {
  Loaded m = load(TinyLlama{.tied = false}.build());
  EXPECT_EQ(m.model.format, "gguf");
  EXPECT_EQ(m.model.architecture, "LlamaForCausalLM");
  EXPECT_EQ(m.model.tensors.size(), 12u);
  for (const char* name :
       {"model.embed_tokens.weight", "model.norm.weight", "lm_head.weight",
        "model.layers.0.input_layernorm.weight", "model.layers.0.post_attention_layernorm.weight",
        "model.layers.0.self_attn.q_proj.weight", "model.layers.0.self_attn.k_proj.weight",
        "model.layers.0.self_attn.v_proj.weight", "model.layers.0.self_attn.o_proj.weight",
        "model.layers.0.mlp.gate_proj.weight", "model.layers.0.mlp.up_proj.weight",
        "model.layers.0.mlp.down_proj.weight"}) {
    EXPECT_NE(m.model.find(name), nullptr) << name;
  }
  const Tensor& k = m.at("model.layers.0.self_attn.k_proj.weight");
  EXPECT_EQ(k.shape, (Shape{4, 8}));
  EXPECT_EQ(k.dtype, DType::f32);
  EXPECT_EQ(k.source, "blk.0.attn_k.weight (f32)");
  EXPECT_EQ(k.parts[0].extent.file, 1u);
  EXPECT_EQ(k.parts[0].extent.length, 128u);
  EXPECT_EQ(k.parts[0].decode->unpermute_heads, 1u);
  EXPECT_EQ(m.at("model.layers.0.self_attn.q_proj.weight").parts[0].decode->unpermute_heads, 2u);
  EXPECT_EQ(m.at("model.layers.0.self_attn.v_proj.weight").parts[0].decode, nullptr);
}

TEST(GgufModel, Config) {
  Loaded m = load(TinyLlama{}.build());
  const Json& c = m.model.config;
  EXPECT_EQ(c.at("architectures"), Json::array({"LlamaForCausalLM"}));
  EXPECT_EQ(c.at("model_type"), "llama");
  EXPECT_EQ(c.at("hidden_size"), 8);
  EXPECT_EQ(c.at("head_dim"), 4);
  EXPECT_EQ(c.at("num_key_value_heads"), 1);
  EXPECT_EQ(c.at("vocab_size"), 5);
  EXPECT_EQ(c.at("rms_norm_eps").dump(), "1e-05");
  EXPECT_EQ(c.at("rope_theta").dump(), "500000.0");
  EXPECT_TRUE(c.at("rope_scaling").is_null());
  EXPECT_EQ(c.at("tie_word_embeddings"), true);
  EXPECT_EQ(c.at("attention_bias"), false);
  EXPECT_EQ(c.at("torch_dtype"), "float32");
  EXPECT_FALSE(c.contains("eos_token_id"));
  EXPECT_EQ(load(TinyLlama{.tied = false}.build()).model.config.at("tie_word_embeddings"), false);
  const Companion* file = m.model.companion("config.json");
  ASSERT_NE(file, nullptr);
  EXPECT_EQ(file->extent.file, kBlob);
  const std::string& text = m.model.blobs.at(file->extent.offset);
  EXPECT_EQ(file->extent.length, text.size());
  EXPECT_EQ(parse_json(text, "config.json"), c);
  EXPECT_EQ(m.model.companion("tokenizer.json"), nullptr);
  ASSERT_EQ(m.warnings.size(), 1u);
  EXPECT_NE(m.warnings[0].find("no tokenizer"), std::string::npos);
}

TEST(GgufModel, TokenIds) {
  GgufBytes g = TinyLlama{}.keys();
  g.number("tokenizer.ggml.bos_token_id", 1).number("tokenizer.ggml.eos_token_id", 2);
  g.number("tokenizer.ggml.eot_token_id", 4).number("tokenizer.ggml.padding_token_id", 5);
  Loaded m = load(TinyLlama{}.add_tensors(g).build());
  EXPECT_EQ(m.model.config.at("eos_token_id"), 2);
  EXPECT_FALSE(m.model.config.contains("pad_token_id"));  // 5 is outside the vocabulary of 5
  const Companion* file = m.model.companion("generation_config.json");
  ASSERT_NE(file, nullptr);
  EXPECT_EQ(parse_json(m.model.blobs.at(file->extent.offset), ""),
            (Json{{"bos_token_id", 1}, {"eos_token_id", {2, 4}}}));
}

TEST(GgufModel, BlocksAreKeptOrDecoded) {
  TinyLlama q8{.hidden = 64, .kv = 32, .type = 8};
  Loaded kept = load(q8.build());
  const Tensor& k = kept.at("model.layers.0.self_attn.k_proj.weight");
  EXPECT_EQ(k.ggml, "q8_0");
  EXPECT_EQ(k.dtype, DType::u8);
  EXPECT_EQ(k.shape, (Shape{32, 64}));
  EXPECT_EQ(k.parts[0].role, Role::blocks);
  EXPECT_EQ(k.parts[0].shape, (Shape{32, 68}));
  EXPECT_EQ(k.parts[0].decode->unpermute_heads, 1u);
  EXPECT_EQ(k.parts[0].decode->ggml_type, -1);
  EXPECT_EQ(kept.model.config.at("torch_dtype"), "bfloat16");

  LoadOptions options;
  options.dequantize = true;
  Loaded decoded = load(q8.build(), options);
  const Tensor& d = decoded.at("model.layers.0.self_attn.k_proj.weight");
  EXPECT_EQ(d.ggml, "");
  EXPECT_EQ(d.dtype, DType::bf16);
  EXPECT_EQ(d.source, "blk.0.attn_k.weight (q8_0)");
  EXPECT_EQ(d.parts[0].role, Role::data);
  EXPECT_EQ(d.parts[0].shape, (Shape{32, 64}));
  EXPECT_EQ(d.parts[0].decode->ggml_type, 8);
  EXPECT_EQ(d.parts[0].decode->stored, DType::f32);
  EXPECT_EQ(d.parts[0].decode->unpermute_heads, 1u);
  EXPECT_EQ(decoded.at("model.norm.weight").dtype, DType::f32);
  EXPECT_EQ(decoded.model.config.at("torch_dtype"), "bfloat16");

  options.dtype = DType::f16;
  Loaded half = load(q8.build(), options);
  EXPECT_EQ(half.at("model.layers.0.self_attn.k_proj.weight").dtype, DType::f16);
  EXPECT_EQ(half.at("model.norm.weight").dtype, DType::f16);
  EXPECT_EQ(half.at("model.norm.weight").parts[0].decode->stored, DType::f32);
  EXPECT_EQ(half.model.config.at("torch_dtype"), "float16");
}

TEST(GgufModel, TypesKnownByNameOnly) {
  TinyLlama q8_1{.hidden = 64, .kv = 32, .type = 9};
  EXPECT_EQ(load(q8_1.build()).at("model.embed_tokens.weight").ggml, "q8_1");
  LoadOptions options;
  options.dequantize = true;
  try {
    load(q8_1.build(), options);
    FAIL();
  } catch (const Error& e) {
    EXPECT_EQ(e.kind(), ErrorKind::input);
    EXPECT_EQ(e.tensor(), "token_embd.weight");
    EXPECT_NE(e.reason().find("q8_1"), std::string::npos);
  }
  options.list_only = true;
  EXPECT_EQ(load(q8_1.build(), options).at("model.embed_tokens.weight").ggml, "q8_1");
}

TEST(GgufModel, BiasesOfQueriesAreReordered) {
  Loaded m = load(TinyLlama{.biases = true}.build());
  EXPECT_EQ(m.model.config.at("attention_bias"), true);
  EXPECT_EQ(m.model.config.at("mlp_bias"), true);
  const Tensor& q = m.at("model.layers.0.self_attn.q_proj.bias");
  EXPECT_EQ(q.shape, (Shape{8}));
  const Part& part = q.parts[0];
  EXPECT_EQ(part.shape, (Shape{8}));
  EXPECT_EQ(part.decode->unpermute_heads, 2u);
  // With 2 heads of 4, HF's [a0 a1 b0 b1] of a head is stored as [a0 b0 a1 b1].
  std::string expected;
  for (float v : {0.f, 2.f, 1.f, 3.f, 4.f, 6.f, 5.f, 7.f}) expected += GgufBytes::raw(v);
  std::string found(8 * 4, '\0');
  auto stored = as_span(m.text).subspan(part.extent.offset, part.extent.length);
  EXPECT_EQ(stored_range(part, 0, 1).end, 32u);
  decode_rows(part, stored, 0, 1, reinterpret_cast<std::byte*>(found.data()));
  EXPECT_EQ(found, expected);
  EXPECT_EQ(m.at("model.layers.0.self_attn.v_proj.bias").parts[0].decode, nullptr);
  // Combinations that only a forged manifest has would read outside the stored bytes.
  for (int forged = 0; forged < 3; ++forged) {
    Decode decode = *part.decode;
    if (forged == 0) decode.ggml_type = 8;
    if (forged == 1) decode.strides = {2};
    if (forged == 2) decode.stored_row_bytes = 32;
    Part bad = part;
    bad.decode = std::make_shared<const Decode>(decode);
    EXPECT_EQ(stored_bytes(bad), std::nullopt);
  }
}

// q's rows 0 1 2 3 of a head are stored as 0 2 1 3; each row starts with 8 * its stored number.
TEST(GgufModel, RowsOfQueriesAreReordered) {
  Loaded m = load(TinyLlama{}.build());
  const Part& part = m.at("model.layers.0.self_attn.q_proj.weight").parts[0];
  std::vector<float> rows(64);
  auto stored = as_span(m.text).subspan(part.extent.offset, part.extent.length);
  decode_rows(part, stored, 0, 8, reinterpret_cast<std::byte*>(rows.data()));
  std::vector<float> firsts;
  for (size_t r = 0; r < 8; ++r) firsts.push_back(rows[8 * r] / 8);
  EXPECT_EQ(firsts, (std::vector<float>{0, 2, 1, 3, 4, 6, 5, 7}));
}

// What is not exactly a LlamaForCausalLM keeps GGUF's names, with the reason.
TEST(GgufModel, OtherModels) {
  auto expect_other = [](const std::string& bytes, std::string_view because) {
    Loaded m = load(bytes);
    EXPECT_EQ(m.model.architecture, "");
    EXPECT_TRUE(m.model.config.is_null());
    EXPECT_TRUE(m.model.companions.empty());
    ASSERT_EQ(m.warnings.size(), 1u) << because;
    EXPECT_NE(m.warnings[0].find(because), std::string::npos) << m.warnings[0];
    for (const Tensor& t : m.model.tensors) EXPECT_EQ(t.name.find("model."), std::string::npos);
  };
  TinyLlama tiny;
  expect_other(GgufBytes().zeros("t", {4}, 0).build(), "names no architecture");
  expect_other(GgufBytes().string("general.architecture", "mamba").zeros("t", {4}, 0).build(),
               "its architecture is 'mamba'");
  expect_other(GgufBytes().string("general.architecture", "qwen2").zeros("t", {4}, 0).build(),
               "'embedding_length' is missing");
  expect_other(GgufBytes().string("general.architecture", "llama").build(),
               "'llama.block_count' is missing");
  GgufBytes experts = tiny.keys();
  experts.number("llama.expert_count", 8);
  expect_other(tiny.add_tensors(experts).build(), "it has experts");
  GgufBytes extra = tiny.keys();
  extra.zeros("blk.0.attn_q_norm.weight", {4}, 0);
  expect_other(tiny.add_tensors(extra).build(), "'blk.0.attn_q_norm.weight' is unexpected");
  GgufBytes layer = tiny.keys();
  layer.zeros("blk.1.attn_norm.weight", {8}, 0);
  expect_other(tiny.add_tensors(layer).build(), "more layers");
  expect_other(TinyLlama{.omit = {"blk.0.ffn_up.weight"}}.build(),
               "'blk.0.ffn_up.weight' is missing");
  expect_other(TinyLlama{.biases = true, .omit = {"blk.0.attn_output.bias"}}.build(),
               "'blk.0.attn_output.bias' is missing");
  expect_other(TinyLlama{.kv = 8}.build(), "'blk.0.attn_k.weight' has shape [8, 8]");
  GgufBytes partial = tiny.keys();
  partial.number("llama.rope.dimension_count", 2);
  expect_other(tiny.add_tensors(partial).build(), "only a part of each head");
  GgufBytes longrope = tiny.keys();
  longrope.string("llama.rope.scaling.type", "longrope").real("llama.rope.scaling.factor", 4);
  expect_other(tiny.add_tensors(longrope).build(), "'longrope' is not supported");
  GgufBytes zero = GgufBytes().string("general.architecture", "llama");
  zero.number("llama.block_count", 0);
  expect_other(zero.build(), "out of range");
}

TEST(GgufModel, OtherModelsCanBeDecoded) {
  LoadOptions options;
  options.dequantize = true;
  Loaded m = load(GgufBytes().zeros("a", {32, 2, 3}, 8).zeros("i", {4}, 26).build(), options);
  EXPECT_EQ(m.at("a").shape, (Shape{3, 2, 32}));
  EXPECT_EQ(m.at("a").dtype, DType::bf16);
  EXPECT_EQ(m.at("i").dtype, DType::i32);
  EXPECT_EQ(load(GgufBytes().zeros("a", {32, 2, 3}, 8).build()).at("a").parts[0].shape,
            (Shape{6, 34}));
}

TEST(GgufModel, RopeScaling) {
  TinyLlama tiny;
  GgufBytes linear = tiny.keys();
  linear.string("llama.rope.scaling.type", "linear").real("llama.rope.scaling.factor", 2.5f);
  EXPECT_EQ(load(tiny.add_tensors(linear).build()).model.config.at("rope_scaling"),
            (Json{{"factor", 2.5}, {"rope_type", "linear"}}));
  GgufBytes yarn = tiny.keys();
  yarn.string("llama.rope.scaling.type", "yarn").real("llama.rope.scaling.factor", 4);
  yarn.number("llama.rope.scaling.original_context_length", 32);
  EXPECT_EQ(load(tiny.add_tensors(yarn).build()).model.config.at("rope_scaling"),
            (Json{{"factor", 4.0}, {"rope_type", "yarn"},
                  {"original_max_position_embeddings", 32}}));
  // Divisors of 1 say that nothing is scaled; the tensor is dropped with its reason.
  GgufBytes ones = tiny.keys();
  ones.tensor("rope_freqs.weight", {2}, 0, GgufBytes::raw(1.0f) + GgufBytes::raw(1.0f));
  Loaded m = load(tiny.add_tensors(ones).build());
  EXPECT_TRUE(m.model.config.at("rope_scaling").is_null());
  ASSERT_EQ(m.model.dropped.size(), 1u);
  EXPECT_EQ(m.model.dropped[0].first, "rope_freqs.weight");
  GgufBytes odd = tiny.keys();
  odd.tensor("rope_freqs.weight", {2}, 0, GgufBytes::raw(3.0f) + GgufBytes::raw(2.0f));
  EXPECT_NE(load(tiny.add_tensors(odd).build()).warnings.at(0).find("no llama3 rope scaling"),
            std::string::npos);
}

// The formula of llama.cpp's converter for Llama 3.1 (heads of 128) and a made-up model, computed
// here with its own words: wavelengths beyond original / low are divided by factor, those below
// original / high are kept, the rest are interpolated.
TEST(GgufModel, Llama3ScalingIsRecovered) {
  struct {
    double factor, low, high, original;
    size_t pairs;
  } const models[] = {{8, 1, 4, 8192, 64}, {32, 1, 4, 8192, 32}, {10, 1, 16, 2048, 64}};
  for (auto& m : models) {
    std::vector<float> divisors;
    for (size_t i = 0; i < m.pairs; ++i) {
      double exponent = static_cast<double>(2 * i) / static_cast<double>(2 * m.pairs);
      double freq = 1 / std::pow(500000.0, exponent);
      double wavelen = 2 * 3.14159265358979323846 / freq;
      double smooth = (m.original / wavelen - m.low) / (m.high - m.low);
      divisors.push_back(static_cast<float>(wavelen < m.original / m.high  ? 1
                                            : wavelen > m.original / m.low ? m.factor
                                            : 1 / ((1 - smooth) / m.factor + smooth)));
    }
    auto found = llama3_scaling(divisors, 500000.0);
    ASSERT_TRUE(found);
    EXPECT_EQ(*found, (Json{{"factor", m.factor}, {"high_freq_factor", m.high},
                            {"low_freq_factor", m.low},
                            {"original_max_position_embeddings", static_cast<int>(m.original)},
                            {"rope_type", "llama3"}}));
    divisors[m.pairs / 2] *= 1.01f;
    EXPECT_FALSE(llama3_scaling(divisors, 500000.0));
  }
  EXPECT_FALSE(llama3_scaling(std::vector<float>{1, NAN}, 10000));
  EXPECT_FALSE(llama3_scaling(std::vector<float>{}, 10000));
}

class GgufShards : public testing::Test {
 protected:
  void SetUp() override {
    dir_ = std::filesystem::temp_directory_path() / ("gguf_shards_" + std::to_string(getpid()));
    std::filesystem::create_directories(dir_);
  }
  void TearDown() override { std::filesystem::remove_all(dir_); }
  std::string write(const std::string& name, const GgufBytes& g) {
    std::string path = (dir_ / name).string();
    std::ofstream(path, std::ios::binary) << g.build();
    return path;
  }
  static GgufBytes shard(uint16_t number, uint16_t count, int32_t tensors) {
    GgufBytes g;
    g.pair("split.no", 2, GgufBytes::raw(number)).pair("split.count", 2, GgufBytes::raw(count));
    return g.pair("split.tensors.count", 5, GgufBytes::raw(tensors));
  }
  static std::string message(const std::string& path) {
    try {
      read_gguf(path, {});
    } catch (const Error& e) {
      return e.what();
    }
    return "was accepted";
  }
  std::filesystem::path dir_;
};

TEST_F(GgufShards, AreReadTogether) {
  std::string first = write("m-00001-of-00003.gguf", shard(0, 3, 3));
  write("m-00002-of-00003.gguf", shard(1, 3, 3).zeros("a", {4}, 0));
  write("m-00003-of-00003.gguf", shard(2, 3, 3).zeros("b", {4}, 0).zeros("c", {32}, 8));
  Model m = read_gguf(first, {});
  ASSERT_EQ(m.files.size(), 3u);
  EXPECT_TRUE(m.files[2].path.starts_with("/"));
  EXPECT_EQ(m.files[2].size, std::filesystem::file_size(m.files[2].path));
  EXPECT_GT(m.files[2].mtime_ns, 0);
  ASSERT_EQ(m.tensors.size(), 3u);
  EXPECT_EQ(m.find("a")->parts[0].extent.file, 2u);
  EXPECT_EQ(m.find("c")->parts[0].extent.file, 3u);
}

TEST_F(GgufShards, MustBelongTogether) {
  std::string lone = write("lone.gguf", shard(0, 2, 2).zeros("a", {4}, 0));
  EXPECT_NE(message(lone).find("rename it to end in -00001-of-00002.gguf"), std::string::npos);
  std::string first = write("m-00001-of-00002.gguf", shard(0, 2, 2).zeros("a", {4}, 0));
  EXPECT_NE(message(first).find("m-00002-of-00002.gguf"), std::string::npos);  // missing
  std::string second = write("m-00002-of-00002.gguf", shard(1, 2, 2).zeros("b", {4}, 0));
  EXPECT_EQ(message(first), "was accepted");
  EXPECT_NE(message(second).find("is shard 2 of 2; give the first"), std::string::npos);
  write("m-00002-of-00002.gguf", shard(0, 2, 2).zeros("b", {4}, 0));
  EXPECT_NE(message(first).find("is not shard 2 of 2"), std::string::npos);
  write("m-00002-of-00002.gguf", shard(1, 2, 2));
  EXPECT_NE(message(first).find("shards hold 1 tensors (expected 2)"), std::string::npos);
  write("m-00002-of-00002.gguf", shard(1, 2, 2).zeros("a", {4}, 0));
  EXPECT_NE(message(first).find("tensor 'a': appears in more than one shard"), std::string::npos);
}

}  // namespace
}  // namespace qp
