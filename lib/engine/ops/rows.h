// Runs a loop over rows on all threads, in blocks that never change a result.
#pragma once

#include <algorithm>
#include <cstddef>

#include "lib/base/parallel.h"

namespace qp::engine {

template <class Body>
void for_rows(size_t rows, Body body) {
  constexpr size_t kBlock = 16;
  parallel_for((rows + kBlock - 1) / kBlock, [&](size_t b, int) {
    for (size_t r = b * kBlock; r < std::min(rows, (b + 1) * kBlock); ++r) body(r);
  });
}

}  // namespace qp::engine
