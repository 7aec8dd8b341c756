// One option of each group, so that together they fit a budget and cost least: the multiple-choice
// knapsack behind automatic bit allocation.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

namespace qp {

struct BudgetOption {
  uint64_t bytes = 0;
  double cost = 0;  // finite, >= 0
};

struct Selection {
  std::vector<size_t> option;  // of each group
  uint64_t bytes = 0;
  double cost = 0;
};

// Exact while the states that matter (none is both smaller and cheaper) stay below `max_states`;
// beyond, the cheapest of each of as many equal ranges of bytes goes on. Every group has options.
// Empty: not even the smallest of all fit. Of equal costs the smaller selection wins. Nothing but
// the arguments decides.
std::optional<Selection> select_within(std::span<const std::vector<BudgetOption>> groups,
                                       uint64_t budget, size_t max_states = size_t{1} << 15);

}  // namespace qp
