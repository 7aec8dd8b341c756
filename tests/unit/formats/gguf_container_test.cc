// The container's header, metadata and tensor table; the handcrafted cases are those of ggml's own
// reader (reference/gguf.md 1.3).
#include "formats/container/gguf.h"

#include <gtest/gtest.h>

#include <cmath>

#include "lib/base/error.h"
#include "tests/unit/formats/gguf_bytes.h"

namespace qp {
namespace {

constexpr uint32_t kF32 = 0, kQ4_0 = 2, kQ8_0 = 8;

// The message of the input error that parsing must end in.
std::string refusal(const std::string& bytes) {
  try {
    parse_gguf(as_span(bytes), "m.gguf");
  } catch (const Error& e) {
    EXPECT_EQ(e.kind(), ErrorKind::input);
    EXPECT_EQ(e.file(), "m.gguf");
    return e.what();
  }
  ADD_FAILURE() << "was accepted";
  return "";
}

void expect_refused(const std::string& bytes, std::string_view because) {
  std::string what = refusal(bytes);
  EXPECT_NE(what.find(because), std::string::npos) << what;
}

TEST(GgufContainer, HandWrittenFile) {
  // Every byte by hand: one u32 pair, one F32 tensor [2, 3] (ggml: 3, 2), data at byte 96.
  std::string bytes("GGUF\3\0\0\0" "\1\0\0\0\0\0\0\0" "\1\0\0\0\0\0\0\0"
                    "\3\0\0\0\0\0\0\0" "a.b" "\4\0\0\0" "\7\0\0\0"
                    "\1\0\0\0\0\0\0\0" "t" "\2\0\0\0" "\3\0\0\0\0\0\0\0" "\2\0\0\0\0\0\0\0"
                    "\0\0\0\0" "\0\0\0\0\0\0\0\0", 24 + 19 + 41);
  bytes.resize(96 + 24);
  GgufFile file = parse_gguf(as_span(bytes), "m.gguf");
  EXPECT_EQ(file.version, 3u);
  EXPECT_EQ(file.uint_at("a.b"), 7u);
  ASSERT_EQ(file.tensors.size(), 1u);
  const GgufTensor& t = file.tensors[0];
  EXPECT_EQ(t.name, "t");
  EXPECT_EQ(t.type->name, "f32");
  EXPECT_EQ(t.shape, (Shape{2, 3}));
  EXPECT_EQ(t.offset, 96u);
  EXPECT_EQ(t.bytes, 24u);
}

TEST(GgufContainer, Header) {
  GgufBytes empty;
  EXPECT_TRUE(parse_gguf(as_span(empty.build()), "m").tensors.empty());
  empty.version = 2;
  EXPECT_EQ(parse_gguf(as_span(empty.build()), "m").version, 2u);
  for (uint32_t bad : {0u, 1u, 4u, 1000u}) {
    empty.version = bad;
    expect_refused(empty.build(), "version " + std::to_string(bad));
  }
  empty.version = 0x03000000;
  expect_refused(empty.build(), "big-endian");
  GgufBytes other;
  other.magic = "GGML";
  expect_refused(other.build(), "not a GGUF file");
  expect_refused("", "not a GGUF file");
  EXPECT_TRUE(looks_like_gguf(as_span(GgufBytes().build())));
  EXPECT_FALSE(looks_like_gguf(as_span("GGU")));
}

TEST(GgufContainer, CountsAreBoundedByTheFile) {
  for (int64_t claim : {int64_t{1} << 62, int64_t{1} << 40, int64_t{1000}}) {
    GgufBytes tensors, pairs;
    tensors.tensors_claimed = claim;
    pairs.pairs_claimed = claim;
    expect_refused(tensors.build(), "tensors, more than fit");
    expect_refused(pairs.build(), "metadata pairs, more than fit");
  }
  // Negative counts.
  std::string bytes = GgufBytes().build();
  for (size_t at : {8u, 16u}) {
    std::string negative = bytes;
    negative.replace(at, 8, std::string(8, '\xff'));
    expect_refused(negative, "more than fit");
  }
}

TEST(GgufContainer, Metadata) {
  expect_refused(GgufBytes().number("", 1).build(), "without a key");
  expect_refused(GgufBytes().number("k", 1).real("k", 1).build(), "'k' appears twice");
  expect_refused(GgufBytes().pair("k", 13, std::string(64, 'x')).build(), "unknown type 13");
  auto array = [](uint32_t element, uint64_t count) {
    return GgufBytes().pair("k", 9, GgufBytes::raw(element) + GgufBytes::raw(count) +
                                        std::string(64, '\0')).build();
  };
  expect_refused(array(9, 1), "array of arrays");
  expect_refused(array(99, 1), "unknown type 99");
  expect_refused(array(4, 17), "an array of 17 elements");
  expect_refused(array(4, uint64_t{1} << 62), "an array of");
  expect_refused(array(0, UINT64_MAX), "an array of");
  expect_refused(array(8, 9), "an array of 9");
  expect_refused(GgufBytes().pair("k", 8, GgufBytes::raw<uint64_t>(100) + "short").build(),
                 "string of 100 bytes");
  expect_refused(GgufBytes().pair("k", 8, GgufBytes::raw(UINT64_MAX) + "short").build(),
                 "string of 18446744073709551615 bytes");
}

TEST(GgufContainer, Alignment) {
  GgufBytes good;
  good.alignment = 64;
  good.number("general.alignment", 64).zeros("a", {3}, kF32).zeros("b", {5}, kF32);
  std::string bytes = good.build();
  GgufFile file = parse_gguf(as_span(bytes), "m");
  EXPECT_EQ(file.tensors[0].offset % 64, 0u);
  EXPECT_EQ(file.tensors[1].offset, file.tensors[0].offset + 64);
  for (uint32_t bad : {0u, 24u, 33u}) {
    expect_refused(GgufBytes().number("general.alignment", bad).build(), "no power of two");
  }
  expect_refused(GgufBytes().pair("general.alignment", 10, GgufBytes::raw<uint64_t>(64)).build(),
                 "expected u32, found u64");
  // The file says 64 but its tensors are padded to 32.
  GgufBytes other = GgufBytes().number("general.alignment", 64);
  expect_refused(other.zeros("a", {3}, kF32).zeros("b", {3}, kF32).build(),
                 "data offset (expected 64, found 32)");
}

TEST(GgufContainer, TensorTable) {
  std::string bytes = GgufBytes().zeros(std::string(63, 'n'), {32}, kQ8_0).build();
  EXPECT_EQ(parse_gguf(as_span(bytes), "m").tensors[0].bytes, 34u);
  std::string scalar = GgufBytes().tensor("s", {}, kF32, "abcd").build();
  EXPECT_EQ(parse_gguf(as_span(scalar), "m").tensors[0].shape, Shape{});

  expect_refused(GgufBytes().zeros(std::string(64, 'n'), {32}, kQ8_0).build(), "has 64 bytes");
  expect_refused(GgufBytes().zeros("", {32}, kQ8_0).build(), "has 0 bytes");
  expect_refused(GgufBytes().zeros("t", {1, 1, 1, 1, 1}, kF32).build(), "has 5 dimensions");
  expect_refused(GgufBytes().tensor("t", {4, 0}, kF32, "").build(), "a dimension of 0");
  expect_refused(GgufBytes().tensor("t", {4, UINT64_MAX}, kF32, "").build(), "a dimension of -1");
  expect_refused(GgufBytes().tensor("t", {1u << 31, 1u << 31, 1u << 31}, kF32, "").build(),
                 "size overflows");
  expect_refused(GgufBytes().tensor("t", {uint64_t{1} << 62, 1}, kF32, "").build(), "overflows");
  expect_refused(GgufBytes().tensor("t", {40}, kQ4_0, std::string(64, 0)).build(),
                 "no multiple of q4_0's block of 32");
  for (uint32_t removed : {4u, 5u, 31u, 33u, 36u, 38u}) {
    expect_refused(GgufBytes().tensor("t", {32}, removed, std::string(64, 0)).build(),
                   "which ggml has removed");
  }
  for (uint32_t unknown : {43u, 1000u, UINT32_MAX}) {
    expect_refused(GgufBytes().tensor("t", {32}, unknown, std::string(64, 0)).build(), "not known");
  }
  expect_refused(GgufBytes().zeros("t", {8}, kF32).zeros("t", {8}, kF32).build(), "appears twice");
}

TEST(GgufContainer, DataOffsets) {
  auto two = [](uint64_t first, uint64_t second) {
    return GgufBytes().tensor_at("a", {8}, kF32, first, std::string(32, 1))
        .tensor_at("b", {8}, kF32, second, std::string(32, 2)).build();
  };
  std::string good = two(0, 32);
  EXPECT_EQ(parse_gguf(as_span(good), "m").tensors[1].bytes, 32u);
  expect_refused(two(0, 64), "data offset (expected 32, found 64)");  // a hole
  expect_refused(two(0, 0), "data offset");                           // overlap
  expect_refused(two(32, 0), "data offset");                          // out of order
  expect_refused(two(0, UINT64_MAX), "data offset");
}

TEST(GgufContainer, DataMustBeThere) {
  std::string bytes = GgufBytes().zeros("a", {9}, kF32).build();
  // The padding after the last tensor may be missing, its data may not.
  bytes.resize(bytes.size() - 28);
  EXPECT_EQ(parse_gguf(as_span(bytes), "m").tensors.size(), 1u);
  bytes.pop_back();
  expect_refused(bytes, "data is cut short");
  expect_refused(GgufBytes().tensor("a", {1u << 30}, kF32, "abcd").build(), "data is cut short");
}

// Whatever is cut off, the answer is an error or a smaller file, never a read outside.
TEST(GgufContainer, EveryPrefix) {
  std::string bytes = GgufBytes().string("s", "text").strings("a", {"x", "yy"}).number("n", 5)
                          .zeros("t", {32, 2}, kQ4_0).zeros("u", {4}, kF32).build();
  size_t accepted = 0;
  for (size_t n = 0; n < bytes.size(); ++n) {
    std::string prefix = bytes.substr(0, n);  // its own allocation: sanitizers see the end
    try {
      parse_gguf(as_span(prefix), "m");
      ++accepted;
    } catch (const Error& e) {
      EXPECT_EQ(e.kind(), ErrorKind::input);
    }
  }
  EXPECT_EQ(accepted, 16u);  // only the last tensor's padding may be missing
}

TEST(GgufContainer, Getters) {
  std::string bytes = GgufBytes().string("text", "abc").number("n", 7).real("eps", 1e-5f)
      .boolean("flag", true).pair("neg", 5, GgufBytes::raw<int32_t>(-1))
      .pair("big", 10, GgufBytes::raw(UINT64_MAX)).pair("wide", 12, GgufBytes::raw(0.1))
      .strings("texts", {"x", ""}).numbers<float>("reals", 6, {1.5f, -2.0f})
      .numbers<int32_t>("ints", 5, {3, -4}).build();
  GgufFile f = parse_gguf(as_span(bytes), "m.gguf");
  EXPECT_EQ(f.string_at("text"), "abc");
  EXPECT_EQ(f.uint_at("n"), 7u);
  EXPECT_EQ(f.real_at("eps"), 1e-5);  // the short decimal, not the widened float
  EXPECT_EQ(f.real_at("wide"), 0.1);
  EXPECT_EQ(f.bool_at("flag"), true);
  EXPECT_EQ(f.strings_at("texts"), (std::vector<std::string_view>{"x", ""}));
  EXPECT_EQ(f.floats_at("reals"), (std::vector<float>{1.5f, -2.0f}));
  EXPECT_EQ(f.ints_at("ints"), (std::vector<int64_t>{3, -4}));
  EXPECT_EQ(f.ints_at("n"), (std::vector<int64_t>{7}));
  EXPECT_EQ(f.uint_at("absent"), std::nullopt);
  EXPECT_EQ(f.strings_at("absent"), std::nullopt);
  EXPECT_THROW(f.uint_at("neg"), Error);
  EXPECT_THROW(f.uint_at("big"), Error);
  EXPECT_THROW(f.bool_at("n"), Error);
  EXPECT_THROW(f.real_at("n"), Error);
  EXPECT_THROW(f.floats_at("ints"), Error);
  try {
    f.string_at("texts");
    FAIL();
  } catch (const Error& e) {
    EXPECT_STREQ(e.what(),
                 "m.gguf: metadata key 'texts' (expected string, found array of string)");
  }
}

}  // namespace
}  // namespace qp
