// Learned rounding beside PyTorch's autograd (reference/int4-formats.md 2.6).
#include "lib/algorithm/sign_round.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>

#include "lib/base/parallel.h"
#include "lib/kernels/sign_round.h"
#include "tests/unit/algorithm/schemes.h"

namespace qp {
namespace {

kernels::Rounding rounding(int bits) {
  auto half = static_cast<float>(1 << (bits - 1));
  return {kernels::Levels::integer, -half, half - 1};
}

// The case of the script below: 24 weights of one group, their shifts, and the gradients G of the
// loss for their values.
struct Case {
  std::vector<float> w, v, g;
  Case() {
    for (int i = 0; i < 24; ++i) {
      w.push_back(static_cast<float>((37 * i * i + 11 * i) % 101 - 50) / 64);
      v.push_back(static_cast<float>((53 * i) % 17 - 8) / 20);
      g.push_back(static_cast<float>((29 * i + 7) % 23 - 11) / 8);
    }
  }
};

// PyTorch 2.13 in float64, rounding by an autograd function whose backward returns its argument:
//   sym:  s = max|w| * mx / ((2^b - 1) / 2); q = clamp(round(w / s + V), -2^(b-1), 2^(b-1) - 1)
//   asym: lo = min(w) * mn; hi = max(w) * mx; s = (hi - lo) / (2^b - 1); z = round(-lo / s);
//         q = clamp(round(w / s + V) + z, 0, 2^b - 1)
//   (G * (q - z) * s).sum().backward(); with mx 0.8 (sym), mn 0.9 and mx 0.7 (asym).
struct Expected {
  int bits;
  bool symmetric;
  float scale, zero;  // zero and q in the signed domain
  std::vector<float> q, shift;
  double min, max;
};

const Expected kExpected[] = {
    {4,
     true,
     0.0833333333f,
     0,
     {-8, -1, 3, 2, -4, 4, 7, 4, -3, 3, 4, 0, -8, -3, -3, -8, 1, 4, 3, -4, 4, 7, 4, -4},
     {0,
      0.02083333f,
      0.08333333f,
      -0.09375f,
      -0.03125f,
      0.03125f,
      0.09375f,
      -0.08333333f,
      -0.02083333f,
      0.04166667f,
      0.1041667f,
      -0.07291667f,
      -0.01041667f,
      0.05208333f,
      0.1145833f,
      -0.0625f,
      0,
      0.0625f,
      -0.1145833f,
      -0.05208333f,
      0.01041667f,
      0.07291667f,
      -0.1041667f,
      -0.04166667f},
     0,
     0.546061198},
    {2,
     true,
     0.416666667f,
     0,
     {-2, 0, 1, 0, -1, 1, 1, 1, 0, 0, 1, 0, -2, -1, 0, -1, 0, 0, 0, -1, 1, 1, 1, -1},
     {-0.2083333f, 0.1041667f,  0.4166667f, -0.46875f,  -0.15625f,   0.15625f,     0,
      -0.4166667f, -0.1041667f, 0.2083333f, 0.5208333f, -0.3645833f, -0.05208333f, 0.2604167f,
      0.5729167f,  -0.3125f,    0,          0.3125f,    -0.5729167f, -0.2604167f,  0.05208333f,
      0.3645833f,  -0.5208333f, -0.2083333f},
     0,
     1.06119792},
    {4,
     false,
     0.0723958333f,
     2,
     {-8, 1, 6, 5, -2, 7, 7, 7, -1, 5, 7, 2, -8, -2, -2, -7, 3, 7, 5, -2, 7, 7, 7, -2},
     {0,
      0.01809896f,
      0.07239583f,
      -0.08144531f,
      -0.02714844f,
      0.02714844f,
      0,
      -0.07239583f,
      -0.01809896f,
      0.03619792f,
      0.09049479f,
      -0.06334635f,
      -0.009049479f,
      0.0452474f,
      0.09954427f,
      -0.05429688f,
      0,
      0.05429688f,
      -0.09954427f,
      -0.0452474f,
      0.009049479f,
      0,
      -0.09049479f,
      -0.03619792f},
     0.292453537,
     1.02502998},
    {3,
     false,
     0.155133929f,
     1,
     {-4, 0, 3, 2, -1, 3, 3, 3, 0, 2, 3, 1, -3, -1, -1, -3, 2, 3, 2, -1, 3, 3, 3, -1},
     {-0.07756696f,
      0.03878348f,
      0.1551339f,
      -0.1745257f,
      -0.05817522f,
      0.05817522f,
      0,
      0,
      -0.03878348f,
      0.07756696f,
      0.1939174f,
      -0.1357422f,
      -0.01939174f,
      0.09695871f,
      0.2133092f,
      -0.1163504f,
      0,
      0.1163504f,
      -0.2133092f,
      -0.09695871f,
      0.01939174f,
      0,
      -0.1939174f,
      -0.07756696f},
     -0.118632772,
     0.463832059},
};

TEST(SignRound, GradientsAreThoseOfPyTorch) {
  Case c;
  auto [lo, hi] = std::ranges::minmax(c.w);
  for (const Expected& e : kExpected) {
    std::vector<float> q(24), values(24), v = c.v;
    const auto& k = kernels::sign_round();
    k.values(rounding(e.bits), c.w.data(), c.v.data(), 24, e.scale, e.zero, q.data(),
             values.data());
    EXPECT_EQ(q, e.q);
    float sums[2];
    k.step(rounding(e.bits), c.w.data(), c.g.data(), 24, e.scale, e.zero, 1, v.data(), sums);
    for (size_t i = 0; i < 24; ++i) {
      EXPECT_EQ(values[i], (q[i] - e.zero) * e.scale);
      float moved = c.v[i] - v[i];  // by the sign of the gradient
      EXPECT_NEAR(moved, (e.shift[i] > 0) - (e.shift[i] < 0), 1e-6) << e.bits << " " << i;
      // Where a weight is not clamped its gradient is G * scale.
      if (e.shift[i] != 0) {
        EXPECT_NEAR(e.shift[i], c.g[i] * e.scale, 1e-6);
      }
    }
    float steps = e.symmetric ? (std::exp2f(static_cast<float>(e.bits)) - 1) / 2
                              : std::exp2f(static_cast<float>(e.bits)) - 1;
    FactoredRange range = {lo, hi, 0.9f, e.symmetric ? 0.8f : 0.7f};
    FactorGradient d = factor_gradient(e.symmetric, range, e.scale, steps, sums);
    EXPECT_NEAR(static_cast<double>(d.min), e.min, 2e-6);
    EXPECT_NEAR(static_cast<double>(d.max), e.max, 2e-6);
  }
}

struct Random {
  size_t rows = 37, cols = 150;  // the last strip, group and vector are incomplete
  std::vector<float> w, dw;
  explicit Random(unsigned seed) {
    std::mt19937 rng(seed);
    std::normal_distribution<float> normal;
    for (size_t i = 0; i < rows * cols; ++i) {
      w.push_back(normal(rng));
      dw.push_back(normal(rng));
    }
    dw[3] = 0;
  }
  SignRound matrix(const Scheme& scheme) const {
    return SignRound(scheme, DType::bf16, rows, cols, 4, ScaleSign::positive, w);
  }
};

std::vector<float> values_of(const SignRound& m) {
  std::vector<float> out(m.rows() * m.cols());
  m.values(0, m.rows(), out.data());
  return out;
}

Scheme float_scheme(int bits, Strategy strategy, int group) {
  Scheme s = int_scheme(bits, true, group);
  s.weights.type = NumType::floating;
  s.weights.strategy = strategy;
  return s;
}

std::vector<Scheme> schemes() {
  return {int_scheme(4, true, 64), int_scheme(2, true, 64), int_scheme(3, false, 32),
          float_scheme(8, Strategy::channel, 0), int_scheme(8, true, 128)};
}

TEST(SignRound, WithoutStepsItIsRounding) {
  Random r(1);
  for (const Scheme& scheme : schemes()) {
    for (Fit fit : {Fit::range, Fit::search}) {
      SignRound m = r.matrix(scheme);
      m.start(fit, {});
      Grid grid(scheme, DType::bf16, r.rows, r.cols, 4);
      std::vector<float> q(r.w.size()), expected(r.w.size());
      grid.fit_all(r.w.data(), {}, fit);
      grid.round_all(r.w.data(), q.data());
      for (size_t i = 0; i < r.rows; ++i)
        grid.values(q.data() + i * r.cols, i, expected.data() + i * r.cols);
      EXPECT_EQ(values_of(m), expected);
      Rounded rounded = m.rounded();
      std::vector<std::byte> codes(r.rows * grid.code_bytes());
      grid.encode(q.data(), r.rows, reinterpret_cast<uint8_t*>(codes.data()));
      EXPECT_EQ(rounded.codes, codes);
      EXPECT_EQ(rounded.small.scale, grid.finish().scale);
    }
  }
}

// What rounding does to the products with eight inputs can be made up for by rounding otherwise.
TEST(SignRound, StepsLowerTheErrorOfProducts) {
  Random r(2);
  constexpr size_t kInputs = 8;
  std::mt19937 rng(4);
  std::normal_distribution<float> normal;
  std::vector<float> x(kInputs * r.cols);
  for (float& f : x) f = normal(rng);
  for (const Scheme& scheme : schemes()) {
    SignRound m = r.matrix(scheme);
    m.start(Fit::search, {});
    auto error = [&](float rate) {
      std::vector<float> d = values_of(m), gradient(d.size());
      double sum = 0;
      for (size_t row = 0; row < r.rows; ++row) {
        for (size_t i = 0; i < kInputs; ++i) {
          float e = 0;
          for (size_t c = 0; c < r.cols; ++c)
            e += (d[row * r.cols + c] - r.w[row * r.cols + c]) * x[i * r.cols + c];
          for (size_t c = 0; c < r.cols; ++c) gradient[row * r.cols + c] += e * x[i * r.cols + c];
          sum += static_cast<double>(e * e);
        }
      }
      if (rate > 0) m.step(gradient.data(), rate, rate / 4);
      return sum;
    };
    double before = error(0);
    for (int i = 0; i < 100; ++i) error(0.01f * static_cast<float>(100 - i) / 100);
    EXPECT_LT(error(0), 0.8 * before) << scheme.weights.num_bits;
  }
}

TEST(SignRound, ThreadsChangeNothing) {
  Random r(3);
  std::vector<float> first;
  for (int n : {1, 2, 5}) {
    set_threads(n);
    SignRound m = r.matrix(int_scheme(3, false, 64));
    m.start(Fit::search, {});
    for (int i = 0; i < 3; ++i) m.step(r.dw.data(), 0.1f, 0.05f);
    std::vector<float> v = values_of(m);
    if (first.empty()) first = v;
    EXPECT_EQ(first, v);
    EXPECT_EQ(m.shifts()[3], 0);  // its gradient is 0
    EXPECT_NEAR(std::fabs(m.shifts()[4]), 0.3f, 0.21f);
    for (const FactoredRange& f : m.ranges()) EXPECT_LE(std::fabs(f.max - 1), 0.1501f);
  }
  set_threads(0);
}

}  // namespace
}  // namespace qp
