// Scales of either sign, against values written out by hand.
#include "lib/algorithm/grid.h"

#include <gtest/gtest.h>

#include <cmath>

#include "tests/unit/support/tensor_store.h"

namespace qp {
namespace {

Scheme scheme(int bits, bool symmetric = true) {
  return int_scheme(bits, Strategy::group, 4, symmetric);
}

struct Fitted {
  std::vector<float> scales, values, q;
};

// Two rows of two groups of 4.
Fitted fit(const Scheme& made, std::vector<float> w, Fit how, ScaleSign sign) {
  Grid grid(made, DType::f32, 2, 8, 0);
  grid.allow(sign);
  grid.fit_all(w.data(), {}, how);
  Fitted f;
  f.q.resize(16);
  f.values.resize(16);
  grid.round_all(w.data(), f.q.data());
  for (size_t r = 0; r < 2; ++r) {
    float scale[kernels::kStrip];
    grid.values(f.q.data() + 8 * r, r, f.values.data() + 8 * r);
    for (size_t g = 0; g < 2; ++g) {
      grid.lanes(r, g, scale, nullptr);
      f.scales.push_back(scale[0]);
    }
  }
  return f;
}

// On grids of two bits, -2 .. 1: with a negative scale where the largest weight is positive.
const std::vector<float> kWeights = {4, -2, 0, 2, -4, 2, 0, -2, 1, 2, -1, 0, 0, 0, 0, 0};

TEST(Grid, TheLargestWeightGetsTheLowestCode) {
  for (Fit how : {Fit::search, Fit::shrink}) {
    Fitted f = fit(scheme(2), kWeights, how, ScaleSign::either);
    EXPECT_LT(f.scales[0], 0);
    EXPECT_GT(f.scales[1], 0);
    EXPECT_LT(f.scales[2], 0);
    EXPECT_EQ(std::vector<float>(f.q.begin(), f.q.begin() + 8),
              (std::vector<float>{-2, 1, 0, -1, -2, 1, 0, -1}));
    Fitted p = fit(scheme(2), kWeights, how, ScaleSign::positive);
    for (float s : p.scales) EXPECT_GE(s, 0);
    double either = 0, positive = 0;
    for (size_t i = 0; i < 16; ++i) {
      either += std::pow(f.values[i] - kWeights[i], 2);
      positive += std::pow(p.values[i] - kWeights[i], 2);
    }
    EXPECT_LT(either, 0.6 * positive);
  }
}

TEST(Grid, WhereOtherThingsThanMultiplyingAreDoneScalesStayPositive) {
  Scheme with_inputs = scheme(4);
  with_inputs.input_activations = QuantArgs{};
  for (const Scheme& s : {with_inputs, scheme(8), scheme(4, false)}) {
    Fitted a = fit(s, kWeights, Fit::search, ScaleSign::either);
    Fitted b = fit(s, kWeights, Fit::search, ScaleSign::positive);
    EXPECT_EQ(a.scales, b.scales);
    EXPECT_EQ(a.q, b.q);
  }
}

}  // namespace
}  // namespace qp
