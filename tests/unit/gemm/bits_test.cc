// The bits of an element depend on its own inputs alone: not on how rows and columns are cut, where
// it is, what is beside it, the threads, or which of the functions made it.
#include <tuple>

#include "lib/gemm/gemm.h"
#include "tests/unit/gemm/gemm_data.h"

namespace qp::gemm {
namespace {

// Larger than a block both ways, with tails of every kind; k of several steps and a tail.
constexpr size_t kM = 401, kN = 453, kK = 1061;

class Bits : public EveryBackend {
 protected:
  std::vector<float> x_ = normal(kM * kK, 1), w_ = normal(kN * kK, 2), start_ = normal(kM * kN, 3);

  Packed packed_rows(size_t first, size_t count) const {
    Packed p(count, kK, precision());
    p.pack_all(w_.data() + first * kK, kK);
    return p;
  }
  std::vector<float> whole() const {
    auto y = start_;
    multiply(x_.data(), kK, kM, packed_rows(0, kN), nullptr, y.data(), kN, true);
    return y;
  }
};

TEST_P(Bits, RowsInAnyCut) {
  auto want = bits(whole());
  Packed w = packed_rows(0, kN);
  for (size_t cut : {size_t{1}, size_t{7}, size_t{16}, size_t{100}, size_t{400}}) {
    auto y = start_;
    for (size_t i = 0; i < kM; i += cut) {
      multiply(x_.data() + i * kK, kK, std::min(cut, kM - i), w, nullptr, y.data() + i * kN, kN,
               true);
    }
    ASSERT_EQ(bits(y), want) << cut;
  }
}

TEST_P(Bits, ColumnsInAnyCut) {
  auto want = bits(whole());
  for (size_t cut : {size_t{33}, size_t{64}, size_t{452}}) {
    auto y = start_;
    for (size_t j = 0; j < kN; j += cut) {
      multiply(x_.data(), kK, kM, packed_rows(j, std::min(cut, kN - j)), nullptr, y.data() + j, kN,
               true);
    }
    ASSERT_EQ(bits(y), want) << cut;
  }
  auto y = start_;
  for (size_t j = 0; j < kN; j += j < 7 || j == kN - 1 ? 1 : kN - 8) {  // some by themselves
    multiply(x_.data(), kK, kM, packed_rows(j, j == 7 ? kN - 8 : 1), nullptr, y.data() + j, kN,
             true);
  }
  ASSERT_EQ(bits(y), want);
}

TEST_P(Bits, AnyThreads) {
  std::vector<float> h(kK * kK);
  std::vector<uint32_t> want, want_h;
  for (int n : {1, 2, 7}) {
    set_threads(n);
    auto y = bits(whole());
    std::fill(h.begin(), h.end(), 0.5f);
    rank_update_lower(precision(), x_.data(), kK, kM, kK, h.data(), kK);
    if (n == 1) {
      want = y;
      want_h = bits(h);
    }
    ASSERT_EQ(y, want) << n;
    ASSERT_EQ(bits(h), want_h) << n;
  }
}

TEST_P(Bits, AnyFunction) {
  auto want = bits(whole());
  Scratch scratch;
  Operand x{x_.data(), kK}, w{w_.data(), kK, true};
  auto c = start_;
  product(precision(), kM, kN, kK, 1, x, w, c.data(), kN, true);
  EXPECT_EQ(bits(c), want);
  c = start_;
  product_serial(precision(), kM, kN, kK, 1, x, w, c.data(), kN, true, scratch);
  EXPECT_EQ(bits(c), want);
  c = start_;
  multiply_serial(x_.data(), kK, kM, packed_rows(0, kN), 1, c.data(), kN, true, scratch);
  EXPECT_EQ(bits(c), want);
}

// Moved to another place, among rows that are NaN, an element is the same.
TEST_P(Bits, AnyPlaceAndNeighbours) {
  auto all = whole();
  const float nan = std::numeric_limits<float>::quiet_NaN();
  for (size_t at : {0u, 1u, 13u, 31u, 40u}) {
    std::vector<float> x(50 * kK, nan), w(50 * kK, nan), c(50 * 50);
    std::copy_n(&x_[200 * kK], kK, &x[at * kK]);
    std::copy_n(&w_[300 * kK], kK, &w[(49 - at) * kK]);
    c[at * 50 + 49 - at] = start_[200 * kN + 300];
    product(precision(), 50, 50, kK, 1, {x.data(), kK}, {w.data(), kK, true}, c.data(), 50, true);
    ASSERT_EQ(std::bit_cast<uint32_t>(c[at * 50 + 49 - at]),
              std::bit_cast<uint32_t>(all[200 * kN + 300]))
        << at;
  }
}

TEST_P(Bits, AccumulationAddsTheWholeSumOnce) {
  auto y = whole();
  std::vector<float> sum(kM * kN);
  multiply(x_.data(), kK, kM, packed_rows(0, kN), nullptr, sum.data(), kN, false);
  for (size_t i = 0; i < sum.size(); ++i) ASSERT_EQ(y[i], start_[i] + sum[i]) << i;
}

// h from blocks of rows added in order, each the product of x^T and x.
TEST_P(Bits, RankUpdateIsTheProductOfEachBlockOfRows) {
  const size_t k = 75, m = kRankRows + 300;
  auto x = normal(m * k, 5), h = normal(k * k, 6), want = h;
  rank_update_lower(precision(), x.data(), k, m, k, h.data(), k);
  for (size_t i = 0; i < m; i += kRankRows) {
    const float* rows = x.data() + i * k;
    product(precision(), k, k, std::min(kRankRows, m - i), 1, {rows, k, true}, {rows, k},
            want.data(), k, true);
  }
  for (size_t i = 0; i < k; ++i) {
    for (size_t j = 0; j <= i; ++j) ASSERT_EQ(h[i * k + j], want[i * k + j]) << i << ", " << j;
  }
}

// Operands with a triangle of zeros: the same bits whether or not their zeros are left out; and a
// lower triangle alone is that of the whole.
TEST_P(Bits, TrianglesAreWhatTheyAreWithTheirZeros) {
  const Part parts[] = {Part::all, Part::lower, Part::upper};
  Scratch scratch;
  auto cut = [](std::vector<float> m, size_t rows, size_t cols, Part part) {
    for (size_t i = 0; i < rows; ++i) {
      for (size_t j = 0; j < cols; ++j) {
        if (part == Part::lower ? j > i : part == Part::upper && j < i) m[i * cols + j] = 0;
      }
    }
    return m;
  };
  auto turned = [](const std::vector<float>& m, size_t rows, size_t cols) {
    std::vector<float> t(m.size());
    for (size_t i = 0; i < m.size(); ++i) t[i % cols * rows + i / cols] = m[i];
    return t;
  };
  for (auto [m, n, k] : {std::tuple<size_t, size_t, size_t>{1, 1, 1}, {64, 64, 64}, {401, 390, 600}, {90, 700, 310},
                         {530, 33, 61}}) {
    auto start = normal(m * n, 3);
    for (Part of_a : parts) {
      for (Part of_b : parts) {
        auto a = cut(normal(m * k, 1), m, k, of_a), b = cut(normal(k * n, 2), k, n, of_b);
        auto at = turned(a, m, k), bt = turned(b, k, n);
        auto want = start, c = start;
        product(precision(), m, n, k, -1, {a.data(), k}, {b.data(), n}, want.data(), n, true);
        product(precision(), m, n, k, -1, {a.data(), k, false, of_a}, {b.data(), n, false, of_b}, c.data(), n, true);
        ASSERT_EQ(bits(c), bits(want)) << m << " " << n << " " << k;
        c = start;
        product_serial(precision(), m, n, k, -1, {at.data(), m, true, of_a}, {bt.data(), k, true, of_b}, c.data(), n,
                       true, scratch);
        ASSERT_EQ(bits(c), bits(want)) << m << " " << n << " " << k;
        for (bool alone : {false, true}) {
          c = start;
          if (alone) {
            product_serial(precision(), m, n, k, -1, {a.data(), k, false, of_a}, {b.data(), n, false, of_b}, c.data(),
                           n, true, scratch, true);
          } else {
            product(precision(), m, n, k, -1, {a.data(), k, false, of_a}, {b.data(), n, false, of_b}, c.data(), n,
                    true, true);
          }
          for (size_t i = 0; i < c.size(); ++i) ASSERT_EQ(c[i], (i % n > i / n ? start : want)[i]) << i;
        }
      }
    }
  }
}

// Operands that are packed in parts: one panel, a few, all at once.
TEST_P(Bits, AnyPanelMemory) {
  auto want = bits(whole());
  std::vector<float> h(kN * kN), want_h(kN * kN);
  rank_update_lower(precision(), w_.data(), kN, kK, kN, want_h.data(), kN);
  for (size_t bytes : {size_t{1}, size_t{400} << 10, size_t{900} << 10}) {
    Forced part(GetParam().pair, bytes);
    EXPECT_EQ(bits(whole()), want) << bytes;
    auto c = start_;
    product(precision(), kM, kN, kK, 1, {x_.data(), kK}, {w_.data(), kK, true}, c.data(), kN, true);
    EXPECT_EQ(bits(c), want) << bytes;
    std::fill(h.begin(), h.end(), 0.0f);
    rank_update_lower(precision(), w_.data(), kN, kK, kN, h.data(), kN);
    EXPECT_EQ(bits(h), bits(want_h)) << bytes;
  }
}

// Results so large that they are written around the cache.
TEST_P(Bits, LargeResults) {
  const size_t m = 1030, n = 2064, k = 40;
  auto x = normal(m * k, 1), w = normal(n * k, 2);
  Packed p(n, k, precision());
  p.pack_all(w.data(), k);
  for (size_t ldy : {n, n + 3}) {
    std::vector<float> y(m * ldy, 7), part(n);
    multiply(x.data(), k, m, p, nullptr, y.data(), ldy, false);
    for (size_t i = 0; i < m; i += 97) {
      multiply(x.data() + i * k, k, 1, p, nullptr, part.data(), n, false);
      ASSERT_TRUE(std::equal(part.begin(), part.end(), &y[i * ldy])) << ldy << ": " << i;
      if (ldy > n) { ASSERT_EQ(y[i * ldy + n], 7); }
    }
  }
}

QP_EVERY_BACKEND(Bits);

// gemm.h: in f32, all with fused multiply-add agree.
TEST(BitsAcross, FusedInstructionSetsAgreeInF32) {
  const size_t m = 37, n = 70, k = 1000;
  auto x = normal(m * k, 1), w = normal(n * k, 2);
  std::vector<uint32_t> want;
  for (const Pair& pair : supported()) {
    if (std::string(pair.isa) == "scalar") continue;
    Forced forced(pair);
    std::vector<float> c(m * n);
    product(Precision::f32, m, n, k, 0.7f, {x.data(), k}, {w.data(), k, true}, c.data(), n, false);
    if (want.empty()) want = bits(c);
    EXPECT_EQ(bits(c), want) << pair.isa;
  }
}

}  // namespace
}  // namespace qp::gemm
