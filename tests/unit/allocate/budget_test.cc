// The knapsack against trying everything.
#include "lib/allocate/budget.h"

#include <gtest/gtest.h>

#include "lib/base/random.h"

namespace qp {
namespace {

using Groups = std::vector<std::vector<BudgetOption>>;

Groups random_groups(SplitMix64& rng, size_t n, uint64_t sizes, uint64_t costs) {
  Groups groups(n);
  for (auto& g : groups) {
    g.resize(1 + rng.below(5));
    for (BudgetOption& o : g) o = {1 + rng.below(sizes), static_cast<double>(rng.below(costs))};
  }
  return groups;
}

// Calls `see` with every selection.
template <class See>
void all_selections(const Groups& groups, See see) {
  Selection s;
  s.option.resize(groups.size());
  while (true) {
    s.bytes = 0;
    s.cost = 0;
    for (size_t i = 0; i < groups.size(); ++i) {
      s.bytes += groups[i][s.option[i]].bytes;
      s.cost += groups[i][s.option[i]].cost;
    }
    see(s);
    size_t i = 0;
    while (i < groups.size() && ++s.option[i] == groups[i].size()) s.option[i++] = 0;
    if (i == groups.size()) return;
  }
}

TEST(Budget, IsTheBestOfAll) {
  SplitMix64 rng(1);
  for (int round = 0; round < 300; ++round) {
    // Few sizes and costs give many ties, many sizes none.
    uint64_t sizes = round % 3 == 0 ? 4 : 1000, costs = round % 2 == 0 ? 5 : 100000;
    Groups groups = random_groups(rng, 1 + rng.below(6), sizes, costs);
    uint64_t budget = rng.below(sizes * groups.size());
    std::optional<Selection> best, found = select_within(groups, budget);
    all_selections(groups, [&](const Selection& s) {
      if (s.bytes > budget) return;
      bool better = !best || s.cost < best->cost || (s.cost == best->cost && s.bytes < best->bytes);
      if (better) best = s;
    });
    ASSERT_EQ(found.has_value(), best.has_value());
    if (!best) continue;
    EXPECT_EQ(found->cost, best->cost);
    EXPECT_EQ(found->bytes, best->bytes);
    uint64_t bytes = 0;
    double cost = 0;
    for (size_t i = 0; i < groups.size(); ++i) {
      bytes += groups[i][found->option[i]].bytes;
      cost += groups[i][found->option[i]].cost;
    }
    EXPECT_EQ(bytes, found->bytes);
    EXPECT_EQ(cost, found->cost);
  }
}

// With few states kept it is still a selection within the budget, and near the best.
TEST(Budget, ThinnedStatesStayWithinTheBudget) {
  SplitMix64 rng(2);
  for (int round = 0; round < 50; ++round) {
    Groups groups(60);
    uint64_t least = 0, most = 0;
    for (auto& g : groups) {
      uint64_t n = 100000 + rng.below(900000);
      double scale = 1 + static_cast<double>(rng.below(1000));
      for (unsigned bits : {2u, 3u, 4u, 8u}) {
        g.push_back({n * bits, scale / static_cast<double>(1u << (2 * bits))});
      }
      least += g.front().bytes;
      most += g.back().bytes;
    }
    uint64_t budget = least + rng.below(most - least);
    auto exact = select_within(groups, budget), thin = select_within(groups, budget, 1024);
    ASSERT_TRUE(exact && thin);
    EXPECT_LE(thin->bytes, budget);
    EXPECT_LE(exact->bytes, budget);
    EXPECT_GE(static_cast<double>(exact->bytes), 0.995 * static_cast<double>(budget));
    EXPECT_GE(thin->cost, exact->cost * (1 - 1e-12));
    EXPECT_LE(thin->cost, exact->cost * 1.05);
  }
}

TEST(Budget, TooSmall) {
  Groups groups = {{{10, 1}, {20, 0}}, {{5, 3}}};
  EXPECT_FALSE(select_within(groups, 14));
  auto s = select_within(groups, 15);
  ASSERT_TRUE(s);
  EXPECT_EQ(s->option, (std::vector<size_t>{0, 0}));
  EXPECT_EQ(select_within(groups, 25)->option, (std::vector<size_t>{1, 0}));
}

}  // namespace
}  // namespace qp
