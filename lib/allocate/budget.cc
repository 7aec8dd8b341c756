#include "lib/allocate/budget.h"

#include <algorithm>

namespace qp {
namespace {

// A choice for the groups so far, by its last step.
struct State {
  uint64_t bytes;
  double cost;
  uint32_t from;    // index of the state before the last group
  uint32_t option;  // of the last group
};

bool before(const State& a, const State& b) {
  return a.bytes != b.bytes ? a.bytes < b.bytes : a.cost < b.cost;
}

// Keeps states that no smaller one undercuts: costs fall along them.
void drop_dominated(std::vector<State>& states) {
  size_t kept = 0;
  for (const State& s : states) {
    if (kept == 0 || s.cost < states[kept - 1].cost) states[kept++] = s;
  }
  states.resize(kept);
}

// The smallest state, and the cheapest of each of `max_states` ranges of bytes.
void thin(std::vector<State>& states, size_t max_states) {
  if (states.size() <= max_states) return;
  uint64_t low = states.front().bytes;
  uint64_t width = (states.back().bytes - low) / max_states + 1;
  size_t kept = 1;
  for (size_t i = 1; i < states.size(); ++i) {
    bool last = i + 1 == states.size();
    if (last || (states[i].bytes - low) / width != (states[i + 1].bytes - low) / width) {
      states[kept++] = states[i];
    }
  }
  states.resize(kept);
}

}  // namespace

std::optional<Selection> select_within(std::span<const std::vector<BudgetOption>> groups,
                                       uint64_t budget, size_t max_states) {
  uint64_t rest = 0;  // the least that the groups to come take
  auto least = [](const std::vector<BudgetOption>& g) {
    return std::ranges::min_element(g, {}, &BudgetOption::bytes)->bytes;
  };
  for (const auto& g : groups) rest += least(g);
  if (rest > budget) return std::nullopt;
  std::vector<std::vector<State>> steps = {{{0, 0, 0, 0}}};
  for (const auto& g : groups) {
    rest -= least(g);
    const std::vector<State>& from = steps.back();
    std::vector<State> to;
    for (uint32_t o = 0; o < g.size(); ++o) {
      auto middle = static_cast<std::ptrdiff_t>(to.size());
      for (uint32_t s = 0; s < from.size(); ++s) {
        uint64_t bytes = from[s].bytes + g[o].bytes;
        if (bytes + rest > budget) break;  // they ascend
        to.push_back({bytes, from[s].cost + g[o].cost, s, o});
      }
      std::inplace_merge(to.begin(), to.begin() + middle, to.end(), before);
    }
    drop_dominated(to);
    thin(to, max_states);
    steps.push_back(std::move(to));
  }
  Selection best;
  uint32_t at = static_cast<uint32_t>(steps.back().size() - 1);  // the cheapest
  best.bytes = steps.back()[at].bytes;
  best.cost = steps.back()[at].cost;
  best.option.resize(groups.size());
  for (size_t i = groups.size(); i-- > 0;) {
    const State& s = steps[i + 1][at];
    best.option[i] = s.option;
    at = s.from;
  }
  return best;
}

}  // namespace qp
