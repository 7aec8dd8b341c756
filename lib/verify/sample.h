// Which rows of a tensor are read when a sample has to do: drawn at random, the same on any machine
// and any number of threads.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "lib/qmap/row_jobs.h"

namespace qp {

// What share of each tensor's rows is read.
struct Sampling {
  double share = 1;  // (0, 1]
  uint64_t seed = 0;
  bool whole() const { return share >= 1; }
};

// "5%", "0.5 %", or a number below 1: "0.05". Errors: usage, naming the option.
double parse_share(const std::string& text, const std::string& option);

// Consecutive rows.
struct RowRun {
  uint64_t first = 0, count = 0;
};

// Runs of rows of one tensor, at least one. All runs are equally long (about 64 Ki elements), their
// places are drawn without replacement on a circle of rows that is turned at random: each row is
// read with the same probability, so sums over the sample, scaled by weight(), are unbiased. A
// tensor of fewer elements than two runs have is read whole.
class RowSample {
 public:
  // Other tensors get other rows: `name` and the seed decide.
  RowSample(const Sampling& sampling, std::string_view name, uint64_t rows, uint64_t cols);

  bool whole() const { return whole_; }
  uint64_t rows() const { return picked_; }  // that are read
  double weight() const;                     // rows there are for each that is read
  // In the order of rows, each of `longest` at most. Cut by nothing but that.
  std::vector<RowRun> runs(uint64_t longest) const;

 private:
  bool whole_ = true;
  uint64_t all_, picked_;
  std::vector<RowRun> runs_;  // of a sample that is not whole
};

// The sampled rows of a source in parallel, about chunk_bytes at a time: for_row_chunks() of a
// whole one. `work` runs on any thread, in any order.
void for_sampled_rows(const RowSource& source, const RowSample& sample, uint64_t chunk_bytes,
                      const RowWork& work);

}  // namespace qp
