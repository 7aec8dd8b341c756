// Walks the rows of many sources as one stream of chunks: parallel work, results in order. One walk
// over all tensors of a model leaves no processor idle where one tensor ends and the next begins.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "lib/qmap/rows.h"

namespace qp {

// Some rows of a source. Whoever needs buffers that live from work() to retire() keeps
// ordered_slots() of them (lib/base/parallel.h), one a slot.
struct RowChunk {
  uint64_t first = 0, count = 0;
  std::span<const std::byte> rows;  // count * row_bytes() bytes, valid until retire() returns
  size_t slot = 0;
};
using RowWork = std::function<void(const RowChunk&)>;

struct RowJob {
  RowSource source;
  uint64_t chunk_bytes;  // about this many bytes of rows at a time ..
  uint64_t unit = 1;     // .. in whole multiples of this many rows
  std::function<void()> open{};   // before the first work(), once, on any thread
  RowWork work;                 // in parallel
  RowWork retire{};               // in order, one at a time
  std::function<void()> close{};  // after the last retire(), before the next job's first
};

// Runs the jobs; every function but `work` may be empty. Gives back the pages of what was read;
// stops when interrupted. Errors: those of the functions, the first in order.
void run_row_jobs(std::span<const RowJob> jobs);

// One job.
void for_row_chunks(const RowSource& source, uint64_t chunk_bytes, const RowWork& work,
                    const RowWork& retire);

}  // namespace qp
