// What sensitivities are made of and put right with, by hand.
#include "lib/allocate/sensitivity.h"

#include <gtest/gtest.h>

namespace qp {
namespace {

SchemeGroup group(std::vector<uint64_t> bytes) {
  SchemeGroup g;
  g.bytes = std::move(bytes);
  return g;
}

TEST(Sensitivity, MoreBytesNeverCostMore) {
  // In any order of the candidates; equal bytes count as in their order.
  std::vector<SchemeGroup> groups = {group({40, 20, 30, 80}), group({10, 10, 20, 5})};
  Sensitivities costs = {{0.3, 0.5, 0.2, 0.1}, {4, 6, 5, 3}};
  make_monotone(costs, groups);
  EXPECT_EQ(costs[0], (std::vector<double>{0.2, 0.5, 0.2, 0.1}));
  EXPECT_EQ(costs[1], (std::vector<double>{3, 3, 3, 3}));
}

TEST(Sensitivity, WindowsAreSpreadOut) {
  Windows windows;
  for (int32_t w = 0; w < 10; ++w) windows.add(std::vector<int32_t>(1000, w));
  Windows some = sample_windows(windows, 2048);
  ASSERT_EQ(some.size(), 4u);  // of 512 tokens
  for (size_t w = 0; w < some.size(); ++w) EXPECT_EQ(some[w].size(), 512u);
  EXPECT_EQ(some[0][0], 0);
  EXPECT_GE(some[3][0], 6);
  EXPECT_LT(some[1][0], some[2][0]);
  EXPECT_EQ(sample_windows(windows, 1'000'000).size(), 10u);
  EXPECT_EQ(sample_windows(windows, 1).size(), 1u);
}

}  // namespace
}  // namespace qp
