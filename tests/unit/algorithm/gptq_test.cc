// GPTQ beside a plain f64 version of the published algorithm, and numbers worked out by hand
// (reference/int4-formats.md, 2.2 and 2.3).
#include "lib/algorithm/gptq.h"

#include <gtest/gtest.h>

#include <cmath>
#include <numeric>
#include <random>

#include "lib/base/parallel.h"
#include "lib/gemm/factor.h"
#include "tests/unit/algorithm/gptq_problem.h"

namespace qp {
namespace {

// Scales from the range, as in the published algorithm.
gptq::Options plain() {
  gptq::Options o;
  o.fit = Fit::range;
  return o;
}

// Codes of a matrix, unpacked from the quotients.
std::vector<int> codes_of(const std::vector<float>& q, int bits) {
  std::vector<int> codes;
  for (float x : q) codes.push_back(static_cast<int>(x) + (1 << (bits - 1)));
  return codes;
}

struct Result {
  std::vector<float> q, values;
  double loss = 0;
  std::vector<uint32_t> order;
};

Result run(const gptq::Moments& m, const std::vector<float>& w, const Scheme& scheme, const gptq::Options& o) {
  size_t rows = w.size() / m.k;
  Grid grid(scheme, DType::f32, rows, m.k, 0);
  auto f = gptq::factor(m, grid.group(), o);
  EXPECT_TRUE(f.has_value());
  Result r{w, std::vector<float>(w.size()), 0, f->order};
  r.loss = gptq::quantize(*f, o, grid, r.q.data());
  for (size_t i = 0; i < rows; ++i) grid.values(r.q.data() + i * m.k, i, r.values.data() + i * m.k);
  return r;
}

gptq::Moments q4() {  // (2 / 5) sum x x^T of five rows
  const float x[5][4] = {{4, 2, 0, 1}, {0, 1, 1, 3}, {2, 1, 1, 0}, {1, 0, 2, 1}, {3, 1, 0, 2}};
  gptq::Moments m{4, std::vector<float>(16)};
  for (auto& row : x) {
    for (int i = 0; i < 4; ++i) {
      for (int j = 0; j <= i; ++j) m.h[static_cast<size_t>(i * 4 + j)] += 0.4f * row[i] * row[j];
    }
  }
  return m;
}

TEST(Gptq, WorkedExample) {
  std::vector<float> w = {0.96f, 0.23f, -0.58f, 0.62f};
  gptq::Options o = plain();
  o.order = gptq::Order::none;
  Result r = run(q4(), w, int_scheme(3, true, 4), o);
  EXPECT_EQ(codes_of(r.q, 3), (std::vector<int>{7, 6, 2, 6}));
  EXPECT_NEAR(r.loss, 0.0478259, 1e-5);
  r = run(q4(), w, int_scheme(3, false, 4), o);
  EXPECT_EQ(codes_of(r.q, 3), (std::vector<int>{7, 5, 0, 6}));
  EXPECT_NEAR(r.loss, 0.053593, 1e-5);
  // Groups see the weights as they are when they begin: scale 0.1679221 of the second.
  r = run(q4(), w, int_scheme(3, false, 2), o);
  EXPECT_EQ(codes_of(r.q, 3), (std::vector<int>{7, 2, 0, 6}));
  EXPECT_NEAR(r.values[3], 3 * 0.1679221, 1e-5);
  o.order = gptq::Order::desc_act;
  o.static_groups = true;
  r = run(q4(), w, int_scheme(3, false, 2), o);
  EXPECT_EQ(codes_of(r.q, 3), (std::vector<int>{7, 1, 0, 7}));
  EXPECT_EQ(r.order, (std::vector<uint32_t>{0, 3, 1, 2}));
}

TEST(Gptq, GroupAwareOrder) {
  const float diagonal[] = {1, 9, 3, 4, 8, 2, 7, 7};
  gptq::Moments m{8, std::vector<float>(64)};
  for (size_t i = 0; i < 8; ++i) m.h[i * 9] = diagonal[i];
  auto f = gptq::factor(m, 4, {});
  EXPECT_EQ(f->order, (std::vector<uint32_t>{1, 3, 2, 0, 4, 6, 7, 5}));
}

// U with H^-1 = U^T U in f64, by the textbook: Cholesky, inverse, Cholesky.
std::vector<double> textbook(std::vector<double> h, size_t n) {
  auto cholesky = [n](std::vector<double> a) {
    for (size_t i = 0; i < n; ++i) {
      for (size_t j = 0; j <= i; ++j) {
        double sum = a[i * n + j];
        for (size_t k = 0; k < j; ++k) sum -= a[i * n + k] * a[j * n + k];
        a[i * n + j] = i == j ? std::sqrt(sum) : sum / a[j * n + j];
      }
      for (size_t j = i + 1; j < n; ++j) a[i * n + j] = 0;
    }
    return a;
  };
  std::vector<double> l = cholesky(h), inv(n * n);
  for (size_t c = 0; c < n; ++c) {
    std::vector<double> y(n);
    for (size_t i = 0; i < n; ++i) {
      double sum = i == c ? 1 : 0;
      for (size_t k = 0; k < i; ++k) sum -= l[i * n + k] * y[k];
      y[i] = sum / l[i * n + i];
    }
    for (size_t i = n; i-- > 0;) {
      double sum = y[i];
      for (size_t k = i + 1; k < n; ++k) sum -= l[k * n + i] * inv[k * n + c];
      inv[i * n + c] = sum / l[i * n + i];
    }
  }
  std::vector<double> l2 = cholesky(inv), u(n * n);
  for (size_t i = 0; i < n; ++i) {
    for (size_t j = 0; j < n; ++j) u[i * n + j] = l2[j * n + i];
  }
  return u;
}

struct Reference {
  std::vector<double> values, quotients;  // quotients: before they were rounded
  double loss = 0, damped = 0;  // sum e^2, and tr(D H' D^T)
};

// Which columns share a scale, and what it is of: neighbours in the order of columns, of weights that
// errors have moved; the same in the order of the walk; neighbours, of the weights as they were.
enum class Scales { by_column, by_order, fixed };

// One matrix, one column after the other, all in f64; symmetric integers.
Reference reference(const Problem& p, const std::vector<uint32_t>& order, int bits, size_t group, double damp,
                    Scales scales) {
  size_t k = p.m.k, rows = p.w.size() / k;
  std::vector<double> h(k * k), w(p.w.begin(), p.w.end());
  double mean = 0;
  for (size_t i = 0; i < k; ++i) mean += static_cast<double>(p.m.h[i * k + i]) / static_cast<double>(k);
  for (size_t i = 0; i < k; ++i) {
    for (size_t j = 0; j < k; ++j) {
      size_t a = std::max(order[i], order[j]), b = std::min(order[i], order[j]);
      h[i * k + j] = static_cast<double>(p.m.h[a * k + b]) + (i == j ? damp * mean : 0);
    }
  }
  std::vector<double> u = textbook(h, k);
  Reference r{std::vector<double>(w.size()), std::vector<double>(w.size()), 0, 0};
  double half = 1 << (bits - 1);
  for (size_t n = 0; n < rows; ++n) {
    double scale = 0;
    double* x = w.data() + n * k;
    std::vector<double> d(k);
    for (size_t i = 0; i < k; ++i) {
      auto g = [&](size_t c) { return (scales == Scales::by_order ? c : order[c]) / group; };
      double amax = 0;
      if (scales == Scales::fixed) {
        for (size_t c = 0; c < group; ++c)
          amax = std::max(amax, std::fabs(static_cast<double>(p.w[n * k + g(i) * group + c])));
        scale = amax / (half - 0.5);
      } else if (i == 0 || g(i) != g(i - 1)) {
        for (size_t c = i; c < k && g(c) == g(i); ++c) amax = std::max(amax, std::fabs(x[order[c]]));
        scale = amax / (half - 0.5);
      }
      r.quotients[n * k + order[i]] = x[order[i]] / scale;
      double q = std::clamp(std::nearbyint(x[order[i]] / scale), -half, half - 1) * scale;
      double e = (x[order[i]] - q) / u[i * k + i];
      for (size_t j = i + 1; j < k; ++j) x[order[j]] -= e * u[i * k + j];
      r.values[n * k + order[i]] = q;
      r.loss += e * e;
      d[i] = q - static_cast<double>(p.w[n * k + order[i]]);
    }
    for (size_t i = 0; i < k; ++i) {
      for (size_t j = 0; j < k; ++j) r.damped += d[i] * h[i * k + j] * d[j];
    }
  }
  return r;
}

void expect_f64_reference(gptq::Options o, Scales scales) {
  for (size_t k : {size_t{64}, size_t{320}}) {
    Problem p(20, k, 5);
    Result ours = run(p.m, p.w, int_scheme(4, true, 32), o);
    Reference theirs = reference(p, ours.order, 4, 32, 0.01, scales);
    EXPECT_NEAR(theirs.loss, theirs.damped, 1e-9 * theirs.loss);
    EXPECT_NEAR(ours.loss, theirs.loss, 2e-3 * theirs.loss);
    size_t ties = 0;
    for (size_t row = 0; row < 20; ++row) {
      for (uint32_t c : ours.order) {
        size_t i = row * k + c;
        if (std::fabs(static_cast<double>(ours.values[i]) - theirs.values[i]) < 1e-5) continue;
        // The largest weight of a group lies on a tie, which may fall the other way in f32; what
        // follows in its row is then another problem.
        double t = std::fabs(theirs.quotients[i]);
        EXPECT_LT(std::fabs(t - std::floor(t) - 0.5), 1e-3) << "row " << row << " column " << c << " of " << k;
        ++ties;
        break;
      }
    }
    EXPECT_LE(ties, 4u);
  }
}

class GptqOrder : public testing::TestWithParam<gptq::Order> {};

TEST_P(GptqOrder, EqualsTheF64Reference) {
  gptq::Options o = plain();
  o.order = GetParam();
  expect_f64_reference(o, o.order == gptq::Order::desc_act ? Scales::by_order : Scales::by_column);
}

TEST_P(GptqOrder, WithStaticGroupsEqualsTheF64Reference) {
  gptq::Options o = plain();
  o.order = GetParam();
  o.static_groups = true;
  expect_f64_reference(o, Scales::fixed);
}

TEST_P(GptqOrder, LossIsTheDampedProxyLoss) {
  Problem p(33, 200, 9);  // neither a multiple of 16 rows nor of 128 columns; a short last group
  gptq::Options o = plain();
  o.order = GetParam();
  Result r = run(p.m, p.w, int_scheme(3, false, 64), o);
  std::vector<float> d(p.w.size());
  for (size_t i = 0; i < d.size(); ++i) d[i] = r.values[i] - p.w[i];
  double trace = 0, mean = 0, squares = 0;
  for (size_t i = 0; i < p.m.k; ++i) trace += static_cast<double>(p.m.h[i * p.m.k + i]);
  mean = trace / static_cast<double>(p.m.k);
  for (float v : d) squares += static_cast<double>(v) * static_cast<double>(v);
  double damped = gptq::output_error(p.m, d.data(), 33) + 0.01 * mean * squares;
  EXPECT_NEAR(r.loss, damped, 1e-3 * damped);
}

TEST_P(GptqOrder, ThreadsChangeNoBit) {
  Problem p(50, 256, 2);
  gptq::Options o = plain();
  o.order = GetParam();
  std::vector<std::vector<float>> results;
  for (int n : {1, 2, 7}) {
    set_threads(n);
    results.push_back(run(p.m, p.w, int_scheme(4, true, 128), o).q);
  }
  set_threads(0);
  EXPECT_EQ(results[0], results[1]);
  EXPECT_EQ(results[0], results[2]);
}

INSTANTIATE_TEST_SUITE_P(Orders, GptqOrder,
                         testing::Values(gptq::Order::none, gptq::Order::desc_act, gptq::Order::group_aware));

// Errors told in bf16 are as good as told: the sum over a matrix is what it was, though codes differ.
TEST(Gptq, Bf16ProductsLoseNothing) {
  Problem p(64, 640, 5);
  gptq::Options o = plain();
  for (int bits : {4, 3}) {
    o.precision = gemm::Precision::f32;
    Result exact = run(p.m, p.w, int_scheme(bits, true, 64), o);
    o.precision = gemm::Precision::bf16;
    Result rounded = run(p.m, p.w, int_scheme(bits, true, 64), o);
    EXPECT_NE(exact.q, rounded.q);
    EXPECT_NEAR(rounded.loss, exact.loss, 0.01 * exact.loss);
  }
}

TEST(Gptq, UncorrelatedInputsGiveRounding) {
  size_t k = 128;
  Problem p(16, k, 3);
  for (size_t i = 0; i < k; ++i) {
    for (size_t j = 0; j < i; ++j) p.m.h[i * k + j] = 0;
  }
  gptq::Options o = plain();
  o.order = gptq::Order::none;
  Result r = run(p.m, p.w, int_scheme(4, true, 32), o);
  Grid grid(int_scheme(4, true, 32), DType::f32, 16, k, 0);
  grid.fit_all(p.w.data(), {}, Fit::range);
  for (size_t row = 0; row < 16; ++row) {
    for (size_t c = 0; c < k; ++c) {
      float scale[16];
      grid.lanes(row, c / 32, scale, nullptr);
      float q = std::clamp(std::nearbyint(p.w[row * k + c] / scale[0]), -8.0f, 7.0f);
      EXPECT_EQ(r.q[row * k + c], q);
    }
  }
}

// W' H' = W (H' + D): the normal equations of min |W x_full - W' x|^2, damped.
TEST(Gptq, FollowsTheDriftOfItsInputs) {
  for (gptq::Order order : {gptq::Order::none, gptq::Order::group_aware}) {
    constexpr size_t k = 64, rows = 6;
    Problem p(rows, k, 4);
    p.m.drift.resize(k * k);
    for (size_t i = 0; i < k * k; ++i) p.m.drift[i] = std::sin(static_cast<float>(7 * i)) * p.m.h[0] * 0.05f;
    gptq::Options o = plain();
    o.order = order;
    auto f = gptq::factor(p.m, 32, o);
    ASSERT_TRUE(f.has_value());
    double mean = 0;
    for (size_t i = 0; i < k; ++i) mean += static_cast<double>(p.m.h[i * k + i]) / k;
    auto h = [&](size_t i, size_t j) {
      double x = static_cast<double>(p.m.h[std::max(i, j) * k + std::min(i, j)]);
      return i == j ? x + f->damp * mean : x;
    };
    std::vector<float> w = p.w;
    gptq::follow_drift(p.m, *f, 1, w.data(), rows);
    for (size_t r = 0; r < rows; ++r) {
      for (size_t j = 0; j < k; ++j) {
        double left = 0, right = 0;
        for (size_t i = 0; i < k; ++i) {
          left += static_cast<double>(w[r * k + i]) * h(i, j);
          right += static_cast<double>(p.w[r * k + i]) * (h(i, j) + static_cast<double>(p.m.drift[i * k + j]));
        }
        EXPECT_NEAR(left, right, 2e-3 * (std::fabs(right) + h(0, 0))) << r << ", " << j;
      }
    }
    std::vector<float> same = p.w;
    gptq::follow_drift(p.m, *f, 0, same.data(), rows);
    EXPECT_EQ(same, p.w);
  }
}

// The more rows for a column, the more of the drift is believed.
TEST(Gptq, ShareOfTheDrift) {
  gptq::Moments m{128, {}, {}, 512};
  EXPECT_EQ(gptq::share_of(m, {}), 0.5);
  m.rows = 0;
  EXPECT_EQ(gptq::share_of(m, {}), 0);
  gptq::Options given;
  given.alpha = 1;
  EXPECT_EQ(gptq::share_of(m, given), 1);
}

TEST(Gptq, DeadColumnsAndHopelessMoments) {
  Problem p(4, 64, 8);
  for (size_t i = 0; i < 64; ++i) p.m.h[std::max<size_t>(i, 10) * 64 + std::min<size_t>(i, 10)] = 0;
  Result r = run(p.m, p.w, int_scheme(4, true, 32), plain());
  for (size_t row = 0; row < 4; ++row) EXPECT_EQ(r.values[row * 64 + 10], 0);
  EXPECT_TRUE(std::isfinite(r.loss));
  gptq::Moments none{8, std::vector<float>(64)};
  EXPECT_FALSE(gptq::factor(none, 8, {}).has_value());
  gptq::Moments bad{2, {1, 0, NAN, 1}};
  EXPECT_FALSE(gptq::factor(bad, 2, {}).has_value());
  gptq::Moments negative{2, {1, 0, 0, -1}};
  EXPECT_FALSE(gptq::factor(negative, 2, {}).has_value());
  gptq::Moments indefinite{2, {1, 0, 5, 1}};  // no sum of squares; no damping below 1 helps
  EXPECT_FALSE(gptq::factor(indefinite, 2, {}).has_value());
  gptq::Moments nearly{2, {1, 0, 1.05f, 1}};  // more damping does
  auto f = gptq::factor(nearly, 2, {});
  ASSERT_TRUE(f.has_value());
  EXPECT_GT(f->damp, 0.04);
}

TEST(InverseFactor, SquaresToTheInverse) {
  for (size_t n : std::initializer_list<size_t>{1, 2, 15, 16, 17, 63, 64, 65, 127, 129, 255, 256, 257, 271, 300}) {
    Problem p(1, n, static_cast<unsigned>(n));
    for (size_t i = 0; i < n; ++i) p.m.h[i * n + i] += 1;
    std::vector<float> h = p.m.h, u(n * n);
    ASSERT_TRUE(gemm::inverse_factor(h.data(), n, u.data()));
    double worst = 0;
    for (size_t i = 0; i < n; ++i) {
      std::vector<double> row(n);  // row i of H U^T, then times U
      for (size_t j = 0; j < n; ++j) {
        for (size_t k = j; k < n; ++k) {
          row[j] += static_cast<double>(p.m.h[std::max(i, k) * n + std::min(i, k)]) * static_cast<double>(u[j * n + k]);
        }
      }
      for (size_t j = 0; j < n; ++j) {
        double sum = 0;
        for (size_t k = 0; k <= j; ++k) sum += row[k] * static_cast<double>(u[k * n + j]);
        worst = std::max(worst, std::fabs(sum - (i == j ? 1 : 0)));
        if (j < i) {
          EXPECT_EQ(u[i * n + j], 0);
        }
      }
    }
    EXPECT_LT(worst, 2e-3) << "n " << n;
  }
  std::vector<float> no = {1, 0, 2, 1};
  EXPECT_FALSE(gemm::inverse_factor(no.data(), 2, no.data()));
}

// A few directions hold nearly all of it, as in real activations, and damping holds the rest: large
// blocks, a tail, one thread and several, with the same bits.
TEST(InverseFactor, OfFewStrongDirectionsInLargeBlocks) {
  const size_t n = 700, strong = 12;
  std::mt19937 random(5);
  std::normal_distribution<float> normal;
  std::vector<float> mix(strong * n), h(n * n);
  for (float& v : mix) v = normal(random);
  double trace = 0;
  for (size_t i = 0; i < n; ++i) {
    for (size_t j = 0; j <= i; ++j) {
      double sum = 0;
      for (size_t s = 0; s < strong; ++s) sum += 100.0 * static_cast<double>(mix[s * n + i]) * static_cast<double>(mix[s * n + j]);
      h[i * n + j] = static_cast<float>(sum);
    }
    trace += static_cast<double>(h[i * n + i]);
  }
  for (size_t i = 0; i < n; ++i) h[i * n + i] += static_cast<float>(0.01 * trace / n);
  for (size_t i = 0; i < n * n; ++i) {
    if (i % n > i / n) h[i] = NAN;  // is not read
  }
  std::vector<double> full(n * n);
  for (size_t i = 0; i < n * n; ++i) full[i] = static_cast<double>(h[std::max(i / n, i % n) * n + std::min(i / n, i % n)]);
  std::vector<double> want = textbook(full, n);
  double largest = 0;
  for (double v : want) largest = std::max(largest, std::fabs(v));
  std::vector<float> first;
  for (int threads : {1, 3}) {
    set_threads(threads);
    std::vector<float> u = h;
    ASSERT_TRUE(gemm::inverse_factor(u.data(), n, u.data()));
    double worst = 0;
    for (size_t i = 0; i < u.size(); ++i) worst = std::max(worst, std::fabs(static_cast<double>(u[i]) - want[i]));
    EXPECT_LT(worst, 2e-4 * largest) << "relative " << worst / largest;
    if (threads == 1) first = u;
    EXPECT_EQ(u, first);
  }
  set_threads(0);
}

}  // namespace
}  // namespace qp
