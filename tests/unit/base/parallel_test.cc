#include "lib/base/parallel.h"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

namespace qp {
namespace {

class Parallel : public testing::TestWithParam<int> {
 protected:
  void SetUp() override { set_threads(GetParam()); }
  void TearDown() override { set_threads(0); }
};

// Work of uneven length, so that results become ready out of order.
void linger(size_t i) {
  if (i % 7 == 0) std::this_thread::sleep_for(std::chrono::microseconds(300));
}

TEST_P(Parallel, RetiresInOrderFromTheSlotThatProduced) {
  constexpr size_t kCount = 500;
  std::vector<size_t> in_slot(static_cast<size_t>(ordered_slots()), kCount), order;
  std::atomic<int> retiring{0};
  parallel_ordered(
      kCount,
      [&](size_t i, int slot) {
        auto& mine = in_slot.at(static_cast<size_t>(slot));
        EXPECT_EQ(mine, kCount) << "slot " << slot << " is still in use";
        mine = i;
        linger(i);
      },
      [&](size_t i, int slot) {
        EXPECT_EQ(retiring.fetch_add(1), 0);
        EXPECT_EQ(in_slot.at(static_cast<size_t>(slot)), i);
        in_slot.at(static_cast<size_t>(slot)) = kCount;
        order.push_back(i);
        linger(i + 3);
        --retiring;
      });
  ASSERT_EQ(order.size(), kCount);
  for (size_t i = 0; i < kCount; ++i) EXPECT_EQ(order[i], i);
}

TEST_P(Parallel, TheLowestErrorWins) {
  for (bool in_retire : {false, true}) {
    auto fail = [](size_t i) {
      if (i == 40 || i == 41 || i == 300) throw std::runtime_error(std::to_string(i));
    };
    try {
      parallel_ordered(
          1000, [&](size_t i, int) { in_retire ? linger(i) : fail(i); },
          [&](size_t i, int) { in_retire ? fail(i) : linger(i); });
      FAIL() << "nothing was thrown";
    } catch (const std::runtime_error& e) {
      EXPECT_STREQ(e.what(), "40");
    }
  }
}

TEST_P(Parallel, NothingToDo) {
  parallel_ordered(0, [](size_t, int) { FAIL(); }, [](size_t, int) { FAIL(); });
  parallel_for(0, [](size_t, int) { FAIL(); });
}

INSTANTIATE_TEST_SUITE_P(Threads, Parallel, testing::Values(1, 2, 3, 16));

}  // namespace
}  // namespace qp
