#include "lib/text/windows.h"

#include "lib/base/random.h"

#include <gtest/gtest.h>
#include <unistd.h>
#include <zlib.h>
#include <zstd.h>

#include <filesystem>
#include <fstream>
#include <set>

#include "lib/base/error.h"

namespace qp {
namespace {
namespace fs = std::filesystem;

class TextFiles : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = fs::temp_directory_path() / ("qp_text_" + std::to_string(getpid()));
    fs::create_directories(folder_);
  }
  void TearDown() override { fs::remove_all(folder_); }
  std::string write(const std::string& name, std::string_view content) {
    std::string path = (folder_ / name).string();
    std::ofstream(path, std::ios::binary) << content;
    return path;
  }
  static std::vector<std::string> read(std::vector<std::string> paths,
                                       std::optional<std::string> field = {}) {
    Documents documents(std::move(paths), std::move(field));
    std::vector<std::string> texts;
    for (Document d; documents.next(d);) texts.push_back(d.text);
    return texts;
  }
  template <class Run>
  static std::string error_of(Run run, ErrorKind kind = ErrorKind::input) {
    try {
      run();
    } catch (const Error& e) {
      EXPECT_EQ(e.kind(), kind) << e.what();
      return e.what();
    }
    return "no error";
  }
  static std::string gzip(std::string_view text) {
    z_stream s{};
    deflateInit2(&s, 6, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY);
    std::string out(text.size() + 100, '\0');
    s.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(text.data()));
    s.avail_in = static_cast<uInt>(text.size());
    s.next_out = reinterpret_cast<Bytef*>(out.data());
    s.avail_out = static_cast<uInt>(out.size());
    deflate(&s, Z_FINISH);
    out.resize(s.total_out);
    deflateEnd(&s);
    return out;
  }
  static std::string zstd(std::string_view text) {
    std::string out(ZSTD_compressBound(text.size()), '\0');
    out.resize(ZSTD_compress(out.data(), out.size(), text.data(), text.size(), 3));
    return out;
  }
  fs::path folder_;
};
using Texts = std::vector<std::string>;

TEST_F(TextFiles, FilesComeInOrder) {
  std::string plain = write("a.txt", "one\ntwo\n");
  std::string lines = write("b.jsonl", "{\"text\": \"x\\ny\"}\n\n{\"text\": \"\"}");
  std::string array = write("c.json", "[ {\"text\": \"p\", \"n\": [1, {}]},\n {\"text\": \"}\"} ]\n");
  EXPECT_EQ(read({plain, lines, array}), (Texts{"one\ntwo\n", "x\ny", "", "p", "}"}));
  EXPECT_EQ(read({write("e.txt", "")}), (Texts{""}));
  EXPECT_EQ(read({write("f.any", "{\"t\": \"1\"}")}, "t"), (Texts{"1"})) << "a field means JSON";
}

TEST_F(TextFiles, CompressionIsToldByTheFirstBytes) {
  EXPECT_EQ(read({write("a.txt", gzip("one") + gzip(" more"))}), (Texts{"one more"}));
  EXPECT_EQ(read({write("b.jsonl.gz", gzip("{\"text\": \"z\"}\n"))}), (Texts{"z"}));
  EXPECT_EQ(read({write("c.jsonl.zst", zstd("{\"text\": \"s\"}\n"))}), (Texts{"s"}));
  EXPECT_EQ(read({write("d.gz", "not compressed")}), (Texts{"not compressed"}));
  std::string cut = gzip(std::string(100'000, 'a') + "b");
  cut.resize(cut.size() - 9);
  EXPECT_NE(error_of([&] { read({write("cut.txt", cut)}); }).find("end early"), std::string::npos);
  std::string damaged = zstd("hello hello hello");
  damaged[6] ^= 0x5a;
  EXPECT_NE(error_of([&] { read({write("bad.zst", damaged)}); }).find("bad.zst"),
            std::string::npos);
}

TEST_F(TextFiles, MistakesNameFileAndLine) {
  auto says = [&](const std::string& content, std::optional<std::string> field = {}) {
    std::string path = write("m.jsonl", content);
    return error_of([&] { read({path}, field); });
  };
  auto has = [](const std::string& text, const char* part) {
    EXPECT_NE(text.find(part), std::string::npos) << text;
  };
  std::string missing = says("{\"text\": \"a\"}\n{\"txt\": \"b\"}\n");
  has(missing, "m.jsonl:2");
  has(missing, "did you mean 'txt'");
  has(says("{\"text\": 5}"), "m.jsonl:1: member 'text' is no text");
  has(says("{\"text\": \"a\n\"}"), "has no end on its line");
  has(says("\n\n{\"text\": "), "that begins on line 3 has no end");
  has(says("plain words\n"), "is not JSON lines");
  has(says("{\"messages\": [{\"role\": \"user\"}]}"), "chat templates");
  has(says("{\"text\": [{\"role\": \"user\"}]}"), "chat templates");
  has(says("{\"title\": 1, \"id\": 2}", "body"), "members are title, id");
  has(says("[1, 2]"), "array of no objects");
  has(error_of([] { read({"/nowhere/x.txt"}); }, ErrorKind::system), "/nowhere/x.txt");
  has(error_of([] { Documents none({}); }, ErrorKind::usage), "no text is given");
}

TEST_F(TextFiles, AHugePlainFileComesInParts) {
  std::string line(1023, 'x');
  line += '\n';
  std::string all;
  while (all.size() <= Documents::kMaxPart + 5000) all += line;
  Documents documents({write("big.txt", all)});
  Document first, second, third;
  ASSERT_TRUE(documents.next(first));
  ASSERT_TRUE(documents.next(second));
  EXPECT_FALSE(documents.next(third));
  EXPECT_TRUE(first.begins && !first.ends && !second.begins && second.ends);
  EXPECT_EQ(first.text.back(), '\n');
  EXPECT_EQ(first.text.size() % 1024, 0u);
  EXPECT_TRUE(first.text + second.text == all);
}

// One token per character a to f (0 to 5); 6 begins a text.
const Tokenizer& letters() {
  static const Tokenizer kTokenizer(R"({"version": "1.0",
      "added_tokens": [{"id": 6, "content": "<s>", "special": true}],
      "post_processor": {"type": "TemplateProcessing", "single": [
        {"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "special_tokens": {"<s>": {"id": "<s>", "ids": [6], "tokens": ["<s>"]}}},
      "model": {"type": "BPE", "merges": [],
                "vocab": {"a": 0, "b": 1, "c": 2, "d": 3, "e": 4, "f": 5}}})");
  return kTokenizer;
}
using Lists = std::vector<std::vector<int32_t>>;
Lists lists(const Windows& windows) {
  Lists out;
  for (size_t i = 0; i < windows.size(); ++i) {
    out.emplace_back(windows[i].begin(), windows[i].end());
  }
  return out;
}

class WindowFiles : public TextFiles {
 protected:
  Lists windows(const std::string& jsonl, WindowOptions options) {
    Documents documents({write("w.jsonl", jsonl)});
    return lists(text_windows(documents, letters(), options));
  }
};
const std::string kThree = "{\"text\": \"abc\"}\n{\"text\": \"\"}\n{\"text\": \"de\"}\n{\"text\": \"f\"}";

TEST_F(WindowFiles, PackedIsOneStreamWithItsSpecialTokens) {
  // 6 a b c | 6 d e 6 | f is left over.
  EXPECT_EQ(windows(kThree, {.seqlen = 4}), (Lists{{6, 0, 1, 2}, {6, 3, 4, 6}}));
  EXPECT_EQ(windows(kThree, {.seqlen = 4, .count = 1}), (Lists{{6, 0, 1, 2}}));
  EXPECT_EQ(windows(kThree, {.seqlen = 9}).size(), 1u);
}

TEST_F(WindowFiles, UnpackedIsAWindowPerDocument) {
  EXPECT_EQ(windows(kThree, {.seqlen = 3, .packed = false}), (Lists{{6, 0, 1}, {6, 3, 4}, {6, 5}}));
}

TEST_F(WindowFiles, ASeedChoosesReproduciblyAndEvenly) {
  std::string text;
  for (int i = 0; i < 40; ++i) text += "{\"text\": \"" + std::string(1, char('a' + i % 6)) + "\"}\n";
  WindowOptions options{.seqlen = 2, .count = 5, .seed = 7, .packed = false};
  Lists once = windows(text, options);
  EXPECT_EQ(once.size(), 5u);
  EXPECT_EQ(windows(text, options), once);
  std::set<Lists> different;
  for (uint64_t seed = 0; seed < 20; ++seed) {
    options.seed = seed;
    different.insert(windows(text, options));
  }
  EXPECT_GT(different.size(), 15u);
}

TEST(SplitMix64, GivesThePublishedNumbers) {
  // The first outputs for seed 1234567, as the authors' C code prints them.
  SplitMix64 random(1234567);
  EXPECT_EQ(random.next(), 6457827717110365317u);
  EXPECT_EQ(random.next(), 3203168211198807973u);
  EXPECT_EQ(random.next(), 9817491932198370423u);
  for (int i = 0; i < 1000; ++i) EXPECT_LT(random.below(3), 3u);
}

TEST_F(WindowFiles, TooLittleTextIsAnError) {
  auto says = [&](const std::string& jsonl, WindowOptions options, ErrorKind kind) {
    return error_of([&] { windows(jsonl, options); }, kind);
  };
  EXPECT_NE(says(kThree, {.seqlen = 10}, ErrorKind::input).find("expected 10 tokens, found 9"),
            std::string::npos);
  EXPECT_NE(says("{\"text\": \"\"}", {}, ErrorKind::input).find("no text"), std::string::npos);
  EXPECT_NE(says(kThree, {.seqlen = 0}, ErrorKind::usage).find("0 tokens"), std::string::npos);
}

std::string npy(const std::string& type, const std::string& shape, std::string_view data) {
  std::string header = "{'descr': '" + type + "', 'fortran_order': False, 'shape': " + shape + ", }";
  header.resize(118, ' ');
  header.back() = '\n';
  std::string out = "\x93NUMPY\x01";
  out += '\0';
  out += static_cast<char>(header.size());
  out += '\0';
  return out + header + std::string(data);
}
std::string little(std::initializer_list<int64_t> values, size_t width) {
  std::string out;
  for (int64_t v : values) {
    for (size_t i = 0; i < width; ++i) out += static_cast<char>(static_cast<uint64_t>(v) >> 8 * i);
  }
  return out;
}

TEST_F(WindowFiles, IdsFromElsewhere) {
  WindowOptions rows{.seqlen = 3, .packed = false};
  auto from = [&](const std::string& name, std::string_view content, WindowOptions options) {
    return lists(token_windows(write(name, content), 10, options));
  };
  std::string two_by_three = little({1, 2, 3, 4, 5, 6}, 8);
  EXPECT_EQ(from("a.npy", npy("<i8", "(2, 3)", two_by_three), rows), (Lists{{1, 2, 3}, {4, 5, 6}}));
  EXPECT_EQ(from("b.npy", npy("<i8", "(3, 2)", two_by_three), rows), (Lists{{1, 2}, {3, 4}, {5, 6}}));
  EXPECT_EQ(from("c.npy", npy("<i8", "(3, 2)", two_by_three), {.seqlen = 4}), (Lists{{1, 2, 3, 4}}));
  EXPECT_EQ(from("d.npy", npy("<u2", "(4,)", little({9, 8, 7, 6}, 2)), rows), (Lists{{9, 8, 7}}));
  EXPECT_EQ(from("e.npy", npy("<u4", "(3,)", little({9, 8, 7}, 4)), rows), (Lists{{9, 8, 7}}));
  EXPECT_EQ(from("f.npy.gz", gzip(npy("<i4", "(3,)", little({9, 8, 7}, 4))), rows),
            (Lists{{9, 8, 7}}));
  EXPECT_EQ(from("g.bin", little({1, 2, 3, 4}, 4), {.seqlen = 2}), (Lists{{1, 2}, {3, 4}}));
  EXPECT_EQ(from("h.jsonl", "[1, 2, 3, 4]\n{\"input_ids\": [5]}\n", rows), (Lists{{1, 2, 3}, {5}}));
}

TEST_F(WindowFiles, IdsThatCannotBe) {
  auto says = [&](const std::string& name, std::string_view content) {
    std::string path = write(name, content);
    return error_of([&] { token_windows(path, 10, {.seqlen = 1}); });
  };
  auto has = [](const std::string& text, const char* part) {
    EXPECT_NE(text.find(part), std::string::npos) << text;
  };
  has(says("a.bin", little({1, 10}, 4)), "token id 10 at position 1");
  has(says("b.bin", little({-1}, 4)), "token id -1");
  has(says("c.bin", "abc"), "multiple of 4");
  has(says("d.jsonl", "[1]\n[11]"), "d.jsonl:2");
  has(says("e.jsonl", "[1.5]"), "no integer");
  has(says("f.jsonl", "{\"text\": \"a\"}"), "input_ids");
  has(says("g.npy", "hello world"), "begins otherwise");
  has(says("h.npy", npy("<f4", "(1,)", "abcd")), "'<f4'");
  has(says("i.npy", npy("<i4", "(2,)", "\1\0\0\0")), "ends early");
  has(says("j.npy", npy("<i4", "(1, 1, 1)", "abcd")), "3 dimensions");
  has(says("k.npy", npy("<i4", "(99999999999999999999,)", "")), "no shape");
  has(says("l.npy", npy("<i4", "(4294967296, 4294967296)", "")), "impossible");
  has(says("m.npy", npy("<u4", "(1,)", little({4294967295}, 4))), "token id 4294967295");
  has(says("n.bin", ""), "no text");
}

}  // namespace
}  // namespace qp
