#include "lib/verify/ggml_blocks.h"

#include <gtest/gtest.h>

#include <vector>

#include "lib/tensor/ggml_type.h"

namespace qp {
namespace {

// Blocks of zeros of a type, and bytes to put in.
struct Blocks {
  Blocks(std::string_view name, size_t n) : type(name), bytes(n * ggml_type(name)->bytes) {}
  Blocks& put(size_t at, std::initializer_list<int> values) {
    for (int v : values) bytes[at++] = static_cast<std::byte>(v);
    return *this;
  }
  BlockScales check() const { return check_block_scales(type, bytes); }

  std::string_view type;
  std::vector<std::byte> bytes;
};

TEST(GgmlBlocks, NothingIsWrongWithZeros) {
  for (const GgmlType& type : ggml_types()) {
    if (type.block == 1) continue;
    BlockScales found = Blocks(type.name, 3).check();
    EXPECT_EQ(found.bad, 0u) << type.name;
    EXPECT_FALSE(found.any) << type.name;
    EXPECT_EQ(has_block_scales(type.name), type.name != "nvfp4") << type.name;
  }
}

TEST(GgmlBlocks, F16) {
  // Of q4_1 the scale is at 0 and the minimum at 2; the greatest number, 65504, is 0x7bff.
  EXPECT_EQ(Blocks("q4_1", 2).put(0, {0xff, 0x7b, 0xff, 0xfb}).check().bad, 0u);
  EXPECT_TRUE(Blocks("q4_1", 2).put(20, {0x01, 0x00}).check().any);
  EXPECT_FALSE(Blocks("q4_1", 2).put(20, {0x00, 0x80}).check().any);  // -0
  BlockScales found = Blocks("q4_1", 4).put(40 + 2, {0x00, 0x7c}).put(60, {0x01, 0xfc}).check();
  EXPECT_EQ(found.bad, 2u);
  EXPECT_EQ(found.first_bad, 2u);
  // Codes may be anything.
  EXPECT_EQ(Blocks("q6_k", 1).put(0, {0xff, 0x7f, 0xff, 0xff}).check().bad, 0u);
  EXPECT_EQ(Blocks("q6_k", 1).put(208, {0xff, 0x7f}).check().bad, 1u);
}

TEST(GgmlBlocks, OtherKinds) {
  EXPECT_EQ(Blocks("mxfp4", 3).put(34, {255}).check().first_bad, 2u);
  EXPECT_EQ(Blocks("mxfp4", 3).put(34, {254, 255}).check().bad, 0u);
  EXPECT_EQ(Blocks("q8_k", 2).put(292, {0, 0, 0x80, 0x7f}).check().first_bad, 1u);
  // iq1_m: the F16 0x7c00 in the highest nibbles, lowest first.
  EXPECT_EQ(Blocks("iq1_m", 1).put(48, {0, 0x0f, 0, 0x0f, 0, 0xcf, 0, 0x7f}).check().bad, 1u);
  EXPECT_EQ(Blocks("iq1_m", 1).put(48, {0, 0x7f, 0, 0xcf, 0, 0x0f, 0, 0x0f}).check().bad, 0u);
  EXPECT_EQ(Blocks("nvfp4", 1).put(0, {0x7f, 0xff, 0x80, 0x7e}).check().bad, 0u);
  EXPECT_EQ(check_block_scales("q9_9", Blocks("q4_0", 1).bytes).bad, 0u);
}

}  // namespace
}  // namespace qp
