// Transposing a matrix of small elements, in tiles that stay in the first cache.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "lib/layout/bits.h"

namespace qp::layout {

// out[c][r] = in[r][c] for r < rows, c < cols; strides in bytes.
template <class T>
void transpose(const std::byte* in, uint64_t in_stride, uint64_t rows, uint64_t cols,
               std::byte* out, uint64_t out_stride) {
  constexpr uint64_t kTile = 64 / sizeof(T);  // one cache line of each row
  T tile[kTile][kTile];
  for (uint64_t r = 0; r < rows; r += kTile) {
    uint64_t h = std::min(kTile, rows - r);
    for (uint64_t c = 0; c < cols; c += kTile) {
      uint64_t w = std::min(kTile, cols - c);
      const std::byte* from = in + r * in_stride + c * sizeof(T);
      std::byte* to = out + c * out_stride + r * sizeof(T);
      if (h == kTile && w == kTile) {
        for (uint64_t i = 0; i < kTile; ++i) std::memcpy(tile[i], from + i * in_stride, sizeof tile[i]);
        for (uint64_t j = 0; j < kTile; ++j) {
          T line[kTile];
          for (uint64_t i = 0; i < kTile; ++i) line[i] = tile[i][j];
          std::memcpy(to + j * out_stride, line, sizeof line);
        }
        continue;
      }
      for (uint64_t i = 0; i < h; ++i) {
        for (uint64_t j = 0; j < w; ++j) {
          std::memcpy(to + j * out_stride + i * sizeof(T), from + i * in_stride + j * sizeof(T), sizeof(T));
        }
      }
    }
  }
}

}  // namespace qp::layout
