// The token windows that go through the model together.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace qp::engine {

// Rows of every value are these tokens, window after window. Positions start at 0 in each window.
struct Batch {
  std::vector<int32_t> tokens;
  std::vector<size_t> starts = {0};  // first row of each window; the number of rows at the end

  size_t rows() const { return tokens.size(); }
  size_t windows() const { return starts.size() - 1; }
  void add(const int32_t* ids, size_t n) {
    tokens.insert(tokens.end(), ids, ids + n);
    starts.push_back(tokens.size());
  }
};

}  // namespace qp::engine
