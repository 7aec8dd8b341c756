// ggml's lattice types: bytes and values as ggml's own library makes them, on every instruction
// set.
#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <string_view>
#include <vector>

#include "lib/kernels/ggml.h"
#include "lib/kernels/ggml_codebook_search.h"
#include "lib/kernels/ggml_quantize.h"
#include "lib/kernels/kernels.h"

namespace qp {
namespace kernels {

#define QP_ISA(name, table, supported) extern const CodebookTable k_codebook_##table;
#include "lib/kernels/kernels.def"
#undef QP_ISA

}  // namespace kernels

namespace {

using kernels::Book;
using kernels::Codebook;

uint64_t hash(const void* data, size_t n) {
  uint64_t h = 1469598103934665603u;
  for (size_t i = 0; i < n; ++i) h = (h ^ static_cast<const uint8_t*>(data)[i]) * 1099511628211u;
  return h;
}

struct Lcg {
  uint32_t state;
  uint32_t next() { return state = state * 1664525u + 1013904223u; }
  float unit() { return static_cast<float>(static_cast<int>(next() >> 8) - 8388608) / 8388608.0f; }
};

struct Rows {
  size_t rows, cols;
  std::vector<float> x, importance;
};

// The input of reference/gguf.md, appendix C.
Rows golden_rows() {
  Rows in{4, 1024, {}, {}};
  Lcg values{12345}, weights{777};
  for (size_t r = 0; r < in.rows; ++r) {
    for (size_t i = 0; i < in.cols; ++i) {
      in.x.push_back(std::ldexp(values.unit(), -static_cast<int>((i / 16 * 5 + r) % 7)));
    }
  }
  for (size_t i = 0; i < in.cols; ++i) {
    in.importance.push_back(static_cast<float>(weights.next() >> 16 & 255) / 64 + 1.0f / 64);
  }
  return in;
}

// What can go wrong: a row each of equal sizes, few values, constants, zeros and sub-blocks of
// zeros, an outlier, a heavy tail, tiny numbers down to denormal ones, large ones, ramps. A fifth
// of the weights is 0.
Rows edge_rows() {
  Rows in{12, 512, {}, {}};
  Lcg random{4711};
  for (size_t r = 0; r < in.rows; ++r) {
    for (size_t i = 0; i < in.cols; ++i) {
      float u = random.unit(), x = u;
      switch (r) {
        case 0: x = u < 0 ? -0.25f : 0.25f; break;
        case 1: x = std::nearbyint(2 * u); break;
        case 2: x = -0.75f; break;
        case 3: x = u < 0 ? 0.0f : -0.0f; break;
        case 4: x = i / 32 % 3 == 1 ? 0.0f : u; break;
        case 5: x = i % 100 == 17 ? 1000 * u : u; break;
        case 6: x = u / (1.001f - std::fabs(u)); break;
        case 7: x = std::ldexp(u, -20 - static_cast<int>(i / 4)); break;
        case 8: x = 60000 * u; break;
        case 9: x = static_cast<float>(static_cast<int>(i % 64) - 32) / 64; break;
        case 10: x = u * u * u; break;
        default: x = i % 8 == 0 ? u : u / 4096; break;
      }
      in.x.push_back(x);
    }
  }
  for (size_t i = 0; i < in.cols; ++i) {
    uint32_t bits = random.next() >> 16;
    in.importance.push_back(bits % 5 == 0 || i / 32 == 7 ? 0.0f
                                                         : static_cast<float>(bits & 1023) / 128);
  }
  return in;
}

struct Golden {
  std::string_view type;
  bool importance;
  uint64_t blocks, values;  // of golden_rows(), reference/gguf.md appendix C
  // Of edge_rows(), measured with the library in llama-cpp-python 0.3.36 (x86-64). Older ones, of June 2026,
  // sum IQ1_M in another order and differ there.
  uint64_t edge_blocks;
};
constexpr Golden kGolden[] = {
    {"iq2_xxs", true, 0x36d44370b8573a5f, 0x0bf9cc67561e5046, 0x55be33085938884b},
    {"iq2_xs", true, 0x32b577ca8d76ded6, 0xbba2e5de122f9232, 0x49385893ffc8a38f},
    {"iq2_s", false, 0xfdc80f2cab350b4d, 0x47f0116545ea25ad, 0x6508a908794f3f08},
    {"iq2_s", true, 0x9d902064c20ec7be, 0x2cbe37021fc63730, 0xcd2ae34ef2fea735},
    {"iq3_xxs", false, 0xa641b38cfd529607, 0xac4b643f425d33e2, 0x33bb1cd02865e00b},
    {"iq3_xxs", true, 0x5cf4fc60cd1d92ea, 0x6668d956d559f150, 0x3ca308e0f7f085b9},
    {"iq3_s", false, 0x0d31f29bebd76580, 0xe4d1a7524ee369af, 0xd02a8b47e15668c0},
    {"iq3_s", true, 0xe08143527da6ebc0, 0xf0340e1f64de8506, 0xe14174c16f3f1d41},
    {"iq1_s", true, 0x384b50ea858b4889, 0xb6d7316f097050e5, 0x90476688399b7d65},
    {"iq1_m", false, 0x9931cfb693e85330, 0xacdb2647f90a8c3f, 0x63c3787789b98509},
    {"iq1_m", true, 0xff39312e454ba6f2, 0xcf315bb058fc3659, 0xa55fbd823fe7a5b3},
};

TEST(GgmlCodebooks, BlocksAndValuesAreGgmls) {
  const Rows golden = golden_rows(), edge = edge_rows();
  ASSERT_EQ(hash(golden.x.data(), 16384), 0xfdca2c3b6dbbdd05u);
  ASSERT_EQ(hash(golden.importance.data(), 4096), 0xbd66d2179e079701u);
  for (const Golden& expected : kGolden) {
    SCOPED_TRACE(expected.type);
    const GgmlType* type = ggml_type(expected.type);
    ASSERT_NE(type, nullptr);
    const GgmlQuantizer* quantizer = ggml_quantizer(type->id);
    ASSERT_NE(quantizer, nullptr);
    EXPECT_TRUE(quantizer->uses_importance);
    auto blocks_of = [&](const Rows& in) {
      std::vector<uint8_t> out(in.x.size() / type->block * type->bytes, 0xaa);
      quantizer->quantize(in.x.data(), in.rows, in.cols,
                          expected.importance ? in.importance.data() : nullptr, out.data());
      return out;
    };
    std::vector<uint8_t> blocks = blocks_of(golden), edge_blocks = blocks_of(edge);
    EXPECT_EQ(hash(blocks.data(), blocks.size()), expected.blocks);
    EXPECT_EQ(hash(edge_blocks.data(), edge_blocks.size()), expected.edge_blocks);
    std::vector<float> values(golden.x.size());
    ggml_decoder(type->id)(blocks.data(), values.size(), values.data());
    EXPECT_EQ(hash(values.data(), 4 * values.size()), expected.values);
  }
}

TEST(GgmlCodebooks, ThreeTypesNeedImportance) {
  for (const char* name : {"iq2_xxs", "iq2_xs", "iq1_s"}) {
    EXPECT_TRUE(ggml_quantizer(ggml_type(name)->id)->needs_importance) << name;
  }
  for (const char* name : {"iq2_s", "iq3_xxs", "iq3_s", "iq1_m"}) {
    EXPECT_FALSE(ggml_quantizer(ggml_type(name)->id)->needs_importance) << name;
  }
}

// Squared distance of two codes, and whether a code has an element beyond the levels.
int distance(const Codebook& book, uint32_t a, uint32_t b) {
  int bits = book.elements == 8 ? 2 : 3, mask = (1 << bits) - 1, sum = 0;
  for (int e = 0; e < book.elements; ++e, a >>= bits, b >>= bits) {
    int d = static_cast<int>(a & static_cast<uint32_t>(mask)) -
            static_cast<int>(b & static_cast<uint32_t>(mask));
    sum += d * d;
  }
  return sum;
}
bool is_code(const Codebook& book, uint32_t code) {
  for (int e = 0; book.elements == 8 && e < 8; ++e) {
    if ((code >> (2 * e) & 3) == 3) return false;
  }
  return true;
}

// From the definition: all points by distance and index, up to the given number of distances.
std::vector<uint16_t> neighbours(const Codebook& book, uint32_t code, int shells) {
  std::vector<std::pair<int, uint16_t>> all;
  for (uint16_t point : book.points) all.push_back({distance(book, code, point), point});
  std::sort(all.begin(), all.end());
  std::vector<uint16_t> out;
  int last = -1;
  for (auto [d, point] : all) {
    if (d != last && shells-- == 0) break;
    last = d;
    out.push_back(point);
  }
  return out;
}

TEST(GgmlCodebooks, NeighboursAreTheNearestPoints) {
  struct Case {
    Book book;
    size_t points;
    int elements, shells;
    uint32_t stride;
  };
  const Case cases[] = {{Book::iq2_xxs, 256, 8, 2, 13}, {Book::iq2_xs, 512, 8, 2, 17},
                        {Book::iq2_s, 1024, 8, 1, 23},  {Book::iq1, 2048, 8, 3, 37},
                        {Book::iq3_xxs, 256, 4, 2, 1},  {Book::iq3_s, 512, 4, 3, 1}};
  for (const Case& c : cases) {
    const Codebook& book = kernels::codebook(c.book);
    ASSERT_EQ(book.points.size(), c.points);
    ASSERT_EQ(book.elements, c.elements);
    EXPECT_TRUE(std::is_sorted(book.points.begin(), book.points.end()));
    const uint32_t end = c.elements == 8 ? 65536 : 4096;
    for (uint32_t code = 0; code < end; code += c.stride) {
      auto found = std::lower_bound(book.points.begin(), book.points.end(), code);
      bool on_book = found != book.points.end() && *found == code;
      if (!is_code(book, code)) continue;
      ASSERT_EQ(book.on_book(code), on_book) << code;
      if (on_book) {
        EXPECT_EQ(book.index(code), static_cast<uint32_t>(found - book.points.begin()));
        continue;
      }
      std::vector<uint16_t> expected = neighbours(book, code, c.shells);
      while (expected.size() % Codebook::kStep != 0) expected.push_back(expected.back());
      Codebook::Neighbours near = book.near(code);
      ASSERT_EQ(std::vector<uint16_t>(near.codes, near.codes + near.count), expected) << code;
    }
  }
}

// Every instruction set on every sub-block of the rows.
template <typename Check>
void on_every_isa(const Check& check) {
#define QP_ISA(name, table, supported)  \
  if (kernels::supports(#name)) {       \
    SCOPED_TRACE(#name);                \
    check(kernels::k_codebook_##table); \
  }
#include "lib/kernels/kernels.def"
#undef QP_ISA
}

bool same(float a, float b) { return std::bit_cast<uint32_t>(a) == std::bit_cast<uint32_t>(b); }

kernels::WeighedBlock weighed(const kernels::CodebookTable& table, const Rows& in, size_t start,
                              bool importance, bool even) {
  kernels::WeighedBlock out{};
  table.weigh(in.x.data() + start, importance ? in.importance.data() + start % in.cols : nullptr,
              0.25f, importance ? 0 : 0.5f, even, &out);
  return out;
}

TEST(GgmlCodebooks, EveryInstructionSetWeighsAlike) {
  const kernels::CodebookTable& scalar = kernels::k_codebook_scalar;
  on_every_isa([&](const kernels::CodebookTable& table) {
    for (const Rows& in : {golden_rows(), edge_rows()}) {
      for (size_t start = 0; start < in.x.size(); start += 256) {
        for (bool importance : {false, true}) {
          for (bool even : {false, true}) {
            auto expected = weighed(scalar, in, start, importance, even);
            auto found = weighed(table, in, start, importance, even);
            ASSERT_EQ(std::memcmp(&expected, &found, sizeof found), 0) << start;
          }
        }
      }
    }
  });
}

TEST(GgmlCodebooks, EveryInstructionSetFitsAlike) {
  using kernels::Again;
  const std::pair<Book, kernels::LatticeSearch> searches[] = {
      {Book::iq2_xxs, {6, 0.1f, Again::all}},
      {Book::iq2_s, {9, 0.1f, Again::off_book}},
      {Book::iq3_xxs, {15, 0.2f, Again::off_book}},
      {Book::iq3_s, {9, 0.2f, Again::all_if_off_book}}};
  on_every_isa([&](const kernels::CodebookTable& table) {
    for (const Rows& in : {golden_rows(), edge_rows()}) {
      for (size_t start = 0; start < in.x.size(); start += 256) {
        auto block = weighed(kernels::k_codebook_scalar, in, start, true, true);
        for (size_t at = 0; at < 256; at += 32) {
          const float *x = block.size + at, *w = block.w + at, *root = block.root + at;
          float largest = *std::max_element(x, x + 32);
          ASSERT_TRUE(
              same(kernels::k_codebook_scalar.positive_scale(x, w), table.positive_scale(x, w)));
          if (!(largest > 0)) continue;
          for (const auto& [book, search] : searches) {
            for (size_t n : {size_t{16}, size_t{32}}) {
              auto fit = [&](const kernels::CodebookTable& t) {
                return t.fit(kernels::codebook(book), search, x, w, root, n, largest, largest / 15);
              };
              kernels::LatticeFit expected = fit(kernels::k_codebook_scalar), found = fit(table);
              ASSERT_TRUE(same(expected.scale, found.scale)) << start + at;
              ASSERT_TRUE(std::equal(expected.codes, expected.codes + 8, found.codes))
                  << start + at;
            }
          }
        }
      }
    }
  });
}

TEST(GgmlCodebooks, EveryInstructionSetSplitsAlike) {
  const Codebook& book = kernels::codebook(Book::iq1);
  on_every_isa([&](const kernels::CodebookTable& table) {
    for (const Rows& in : {golden_rows(), edge_rows()}) {
      for (size_t start = 0; start < in.x.size(); start += 32) {
        auto block = weighed(kernels::k_codebook_scalar, in, start / 256 * 256, true, false);
        const float *x = in.x.data() + start, *w = block.w + start % 256;
        for (auto split : {&kernels::CodebookTable::split_32, &kernels::CodebookTable::split_16}) {
          kernels::Split expected = (kernels::k_codebook_scalar.*split)(x, w),
                         found = (table.*split)(x, w);
          ASSERT_EQ(expected.found, found.found);
          if (!expected.found) continue;
          ASSERT_TRUE(same(expected.scale, found.scale)) << start;
          ASSERT_EQ(expected.down, found.down) << start;
          ASSERT_TRUE(std::equal(expected.codes, expected.codes + 4, found.codes)) << start;
          if (book.on_book(found.codes[0])) continue;
          auto nearest = [&](const kernels::CodebookTable& t) {
            return t.nearest_ternary(book, found.codes[0], x, w, found.scale, -0.125f);
          };
          ASSERT_EQ(nearest(kernels::k_codebook_scalar), nearest(table)) << start;
        }
      }
    }
  });
}

}  // namespace
}  // namespace qp
