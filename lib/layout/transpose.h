// Transposing a matrix of small elements, in tiles that stay in the first cache.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "lib/layout/bits.h"

namespace qp::layout {

// A whole tile of 4-byte elements, in squares of four that stay in registers.
inline void transpose_tile32(const std::byte* in, uint64_t in_stride, std::byte* out,
                             uint64_t out_stride) {
  using V [[gnu::vector_size(16)]] = uint32_t;
  for (uint64_t r = 0; r < 16; r += 4) {
    for (uint64_t c = 0; c < 16; c += 4) {
      V a[4];
      for (uint64_t i = 0; i < 4; ++i) std::memcpy(&a[i], in + (r + i) * in_stride + c * 4, 16);
      V lo = __builtin_shufflevector(a[0], a[1], 0, 4, 1, 5),
        hi = __builtin_shufflevector(a[0], a[1], 2, 6, 3, 7),
        lo2 = __builtin_shufflevector(a[2], a[3], 0, 4, 1, 5),
        hi2 = __builtin_shufflevector(a[2], a[3], 2, 6, 3, 7);
      V t[4] = {__builtin_shufflevector(lo, lo2, 0, 1, 4, 5),
                __builtin_shufflevector(lo, lo2, 2, 3, 6, 7),
                __builtin_shufflevector(hi, hi2, 0, 1, 4, 5),
                __builtin_shufflevector(hi, hi2, 2, 3, 6, 7)};
      for (uint64_t i = 0; i < 4; ++i) std::memcpy(out + (c + i) * out_stride + r * 4, &t[i], 16);
    }
  }
}

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
      if (sizeof(T) == 4 && h == kTile && w == kTile) {
        transpose_tile32(from, in_stride, to, out_stride);
        continue;
      }
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
