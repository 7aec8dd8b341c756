// What ggml's lattice types share in a block of 256 (reference/gguf.md 5.6). For
// ggml_codebook_*.cc.
#pragma once

#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "lib/kernels/ggml_quantizers.h"
#include "lib/tensor/minifloat.h"

namespace qp {

inline constexpr size_t kSuper = 256;

// ggml's nearest_int: to nearest, ties to even; |x| < 2^22.
inline int nearest_int(float x) {
  return static_cast<int>(std::bit_cast<uint32_t>(x + 12582912.0f) & 0x007fffffu) - 0x00400000;
}

// The code of a sub-block's scale for id = 1 / (the block's scale); it stands for 2 * code + 1.
inline uint32_t scale_code(float id, float scale, int top) {
  int code = nearest_int(0.5f * (id * scale - 1));
  return static_cast<uint32_t>(code < 0 ? 0 : code > top ? top : code);
}

// Sums of the squares of `count` blocks (at most 8), each in order: several at once, as an addition
// takes some cycles.
inline void sum_squares(const float* x, size_t count, float* sums) {
  for (size_t b = 0; b < 8; ++b) sums[b] = 0;
  if (count == 8) {
    for (size_t i = 0; i < kSuper; ++i) {
      for (size_t b = 0; b < 8; ++b) sums[b] += x[b * kSuper + i] * x[b * kSuper + i];
    }
    return;
  }
  for (size_t b = 0; b < count; ++b) {
    for (size_t i = 0; i < kSuper; ++i) sums[b] += x[b * kSuper + i] * x[b * kSuper + i];
  }
}

template <typename T>
void store_little(uint8_t* p, T v) {
  std::memcpy(p, &v, sizeof v);
}

// A block: x, the sum of its squares, importance or null, out (zeros).
using QuantizeBlock = void (*)(const float*, float, const float*, uint8_t*);

template <size_t kBytes, QuantizeBlock kBlock>
void quantize_blocks(const float* x, size_t rows, size_t cols, const float* importance,
                     uint8_t* out) {
  const size_t blocks = rows * (cols / kSuper);
  std::memset(out, 0, blocks * kBytes);
  for (size_t first = 0; first < blocks; first += 8) {
    const size_t count = blocks - first < 8 ? blocks - first : 8;
    float sums[8];
    sum_squares(x + first * kSuper, count, sums);
    for (size_t b = first; b < first + count; ++b) {
      const float* own = importance != nullptr ? importance + b * kSuper % cols : nullptr;
      kBlock(x + b * kSuper, sums[b - first], own, out + b * kBytes);
    }
  }
}

using QuantizeRows = void (*)(const float*, size_t, size_t, const float*, uint8_t*);
extern const QuantizeRows kQuantizeIq1S, kQuantizeIq1M, kQuantizeIq2Xxs, kQuantizeIq2Xs,
    kQuantizeIq2S, kQuantizeIq3Xxs, kQuantizeIq3S;

}  // namespace qp
