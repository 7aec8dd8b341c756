// The bytes of a GGUF header by hand, hashes of pre-tokenizers, and tokenizer.model's protocol
// buffer.
#include "formats/container/gguf_writer.h"

#include <gtest/gtest.h>

#include "formats/container/gguf.h"
#include "formats/gguf/vocabulary.h"
#include "lib/base/error.h"
#include "lib/base/sha256.h"
#include "tests/unit/formats/gguf_bytes.h"

namespace qp {
namespace {

using namespace std::string_literals;

TEST(GgufWriter, HeaderBytes) {
  ggml::Metadata metadata("llama");
  metadata.count("block_count", 2);
  GgufEntry t{"t", ggml_type("q8_0"), Shape{3, 32}, 102};
  std::string expected = "GGUF"s + "\3\0\0\0"s + "\1\0\0\0\0\0\0\0"s + "\1\0\0\0\0\0\0\0"s +
                         "\x11\0\0\0\0\0\0\0"s + "llama.block_count" + "\4\0\0\0"s + "\2\0\0\0"s +
                         "\1\0\0\0\0\0\0\0"s + "t" + "\2\0\0\0"s + "\x20\0\0\0\0\0\0\0"s +
                         "\3\0\0\0\0\0\0\0"s + "\x8\0\0\0"s + "\0\0\0\0\0\0\0\0"s;
  expected.resize(128, '\0');  // 98 bytes, padded
  EXPECT_EQ(gguf_header(metadata, std::span(&t, 1)), expected);
}

TEST(GgufWriter, WhatIsWrittenIsRead) {
  ggml::Metadata m("a");
  m.set("u16", uint16_t{65535});
  m.set("i32", int32_t{-5});
  m.set("f32", 0.1f);
  m.set("yes", true);
  m.set("text", std::string("ü"));
  m.set("ints", std::vector<int32_t>{1, -1});
  m.set("floats", std::vector<float>{0.5f});
  m.set("flags", std::vector<bool>{true, false});
  m.set("texts", std::vector<std::string>{"a", ""});
  m.set("i32", int32_t{7});  // again: where it was
  std::vector<GgufEntry> tensors = {{"x", ggml_type("f32"), Shape{3}, 12},
                                    {"y", ggml_type("f16"), Shape{2, 2}, 8}};
  std::string file = gguf_header(m, tensors);
  size_t start = file.size();
  EXPECT_EQ(start % 32, 0u);
  file.resize(start + 64, '\0');
  GgufFile g = parse_gguf(as_span(file), "x.gguf");
  EXPECT_EQ(g.metadata.size(), 9u);
  EXPECT_EQ(g.metadata[1].first, "i32");
  EXPECT_EQ(g.uint_at("u16"), 65535u);
  EXPECT_EQ(g.ints_at("i32")->front(), 7);
  EXPECT_EQ(g.real_at("f32"), 0.1);
  EXPECT_EQ(g.bool_at("yes"), true);
  EXPECT_EQ(g.string_at("text"), "ü");
  EXPECT_EQ(g.strings_at("texts")->at(1), "");
  EXPECT_EQ(g.floats_at("floats")->at(0), 0.5f);
  EXPECT_EQ(g.tensors[1].shape, (Shape{2, 2}));
  EXPECT_EQ(g.tensors[1].offset, start + 32);
}

TEST(GgufWriter, RefusesWhatGgmlCannotHold) {
  const GgmlType& q8 = *ggml_type("q8_0");
  EXPECT_EQ(gguf_bytes("t", q8, Shape{2, 64}), 136u);
  EXPECT_THROW(gguf_bytes(std::string(64, 'a'), q8, Shape{32}), Error);
  EXPECT_NO_THROW(gguf_bytes(std::string(63, 'a'), q8, Shape{32}));
  EXPECT_THROW(gguf_bytes("t", q8, Shape{33}), Error);
  EXPECT_THROW(gguf_bytes("t", q8, Shape{1, 1, 1, 1, 32}), Error);
  EXPECT_EQ(gguf_shard_name("p", 1, 3), "p-00001-of-00003.gguf");
}

// Test vectors of FIPS 180-4.
TEST(GgufWriter, Sha256) {
  EXPECT_EQ(sha256_hex(""), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  EXPECT_EQ(sha256_hex("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  EXPECT_EQ(sha256_hex(std::string(1000000, 'a')),
            "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
}

TEST(GgufWriter, PreTokenizersByHash) {
  EXPECT_EQ(pre_tokenizer_named("3ce83efda5659b07b1ad37ca97ca5797ea4285d9b9ab0dc679e4a720c9da7454"),
            "gpt-2");
  // Two have this one; the last of the list counts.
  EXPECT_EQ(pre_tokenizer_named("b6dc8df998e1cfbdc4eac8243701a65afe638679230920b50d6f17d81c098166"),
            "olmo");
  EXPECT_EQ(pre_tokenizer_named(""), "");
  EXPECT_EQ(pre_tokenizer_named("zz"), "");
}

TEST(GgufWriter, PreTokenizersByTheirExpressions) {
  auto like = [](const char* pre, const char* more = "") {
    return pre_tokenizer_like(Json::parse(std::string("{\"pre_tokenizer\": ") + pre + more + "}"));
  };
  EXPECT_EQ(like(R"({"type": "ByteLevel", "add_prefix_space": false, "use_regex": true})"),
            "gpt-2");
  EXPECT_EQ(
      like(R"({"type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": true},
                     {"type": "ByteLevel", "add_prefix_space": false}]})"),
      "smollm");
  EXPECT_EQ(like(R"({"type": "ByteLevel", "add_prefix_space": true})"), "");
  EXPECT_EQ(like(R"({"type": "ByteLevel", "add_prefix_space": false})",
                 R"(, "normalizer": {"type": "NFC"})"),
            "");
  EXPECT_EQ(like(R"({"type": "Whitespace"})"), "");
  EXPECT_EQ(like("null"), "");
}

std::string piece(const std::string& text, float score, int type) {
  std::string inner =
      "\x0a"s + static_cast<char>(text.size()) + text + "\x15" + GgufBytes::raw(score);
  if (type != 1) inner += "\x18"s + static_cast<char>(type);
  return "\x0a"s + static_cast<char>(inner.size()) + inner;
}

TEST(GgufWriter, SentencePiece) {
  std::string file = piece("<unk>", 0, 2) + piece("\u2581a", -1.5f, 1) + piece("<0x0A>", 0, 6);
  auto pieces = read_sentencepiece(file + "\x12\x03xyz");  // and a message of another kind
  ASSERT_TRUE(pieces.has_value());
  ASSERT_EQ(pieces->size(), 3u);
  EXPECT_EQ(pieces->at(0).type, TokenType::unknown);
  EXPECT_EQ(pieces->at(1).text, "\u2581a");
  EXPECT_EQ(pieces->at(1).score, -1.5f);
  EXPECT_EQ(pieces->at(2).type, TokenType::byte);
  for (size_t n = 1; n < file.size(); ++n) {  // cut anywhere: nothing, or fewer pieces
    auto part = read_sentencepiece(file.substr(0, n));
    EXPECT_TRUE(!part || part->size() < 3);
  }
  EXPECT_FALSE(read_sentencepiece("not a model").has_value());
  EXPECT_FALSE(read_sentencepiece("").has_value());
  EXPECT_FALSE(read_sentencepiece("\x0a\xff\xff\xff\xff\xff\xff\xff\xff\x7f").has_value());
}

}  // namespace
}  // namespace qp
