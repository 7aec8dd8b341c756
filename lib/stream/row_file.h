// Rows of f32 in a spill file.
#pragma once

#include <cstddef>
#include <vector>

#include "lib/base/file.h"
#include "lib/engine/matrix.h"

namespace qp {

class RowFile {
 public:
  explicit RowFile(size_t width);
  // Rows [first, ..). Errors: system.
  void write(size_t first, engine::ConstMatrix x);
  void read(size_t first, engine::Matrix x) const;
  std::vector<float> read(size_t first, size_t count) const;
  size_t width() const { return width_; }

 private:
  size_t width_;
  Fd file_;
};

}  // namespace qp
