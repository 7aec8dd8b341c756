// Coordinate descent beside a plain f64 version, and what must hold where it has come to rest.
#include "lib/algorithm/descent.h"

#include <gtest/gtest.h>

#include "lib/base/parallel.h"
#include "tests/unit/algorithm/gptq_problem.h"

namespace qp {
namespace {

constexpr size_t kRows = 20, kCols = 200;
constexpr double kDamp = 0.01;

// Rounded to nearest under scales of the range.
struct Rounded {
  Problem p{kRows, kCols, 6};
  Scheme scheme;
  Grid grid;
  std::vector<float> q = std::vector<float>(p.w.size());
  std::vector<double> h = std::vector<double>(kCols * kCols);  // H', both triangles
  explicit Rounded(bool symmetric = true, int group = 64)
      : scheme(int_scheme(3, symmetric, group)), grid(scheme, DType::f32, kRows, kCols, 0) {
    grid.fit_all(p.w.data(), {}, Fit::range);
    grid.round_all(p.w.data(), q.data());
    double mean = 0;
    for (size_t c = 0; c < kCols; ++c) mean += static_cast<double>(p.m.h[c * kCols + c]) / kCols;
    for (size_t i = 0; i < kCols; ++i) {
      for (size_t j = 0; j < kCols; ++j)
        h[i * kCols + j] = static_cast<double>(p.m.h[std::max(i, j) * kCols + std::min(i, j)]) +
                           (i == j ? kDamp * mean : 0);
    }
  }
  void descend(size_t sweeps) {
    gptq::descend(p.m, kDamp, gemm::Precision::f32, grid, p.w.data(), sweeps, q.data());
  }
  std::vector<double> difference(size_t row) const {  // W - V
    std::vector<float> v(kCols);
    grid.values(q.data() + row * kCols, row, v.data());
    std::vector<double> d(kCols);
    for (size_t c = 0; c < kCols; ++c)
      d[c] = static_cast<double>(p.w[row * kCols + c]) - static_cast<double>(v[c]);
    return d;
  }
  // d H' x, x being some columns [first, last) of a row.
  double product(const std::vector<double>& d, const double* x, size_t first, size_t last) const {
    double sum = 0;
    for (size_t j = first; j < last; ++j) {
      for (size_t i = 0; i < d.size(); ++i) sum += d[i] * h[i * kCols + j] * x[j - first];
    }
    return sum;
  }
  std::pair<double, double> scale(size_t row, size_t g) const {  // and zero point
    float s[16], z[16];
    grid.lanes(row, g, s, z);
    return {static_cast<double>(s[0]), static_cast<double>(z[0])};
  }
  // No neighbour of a code of group g is better; d: difference(row).
  void expect_best(const std::vector<double>& d, size_t row, size_t c, size_t g) const {
    const double one = 1;
    double slope = -product(d, &one, c, c + 1), own = h[c * kCols + c];
    for (float step : {-1.0f, 1.0f}) {
      float to = q[row * kCols + c] + step;
      if (to < -4 || to > 3) continue;
      double move = static_cast<double>(step) * scale(row, g).first;
      EXPECT_GT(2 * move * slope + move * move * own, -1e-3 * move * move * own)
          << row << ", " << c;
    }
  }
};

class Descent : public testing::TestWithParam<std::tuple<bool, int>> {
 protected:
  bool symmetric() const { return std::get<0>(GetParam()); }
  int group() const { return std::get<1>(GetParam()); }
};

TEST_P(Descent, IsTheTextbooks) {
  Rounded start(symmetric(), group()), end(symmetric(), group());
  end.descend(2);
  auto n = static_cast<size_t>(group());
  size_t changed = 0, others = 0;
  for (size_t row = 0; row < kRows; ++row) {
    std::vector<double> d = start.difference(row), x(kCols), scales;
    for (size_t c = 0; c < kCols; ++c)
      x[c] = static_cast<double>(start.q[row * kCols + c]) - start.scale(row, c / n).second;
    for (size_t c = 0; c < kCols; c += n) scales.push_back(start.scale(row, c / n).first);
    for (int sweep = 0; sweep < 2; ++sweep) {
      for (size_t first = 0; first < kCols; first += n) {
        size_t last = std::min(kCols, first + n);
        double& scale = scales[first / n];
        double zero = start.scale(row, first / n).second;
        if (n <= 128) {
          std::vector<double> own(x.begin() + static_cast<ptrdiff_t>(first),
                                  x.begin() + static_cast<ptrdiff_t>(last)),
              all(kCols);
          std::copy(own.begin(), own.end(), all.begin() + static_cast<ptrdiff_t>(first));
          double step = start.product(d, own.data(), first, last) /
                        start.product(all, own.data(), first, last);
          scale += step;
          for (size_t c = first; c < last; ++c) d[c] -= step * x[c];
        }
        for (size_t c = first; c < last; ++c) {
          const double one = 1;
          double t = start.product(d, &one, c, c + 1);
          double best = std::clamp(std::nearbyint(x[c] + t / start.h[c * kCols + c] / scale + zero),
                                   -4.0, 3.0) -
                        zero;
          d[c] -= (best - x[c]) * scale;
          x[c] = best;
        }
      }
    }
    std::vector<double> ours = end.difference(row);
    bool same = true;
    for (size_t c = 0; c < kCols; ++c) {
      changed += end.q[row * kCols + c] != start.q[row * kCols + c];
      same = same && std::fabs(ours[c] - d[c]) < 1e-5;
    }
    if (!same) {  // a near tie, and what follows from it
      ++others;
      continue;
    }
    for (size_t g = 0; g < scales.size(); ++g)
      EXPECT_NEAR(end.scale(row, g).first, scales[g], 1e-5 * scales[g]);
  }
  EXPECT_GT(changed, 200u);
  EXPECT_LE(others, 1u);
}

TEST_P(Descent, LeavesNoCodeOrScaleThatAloneCouldBeBetter) {
  Rounded r(symmetric(), group());
  r.descend(100);
  auto n = static_cast<size_t>(group());
  for (size_t row = 0; row < kRows; ++row) {
    std::vector<double> d = r.difference(row);
    for (size_t c = 0; c < kCols; ++c) r.expect_best(d, row, c, c / n);
    for (size_t first = 0; n <= 128 && first < kCols; first += n) {
      size_t last = std::min(kCols, first + n);
      auto [scale, zero] = r.scale(row, first / n);
      std::vector<double> own(last - first), all(kCols);
      for (size_t c = first; c < last; ++c)
        all[c] = own[c - first] = static_cast<double>(r.q[row * kCols + c]) - zero;
      double step = r.product(d, own.data(), first, last) / r.product(all, own.data(), first, last);
      EXPECT_LT(std::fabs(step), 1e-3 * scale) << row << ", " << first;
    }
  }
}

TEST_P(Descent, ThreadsChangeNoBit) {
  std::vector<std::vector<float>> results;
  for (int n : {1, 2, 7}) {
    set_threads(n);
    Rounded r(symmetric(), group());
    r.descend(3);
    results.push_back(r.q);
    for (size_t row = 0; row < kRows; ++row)
      results.back().push_back(static_cast<float>(r.scale(row, 0).first));
  }
  set_threads(0);
  EXPECT_EQ(results[0], results[1]);
  EXPECT_EQ(results[0], results[2]);
}

// Groups that end inside a block, that fill one, that are longer than one (scales stay), and a
// short last one.
INSTANTIATE_TEST_SUITE_P(Groups, Descent,
                         testing::Combine(testing::Bool(), testing::Values(16, 48, 64, 128, 160)));

TEST(DescentOfDeadColumns, CodesStay) {
  Rounded r;
  for (size_t c = 0; c < kCols; ++c)
    r.p.m.h[std::max(c, size_t{9}) * kCols + std::min(c, size_t{9})] = 0;
  std::vector<float> before = r.q;
  r.descend(3);
  for (size_t row = 0; row < kRows; ++row) EXPECT_EQ(r.q[row * kCols + 9], before[row * kCols + 9]);
  EXPECT_NE(r.q, before);
}

// desc_act's groups: scales that columns far apart read stay, the last column's among them.
TEST(DescentOfScatteredGroups, LeavesNoCodeThatAloneCouldBeBetter) {
  Rounded r;
  std::vector<int32_t> g_idx(kCols);
  for (size_t c = 0; c < kCols; ++c) g_idx[c] = static_cast<int32_t>(c * 7 % kCols / 64);
  ASSERT_EQ(g_idx[kCols - 1], 3);
  r.grid.set_g_idx(g_idx);
  std::vector<std::pair<double, double>> scales;
  for (size_t g = 0; g < 4; ++g) scales.push_back(r.scale(2, g));
  r.descend(100);
  for (size_t g = 0; g < 4; ++g) EXPECT_EQ(r.scale(2, g), scales[g]);
  for (size_t row = 0; row < kRows; ++row) {
    std::vector<double> d = r.difference(row);
    for (size_t c = 0; c < kCols; ++c) r.expect_best(d, row, c, static_cast<size_t>(g_idx[c]));
  }
}

// Scales keep their dtype, Quark's F32 ones that of the weight, and their sign.
class DescentOfScales : public testing::TestWithParam<const char*> {};

TEST_P(DescentOfScales, StayNumbersOfTheirDType) {
  Problem p(kRows, kCols, 6);
  Scheme scheme = int_scheme(3, true, 64);
  scheme.numerics = GetParam();
  Grid grid(scheme, DType::bf16, kRows, kCols, 0);
  grid.allow(ScaleSign::either);
  grid.fit_all(p.w.data(), {}, Fit::search);
  std::vector<float> q(p.w.size());
  grid.round_all(p.w.data(), q.data());
  size_t negative = 0, moved = 0;
  std::vector<float> before;
  for (size_t row = 0; row < kRows; ++row) {
    float s[16];
    grid.lanes(row, 1, s, nullptr);
    before.push_back(s[0]);
  }
  gptq::descend(p.m, kDamp, gemm::Precision::f32, grid, p.w.data(), 4, q.data());
  for (size_t row = 0; row < kRows; ++row) {
    float s[16];
    grid.lanes(row, 1, s, nullptr);
    EXPECT_EQ(numerics::round_to(DType::bf16, s[0]), s[0]);
    EXPECT_EQ(s[0] < 0, before[row] < 0);
    negative += s[0] < 0;
    moved += s[0] != before[row];
  }
  EXPECT_GT(negative, 3u);
  EXPECT_GT(moved, 10u);
}

INSTANTIATE_TEST_SUITE_P(Numerics, DescentOfScales, testing::Values("compressed-tensors", "quark"));

}  // namespace
}  // namespace qp
