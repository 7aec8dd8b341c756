// The rounding of inputs, and the ways to fill a Packed.
#include <cstring>
#include <set>

#include "lib/base/error.h"
#include "lib/gemm/gemm.h"
#include "tests/unit/gemm/gemm_data.h"

namespace qp::gemm {
namespace {

class Packing : public EveryBackend {};

// x times the identity is x as the kernels see it: each element on its own.
std::vector<float> as_seen(Precision precision, const std::vector<float>& x, bool left) {
  const size_t n = x.size();
  std::vector<float> one{1}, out(n);
  Operand column{x.data(), 1}, row{x.data(), n}, unit{one.data(), 1};
  if (left) {
    product(precision, n, 1, 1, 1, column, unit, out.data(), 1, false);
  } else {
    product(precision, 1, n, 1, 1, unit, row, out.data(), n, false);
  }
  return out;
}

TEST_P(Packing, RoundsToNearestEven) {
  // Worked by hand: bf16 keeps the upper 16 bits.
  const std::pair<uint32_t, uint32_t> kCases[] = {
      {0x3f800000, 0x3f800000}, {0x3f808000, 0x3f800000},  // tie, even below
      {0x3f818000, 0x3f820000},                            // tie, even above
      {0x3f808001, 0x3f810000}, {0x3f807fff, 0x3f800000}, {0xbf818000, 0xbf820000},
      {0x7f7f0000, 0x7f7f0000}, {0x7f7f7fff, 0x7f7f0000}, {0x7f7f8000, 0x7f800000},  // overflow
      {0xff7fffff, 0xff800000}, {0x7f800000, 0x7f800000}, {0xff800000, 0xff800000},
      {0x00800000, 0x00800000}, {0x00ff8000, 0x01000000}, {0x3fffffff, 0x40000000}};
  std::vector<float> x, want;
  for (auto [from, to] : kCases) {
    x.push_back(std::bit_cast<float>(from));
    want.push_back(std::bit_cast<float>(precision() == Precision::bf16 ? to : from));
  }
  EXPECT_EQ(bits(as_seen(precision(), x, true)), bits(want));
  EXPECT_EQ(bits(as_seen(precision(), x, false)), bits(want));
}

TEST_P(Packing, ZeroSumsArePositive) {
  std::vector<float> x{-0.0f, 0.0f};
  for (float y : as_seen(precision(), x, true)) {
    EXPECT_EQ(std::bit_cast<uint32_t>(y), 0u);
  }
}

// Instructions for bf16 take them for zero, as gemm.h says; the others round them like any number.
TEST_P(Packing, Subnormals) {
  std::vector<float> x, want;
  bool flushed = std::set<std::string>{"amx", "avx512_bf16"}.contains(kernels().isa);
  for (uint32_t u : {0x00000001u, 0x00008000u, 0x00018000u, 0x80400000u, 0x007fffffu}) {
    x.push_back(std::bit_cast<float>(u));
    float seen_as = seen(x.back());
    want.push_back(flushed && std::fpclassify(seen_as) != FP_NORMAL ? 0 : 0 + seen_as);
  }
  EXPECT_EQ(bits(as_seen(precision(), x, true)), bits(want));
  EXPECT_EQ(bits(as_seen(precision(), x, false)), bits(want));
}

// A NaN whose payload is in the lower half alone does not become an infinity.
TEST_P(Packing, NaNStaysNaN) {
  std::vector<float> x;
  for (uint32_t u : {0x7f800001u, 0xff800001u, 0x7fc00000u, 0x7fffffffu, 0xffffffffu}) {
    x.push_back(std::bit_cast<float>(u));
  }
  for (bool left : {true, false}) {
    for (float y : as_seen(precision(), x, left)) EXPECT_TRUE(std::isnan(y));
  }
}

TEST_P(Packing, EveryRandomBitPattern) {
  std::mt19937 g(7);
  std::vector<float> x;
  while (x.size() < 20000) {
    float f = std::bit_cast<float>(static_cast<uint32_t>(g()));
    if (!std::isnan(f) && std::fpclassify(seen(f)) != FP_SUBNORMAL) x.push_back(f);
  }
  std::vector<float> want;
  for (float f : x) want.push_back(0 + seen(f));
  EXPECT_EQ(bits(as_seen(precision(), x, true)), bits(want));
  EXPECT_EQ(bits(as_seen(precision(), x, false)), bits(want));
}

TEST_P(Packing, AllSourcesAreOne) {
  const size_t n = 203, k = 99, m = 5, stride = 210;
  std::mt19937 g(3);
  std::vector<uint16_t> rows(n * stride), columns(k * stride);
  std::vector<float> rows32(n * stride), columns32(k * stride);
  for (size_t j = 0; j < n; ++j) {
    for (size_t p = 0; p < k; ++p) {
      uint16_t h = f32_to_bf16(static_cast<float>(g() % 2001) / 1000 - 1);
      rows[j * stride + p] = columns[p * stride + j] = h;
      rows32[j * stride + p] = columns32[p * stride + j] = bf16_to_f32(h);
    }
  }
  auto x = normal(m * k, 4);
  std::vector<uint32_t> want;
  for (int form = 0; form < 8; ++form) {
    Packed p(n, k, precision());
    if (form == 0) p.pack_all(rows32.data(), stride);
    if (form == 1) p.pack_all(rows.data(), stride);
    if (form == 2) p.pack_all_transposed(columns32.data(), stride);
    if (form == 3) p.pack_all_transposed(columns.data(), stride);
    for (size_t i = 0; form >= 4 && i < n; i += Packed::unit()) {  // in groups
      size_t count = std::min(Packed::unit(), n - i);
      if (form == 4) p.pack(i, count, &rows32[i * stride], stride);
      if (form == 5) p.pack(i, count, &rows[i * stride], stride);
      if (form == 6) p.pack_transposed(i, count, &columns32[i], stride);
      if (form == 7) p.pack_transposed(i, count, &columns[i], stride);
    }
    std::vector<float> y(m * n);
    multiply(x.data(), k, m, p, nullptr, y.data(), n, false);
    if (form == 0) want = bits(y);
    EXPECT_EQ(bits(y), want) << form;
  }
}

// What an earlier, larger matrix left in the padding does not show.
TEST_P(Packing, ReshapedMemoryIsClean) {
  Packed p(130, 300, precision());
  std::vector<float> junk(130 * 300, std::numeric_limits<float>::infinity());
  p.pack_all(junk.data(), 300);
  const size_t n = 70, k = 33;
  auto w = normal(n * k, 1), x = normal(3 * k, 2);
  p.reshape(n, k, precision());
  p.pack_all(w.data(), k);
  Packed fresh(n, k, precision());
  fresh.pack_all(w.data(), k);
  std::vector<float> y(3 * n), z(3 * n);
  multiply(x.data(), k, 3, p, nullptr, y.data(), n, false);
  multiply(x.data(), k, 3, fresh, nullptr, z.data(), n, false);
  EXPECT_EQ(bits(y), bits(z));
}

TEST_P(Packing, SizesAreChecked) {
  size_t element = precision() == Precision::bf16 ? 2 : 4;
  size_t exact = 640 * 2048 * element;
  EXPECT_EQ(Packed::bytes(640, 2048, precision()), exact);
  EXPECT_THROW(Packed::bytes(SIZE_MAX, 1, precision()), Error);
  EXPECT_THROW(Packed::bytes(1, SIZE_MAX, precision()), Error);
  EXPECT_THROW(Packed::bytes(size_t{1} << 40, size_t{1} << 40, precision()), Error);
  Packed p(100, 8, precision());
  std::vector<float> w(100 * 8);
  EXPECT_THROW(p.pack(1, 10, w.data(), 8), Error);
  EXPECT_THROW(p.pack(0, 10, w.data(), 8), Error);
  EXPECT_THROW(p.pack(64, 64, w.data(), 8), Error);
  p.pack(64, 36, w.data(), 8);
}

QP_EVERY_BACKEND(Packing);

}  // namespace
}  // namespace qp::gemm
