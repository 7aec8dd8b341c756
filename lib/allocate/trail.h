// The hidden states before each layer, kept in a spill file: [layers + 1][rows, width] floats.
#pragma once

#include <cstddef>

#include "lib/base/file.h"
#include "lib/stream/stream.h"

namespace qp {

class Trail {
 public:
  Trail(size_t rows, size_t width);
  // Rows [first, first + count). Errors: system.
  void write(size_t layer, size_t first, size_t count, const float* data);
  void read(size_t layer, size_t first, size_t count, float* data) const;
  // What the stream's last layer made.
  void keep(const Stream& stream, size_t layer);
  // Files for a stream that goes on with `layer`: Stream::resume(layer, 0, false).
  States states(size_t layer) const;

 private:
  static constexpr size_t kRows = 256;  // at a time
  size_t rows_, width_;
  Fd file_;
};

}  // namespace qp
