// Dense f32 matrices that somebody else owns: [rows = tokens, cols = width of a value].
#pragma once

#include <cstddef>

namespace qp::engine {

struct ConstMatrix {
  const float* data = nullptr;
  size_t rows = 0, cols = 0;
  const float* row(size_t i) const { return data + i * cols; }
};

struct Matrix {
  float* data = nullptr;
  size_t rows = 0, cols = 0;
  float* row(size_t i) const { return data + i * cols; }
  operator ConstMatrix() const { return {data, rows, cols}; }  // NOLINT: a view of a view
};

}  // namespace qp::engine
