// Where values lie while a block runs.
#include "lib/engine/graph.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "lib/base/error.h"
#include "lib/engine/ops/elementwise.h"
#include "lib/engine/ops/norm.h"

namespace qp::engine {
namespace {

// a = norm(x), b = act(a), c = a + b, x + c: x lives long, b and c are written over what was read.
Graph block() {
  Graph g(40);
  Value a = g.make<Norm>({g.input()}, "n", size_t{40}, size_t{40}, NormSpec{});
  Value b = g.make<Activation>({a}, Act::relu, size_t{40});
  Value c = g.make<Add>({a, b}, size_t{40});
  g.make<Add>({g.input(), c}, size_t{40});
  return g;
}

TEST(Layout, SharesPlacesOfDeadValuesOnly) {
  Graph g = block();
  Layout layout(g);
  EXPECT_NE(layout.place(1), layout.place(0));  // x is read again
  EXPECT_NE(layout.place(2), layout.place(1));  // so is a
  EXPECT_EQ(layout.place(3), layout.place(1));
  EXPECT_EQ(layout.place(4), layout.place(0));
  EXPECT_EQ(layout.floats(), 3u * 48);  // three alive at once, in whole cache lines
}

TEST(Layout, KeepsAllForABackwardPass) {
  Graph g = block();
  Layout layout(g, true);
  std::vector<size_t> places;
  for (Value v = 0; v < g.values(); ++v) places.push_back(layout.place(v));
  std::ranges::sort(places);
  for (size_t i = 0; i + 1 < places.size(); ++i) EXPECT_GE(places[i + 1] - places[i], 40u);
  EXPECT_EQ(layout.floats(), 5u * 48);
}

TEST(Pool, HoldsOneRun) {
  Graph g = block();
  Pool pool;
  {
    Values values(g, pool, 3);
    EXPECT_FALSE(values.has(0));
    Matrix x = values.make(0);
    EXPECT_TRUE(values.has(0));
    x.row(2)[39] = 7;
    EXPECT_EQ(values.get(0).row(2)[39], 7);
    EXPECT_THROW(Values(g, pool, 3), Error);
  }
  Values again(g, pool, 5);
}

}  // namespace
}  // namespace qp::engine
