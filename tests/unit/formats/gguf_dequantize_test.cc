// ggml's types: the table, and decoding against gguf-py's values (tests/data/gguf).
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <fstream>
#include <map>
#include <set>
#include <sstream>
#include <vector>

#include "lib/kernels/ggml.h"

namespace qp {
namespace {

std::vector<uint8_t> from_hex(const std::string& hex) {
  std::vector<uint8_t> bytes;
  for (size_t i = 0; i + 1 < hex.size(); i += 2) {
    bytes.push_back(static_cast<uint8_t>(std::stoi(hex.substr(i, 2), nullptr, 16)));
  }
  return bytes;
}

struct Vector {
  std::vector<uint8_t> block, values;
};

std::map<std::string, std::vector<Vector>> read_vectors() {
  std::map<std::string, std::vector<Vector>> vectors;
  std::ifstream in(QP_TEST_DATA "/gguf/dequantize.txt");
  for (std::string line; std::getline(in, line);) {
    if (line.starts_with("#")) continue;
    std::istringstream words(line);
    std::string type, block, values;
    words >> type >> block >> values;
    vectors[type].push_back({from_hex(block), from_hex(values)});
  }
  return vectors;
}

TEST(GgmlTypes, DecodeAsGgufPy) {
  auto vectors = read_vectors();
  std::set<std::string> left;
  for (const GgmlType& type : ggml_types()) {
    if (ggml_decoder(type.id) == nullptr) {
      left.insert(std::string(type.name));
      continue;
    }
    for (const Vector& v : vectors[std::string(type.name)]) {
      ASSERT_EQ(v.block.size(), type.bytes) << type.name;
      ASSERT_EQ(v.values.size(), 4 * type.block) << type.name;
      std::vector<float> out(type.block);
      ggml_decoder(type.id)(v.block.data(), type.block, out.data());
      EXPECT_EQ(std::memcmp(out.data(), v.values.data(), v.values.size()), 0) << type.name;
    }
    EXPECT_GE(vectors[std::string(type.name)].size(), 2u) << type.name << " has no vector";
  }
  EXPECT_EQ(left, (std::set<std::string>{"q8_1"}));  // of run time, without a decoder
}

// Several blocks in a row decode as each alone.
TEST(GgmlTypes, BlocksAreIndependent) {
  auto vectors = read_vectors();
  for (const GgmlType& type : ggml_types()) {
    if (ggml_decoder(type.id) == nullptr) continue;
    auto& v = vectors[std::string(type.name)];
    std::vector<uint8_t> blocks = v[0].block, values = v[0].values;
    for (int i = 0; i < 2; ++i) {
      blocks.insert(blocks.end(), v[1].block.begin(), v[1].block.end());
      values.insert(values.end(), v[1].values.begin(), v[1].values.end());
    }
    std::vector<float> out(3 * type.block);
    ggml_decoder(type.id)(blocks.data(), out.size(), out.data());
    EXPECT_EQ(std::memcmp(out.data(), values.data(), values.size()), 0) << type.name;
  }
}

// q4_1 by hand: d = 0.5 (0x3800), m = -1 (0xbc00), every byte 0xf2.
TEST(GgmlTypes, HandWorkedBlock) {
  std::vector<uint8_t> block = {0x00, 0x38, 0x00, 0xbc};
  block.resize(20, 0xf2);
  float out[32];
  ggml_decoder(ggml_type("q4_1")->id)(block.data(), 32, out);
  for (int i = 0; i < 32; ++i) EXPECT_EQ(out[i], i < 16 ? 0.0f : 6.5f);
}

// A scale of nvfp4 whose code is 0x7f, and what the sign bit of one says, is nothing.
TEST(GgmlTypes, Nvfp4ScalesWithoutMeaning) {
  std::vector<uint8_t> block(36, 0x77);  // every number 12
  block[0] = 0x7f, block[1] = 0x38, block[2] = 0xb8, block[3] = 0;
  float out[64];
  ggml_decoder(ggml_type("nvfp4")->id)(block.data(), 64, out);
  for (int i = 0; i < 64; ++i) EXPECT_EQ(out[i], i / 16 == 1 || i / 16 == 2 ? 6.0f : 0.0f) << i;
}

// mxfp4's two smallest exponents are subnormal.
TEST(GgmlTypes, Mxfp4SmallestScales) {
  std::vector<uint8_t> block(17, 0x11);
  float out[32];
  for (uint8_t e : {uint8_t{0}, uint8_t{1}, uint8_t{2}}) {
    block[0] = e;
    ggml_decoder(ggml_type("mxfp4")->id)(block.data(), 32, out);
    EXPECT_EQ(out[0], std::ldexp(1.0f, e - 128)) << int{e};
  }
}

TEST(GgmlTypes, Table) {
  uint32_t last = 0;
  std::set<std::string_view> names;
  for (const GgmlType& type : ggml_types()) {
    EXPECT_TRUE(type.id == 0 || type.id > last);
    last = type.id;
    EXPECT_TRUE(names.insert(type.name).second);
    EXPECT_EQ(ggml_type(type.id), &type);
    EXPECT_EQ(ggml_type(type.name), &type);
  }
  EXPECT_EQ(ggml_type("Q4_K"), ggml_type(12));
  EXPECT_EQ(ggml_type("q4_K")->bytes, 144u);
  EXPECT_EQ(ggml_type(39)->name, "mxfp4");
  for (uint32_t removed : {4u, 5u, 31u, 32u, 33u, 36u, 37u, 38u, 43u, UINT32_MAX}) {
    EXPECT_EQ(ggml_type(removed), nullptr);
  }
  EXPECT_EQ(ggml_type("q4_"), nullptr);
  EXPECT_EQ(ggml_type(""), nullptr);
}

}  // namespace
}  // namespace qp
