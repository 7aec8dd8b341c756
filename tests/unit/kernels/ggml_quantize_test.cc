// ggml's quantizers against ggml's own results: hashes and bytes measured with ggml-quants.c
// (reference/gguf.md section 6 and appendix C), and every instruction set against the scalar code
// on rows at the edges.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <map>
#include <random>
#include <string>
#include <vector>

#include "lib/kernels/ggml.h"
#include "lib/kernels/ggml_lanes.h"
#include "lib/kernels/ggml_quantize.h"
#include "lib/kernels/kernels.h"

namespace qp {

#define QP_ISA(name, table, supported) extern const GgmlScaledTable k_ggml_##table;
#include "lib/kernels/kernels.def"
#undef QP_ISA

namespace {

using Bytes = std::vector<uint8_t>;

struct Named {
  std::string isa;
  const GgmlScaledTable* table;
};
std::vector<Named> tables() {
  std::vector<Named> all;
#define QP_ISA(name, lanes, supported) \
  if (kernels::supports(#name)) all.push_back({#name, &k_ggml_##lanes});
#include "lib/kernels/kernels.def"
#undef QP_ISA
  return all;
}

Bytes quantized(const GgmlQuantizer& q, const std::vector<float>& x, size_t cols,
                const float* importance) {
  const GgmlType& type = *ggml_type(q.id);
  Bytes out(x.size() / type.block * type.bytes);
  q.quantize(x.data(), x.size() / cols, cols, importance, out.data());
  return out;
}

std::string hex(const Bytes& bytes) {
  std::string text;
  for (uint8_t b : bytes) {
    text += "0123456789abcdef"[b >> 4];
    text += "0123456789abcdef"[b & 15];
  }
  return text;
}

// The appendix's generators and hash.
uint64_t hash(const void* data, size_t n) {
  uint64_t h = 1469598103934665603u;
  for (size_t i = 0; i < n; ++i) h = (h ^ static_cast<const uint8_t*>(data)[i]) * 1099511628211u;
  return h;
}
std::vector<float> golden_rows() {
  std::vector<float> x;
  uint32_t s = 12345;
  for (int r = 0; r < 4; ++r) {
    for (int i = 0; i < 1024; ++i) {
      s = s * 1664525 + 1013904223;
      auto v = static_cast<float>(static_cast<int32_t>(s >> 8) - 8388608);
      x.push_back(std::ldexp(v, -23 - ((i / 16) * 5 + r) % 7));
    }
  }
  return x;
}
std::vector<float> golden_importance() {
  std::vector<float> w;
  uint32_t s = 777;
  for (int i = 0; i < 1024; ++i) {
    s = s * 1664525 + 1013904223;
    w.push_back(static_cast<float>(s >> 16 & 255) / 64 + 1.0f / 64);
  }
  return w;
}

struct Golden {
  const char* type;
  bool importance;
  uint64_t blocks, values;
};
const Golden kGolden[] = {
    {"q4_0", false, 0x5050ebe22363190b, 0x6523d8093215744b},
    {"q4_0", true, 0xfd601fcf4f786db8, 0xd51f3007cc8346b9},
    {"q4_1", false, 0x232f1cccb2fee105, 0x37d2540f902c8a99},
    {"q4_1", true, 0xfe50890dc7244b05, 0xce9e1f27f16d66c3},
    {"q5_0", false, 0x254421ee9d1f72cf, 0x94709a647248fa64},
    {"q5_0", true, 0xf4c32fb883984330, 0xd53b3aa5d235b298},
    {"q5_1", false, 0x3462cd3becee318f, 0xa0cc5eafeb1299dd},
    {"q5_1", true, 0x808ce304ebf56409, 0x46d818937c59c41d},
    {"q8_0", false, 0x8fbc882a78a8f6aa, 0x60e6d198ff21bd7e},
    {"q8_0", true, 0x8fbc882a78a8f6aa, 0x60e6d198ff21bd7e},
    {"q2_k", false, 0x4b8a0af07c53ffa0, 0x090be7fb57f0d0a5},
    {"q2_k", true, 0x7cd26eb660107124, 0x44e7fbb7eccd39ec},
    {"q3_k", false, 0x8d5334ec5f24ce19, 0xd5a1be41555f42dc},
    {"q3_k", true, 0x13a341e4da006cf9, 0xa88e937455426278},
    {"q4_k", false, 0x9c67df7c3d812d2f, 0x5c8257459f5bfb7b},
    {"q4_k", true, 0x75f318429a3aa63f, 0x0c992aa2648457b9},
    {"q5_k", false, 0x079e874986615be6, 0x1657eebb167647d9},
    {"q5_k", true, 0x8e3e1c869c0d8990, 0x9d138b36601aa9fa},
    {"q6_k", false, 0xfd96709f148b743b, 0x52658f20be5ac75e},
    {"q6_k", true, 0xc052e5e42cf6c878, 0x711518a6a760b5e5},
    {"iq4_nl", false, 0x97f60750ff1a7a50, 0x672b348c6468851c},
    {"iq4_nl", true, 0x4de082254a4ee080, 0x0b7a4c1751a72573},
    {"iq4_xs", false, 0x8ee2cb612e9e3a09, 0x4aee605c30490706},
    {"iq4_xs", true, 0x7a51f7d328a2c30d, 0x464b118f4e812df2},
    {"tq1_0", false, 0x10b9d781ae5774f2, 0x2edf4d746cd89a62},
    {"tq1_0", true, 0x10b9d781ae5774f2, 0x2edf4d746cd89a62},
    {"tq2_0", false, 0x5dda1fc271d66967, 0x2edf4d746cd89a62},
    {"tq2_0", true, 0x5dda1fc271d66967, 0x2edf4d746cd89a62},
    {"mxfp4", false, 0xf2625ceb77b63cf0, 0x1d825d79a4edd28c},
    {"mxfp4", true, 0xf2625ceb77b63cf0, 0x1d825d79a4edd28c},
    {"nvfp4", false, 0x536eafc812b6d0f2, 0xcdacb04eefb49a3f},
    {"nvfp4", true, 0x536eafc812b6d0f2, 0xcdacb04eefb49a3f},
    {"q1_0", false, 0xa2cfb6da4047a1ed, 0xad71f40497689d83},
    {"q1_0", true, 0xa2cfb6da4047a1ed, 0xad71f40497689d83},
    {"q2_0", false, 0xbba5e466cf585d97, 0x78a28861461a9880},
    {"q2_0", true, 0xbba5e466cf585d97, 0x78a28861461a9880},
};

TEST(GgmlQuantize, GoldenInputs) {
  std::vector<float> x = golden_rows(), w = golden_importance();
  EXPECT_EQ(hash(x.data(), 4 * x.size()), 0xfdca2c3b6dbbdd05u);
  EXPECT_EQ(hash(w.data(), 4 * w.size()), 0xbd66d2179e079701u);
}

TEST(GgmlQuantize, GoldenHashes) {
  std::vector<float> x = golden_rows(), w = golden_importance();
  for (const Named& named : tables()) {
    for (const Golden& golden : kGolden) {
      const GgmlType& type = *ggml_type(std::string_view(golden.type));
      for (const GgmlQuantizer& q : named.table->rows) {
        if (q.id != type.id) continue;
        Bytes out = quantized(q, x, 1024, golden.importance ? w.data() : nullptr);
        EXPECT_EQ(hash(out.data(), out.size()), golden.blocks)
            << golden.type << (golden.importance ? " with importance, " : ", ") << named.isa;
        std::vector<float> values(x.size());
        ggml_decoder(type.id)(out.data(), values.size(), values.data());
        EXPECT_EQ(hash(values.data(), 4 * values.size()), golden.values) << golden.type;
      }
    }
  }
}

TEST(GgmlQuantize, EveryTypeIsGolden) {
  for (const GgmlQuantizer& q : tables().front().table->rows) {
    int rows = 0;
    for (const Golden& golden : kGolden)
      rows += ggml_type(std::string_view(golden.type))->id == q.id;
    EXPECT_EQ(rows, 2) << q.id;
    EXPECT_EQ(ggml_quantizer(q.id)->uses_importance, q.uses_importance);
  }
}

// Section 6: what becomes of zeros.
TEST(GgmlQuantize, ZeroBlocks) {
  auto times = [](const char* byte, size_t n) {
    std::string text;
    for (size_t i = 0; i < n; ++i) text += byte;
    return text;
  };
  const std::map<std::string, std::string> plain = {
      {"q4_0", "0080" + times("88", 16)},
      {"q5_0", "0080ffffffff" + times("00", 16)},
      {"iq4_nl", "0000" + times("88", 16)},
      {"iq4_xs", "0080aaaa00000000" + times("88", 128)},
      {"tq1_0", times("80", 48) + times("7f", 4) + "0000"},
      {"tq2_0", times("55", 64) + "0000"},
      {"q1_0", "0000" + times("ff", 16)},
      {"q2_0", "0000" + times("55", 16)}};
  for (const Named& named : tables()) {
    for (const GgmlQuantizer& q : named.table->rows) {
      const GgmlType& type = *ggml_type(q.id);
      std::vector<float> x(type.block), w(type.block, 1.0f);
      auto it = plain.find(std::string(type.name));
      std::string zeros = times("00", type.bytes), want = it != plain.end() ? it->second : zeros;
      EXPECT_EQ(hex(quantized(q, x, x.size(), nullptr)), want) << type.name << " " << named.isa;
      if (type.name == "q4_0" || type.name == "q5_0") want = zeros;
      EXPECT_EQ(hex(quantized(q, x, x.size(), w.data())), want) << type.name << " " << named.isa;
      // And back: zeros decode to zeros, which become the same block.
      Bytes block = quantized(q, x, x.size(), nullptr);
      ggml_decoder(type.id)(block.data(), x.size(), x.data());
      for (float v : x) EXPECT_EQ(v, 0.0f) << type.name;
    }
  }
}

// Rows of one kind each, 1280 columns: more blocks than lanes, with a rest, for every size of
// block.
std::vector<float> edge_rows(size_t cols) {
  std::mt19937 random(7);
  std::normal_distribution<float> normal;
  std::student_t_distribution<float> heavy(2);
  std::vector<float> x;
  auto row = [&](auto&& make) {
    for (size_t i = 0; i < cols; ++i) x.push_back(make(i));
  };
  constexpr float kMax = std::numeric_limits<float>::max();
  row([&](size_t) { return normal(random); });
  row([&](size_t) { return heavy(random); });
  row([&](size_t) { return 0.0f; });
  row([&](size_t) { return -0.0f; });
  row([&](size_t) { return 1.5f; });
  row([&](size_t) { return -0.75f; });
  for (float scale : {1e-30f, 1e-38f, 1e-40f, 1e-44f, 3e-15f, 1e-7f, 1e18f, 1e30f, 5e37f}) {
    row([&](size_t) { return scale * normal(random); });
  }
  row([&](size_t i) { return i % 3 == 0 ? kMax : -kMax; });
  row([&](size_t i) { return i % 97 == 5 ? 1e6f : normal(random); });
  row([&](size_t i) { return i % 200 == 0 ? -1e30f : normal(random); });
  row([&](size_t i) { return i % 32 == 31 ? normal(random) : 0.0f; });
  row([&](size_t i) { return static_cast<float>(i % 16) - 8; });
  row([&](size_t) { return std::fabs(normal(random)) + 3; });
  row([&](size_t) { return -std::fabs(normal(random)) - 3; });
  row([&](size_t i) { return i / 128 % 2 == 0 ? 1e-25f * normal(random) : normal(random); });
  return x;
}

TEST(GgmlQuantize, InstructionSetsAgree) {
  constexpr size_t kCols = 1280;
  std::vector<float> x = edge_rows(kCols), w(kCols), some(kCols);
  std::mt19937 random(11);
  std::exponential_distribution<float> exponential;
  for (size_t i = 0; i < kCols; ++i) {
    w[i] = exponential(random);
    some[i] = i % 5 == 0 || i < 300 ? 0.0f : w[i] * 1e-20f;
  }
  const GgmlScaledTable& scalar = k_ggml_scalar;
  for (const Named& named : tables()) {
    for (size_t i = 0; i < std::size(scalar.rows); ++i) {
      ASSERT_EQ(named.table->rows[i].id, scalar.rows[i].id);
      for (const std::vector<float>& weights : {std::vector<float>(), w, some}) {
        const float* importance = weights.empty() ? nullptr : weights.data();
        EXPECT_EQ(quantized(scalar.rows[i], x, kCols, importance),
                  quantized(named.table->rows[i], x, kCols, importance))
            << ggml_type(scalar.rows[i].id)->name << " " << named.isa;
      }
    }
  }
}

// A block's bytes do not depend on how many stand beside it; only types that look at the row's mean
// ask for it.
TEST(GgmlQuantize, RowsAreIndependent) {
  constexpr size_t kCols = 768;
  std::vector<float> x = edge_rows(kCols);
  std::vector<float> w(kCols, 1.0f);
  for (size_t i = 0; i < kCols; ++i) w[i] = static_cast<float>(i % 7 + 1);
  for (const Named& named : tables()) {
    for (const GgmlQuantizer& q : named.table->rows) {
      Bytes all = quantized(q, x, kCols, w.data()), one;
      for (size_t r = 0; r < x.size() / kCols; ++r) {
        auto at = x.begin() + static_cast<std::ptrdiff_t>(r * kCols);
        Bytes row = quantized(q, {at, at + kCols}, kCols, w.data());
        one.insert(one.end(), row.begin(), row.end());
      }
      EXPECT_EQ(all, one) << ggml_type(q.id)->name << " " << named.isa;
    }
  }
}

}  // namespace
}  // namespace qp
