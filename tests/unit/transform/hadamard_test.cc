#include "lib/transform/hadamard.h"

#include <gtest/gtest.h>

#include <cmath>

namespace qp::transform {
namespace {

TEST(Hadamard, RowsAreOrthogonal) {
  for (size_t n : std::initializer_list<size_t>{1, 2, 4, 12, 20, 28, 36, 44, 60, 76, 108, 140, 148, 200}) {
    std::vector<int8_t> h = hadamard(n);
    ASSERT_EQ(h.size(), n * n) << n;
    for (size_t i = 0; i < n; ++i) {
      for (size_t j = 0; j <= i; ++j) {
        int sum = 0;
        for (size_t k = 0; k < n; ++k) sum += h[i * n + k] * h[j * n + k];
        ASSERT_EQ(sum, i == j ? static_cast<int>(n) : 0) << n << ": rows " << i << ", " << j;
      }
    }
  }
  for (size_t n : std::initializer_list<size_t>{3, 6, 92, 100}) EXPECT_TRUE(hadamard(n).empty()) << n;  // none, or by other constructions
}

// Sylvester's: H[j][k] = (-1)^popcount(j & k).
TEST(Rotation, PowersOfTwoAreSylvesters) {
  Rotation r(8, 1, 5);
  for (size_t k = 0; k < 8; ++k) {
    std::vector<float> x(8);
    x[k] = 1;
    r.turn(x.data());
    for (size_t j = 0; j < 8; ++j) {
      float sign = __builtin_popcountll(j & k) % 2 == 0 ? 1.0f : -1.0f;
      EXPECT_FLOAT_EQ(x[j], sign * r.signs()[k]);
      EXPECT_FLOAT_EQ(std::fabs(x[j]), 1 / std::sqrt(8.0f));
    }
  }
}

TEST(Rotation, IsOrthogonalAndTurnsRowsAsColumns) {
  // Sizes of real models; 6 has no Hadamard matrix: blocks of 2.
  for (size_t n : std::initializer_list<size_t>{6, 64, 96, 576, 896, 1536, 2304, 3584}) {
    Rotation r(n, 2, 1);
    EXPECT_EQ(r.order(), n == 6 ? 2 : n);
    std::vector<float> x(2 * n), y(2 * n);
    for (size_t i = 0; i < 2 * n; ++i) {
      x[i] = std::sin(static_cast<float>(i));
      y[i] = std::cos(static_cast<float>(3 * i));
    }
    auto dot = [&](const std::vector<float>& a, const std::vector<float>& b) {
      double sum = 0;
      for (size_t i = 0; i < a.size(); ++i) sum += static_cast<double>(a[i]) * static_cast<double>(b[i]);
      return sum;
    };
    double norm = dot(x, x), angle = dot(x, y);
    std::vector<float> columns(4 * n);
    for (size_t i = 0; i < 2 * n; ++i) {
      columns[2 * i] = x[i];
      columns[2 * i + 1] = y[i];
    }
    r.turn_rows(columns.data(), 2);
    r.turn(x.data());
    r.turn(y.data());
    EXPECT_NEAR(dot(x, x), norm, 1e-4 * norm) << n;
    EXPECT_NEAR(dot(x, y), angle, 1e-4 * norm) << n;
    for (size_t i = 0; i < 2 * n; ++i) {
      ASSERT_NEAR(columns[2 * i], x[i], 1e-5) << n;
      ASSERT_NEAR(columns[2 * i + 1], y[i], 1e-5) << n;
    }
  }
}

TEST(Rotation, SeedsDiffer) {
  EXPECT_NE(Rotation(64, 1, 0).signs(), Rotation(64, 1, 1).signs());
  EXPECT_EQ(Rotation(64, 1, 7).signs(), Rotation(64, 1, 7).signs());
}

}  // namespace
}  // namespace qp::transform
