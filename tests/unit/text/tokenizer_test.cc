// Small tokenizers whose ids are worked out by hand. tests/interop/test_tokenizer.py compares real
// ones with another implementation.
#include "lib/text/tokenizer.h"

#include <gtest/gtest.h>

#include <thread>

#include "lib/base/error.h"

namespace qp {
namespace {
using Ids = std::vector<int32_t>;

std::string file(const std::string& model, const std::string& parts = "") {
  return R"({"version": "1.0", )" + (parts.empty() ? "" : parts + ", ") + R"("model": )" + model +
         "}";
}

// a b c, ab = a+b first, bc = b+c second, abc = ab+c last.
const std::string kAbc =
    R"({"type": "BPE", "vocab": {"a": 0, "b": 1, "c": 2, "ab": 3, "bc": 4, "abc": 5, " ": 6},
        "merges": ["a b", "b c", "ab c"]})";

Ids encode(const std::string& json, std::string_view text, bool special = false) {
  return Tokenizer(json).encode(text, special);
}

std::string error_of(const std::string& json, std::string_view text = "") {
  try {
    (void)Tokenizer(json).encode(text, false);
  } catch (const Error& e) {
    EXPECT_EQ(e.kind(), ErrorKind::input) << e.what();
    EXPECT_NE(std::string(e.what()), "");
    return e.what();
  }
  return "no error";
}

TEST(Bpe, MergesByRankThenFromTheLeft) {
  EXPECT_EQ(encode(file(kAbc), "abc"), (Ids{5}));
  EXPECT_EQ(encode(file(kAbc), "bcab"), (Ids{4, 3}));
  EXPECT_EQ(encode(file(kAbc), "ababc"), (Ids{3, 5}));
  EXPECT_EQ(encode(file(kAbc), "axb"), (Ids{3})) << "an unknown character is dropped before merges";
}

TEST(Bpe, LongPiecesMergeAsShortOnesDo) {
  // aa, then aaaa: 1000 a = 250 of aaaa. The queue is used above 48 characters.
  std::string model =
      R"({"type": "BPE", "vocab": {"a": 0, "aa": 1, "aaaa": 2, "b": 3, "ba": 4},
          "merges": [["a", "a"], ["aa", "aa"], ["b", "a"]]})";
  EXPECT_EQ(encode(file(model), std::string(1000, 'a')), Ids(250, 2));
  Ids odd(250, 2);
  odd.insert(odd.end(), {1, 0});
  EXPECT_EQ(encode(file(model), std::string(1003, 'a')), odd);
  // Equal units cut by b: "baaaa" is b, aaaa; never ba, which comes later than aa.
  std::string text;
  Ids expected;
  for (int i = 0; i < 100; ++i) {
    text += "baaaa";
    expected.insert(expected.end(), {3, 2});
  }
  EXPECT_EQ(encode(file(model), text), expected);
}

TEST(Bpe, UnknownTokensFuseOnlyWhenAsked) {
  auto model = [](const char* fuse) {
    return R"({"type": "BPE", "unk_token": "?", "fuse_unk": )" + std::string(fuse) +
           R"(, "vocab": {"?": 0, "a": 1}, "merges": []})";
  };
  EXPECT_EQ(encode(file(model("false")), "xxa\xe4\xb8\x80"), (Ids{0, 0, 1, 0}));
  EXPECT_EQ(encode(file(model("true")), "xxaxx"), (Ids{0, 1, 0}));
}

TEST(Bpe, BytesStandInForUnknownCharacters) {
  std::string model = R"({"type": "BPE", "unk_token": "?", "byte_fallback": true,
      "vocab": {"?": 0, "a": 1, "<0xC3>": 2, "<0xA9>": 3}, "merges": []})";
  EXPECT_EQ(encode(file(model), "a\xc3\xa9"), (Ids{1, 2, 3}));
  EXPECT_EQ(encode(file(model), "\xc3\xaa"), (Ids{0})) << "<0xAA> is not there";
}

TEST(Bpe, WholeTokensBeforeMergesWhenAsked) {
  std::string model = R"({"type": "BPE", "ignore_merges": true,
      "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": []})";
  EXPECT_EQ(encode(file(model), "ab"), (Ids{2}));
  EXPECT_EQ(encode(file(model), "aba"), (Ids{0, 1, 0}));
}

TEST(Bpe, PrefixAndSuffixMarkThePlaceInTheWord) {
  std::string model = R"({"type": "BPE", "continuing_subword_prefix": "#",
      "end_of_word_suffix": "$", "vocab": {"a": 0, "#b": 1, "#b$": 2, "ab$": 3, "a$": 4},
      "merges": [["a", "#b$"]]})";
  EXPECT_EQ(encode(file(model), "ab"), (Ids{3}));
  EXPECT_EQ(encode(file(model), "abb"), (Ids{0, 1, 2}));
  EXPECT_EQ(encode(file(model), "a"), (Ids{4}));
}

TEST(ByteLevel, BytesGoThroughTheirCharacters) {
  // Space is U+0120, newline U+010A; é is the bytes C3 A9, written as themselves.
  std::string json = file(
      R"({"type": "BPE", "vocab": {"\u0120": 0, "\u010a": 1, "\u00c3": 2, "\u00a9": 3, "a": 4,
          "\u0120a": 5, "\u00c3\u00a9": 6}, "merges": ["\u0120 a", "\u00c3 \u00a9"]})",
      R"("pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": true, "use_regex": true},
         "decoder": {"type": "ByteLevel"})");
  EXPECT_EQ(encode(json, "a a\xc3\xa9\n"), (Ids{5, 5, 6, 1}));
  EXPECT_EQ(encode(json, " a"), (Ids{5})) << "no second space in front";
  Tokenizer tokenizer(json);
  EXPECT_EQ(tokenizer.decode(Ids{5, 6, 1}, false), " a\xc3\xa9\n");
  EXPECT_EQ(tokenizer.decode(Ids{2, 4}, false), "\xef\xbf\xbd" "a") << "half a character";
}

std::string split(const std::string& behavior, bool invert = false) {
  return R"("pre_tokenizer": {"type": "Split", "pattern": {"String": "-"}, "behavior": ")" +
         behavior + R"(", "invert": )" + (invert ? "true" : "false") + "}";
}

TEST(Split, EveryBehavior) {
  // Words are looked up whole, so that the ids show the pieces.
  std::string model =
      R"({"type": "WordLevel", "unk_token": "?", "vocab": {"?": 0, "a": 1, "b": 2, "-": 3, "a-": 4,
          "-b": 5, "--": 6, "a--b": 7}})";
  auto pieces = [&](const char* behavior, bool invert = false) {
    return encode(file(model, split(behavior, invert)), "a--b");
  };
  EXPECT_EQ(pieces("Isolated"), (Ids{1, 3, 3, 2}));
  EXPECT_EQ(pieces("Removed"), (Ids{1, 2}));
  EXPECT_EQ(pieces("Removed", true), (Ids{3, 3}));
  EXPECT_EQ(pieces("MergedWithPrevious"), (Ids{4, 3, 2}));
  EXPECT_EQ(pieces("MergedWithNext"), (Ids{1, 3, 5}));
  EXPECT_EQ(pieces("Contiguous"), (Ids{1, 6, 2}));
}

TEST(Metaspace, PrependsAlwaysFirstOrNever) {
  auto run = [](const std::string& scheme, std::string_view text) {
    return encode(file(R"({"type": "WordLevel", "unk_token": "?", "vocab": {"?": 0, "\u2581a": 1,
                            "\u2581b": 2, "a": 3, "<x>": 4, "b": 5}})",
                       R"("added_tokens": [{"id": 4, "content": "<x>", "special": true}],
                          "pre_tokenizer": {"type": "Metaspace", "replacement": "\u2581",
                                            "prepend_scheme": ")" + scheme + "\"}"),
                  text);
  };
  EXPECT_EQ(run("always", "a b<x>b"), (Ids{1, 2, 4, 2}));
  EXPECT_EQ(run("first", "a b<x>b"), (Ids{1, 2, 4, 5}));
  EXPECT_EQ(run("never", "a b<x>b"), (Ids{3, 2, 4, 5}));
}

TEST(Normalizers, EachDoesItsPart) {
  std::string model = R"({"type": "WordLevel", "unk_token": "?", "vocab": {"?": 0, "\u00e9": 1,
      "e\u0301": 2, "fi": 3, "e": 4, "x e": 5, "_a_b": 6, "a  b": 7, "ae": 8, " \u4e2d ": 9,
      "i\u0307": 10}})";
  auto run = [&](const std::string& normalizer, std::string_view text) {
    return encode(file(model, R"("normalizer": )" + normalizer), text).at(0);
  };
  EXPECT_EQ(run(R"({"type": "NFC"})", "e\xcc\x81"), 1);
  EXPECT_EQ(run(R"({"type": "NFD"})", "\xc3\xa9"), 2);
  EXPECT_EQ(run(R"({"type": "NFKC"})", "\xef\xac\x81"), 3);
  EXPECT_EQ(run(R"({"type": "NFKD"})", "\xc3\xa9"), 2);
  EXPECT_EQ(run(R"({"type": "Lowercase"})", "\xc4\xb0"), 10);
  EXPECT_EQ(run(R"({"type": "StripAccents"})", "e\xcc\x81"), 4);
  EXPECT_EQ(run(R"({"type": "Strip", "strip_left": true, "strip_right": true})",
                "\xe3\x80\x80 e\n"), 4);
  EXPECT_EQ(run(R"({"type": "Prepend", "prepend": "x "})", "e"), 5);
  EXPECT_EQ(run(R"({"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "_"},
      {"type": "Replace", "pattern": {"String": " "}, "content": "_"}]})", "a b"), 6);
  EXPECT_EQ(run(R"({"type": "Replace", "pattern": {"Regex": "[0-9]+"}, "content": " "})",
                "a1234 b"), 7);
  std::string bert = R"({"type": "BertNormalizer", "clean_text": true,
      "handle_chinese_chars": true, "lowercase": true})";
  EXPECT_EQ(run(bert, "\x01" "A\xcc\x88\x7f\xc3\x89"), 8);
  EXPECT_EQ(run(bert, "\xe4\xb8\xad"), 9);
}

TEST(Normalizers, MarksComeInTheOrderOfTheirClassesAndFast) {
  // U+0323 (class 220) goes before U+0301 (230); a run of them is sorted in n log n.
  std::string model = R"({"type": "WordLevel", "unk_token": "?",
      "vocab": {"?": 0, "a\u0323\u0301": 1, "\u1ea1\u0301": 2}})";
  EXPECT_EQ(encode(file(model, R"("normalizer": {"type": "NFD"})"), "a\xcc\x81\xcc\xa3"), (Ids{1}));
  EXPECT_EQ(encode(file(model, R"("normalizer": {"type": "NFC"})"), "a\xcc\x81\xcc\xa3"), (Ids{2}));
  std::string marks = "a";
  for (int i = 0; i < 200'000; ++i) marks += "\xcc\x81\xcc\xa3";
  EXPECT_EQ(encode(file(model, R"("normalizer": {"type": "NFC"})"), marks), (Ids{0}));
}

TEST(AddedTokens, LongestOfTheLeftmostAndTheirFlags) {
  std::string json = file(
      R"({"type": "WordLevel", "unk_token": "?", "vocab": {"?": 0, "a": 1, "b": 2, " ": 3}})",
      R"("added_tokens": [
           {"id": 4, "content": "<x>", "special": true, "lstrip": true, "rstrip": true},
           {"id": 5, "content": "<x>y", "normalized": false},
           {"id": 6, "content": "one", "single_word": true, "normalized": false},
           {"id": 7, "content": "UP", "normalized": true}],
         "normalizer": {"type": "Lowercase"})");
  EXPECT_EQ(encode(json, "a <x>\n b"), (Ids{1, 4, 2}));
  EXPECT_EQ(encode(json, "<x>y"), (Ids{5}));
  EXPECT_EQ(encode(json, "one"), (Ids{6}));
  EXPECT_EQ(encode(json, "one1"), (Ids{0})) << "part of a word";
  EXPECT_EQ(encode(json, "aup"), (Ids{1, 7})) << "found in the normalized text";
  Tokenizer tokenizer(json);
  EXPECT_EQ(tokenizer.vocab_size(), 8);
  EXPECT_EQ(tokenizer.token_id("<x>y"), 5);
  EXPECT_EQ(tokenizer.token(7), "UP");
  EXPECT_EQ(tokenizer.token_id("none"), std::nullopt);
}

TEST(AddedTokens, AnIdThatDoesNotFollowIsWarnedAbout) {
  Tokenizer tokenizer(file(kAbc, R"("added_tokens": [{"id": 90, "content": "<x>"}])"));
  EXPECT_EQ(tokenizer.encode("<x>", false), (Ids{7})) << "the next free id, as in the reference";
  ASSERT_EQ(tokenizer.warnings().size(), 1u);
  EXPECT_NE(tokenizer.warnings()[0].find("gets id 7, not 90"), std::string::npos);
}

const std::string kTemplate = R"("post_processor": {"type": "TemplateProcessing",
    "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}},
               {"SpecialToken": {"id": "</s>", "type_id": 0}}],
    "special_tokens": {"<s>": {"id": "<s>", "ids": [4], "tokens": ["<s>"]},
                       "</s>": {"id": "</s>", "ids": [2], "tokens": ["</s>"]}}})";

TEST(PostProcessors, TemplatesPutTokensAround) {
  Tokenizer tokenizer(file(kAbc, kTemplate));
  EXPECT_EQ(tokenizer.encode("abc", true), (Ids{4, 5, 2}));
  EXPECT_EQ(tokenizer.encode("abc", false), (Ids{5}));
  EXPECT_EQ(tokenizer.encode("", true), (Ids{4, 2}));
  EXPECT_EQ(tokenizer.bos_id(), 4);
  EXPECT_EQ(tokenizer.eos_id(), 2);
  std::string bert = file(kAbc, R"("post_processor": {"type": "Sequence", "processors": [
      {"type": "ByteLevel"}, {"type": "BertProcessing", "cls": ["a", 0], "sep": ["b", 1]}]})");
  EXPECT_EQ(encode(bert, "abc", true), (Ids{0, 5, 1}));
}

TEST(PostProcessors, TheConfigDecidesWhenItSaysSo) {
  auto with = [](const char* config) {
    return Tokenizer(file(kAbc, kTemplate), config).encode("abc", true);
  };
  EXPECT_EQ(with(R"({"bos_token": "a"})"), (Ids{4, 5, 2}));
  EXPECT_EQ(with(R"({"bos_token": "a", "add_bos_token": true})"), (Ids{0, 5}));
  EXPECT_EQ(with(R"({"add_bos_token": false})"), (Ids{5}));
  EXPECT_EQ(with(R"({"eos_token": {"content": "b"}, "add_eos_token": true})"), (Ids{5, 1}));
}

TEST(Unigram, TheBestSegmentationWins) {
  // ab (-1) beats a + b (-3); abc as a + bc = -3, ab + c = -2.5.
  std::string model = R"({"type": "Unigram", "unk_id": 0, "vocab": [["<unk>", 0], ["a", -1],
      ["b", -2], ["ab", -1], ["c", -1.5], ["bc", -2]]})";
  EXPECT_EQ(encode(file(model), "abc"), (Ids{3, 4}));
  EXPECT_EQ(encode(file(model), "axya"), (Ids{1, 0, 1})) << "unknown neighbours are one";
}

TEST(Unigram, BytesOrAnErrorForUnknown) {
  std::string bytes = R"({"type": "Unigram", "unk_id": 0, "byte_fallback": true,
      "vocab": [["<unk>", 0], ["a", -1], ["<0xC3>", -9], ["<0xA9>", -9]]})";
  EXPECT_EQ(encode(file(bytes), "a\xc3\xa9"), (Ids{1, 2, 3}));
  std::string none = R"({"type": "Unigram", "vocab": [["a", -1]]})";
  EXPECT_NE(error_of(file(none), "b").find("no unk_id"), std::string::npos);
}

TEST(WordPiece, LongestFirstOrUnknown) {
  std::string json = file(
      R"({"type": "WordPiece", "unk_token": "?", "max_input_chars_per_word": 6,
          "vocab": {"?": 0, "un": 1, "##a": 2, "##aff": 3, "##able": 4, "u": 5}})",
      R"("pre_tokenizer": {"type": "BertPreTokenizer"}, "decoder": {"type": "WordPiece"})");
  EXPECT_EQ(encode(json, "unaff una"), (Ids{1, 3, 1, 2}));
  EXPECT_EQ(encode(json, "unx, unaaaaa"), (Ids{0, 0, 0}));
  EXPECT_EQ(Tokenizer(json).decode(Ids{1, 3, 1, 2}, false), "unaff una");
}

TEST(Decoders, LlamaPutsTextBackTogether) {
  Tokenizer tokenizer(file(
      R"({"type": "BPE", "vocab": {"\u2581a": 0, "\u2581": 1, "<0xC3>": 2, "<0xA9>": 3, "<s>": 4},
          "merges": []})",
      R"("added_tokens": [{"id": 4, "content": "<s>", "special": true}],
         "decoder": {"type": "Sequence", "decoders": [
           {"type": "Replace", "pattern": {"String": "\u2581"}, "content": " "},
           {"type": "ByteFallback"}, {"type": "Fuse"},
           {"type": "Strip", "content": " ", "start": 1, "stop": 0}]})"));
  EXPECT_EQ(tokenizer.decode(Ids{4, 0, 2, 3, 1, 0}, true), "a\xc3\xa9  a");
  EXPECT_EQ(tokenizer.decode(Ids{4, 0}, false), "<s> a");
  EXPECT_EQ(tokenizer.decode(Ids{0, 2, 0}, true), "a\xef\xbf\xbd a");
  EXPECT_EQ(tokenizer.decode(Ids{-1, 99}, true), "") << "ids of no token are left out";
}

TEST(Decoders, WithoutOneTokensAreWords) {
  EXPECT_EQ(Tokenizer(file(kAbc)).decode(Ids{3, 2}, false), "ab c");
}

TEST(Text, InvalidUtf8BecomesReplacementCharacters) {
  std::string model = R"({"type": "BPE", "vocab": {"a": 0, "\ufffd": 1}, "merges": []})";
  // As bytes.decode(errors="replace") of Python has it: one per maximal part.
  EXPECT_EQ(encode(file(model), "\xff" "a"), (Ids{1, 0}));
  EXPECT_EQ(encode(file(model), "\xe2\x82" "a"), (Ids{1, 0}));
  EXPECT_EQ(encode(file(model), "\xed\xa0\x80"), (Ids{1, 1, 1}));
  EXPECT_EQ(encode(file(model), "\xf4\x90\x80\x80"), (Ids{1, 1, 1, 1}));
  EXPECT_EQ(encode(file(model), std::string_view("a\0a", 3)), (Ids{0, 0})) << "NUL is a character";
}

TEST(Text, ManyThreadsGetTheSameIds) {
  Tokenizer tokenizer(file(kAbc, split("Isolated")));
  std::string text;
  for (int i = 0; i < 2000; ++i) text += i % 3 == 0 ? "abc-" : "bca-";
  Ids expected = tokenizer.encode(text, true);
  std::vector<std::thread> threads;
  std::vector<Ids> got(4);
  for (Ids& ids : got) threads.emplace_back([&] { ids = tokenizer.encode(text, true); });
  for (std::thread& t : threads) t.join();
  for (const Ids& ids : got) EXPECT_EQ(ids, expected);
}

struct Bad {
  const char* name;
  std::string json;
  const char* says;
};

class Refused : public testing::TestWithParam<Bad> {};
TEST_P(Refused, SaysWhy) {
  std::string text = error_of(GetParam().json);
  EXPECT_NE(text.find(GetParam().says), std::string::npos) << text;
}

std::string bpe_vocab(const std::string& vocab, const std::string& merges = "[]") {
  return file(R"({"type": "BPE", "vocab": )" + vocab + R"(, "merges": )" + merges + "}");
}
INSTANTIATE_TEST_SUITE_P(
    Files, Refused,
    testing::Values(
        Bad{"text", "hello", "not valid JSON"}, Bad{"empty", "", "not valid JSON"},
        Bad{"array", "[]", "not a JSON object"}, Bad{"no_model", R"({"version": "1.0"})", "no model"},
        Bad{"version", R"({"version": "2.0", "model": {}})", "expected \"1.0\""},
        Bad{"deep", std::string(100, '['), "nested deeper"},
        Bad{"model", file(R"({"type": "Magic", "vocab": {}})"), "model 'Magic' is not supported"},
        Bad{"negative_id", bpe_vocab(R"({"a": -1})"), "id -1"},
        Bad{"huge_id", bpe_vocab(R"({"a": 4294967296})"), "id 4294967296"},
        Bad{"same_id", bpe_vocab(R"({"a": 0, "b": 0})"), "belongs to two tokens"},
        Bad{"same_token", bpe_vocab(R"({"a": 0, "a": 1})"), "twice"},
        Bad{"float_id", bpe_vocab(R"({"a": 0.5})"), "model.vocab"},
        Bad{"nested_vocab", bpe_vocab(R"({"a": [0]})"), "model.vocab"},
        Bad{"merge_of_nothing", bpe_vocab(R"({"a": 0})", R"(["a b"])"), "needs the token 'b'"},
        Bad{"merge_to_nothing", bpe_vocab(R"({"a": 0, "b": 1})", R"([["a", "b"]])"), "'ab'"},
        Bad{"merge_of_one", bpe_vocab(R"({"a": 0})", R"(["a"])"), "a space between"},
        Bad{"merge_of_three", bpe_vocab(R"({"a": 0})", R"([["a", "a", "a"]])"), "pairs"},
        Bad{"merges_object", bpe_vocab(R"({"a": 0})", R"({"a": 0})"), "model.merges"},
        Bad{"score", file(R"({"type": "Unigram", "vocab": [["a", "b"]]})"), "[token, score]"},
        Bad{"unk_id", file(R"({"type": "Unigram", "unk_id": 7, "vocab": [["a", 0]]})"), "unk_id 7"},
        Bad{"normalizer", file(kAbc, R"("normalizer": {"type": "Odd"})"),
            "normalizer 'Odd' is not supported"},
        Bad{"charsmap", file(kAbc, R"("normalizer": {"type": "Precompiled",
            "precompiled_charsmap": "////"})"), "precompiled_charsmap"},
        Bad{"pre_tokenizer", file(kAbc, R"("pre_tokenizer": {"type": "UnicodeScripts"})"),
            "pre-tokenizer 'UnicodeScripts' is not supported"},
        Bad{"behavior", file(kAbc, split("Odd")), "no behavior 'Odd'"},
        Bad{"regex", file(kAbc, R"("pre_tokenizer": {"type": "Split", "behavior": "Isolated",
            "pattern": {"Regex": "(a"}})"), "cannot be used"},
        Bad{"regex_class", file(kAbc, R"("pre_tokenizer": {"type": "Split", "behavior": "Isolated",
            "pattern": {"Regex": "[a"}})"), "[ without ]"},
        Bad{"pattern", file(kAbc, R"("pre_tokenizer": {"type": "Split", "behavior": "Isolated"})"),
            "has no pattern"},
        Bad{"decoder", file(kAbc, R"("decoder": {"type": "Odd"})"), "decoder 'Odd'"},
        Bad{"post", file(kAbc, R"("post_processor": {"type": "Odd"})"), "post-processor 'Odd'"},
        Bad{"post_id", file(kAbc, R"("post_processor": {"type": "BertProcessing",
            "cls": ["a", 0], "sep": ["b", 99]})"), "outside the vocabulary"},
        Bad{"added_id", file(kAbc, R"("added_tokens": [{"id": -4, "content": "x"}])"), "id -4"},
        Bad{"type_of_member", file(kAbc, R"("normalizer": {"type": "Prepend", "prepend": 1})"),
            "expected a string"}),
    [](const auto& each) { return std::string(each.param.name); });

}  // namespace
}  // namespace qp
