// tokenizer.json and its companions from metadata. Ids are compared with transformers' and
// llama.cpp's in tests/interop/test_gguf_reader.py; here are structure and refusals.
#include "formats/gguf/tokenizer.h"

#include <gtest/gtest.h>

#include "lib/base/error.h"
#include "lib/base/json.h"
#include "tests/unit/formats/gguf_bytes.h"

namespace qp {
namespace {

struct Files {
  std::map<std::string, Json> json;
  std::vector<std::string> warnings;
  const Json& tokenizer() const { return json.at("tokenizer.json"); }
};

Files build(const GgufBytes& g) {
  std::string bytes = g.build();
  GgufFile file = parse_gguf(as_span(bytes), "m.gguf");
  Files out;
  for (auto& f : gguf_tokenizer(file, [&](std::string w) { out.warnings.push_back(w); })) {
    out.json[f.name] = parse_json(f.text, f.name);
  }
  return out;
}

GgufBytes byte_level(std::vector<std::string> tokens, std::vector<int32_t> types,
                     std::vector<std::string> merges, std::string_view pre = "gpt-2") {
  GgufBytes g;
  g.string("tokenizer.ggml.model", "gpt2").string("tokenizer.ggml.pre", pre);
  g.strings("tokenizer.ggml.tokens", tokens).numbers("tokenizer.ggml.token_type", 5, types);
  return g.strings("tokenizer.ggml.merges", merges);
}

GgufBytes sentencepiece(std::vector<std::string> tokens, std::vector<float> scores) {
  GgufBytes g;
  g.string("tokenizer.ggml.model", "llama").strings("tokenizer.ggml.tokens", tokens);
  return g.numbers("tokenizer.ggml.scores", 6, scores);
}

TEST(GgufTokenizer, ByteLevel) {
  GgufBytes g = byte_level({"a", "b", "ab", "\u0120", "\u0120ab", "<|end|>", "<think>", "[PAD]"},
                           {1, 1, 1, 1, 1, 3, 4, 5}, {"a b", "\u0120 ab"}, "smollm");
  g.number("tokenizer.ggml.eos_token_id", 5).number("tokenizer.ggml.bos_token_id", 99);
  g.string("tokenizer.chat_template", "{{ x }}").boolean("tokenizer.ggml.add_eos_token", true);
  Files f = build(g);
  EXPECT_TRUE(f.warnings.empty());
  const Json& model = f.tokenizer().at("model");
  EXPECT_EQ(model.at("type"), "BPE");
  EXPECT_EQ(model.at("vocab").at("\u0120ab"), 4);
  EXPECT_EQ(model.at("vocab").size(), 8u);
  EXPECT_EQ(model.at("merges"), Json::parse(R"([["a", "b"], ["Ġ", "ab"]])"));
  EXPECT_EQ(model.at("byte_fallback"), false);
  EXPECT_EQ(model.at("ignore_merges"), false);
  // Digits are split off one by one before anything else.
  const Json& steps = f.tokenizer().at("pre_tokenizer").at("pretokenizers");
  ASSERT_EQ(steps.size(), 3u);
  EXPECT_EQ(steps[0].at("pattern").at("Regex"), "\\p{N}");
  EXPECT_EQ(steps[2].at("type"), "ByteLevel");
  EXPECT_EQ(steps[2].at("use_regex"), false);
  const Json& added = f.tokenizer().at("added_tokens");
  ASSERT_EQ(added.size(), 2u);
  EXPECT_EQ(added[0].at("content"), "<|end|>");
  EXPECT_EQ(added[0].at("id"), 5);
  EXPECT_EQ(added[0].at("special"), true);
  EXPECT_EQ(added[1].at("content"), "<think>");
  EXPECT_EQ(added[1].at("special"), false);
  EXPECT_EQ(f.tokenizer().at("post_processor").at("single"), Json::parse(R"([
      {"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": "<|end|>", "type_id": 0}}])"));
  const Json& config = f.json.at("tokenizer_config.json");
  EXPECT_EQ(config.at("chat_template"), "{{ x }}");
  EXPECT_EQ(config.at("eos_token"), "<|end|>");
  EXPECT_FALSE(config.contains("bos_token"));  // 99 is no token
  EXPECT_EQ(f.json.at("special_tokens_map.json"), (Json{{"eos_token", "<|end|>"}}));
}

TEST(GgufTokenizer, PreTokenizerFlags) {
  GgufBytes g = byte_level({"a", "<s>"}, {1, 3}, {}, "llama-bpe");
  g.number("tokenizer.ggml.bos_token_id", 1);
  Files f = build(g);
  EXPECT_EQ(f.tokenizer().at("model").at("ignore_merges"), true);
  EXPECT_EQ(f.tokenizer().at("post_processor").at("single")[0].at("SpecialToken").at("id"), "<s>");
  g.boolean("tokenizer.ggml.add_bos_token", false);
  EXPECT_TRUE(build(g).tokenizer().at("post_processor").is_null());
  EXPECT_EQ(find_pre_tokenizer("deepseek-llm"), nullptr);  // its letter list is not known exactly
  EXPECT_NE(find_pre_tokenizer("default"), nullptr);
}

// Merges worked by hand. Scores: ab -1, xab -2, abab -3. Cuts into two tokens: ab = a+b;
// xab = x+ab, xa+b (xa is a token); abab = ab+ab, a+bab (bab is none). Among the cuts of xab the
// longer left part comes first.
TEST(GgufTokenizer, MergesFromScores) {
  Files f = build(sentencepiece({"<unk>", "<s>", "</s>", "a", "b", "x", "xa", "ab", "xab", "abab"},
                                {0, 0, 0, -8, -9, -10, -7, -1, -2, -3}));
  EXPECT_EQ(f.tokenizer().at("model").at("merges"),
            Json::parse(R"([["a","b"],["xa","b"],["x","ab"],["ab","ab"],["x","a"]])"));
  EXPECT_EQ(f.tokenizer().at("model").at("byte_fallback"), false);
  EXPECT_EQ(f.tokenizer().at("model").at("unk_token"), "<unk>");
  // Defaults of such vocabularies: BOS is added, a space is put in front.
  EXPECT_EQ(f.tokenizer().at("post_processor").at("single")[0].at("SpecialToken").at("id"), "<s>");
  EXPECT_EQ(f.tokenizer().at("normalizer").at("normalizers").size(), 2u);
  EXPECT_TRUE(f.tokenizer().at("pre_tokenizer").is_null());
}

// Characters are cut, not bytes.
TEST(GgufTokenizer, MergesOfCharacters) {
  Files f = build(sentencepiece({"<unk>", "<s>", "</s>", "\u2581", "é", "\u2581é"},
                                {0, 0, 0, -1, -2, -3}));
  EXPECT_EQ(f.tokenizer().at("model").at("merges"), Json::parse(R"([["▁", "é"]])"));
}

TEST(GgufTokenizer, ByteFallbackAndNoPrefix) {
  std::vector<std::string> tokens = {"<unk>", "<s>", "</s>"};
  for (int i = 0; i < 256; ++i) {
    char text[8];
    std::snprintf(text, sizeof text, "<0x%02X>", i);
    tokens.push_back(text);
  }
  GgufBytes g = sentencepiece(tokens, std::vector<float>(tokens.size(), 0));
  g.boolean("tokenizer.ggml.add_space_prefix", false);
  Files f = build(g);
  EXPECT_EQ(f.tokenizer().at("model").at("byte_fallback"), true);
  EXPECT_EQ(f.tokenizer().at("normalizer").at("normalizers").size(), 1u);
  EXPECT_EQ(f.tokenizer().at("decoder").at("decoders").size(), 3u);
}

TEST(GgufTokenizer, Refusals) {
  auto expect_none = [](const GgufBytes& g, std::string_view because) {
    Files f = build(g);
    EXPECT_TRUE(f.json.empty());
    ASSERT_EQ(f.warnings.size(), 1u) << because;
    EXPECT_NE(f.warnings[0].find(because), std::string::npos) << f.warnings[0];
  };
  expect_none(GgufBytes(), "it has no tokenizer");
  expect_none(GgufBytes().string("tokenizer.ggml.model", "bert"), "'bert' is not supported");
  expect_none(GgufBytes().string("tokenizer.ggml.model", "gpt2"), "it has no tokens");
  expect_none(byte_level({"a"}, {1}, {}, "deepseek-llm"), "'deepseek-llm' is not known");
  expect_none(byte_level({"a", "a"}, {1, 1}, {}), "token 1 is a duplicate");
  for (const char* bad :
       {"\xff", "\xc0\x80", "\xed\xa0\x80", "\xe2\x82", "\xf4\x90\x80\x80", "\x80"}) {
    expect_none(byte_level({"a", bad}, {1, 1}, {}), "token 1 is not UTF-8");
  }
  expect_none(byte_level({"a"}, {1, 1}, {}), "has another length");
  for (const char* bad : {"a b", "a", "", " a", "x a"}) {
    expect_none(byte_level({"a", "b", "xa"}, {1, 1, 1}, {bad}), "does not join two tokens");
  }
  expect_none(sentencepiece({"a", "b"}, {0}), "no score for every token");
  expect_none(sentencepiece({"a", "b"}, {0, NAN}), "a score is NaN");
  expect_none(sentencepiece({std::string(600, 'a')}, {0}), "token 0 is too long");
  EXPECT_THROW(build(GgufBytes().number("tokenizer.ggml.model", 1)), Error);
}

TEST(GgufTokenizer, MissingPreIsDefault) {
  GgufBytes g;
  g.string("tokenizer.ggml.model", "gpt2").strings("tokenizer.ggml.tokens", {"a"});
  g.strings("tokenizer.ggml.merges", {});
  Files f = build(g);
  EXPECT_EQ(f.warnings.size(), 1u);
  EXPECT_EQ(f.tokenizer().at("pre_tokenizer").at("pretokenizers").size(), 5u);
}

// Text that has to be escaped comes back as it was.
TEST(GgufTokenizer, Escapes) {
  Files f = build(byte_level({"\"", "\\", "\x01", "\u2028", "é"}, {1, 1, 1, 3, 1}, {}));
  EXPECT_EQ(f.tokenizer().at("model").at("vocab"),
            (Json{{"\"", 0}, {"\\", 1}, {"\x01", 2}, {"\u2028", 3}, {"é", 4}}));
}

}  // namespace
}  // namespace qp
