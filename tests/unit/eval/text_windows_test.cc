// Windows by hand.
#include "lib/eval/text_windows.h"

#include <gtest/gtest.h>

#include <numeric>

#include "lib/base/error.h"

namespace qp {
namespace {

std::vector<int32_t> numbers(int32_t n) {
  std::vector<int32_t> ids(static_cast<size_t>(n));
  std::iota(ids.begin(), ids.end(), 100);
  return ids;
}

std::vector<int32_t> scored(const TextWindows& t) {
  std::vector<int32_t> out;
  for (const ScoredToken& s : t.scored) out.push_back(s.token);
  return out;
}

TEST(TextWindows, HuggingFaceBeginsAnewInEveryWindow) {
  TextWindows t = cut_windows(numbers(11), {.length = 4});
  EXPECT_EQ(t.windows.ids, (std::vector<int32_t>{100, 101, 102, 103, 104, 105, 106, 107}));
  EXPECT_EQ(t.windows.offsets, (std::vector<uint64_t>{0, 4, 8}));
  EXPECT_EQ(scored(t), (std::vector<int32_t>{101, 102, 103, 105, 106, 107}));
  EXPECT_EQ(t.left_out, 3u);
  for (const ScoredToken& s : t.scored) {  // the row before the token predicts it
    EXPECT_EQ(s.row, s.window * 4 + s.position - 1);
    EXPECT_EQ(t.windows[s.window][s.position], s.token);
  }
}

TEST(TextWindows, StrideScoresEveryTokenOnce) {
  TextWindows t = cut_windows(numbers(11), {.length = 5, .stride = 2});
  EXPECT_EQ(t.windows.size(), 4u);
  EXPECT_EQ(scored(t), (std::vector<int32_t>{101, 102, 103, 104, 105, 106, 107, 108, 109, 110}));
  EXPECT_EQ(t.scored[4].position, 3u);  // 105, in the window from 102 on
  EXPECT_EQ(t.left_out, 0u);
}

TEST(TextWindows, LlamaCppScoresTheSecondHalfBehindBos) {
  TextWindows t = cut_windows(
      numbers(17), {.kind = PerplexityKind::llama_cpp, .length = 8, .bos = 1});
  EXPECT_EQ(t.windows.size(), 2u);
  EXPECT_EQ(t.windows[1].front(), 1);
  EXPECT_EQ(t.windows[1][1], 109);
  // n_ctx - 1 - n_ctx / 2 tokens of each.
  EXPECT_EQ(scored(t), (std::vector<int32_t>{105, 106, 107, 113, 114, 115}));
}

TEST(TextWindows, CountStops) {
  TextWindows t = cut_windows(numbers(40), {.length = 4, .count = 3});
  EXPECT_EQ(t.windows.size(), 3u);
  EXPECT_EQ(t.left_out, 28u);
}

TEST(TextWindows, RefusesWhatCannotBeCut) {
  EXPECT_THROW(cut_windows({}, {.length = 4}), Error);
  EXPECT_THROW(cut_windows(numbers(3), {.length = 4}), Error);
  EXPECT_THROW(cut_windows(numbers(9), {.length = 1}), Error);
  EXPECT_THROW(cut_windows(numbers(9), {.length = 4, .stride = 5}), Error);
}

}  // namespace
}  // namespace qp
