// The hidden states before each layer, kept in a spill file: [layers + 1][rows, width] floats.
#pragma once

#include <cstddef>

#include "lib/stream/row_file.h"
#include "lib/stream/stream.h"

namespace qp {

class Trail {
 public:
  Trail(size_t rows, size_t width) : rows_(rows), file_(width) {}
  // Rows from `first` on. Errors: system.
  void read(size_t layer, size_t first, engine::Matrix x) const { file_.read(layer * rows_ + first, x); }
  // What the stream's last layer made.
  void keep(const Stream& stream, size_t layer);
  // Files for a stream that goes on with `layer`: Stream::resume(layer, 0, false).
  States states(size_t layer) const;

 private:
  static constexpr size_t kRows = 256;  // at a time
  size_t rows_;
  RowFile file_;
};

}  // namespace qp
