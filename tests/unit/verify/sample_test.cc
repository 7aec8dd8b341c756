#include "lib/verify/sample.h"

#include <gtest/gtest.h>

#include <cmath>
#include <set>

#include "lib/base/error.h"
#include "lib/verify/compare.h"
#include "lib/verify/numbers.h"
#include "tests/unit/support/tensor_store.h"

namespace qp {
namespace {

std::vector<uint64_t> rows_of(const RowSample& s) {
  std::vector<uint64_t> out;
  for (const RowRun& r : s.runs(1000)) {
    for (uint64_t i = 0; i < r.count; ++i) out.push_back(r.first + i);
  }
  return out;
}

TEST(Sample, Shares) {
  EXPECT_EQ(parse_share("5%", "--sample"), 0.05);
  EXPECT_EQ(parse_share("0.5 %", "--sample"), 0.005);
  EXPECT_EQ(parse_share("0.05", "--sample"), 0.05);
  EXPECT_EQ(parse_share("100%", "--sample"), 1);
  for (const char* bad : {"", "%", "0", "0%", "-1%", "101%", "1", "5", "x", "5%%", "nan%", "inf",
                          "nan", "5 p", "1e-400%"}) {
    EXPECT_THROW((void)parse_share(bad, "--sample"), Error) << bad;
  }
}

TEST(Sample, SmallTensorsAreReadWhole) {
  EXPECT_TRUE(RowSample({0.01, 0}, "w", 1, 100'000'000).whole());
  EXPECT_TRUE(RowSample({0.01, 0}, "w", 31, 4096).whole());  // fewer than two runs of 16 rows
  EXPECT_FALSE(RowSample({0.01, 0}, "w", 32, 4096).whole());
  EXPECT_TRUE(RowSample({0.01, 0}, "w", uint64_t{1} << 60, 0).whole());
}

TEST(Sample, RowsAreThereOnceInOrderAndAsManyAsAsked) {
  for (uint64_t rows : {1000ull, 4096ull, 151'936ull, 10'007ull}) {
    for (double share : {0.001, 0.05, 0.5, 0.97}) {
      for (uint64_t seed = 0; seed < 20; ++seed) {
        RowSample s({share, seed}, "w", rows, 4096);
        std::vector<uint64_t> r = rows_of(s);
        EXPECT_EQ(r.size(), s.rows());
        EXPECT_EQ(std::set<uint64_t>(r.begin(), r.end()).size(), r.size());
        EXPECT_TRUE(std::is_sorted(r.begin(), r.end()));
        EXPECT_LT(r.back(), rows);
        double wanted = share * static_cast<double>(rows), got = static_cast<double>(s.rows());
        EXPECT_LT(got, wanted + 16);
        EXPECT_GT(got, wanted - 17);
      }
    }
  }
}

TEST(Sample, NamesAndSeedsChangeIt) {
  auto rows = [](uint64_t seed, const char* name) {
    return rows_of(RowSample({0.05, seed}, name, 8192, 4096));
  };
  EXPECT_EQ(rows(1, "w"), rows(1, "w"));
  EXPECT_NE(rows(1, "w"), rows(2, "w"));
  EXPECT_NE(rows(1, "w"), rows(1, "v"));
}

// Every row is read as often as any other: 4000 draws, each row in a sixth of them or so. A row
// that no run reached, or that runs favoured, is far outside of 6 standard errors.
TEST(Sample, EveryRowIsAsLikely) {
  constexpr uint64_t kRows = 101, kDraws = 4000;  // 16 rows a run: 5 rows are outside of all places
  std::vector<double> seen(kRows);
  double picked = 0;
  for (uint64_t seed = 0; seed < kDraws; ++seed) {
    RowSample s({0.15, seed}, "w", kRows, 4096);
    picked = static_cast<double>(s.rows());
    for (uint64_t r : rows_of(s)) seen[r] += 1;
  }
  double p = picked / kRows, sigma = std::sqrt(kDraws * p * (1 - p));
  for (uint64_t r = 0; r < kRows; ++r) EXPECT_NEAR(seen[r], kDraws * p, 6 * sigma) << r;
}

// The mean of the estimates over many seeds is the error of the whole.
TEST(Sample, SumsAreUnbiased) {
  constexpr uint64_t kRows = 300, kCols = 2048;
  std::vector<float> a(kRows * kCols), b(kRows * kCols, 1.0f);
  for (uint64_t i = 0; i < a.size(); ++i) a[i] = 1.0f + static_cast<float>(i / kCols % 97) / 97.0f;
  TensorStore s;
  s.add_float("a", DType::f32, {kRows, kCols}, raw_bytes(a));
  s.add_float("b", DType::f32, {kRows, kCols}, raw_bytes(b));
  const Store& store = s.store();
  TensorErrors whole = compare_tensors(store, s.tensor(0), store, s.tensor(1));
  double sum = 0, squares = 0;
  constexpr int kDraws = 400;
  for (uint64_t seed = 0; seed < kDraws; ++seed) {
    Sampling sampling{0.1, seed};
    TensorErrors part = compare_tensors(store, s.tensor(0), store, s.tensor(1), sampling), scaled;
    RowSample sample(sampling, "a", kRows, kCols);
    EXPECT_EQ(part.count, sample.rows() * kCols);
    scaled.add(part, sample.weight());
    EXPECT_NEAR(static_cast<double>(scaled.count), static_cast<double>(whole.count), 1);
    sum += scaled.diff2;
    squares += scaled.diff2 * scaled.diff2;
  }
  double mean = sum / kDraws, error = std::sqrt((squares / kDraws - mean * mean) / kDraws);
  EXPECT_GT(error, 0);
  EXPECT_NEAR(mean, whole.diff2, 4 * error);
}

// Half of the matrix is zero: a sample that saw nothing else is no reason to say so.
TEST(Sample, WhatASampleFindsIsLookedForInTheWhole) {
  constexpr uint64_t kRows = 512, kCols = 2048;
  std::vector<float> values(kRows * kCols);
  values[kRows * kCols - 1] = 1;
  TensorStore s;
  s.add_float("w", DType::f32, {kRows, kCols}, raw_bytes(values));
  EXPECT_TRUE(check_numbers(s.store(), s.tensor(0), nullptr, {0.05, 3}).empty());
  for (uint64_t i = 0; i < values.size(); i += 2) values[i] = NAN;
  TensorStore bad;
  bad.add_float("w", DType::f32, {kRows, kCols}, raw_bytes(values));
  auto findings = check_numbers(bad.store(), bad.tensor(0), nullptr, {0.05, 3});
  ASSERT_EQ(findings.size(), 1u);
  EXPECT_EQ(findings[0].what,
            std::to_string(kRows * kCols / 2) + " values are NaN or infinite (first in row 0)");
}

}  // namespace
}  // namespace qp
