// Products against sums in double precision.
#include <limits>

#include "lib/gemm/gemm.h"
#include "tests/unit/gemm/gemm_data.h"

namespace qp::gemm {
namespace {

struct Shape {
  size_t m, n, k;
};
// Around every tile and step: 1, 15 .. 17, 31 .. 33, the 256 terms of a chain, several blocks.
const Shape kShapes[] = {{1, 1, 1},    {15, 17, 31},  {17, 15, 33},    {31, 33, 576}, {33, 31, 17},
                         {1, 576, 33}, {576, 1, 15},  {16, 32, 64},    {14, 64, 256}, {32, 32, 257},
                         {64, 65, 66}, {129, 600, 5}, {530, 515, 300}, {3, 5, 2049},  {2, 3, 70000},
                         {5, 7, 0}};

class Products : public EveryBackend {
 protected:
  // The sums of x [m, k] and w [n, k], as the kernels see them.
  std::vector<Exact> exact(const Shape& s, std::vector<float> x, std::vector<float> w) const {
    for (float& f : x) f = seen(f);
    for (float& f : w) f = seen(f);
    std::vector<Exact> sums(s.m * s.n);
    for (size_t i = 0; i < sums.size(); ++i) {
      const float* row = x.data() + i / s.n * s.k;
      const float* column = w.data() + i % s.n * s.k;
      for (size_t p = 0; p < s.k; ++p) sums[i].term(row[p], column[p]);
    }
    return sums;
  }

  // Every element of c against start + alpha * sum + bias.
  static void compare(const Shape& s, const std::vector<Exact>& sums, const std::vector<float>& c,
                      float alpha, const float* bias, const std::vector<float>* start) {
    for (size_t i = 0; i < sums.size(); ++i) {
      double want = sums[i].sum * static_cast<double>(alpha), rest = 0;
      if (start) rest += static_cast<double>((*start)[i]);
      if (bias) rest += static_cast<double>(bias[i % s.n]);
      double bound = sums[i].bound(s.k) * std::fabs(static_cast<double>(alpha)) +
                     0x1p-22 * (std::fabs(want) + std::fabs(rest) + 2);
      ASSERT_NEAR(static_cast<double>(c[i]), want + rest, bound)
          << s.m << "x" << s.n << "x" << s.k << " at " << i / s.n << ", " << i % s.n;
    }
  }
};

std::vector<float> transpose(const std::vector<float>& v, size_t rows, size_t cols) {
  std::vector<float> t(v.size());
  for (size_t i = 0; i < rows; ++i) {
    for (size_t j = 0; j < cols; ++j) t[j * rows + i] = v[i * cols + j];
  }
  return t;
}

TEST_P(Products, LinearWithBiasAndAccumulation) {
  for (const Shape& s : kShapes) {
    auto x = normal(s.m * s.k, 1), w = normal(s.n * s.k, 2), bias = normal(s.n, 3);
    auto sums = exact(s, x, w);
    Packed packed(s.n, s.k, precision());
    packed.pack_all(w.data(), s.k);
    std::vector<float> y(s.m * s.n, std::numeric_limits<float>::quiet_NaN());
    multiply(x.data(), s.k, s.m, packed, nullptr, y.data(), s.n, false);
    compare(s, sums, y, 1, nullptr, nullptr);
    multiply(x.data(), s.k, s.m, packed, bias.data(), y.data(), s.n, false);
    compare(s, sums, y, 1, bias.data(), nullptr);
    y = normal(s.m * s.n, 4);
    auto start = y;
    multiply(x.data(), s.k, s.m, packed, bias.data(), y.data(), s.n, true);
    compare(s, sums, y, 1, bias.data(), &start);
  }
}

// An input that is packed once, for weights of several sizes; and one too large to be kept.
TEST_P(Products, SeveralWeightsOfOneInput) {
  for (size_t k : {size_t{70}, size_t{33}}) {
    Shape s{70, 40, k};
    auto x = normal(s.m * k, 1);
    Left left(x.data(), k, s.m);
    for (unsigned seed = 2; seed < 5; ++seed) {
      auto w = normal(s.n * k, seed);
      Packed packed(s.n, k, precision());
      packed.pack_all(w.data(), k);
      std::vector<float> y(s.m * s.n);
      multiply(left, packed, nullptr, y.data(), s.n, false);
      compare(s, exact(s, x, w), y, 1, nullptr, nullptr);
    }
  }
}

TEST_P(Products, GeneralInAllTranspositions) {
  for (const Shape& s : kShapes) {
    auto a = normal(s.m * s.k, 1), b = normal(s.n * s.k, 2);
    auto a_turned = transpose(a, s.m, s.k), b_turned = transpose(b, s.n, s.k);
    auto start = normal(s.m * s.n, 3);
    std::vector<uint32_t> first;
    for (int form = 0; form < 8; ++form) {
      Operand left = form & 1 ? Operand{a_turned.data(), s.m, true} : Operand{a.data(), s.k};
      Operand right = form & 2 ? Operand{b.data(), s.k, true} : Operand{b_turned.data(), s.n};
      auto c = start;
      if (form & 4) {
        product(precision(), s.m, s.n, s.k, 0.3f, left, right, c.data(), s.n, true);
      } else {
        Scratch scratch;
        product_serial(precision(), s.m, s.n, s.k, 0.3f, left, right, c.data(), s.n, true,
                       scratch);
      }
      if (form == 0) {
        first = bits(c);
        compare(s, exact(s, a, b), c, 0.3f, nullptr, &start);
      }
      ASSERT_EQ(bits(c), first) << "form " << form;
    }
  }
}

TEST_P(Products, StridesAndNothingOutside) {
  const size_t m = 37, n = 45, k = 67, lda = 71, ldb = 70, ldc = 50;
  auto a = normal(m * lda, 1), b = normal(n * ldb, 2);
  std::vector<float> tight_a(m * k), tight_b(n * k);
  for (size_t i = 0; i < m * k; ++i) tight_a[i] = a[i / k * lda + i % k];
  for (size_t i = 0; i < n * k; ++i) tight_b[i] = b[i / k * ldb + i % k];
  std::vector<float> c(m * ldc, 7);
  product(precision(), m, n, k, 1, {a.data(), lda}, {b.data(), ldb, true}, c.data(), ldc, false);
  std::vector<float> tight;
  for (size_t i = 0; i < m; ++i) {
    for (size_t j = 0; j < ldc; ++j) {
      if (j < n) tight.push_back(c[i * ldc + j]);
      else ASSERT_EQ(c[i * ldc + j], 7);
    }
  }
  compare({m, n, k}, exact({m, n, k}, tight_a, tight_b), tight, 1, nullptr, nullptr);
}

TEST_P(Products, LowerRankUpdate) {
  for (auto [m, k] : {std::pair<size_t, size_t>{1, 1}, {17, 33}, {2049, 70}, {300, 530}, {0, 5}}) {
    auto x = normal(m * k, 1), h = normal(k * k, 2), start = h;
    rank_update_lower(precision(), x.data(), k, m, k, h.data(), k);
    for (size_t i = 0; i < k; ++i) {
      for (size_t j = 0; j < k; ++j) {
        double got = static_cast<double>(h[i * k + j]);
        double was = static_cast<double>(start[i * k + j]);
        if (j > i) {
          ASSERT_EQ(got, was) << i << ", " << j;
          continue;
        }
        Exact e;
        for (size_t t = 0; t < m; ++t) e.term(seen(x[t * k + i]), seen(x[t * k + j]));
        ASSERT_NEAR(got, was + e.sum,
                    e.bound(m) + 0x1p-22 * (std::fabs(was) + std::fabs(e.sum)))
            << i << ", " << j;
      }
    }
  }
}

// A sum with NaN, or Inf - Inf, or Inf * 0 in it is NaN; one with Inf is Inf; the others are
// untouched, the zeros of padding included.
TEST_P(Products, NotANumberAndInfinityStayInTheirRowsAndColumns) {
  const float inf = std::numeric_limits<float>::infinity();
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const size_t m = 35, n = 37, k = 41;
  std::vector<float> a(m * k, 1), b(n * k, 1);
  a[3 * k + 40] = nan;
  a[20 * k] = inf;
  b[7 * k + 1] = -inf;
  b[36 * k] = 0;  // meets the infinity of row 20
  std::vector<float> c(m * n);
  product(precision(), m, n, k, 1, {a.data(), k}, {b.data(), k, true}, c.data(), n, false);
  for (size_t i = 0; i < m; ++i) {
    for (size_t j = 0; j < n; ++j) {
      float got = c[i * n + j];
      if (i == 3 || (i == 20 && (j == 7 || j == 36))) {
        EXPECT_TRUE(std::isnan(got)) << i << ", " << j;
      } else if (i == 20) {
        EXPECT_EQ(got, inf);
      } else if (j == 7) {
        EXPECT_EQ(got, -inf);
      } else {
        EXPECT_EQ(got, j == 36 ? 40 : 41);
      }
    }
  }
}

QP_EVERY_BACKEND(Products);

}  // namespace
}  // namespace qp::gemm
