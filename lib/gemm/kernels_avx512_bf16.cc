// AVX512_BF16: two terms of a sum an instruction, sums in f32, one chain over all of k. Panels of
// both sides are tiles of pairs. Shares no inline function with code compiled for less.
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wuninitialized"  // GCC 12's own intrinsics set them off
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#include <immintrin.h>
#include <string.h>

#include "lib/gemm/backends.h"

namespace qp::gemm {
namespace {

#include "lib/gemm/vectors_avx512.inc"
#include "lib/gemm/finish.inc"

#include "lib/gemm/bf16_panels_avx512.inc"

constexpr size_t kRows = 8;  // at a time, by 2 x 16 columns: as many chains as hide their latency

// The sums of kRows rows, pairs of which lie at `a`, 64 bytes from pair to pair.
inline void row_sums(const char* a, const char* b, size_t steps, float* tile, bool first) {
  V sum[kRows][2];
#pragma GCC unroll 8
  for (size_t i = 0; i < kRows; ++i) {
    sum[i][0] = first ? set1(0) : load(tile + i * kPanel);
    sum[i][1] = first ? set1(0) : load(tile + i * kPanel + kTile);
  }
  for (size_t p = 0; p < steps; ++p, a += kPair, b += kPair) {
    for (size_t q = 0; q < kTileBytes; q += 64) {
      const I left = _mm512_load_si512(b + q), right = _mm512_load_si512(b + kTileBytes + q);
#pragma GCC unroll 8
      for (size_t i = 0; i < kRows; ++i) {
        int pair;
        memcpy(&pair, a + q + 4 * i, sizeof pair);
        const I row = _mm512_set1_epi32(pair);
        sum[i][0] = _mm512_dpbf16_ps(sum[i][0], (__m512bh)row, (__m512bh)left);
        sum[i][1] = _mm512_dpbf16_ps(sum[i][1], (__m512bh)row, (__m512bh)right);
      }
    }
  }
#pragma GCC unroll 8
  for (size_t i = 0; i < kRows; ++i) {
    store(tile + i * kPanel, sum[i][0]);
    store(tile + i * kPanel + kTile, sum[i][1]);
  }
}

void step(const Step& s) noexcept {
  const size_t steps = s.depth / kDepth;
  for (size_t j = 0; j < s.b_panels; ++j) {
    for (size_t i = 0; i < s.a_panels; ++i) {
      if (s.lower && above(s.row0 + i * kPanel, kPanel, s.col0 + j * kPanel)) continue;
      const char* a = s.a + i * s.a_stride;
      float* tile = s.tiles + (j * s.a_panels + i) * kPanel * kPanel;
      for (size_t r = 0; r < kPanel; r += kRows) {
        row_sums(a + r / kTile * kTileBytes + r % kTile * 4, s.b + j * s.b_stride, steps,
                 tile + r * kPanel, s.first);
      }
    }
  }
}

void nothing() noexcept {}

}  // namespace

const Backend k_avx512_bf16_bf16 =
    panel_backend<true>("avx512_bf16", nothing, nothing, step);

}  // namespace qp::gemm
