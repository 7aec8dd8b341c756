// Layouts against bytes worked out by hand (reference/int4-formats.md, worked examples), and as
// bijections: encode and decode undo each other, whole and in pieces.
#include "lib/layout/layout.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <string>
#include <vector>

#include "lib/layout/bits.h"

namespace qp {
namespace {

using Bytes = std::vector<std::byte>;

// Canonical rows of elements that f(row, column) gives.
template <class F>
Bytes rows_of(const LayoutArgs& a, F f) {
  Bytes rows(a.rows * a.row_bytes());
  for (uint64_t r = 0; r < a.rows; ++r) {
    for (uint64_t c = 0; c < a.cols; ++c) {
      layout::set(rows.data() + r * a.row_bytes(), c, a.bits, static_cast<uint32_t>(f(r, c)));
    }
  }
  return rows;
}

std::vector<uint32_t> words_of(const Bytes& bytes) {
  std::vector<uint32_t> out;
  for (size_t i = 0; i < bytes.size(); i += 4) out.push_back(layout::load32(&bytes[i]));
  return out;
}

Bytes encode(const Layout& l, const LayoutArgs& a, const Bytes& rows) {
  Bytes out(l.stored_bytes(a).value(), std::byte{0xEE});
  l.encode(a, rows.data(), 0, a.rows, out.data());
  return out;
}

TEST(Layout, GptqExamples) {
  // G4 twice along K, as K is a multiple of 32 here: columns 0..7 and 15..8.
  LayoutArgs a{.rows = 2, .cols = 32, .bits = 4, .stored_bits = 4};
  Bytes g4 = rows_of(a, [](uint64_t n, uint64_t k) { return n == 0 ? k % 8 : 15 - k % 8; });
  auto words = words_of(encode(gptq_layout, a, g4));
  ASSERT_EQ(words.size(), 8u);
  EXPECT_EQ(words[0], 0x76543210u);
  EXPECT_EQ(words[1], 0x89ABCDEFu);
  EXPECT_EQ(words[6], 0x76543210u);
  // G3: one column, K = 32, codes k mod 8.
  LayoutArgs b{.rows = 1, .cols = 32, .bits = 3, .stored_bits = 3};
  Bytes g3 = rows_of(b, [](uint64_t, uint64_t k) { return k % 8; });
  EXPECT_EQ(words_of(encode(gptq_layout, b, g3)), (std::vector<uint32_t>{0x88FAC688, 0xC688FAC6, 0xFAC688FA}));
  EXPECT_EQ(words_of(encode(gptq_planar_layout, b, g3)),
            (std::vector<uint32_t>{0xE4E4E4E4, 0xE4E4E4E4, 0xF0F0F0F0}));
}

TEST(Layout, GptqPlanarExamples) {
  LayoutArgs five{.rows = 1, .cols = 32, .bits = 5, .stored_bits = 5};
  EXPECT_EQ(words_of(encode(gptq_planar_layout, five, rows_of(five, [](uint64_t, uint64_t k) { return k; }))),
            (std::vector<uint32_t>{0x76543210, 0xFEDCBA98, 0x76543210, 0xFEDCBA98, 0xFFFF0000}));
  LayoutArgs six{.rows = 1, .cols = 32, .bits = 6, .stored_bits = 6};
  EXPECT_EQ(words_of(encode(gptq_planar_layout, six, rows_of(six, [](uint64_t, uint64_t k) { return 2 * k % 64; }))),
            (std::vector<uint32_t>{0xECA86420, 0xECA86420, 0xECA86420, 0xECA86420, 0x55550000, 0xFFFFAAAA}));
}

TEST(Layout, GptqPlanarZeros) {
  // The planes of 32 channels stand side by side in a group's line: those of the codes above.
  LayoutArgs a{.rows = 32, .cols = 2, .bits = 8, .stored_bits = 5};
  EXPECT_EQ(words_of(encode(gptq_planar_zeros_layout, a, rows_of(a, [](uint64_t n, uint64_t g) { return g == 0 ? n : 0; }))),
            (std::vector<uint32_t>{0x76543210, 0xFEDCBA98, 0x76543210, 0xFEDCBA98, 0xFFFF0000, 0, 0, 0, 0, 0}));
}

TEST(Layout, GptqZeros) {
  // Eight channels of zero point 8: 0x77777777 in v1, 0x88888888 in v2; 32 channels for 3 bits.
  LayoutArgs a{.rows = 8, .cols = 1, .bits = 8, .stored_bits = 4, .bias = 1};
  Bytes eight = rows_of(a, [](uint64_t, uint64_t) { return 8; });
  EXPECT_EQ(words_of(encode(gptq_zeros_layout, a, eight)), std::vector<uint32_t>{0x77777777});
  a.bias = 0;
  EXPECT_EQ(words_of(encode(gptq_zeros_layout, a, eight)), std::vector<uint32_t>{0x88888888});
  EXPECT_EQ(words_of(encode(gptq_zeros_word_layout, a, eight)), std::vector<uint32_t>{0x77777777});
  LayoutArgs three{.rows = 32, .cols = 1, .bits = 8, .stored_bits = 3, .bias = 1};
  Bytes four = rows_of(three, [](uint64_t, uint64_t) { return 4; });
  EXPECT_EQ(words_of(encode(gptq_zeros_layout, three, four)),
            (std::vector<uint32_t>{0xDB6DB6DB, 0xB6DB6DB6, 0x6DB6DB6D}));
  // A stored 15 is a zero point of 16, which is no field of its own.
  Bytes stored(4, std::byte{0xFF}), rows(8);
  a.bias = 1;
  gptq_zeros_layout.decode(a, stored.data(), 0, 8, rows.data());
  EXPECT_EQ(rows, Bytes(8, std::byte{16}));
  // GPTQModel's words: a zero point of 0 in channel 0 borrows from channel 1 and comes back.
  Bytes mixed = rows_of(a, [](uint64_t n, uint64_t) { return n; }), back(8);
  a.bias = 0;
  Bytes word = encode(gptq_zeros_word_layout, a, mixed);
  EXPECT_EQ(words_of(word), std::vector<uint32_t>{0x76543210u - 0x11111111u});
  gptq_zeros_word_layout.decode(a, word.data(), 0, 8, back.data());
  EXPECT_EQ(back, mixed);
}

TEST(Layout, AwqExamples) {
  // A4: output channels 0..7 have codes 0..7 (and 8..15 the next eight).
  LayoutArgs a{.rows = 16, .cols = 1, .bits = 4, .stored_bits = 4};
  Bytes rows = rows_of(a, [](uint64_t n, uint64_t) { return n; });
  EXPECT_EQ(words_of(encode(awq_layout, a, rows)), (std::vector<uint32_t>{0x75316420, 0xFDB9ECA8}));
  LayoutArgs zeros{.rows = 8, .cols = 1, .bits = 8, .stored_bits = 4};
  Bytes z = rows_of(zeros, [](uint64_t n, uint64_t) { return n; });
  EXPECT_EQ(words_of(encode(awq_zeros_layout, zeros, z)), std::vector<uint32_t>{0x75316420});
  // The blocks of eight rows and words go another way than single elements: 8 columns and more.
  for (uint64_t cols : {8u, 24u, 136u}) {
    LayoutArgs wide{.rows = 8, .cols = cols, .bits = 4, .stored_bits = 4};
    auto words = words_of(encode(awq_layout, wide, rows_of(wide, [](uint64_t n, uint64_t k) { return (n + k) % 16; })));
    for (uint64_t k = 0; k < cols; ++k) {
      for (uint64_t i = 0; i < 8; ++i) {
        constexpr uint64_t kOrder[8] = {0, 2, 4, 6, 1, 3, 5, 7};
        EXPECT_EQ(words[k] >> (4 * i) & 15, (kOrder[i] + k) % 16) << cols << " " << k << " " << i;
      }
    }
  }
}

TEST(Layout, GemvFastFollowsItsRule) {
  // Row r owns words 16 r .. 16 r + 15 of 64 columns; word t of half h, nibble i: column 32 h + t + 8 i.
  LayoutArgs a{.rows = 4, .cols = 64, .bits = 4, .stored_bits = 4};
  Bytes stored = encode(awq_gemv_fast_layout, a, rows_of(a, [](uint64_t r, uint64_t c) { return r == 1 && c == 32 + 3 + 16 ? 9 : 0; }));
  for (uint64_t i = 0; i < stored.size() * 2; ++i) {
    EXPECT_EQ(layout::get(stored.data(), i, 4), i == (16 + 8 + 3) * 4 + 2 ? 9u : 0u) << i;
  }
}

TEST(Layout, SmallExamples) {
  // ModelSlim's W4A8: q0 = 1, q1 = -2 make 0xE1.
  LayoutArgs pair{.rows = 2, .cols = 1, .bits = 4, .stored_bits = 4, .is_signed = true};
  EXPECT_EQ(encode(row_pairs_layout, pair, rows_of(pair, [](uint64_t r, uint64_t) { return r == 0 ? 9 : 6; })),
            Bytes{std::byte{0xE1}});
  // bitsandbytes' B4: NF4 codes 0,1,2,7,8,10,12,15.
  LayoutArgs nf4{.rows = 1, .cols = 8, .bits = 4, .stored_bits = 4};
  constexpr uint64_t kCodes[8] = {0, 1, 2, 7, 8, 10, 12, 15};
  Bytes b4 = encode(high_nibble_layout, nf4, rows_of(nf4, [&](uint64_t, uint64_t c) { return kCodes[c]; }));
  EXPECT_EQ(b4, (Bytes{std::byte{0x01}, std::byte{0x27}, std::byte{0x8A}, std::byte{0xCF}}));
  // Quark's reorder: elements 0..7 make 0x75316420.
  EXPECT_EQ(words_of(encode(reordered_layout, nf4, rows_of(nf4, [](uint64_t, uint64_t c) { return c; }))),
            std::vector<uint32_t>{0x75316420});
  // One signed nibble a byte: -8 is 0xF8.
  LayoutArgs one{.rows = 1, .cols = 2, .bits = 4, .stored_bits = 8, .is_signed = true};
  EXPECT_EQ(encode(bytes_layout, one, rows_of(one, [](uint64_t, uint64_t c) { return c == 0 ? 0 : 15; })),
            (Bytes{std::byte{0xF8}, std::byte{0x07}}));
}

TEST(Layout, MarlinScales) {
  // [i + 8 j] over runs of 64 columns; of 32, [2 i + {0, 1, 8, 9, 16, 17, 24, 25}], for whole rows.
  auto column_of = [](uint64_t rows, uint64_t cols, size_t entry) {
    LayoutArgs a{.rows = rows, .cols = cols, .bits = 16, .stored_bits = 16};
    Bytes stored = encode(marlin_scales_layout, a, rows_of(a, [&](uint64_t n, uint64_t g) { return n + 1000 * g; }));
    return layout::get(stored.data(), entry, 16);
  };
  EXPECT_EQ(column_of(64, 2, 1), 8u);
  EXPECT_EQ(column_of(64, 2, 8), 1u);
  EXPECT_EQ(column_of(64, 2, 64 + 63), 1063u);
  EXPECT_EQ(column_of(64, 1, 2), 8u);
  EXPECT_EQ(column_of(64, 1, 8), 2u);
  EXPECT_EQ(column_of(64, 1, 32 + 31), 63u);
}

struct Case {
  const Layout* layout;
  LayoutArgs args;
};

class Bijection : public testing::TestWithParam<Case> {};

TEST_P(Bijection, DecodeUndoesEncode) {
  const auto& [l, a] = GetParam();
  ASSERT_TRUE(l->stored_bytes(a).has_value());
  std::mt19937 rng(7);
  uint32_t range = 1u << std::min(a.bits, a.stored_bits);
  Bytes rows = rows_of(a, [&](uint64_t, uint64_t) { return rng() % range + a.bias; });
  Bytes stored = encode(*l, a, rows), again(stored.size(), std::byte{0x55}), back(rows.size(), std::byte{0x55});
  l->decode(a, stored.data(), 0, a.rows, back.data());
  EXPECT_EQ(back, rows);
  // In pieces: any rows when decoding, whole units when encoding.
  std::ranges::fill(back, std::byte{0x55});
  for (uint64_t r = 0, step = 1; r < a.rows; r += step, step = step % 5 + 1) {
    step = std::min(step, a.rows - r);
    l->decode(a, stored.data(), r, step, back.data() + r * a.row_bytes());
  }
  EXPECT_EQ(back, rows);
  uint64_t unit = l->row_unit(a);
  for (uint64_t r = 0; r < a.rows; r += unit) {
    l->encode(a, rows.data() + r * a.row_bytes(), r, std::min(unit, a.rows - r), again.data());
  }
  EXPECT_EQ(again, stored);
  if (l->contiguous) {
    LayoutArgs first = a;
    first.rows = unit;
    Bytes one = encode(*l, first, rows);
    EXPECT_TRUE(std::equal(one.begin(), one.end(), stored.begin()));
  }
}

std::vector<Case> cases() {
  std::vector<Case> out;
  for (int bits : {2, 3, 4, 5, 6, 7, 8}) {
    for (uint64_t rows : {1u, 16u, 37u, 64u}) {
      LayoutArgs a{.rows = rows, .cols = 96, .bits = bits, .stored_bits = bits};
      out.insert(out.end(), {{&gptq_layout, a}, {&gptq_planar_layout, a}, {&dense_layout, a}});
      LayoutArgs odd{.rows = rows, .cols = 41, .bits = bits, .stored_bits = bits};
      out.push_back({&words_layout, odd});
      out.push_back({&whole_words_layout, odd});
      out.push_back({&bytes_layout, {.rows = rows, .cols = 41, .bits = bits, .is_signed = rows % 2 == 0}});
      LayoutArgs zeros{.rows = rows, .cols = 5, .bits = 8, .stored_bits = bits};
      out.push_back({&packed_rows_layout, zeros});
      out.push_back({&bytes_layout, {.rows = rows, .cols = 5, .bias = uint64_t{1} << (bits - 1)}});
      zeros.bias = 1;
      out.push_back({&gptq_zeros_layout, zeros});
    }
  }
  for (int bits = 2; bits <= 8; ++bits) {
    out.push_back({&gptq_planar_zeros_layout, {.rows = 96, .cols = 3, .stored_bits = bits}});
  }
  for (int bits : {2, 4, 8}) out.push_back({&gptq_zeros_word_layout, {.rows = 64, .cols = 3, .stored_bits = bits}});
  for (int bits : {8, 16, 32}) {
    for (uint64_t rows : {1u, 31u, 64u, 129u}) {
      out.push_back({&transposed_layout, {.rows = rows, .cols = 67, .bits = bits, .stored_bits = bits}});
    }
  }
  for (uint64_t cols : {1u, 8u, 40u, 200u}) {
    out.push_back({&awq_layout, {.rows = 48, .cols = cols, .bits = 4, .stored_bits = 4}});
    out.push_back({&awq_layout, {.rows = 48, .cols = cols, .bits = 8, .stored_bits = 8}});
    out.push_back({&awq_layout,
                   {.rows = 48, .cols = cols, .bits = 4, .stored_bits = 4, .is_signed = true}});
    out.push_back({&awq_zeros_layout, {.rows = 48, .cols = cols, .bits = 8, .stored_bits = 4}});
    out.push_back({&awq_zeros_layout, {.rows = 48, .cols = cols, .bits = 8, .stored_bits = 8}});
    out.push_back({&row_pairs_layout, {.rows = 6, .cols = cols, .bits = 4, .stored_bits = 4, .is_signed = true}});
  }
  out.push_back({&awq_gemv_fast_layout, {.rows = 12, .cols = 192, .bits = 4, .stored_bits = 4}});
  out.push_back({&marlin_layout, {.rows = 128, .cols = 48, .bits = 4, .stored_bits = 4}});
  out.push_back({&marlin_scales_layout, {.rows = 128, .cols = 3, .bits = 16, .stored_bits = 16}});
  out.push_back({&marlin_scales_layout, {.rows = 96, .cols = 1, .bits = 16, .stored_bits = 16}});
  out.push_back({&high_nibble_layout, {.rows = 3, .cols = 6, .bits = 4, .stored_bits = 4}});
  out.push_back({&reordered_layout, {.rows = 3, .cols = 24, .bits = 4, .stored_bits = 4, .is_signed = true}});
  out.push_back({&dense_layout, {.rows = 3, .cols = 24, .bits = 4, .stored_bits = 4, .is_signed = true}});
  return out;
}

INSTANTIATE_TEST_SUITE_P(All, Bijection, testing::ValuesIn(cases()), [](const auto& test) {
  const LayoutArgs& a = test.param.args;
  return std::string(test.param.layout->name) + "_" + std::to_string(a.rows) + "x" + std::to_string(a.cols) + "_" +
         std::to_string(a.bits) + "_" + std::to_string(test.index);
});

TEST(Layout, RefusesWhatItCannotHold) {
  EXPECT_FALSE(awq_layout.stored_bytes({.rows = 12, .cols = 8, .bits = 4, .stored_bits = 4}));
  EXPECT_FALSE(gptq_layout.stored_bytes({.rows = 12, .cols = 36, .bits = 4, .stored_bits = 4}));
  EXPECT_FALSE(marlin_layout.stored_bytes({.rows = 32, .cols = 16, .bits = 4, .stored_bits = 4}));
  EXPECT_FALSE(transposed_layout.stored_bytes({.rows = 3, .cols = 3, .bits = 4, .stored_bits = 4}));
  EXPECT_EQ(find_layout("no such"), nullptr);
  for (const Layout* l : layouts()) EXPECT_EQ(find_layout(l->name), l);
}

}  // namespace
}  // namespace qp
