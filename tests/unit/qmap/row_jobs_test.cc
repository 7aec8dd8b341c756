#include "lib/qmap/row_jobs.h"

#include <gtest/gtest.h>

#include <atomic>
#include <cstring>
#include <string>

#include "lib/base/error.h"
#include "lib/base/parallel.h"
#include "tests/unit/support/tensor_store.h"

namespace qp {
namespace {

class RowJobs : public testing::TestWithParam<int> {
 protected:
  void SetUp() override { set_threads(GetParam()); }
  void TearDown() override { set_threads(0); }

  // `rows` rows of 8 bytes that count up over all tensors.
  void add(uint64_t rows) {
    std::vector<float> values;
    for (uint64_t i = 0; i < 2 * rows; ++i) values.push_back(static_cast<float>(next_++));
    store_.add_float("t" + std::to_string(count_++), DType::f32, {rows, 2}, raw_bytes(values));
  }
  RowSource source(size_t i) { return RowSource(store_.store(), store_.tensor(i)); }

  TensorStore store_;
  int next_ = 0, count_ = 0;
};

TEST_P(RowJobs, OneStreamOverAllSources) {
  const uint64_t rows[] = {100, 0, 1, 37};
  for (uint64_t n : rows) add(n);
  std::vector<RowJob> jobs;
  std::atomic<int> open[4] = {};
  std::vector<std::string> log;
  float expected = 0;
  for (size_t k = 0; k < 4; ++k) {
    jobs.push_back({.source = source(k),
                    .chunk_bytes = 7 * 8,
                    .unit = k == 0 ? 4u : 1u,
                    .open = [&, k] { ++open[k]; },
                    .work = [&, k](const RowChunk& c) {
                      EXPECT_EQ(open[k], 1);
                      EXPECT_EQ(c.first % (k == 0 ? 4 : 7), 0u);
                      EXPECT_LE(c.count, k == 0 ? 4u : 7u);
                      EXPECT_EQ(c.rows.size(), c.count * 8);
                    },
                    .retire = [&, k](const RowChunk& c) {
                      log.push_back(std::to_string(k));
                      for (size_t i = 0; i < 2 * c.count; ++i) {
                        float v = 0;
                        std::memcpy(&v, c.rows.data() + 4 * i, 4);
                        EXPECT_EQ(v, expected++);
                      }
                    },
                    .close = [&, k] { log.push_back("end " + std::to_string(k)); }});
  }
  run_row_jobs(jobs);
  EXPECT_EQ(expected, static_cast<float>(next_));
  std::vector<std::string> want(25, "0");
  for (auto s : {"end 0", "end 1", "2", "end 2", "3", "3", "3", "3", "3", "3", "end 3"}) want.push_back(s);
  EXPECT_EQ(log, want);
  for (auto& n : open) EXPECT_EQ(n, 1);
}

TEST_P(RowJobs, AnErrorOfAnyStepStopsTheWalk) {
  add(50);
  add(50);
  for (int where = 0; where < 4; ++where) {
    auto fail = [](bool now) {
      if (now) throw input_error("here");
    };
    bool later = false;
    RowJob first{.source = source(0),
                 .chunk_bytes = 8,
                 .open = [&] { fail(where == 0); },
                 .work = [&](const RowChunk& c) { fail(where == 1 && c.first == 20); },
                 .retire = [&](const RowChunk& c) { fail(where == 2 && c.first == 20); },
                 .close = [&] { fail(where == 3); }};
    RowJob second{.source = source(1), .chunk_bytes = 8, .work = [](const RowChunk&) {},
                  .close = [&] { later = true; }};
    RowJob jobs[] = {first, second};
    EXPECT_THROW(run_row_jobs(jobs), Error) << where;
    EXPECT_FALSE(later) << where;
  }
}

INSTANTIATE_TEST_SUITE_P(Threads, RowJobs, testing::Values(1, 2, 5));

}  // namespace
}  // namespace qp
