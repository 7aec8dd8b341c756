// AMX: bf16 tiles of 16 x 32, sums in f32, one chain over all of k. Left panels are tiles of rows,
// right ones of pairs. Shares no inline function with code compiled for less.
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

void begin() noexcept {
  struct alignas(64) {
    uint8_t palette = 1, start_row = 0, reserved[14] = {};
    uint16_t row_bytes[16] = {};
    uint8_t rows[16] = {};
  } config;
  for (int i = 0; i < 8; ++i) {
    config.row_bytes[i] = 64;
    config.rows[i] = 16;
  }
  // GCC 12's intrinsic says that it reads 8 of the 64 bytes: the others would not be written.
  asm volatile("" ::"r"(&config) : "memory");
  _tile_loadconfig(&config);
}

void end() noexcept { _tile_release(); }

// What the next step reads, on its way into L2 while this one computes: lines of 64 bytes.
struct Fetch {
  const char* a;
  const char* b;
  size_t a_lines, b_lines;  // for each kDepth of this step
};

inline void fetch(const char*& from, size_t lines) {
  for (size_t i = 0; i < lines; ++i, from += 64) _mm_prefetch(from, _MM_HINT_T1);
}

// One tile pair times the other, `steps` times.
template <bool kFetch>
inline void tile_sums(const char* a, const char* b, size_t steps, float* tile, bool first,
                      Fetch next) {
  constexpr size_t kLine = 64, kHalf = 512;  // of 32 x 32 sums: bytes, floats
  if (first) {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
  } else {
    _tile_loadd(0, tile, 2 * kLine);
    _tile_loadd(1, tile + kTile, 2 * kLine);
    _tile_loadd(2, tile + kHalf, 2 * kLine);
    _tile_loadd(3, tile + kHalf + kTile, 2 * kLine);
  }
  for (size_t p = 0; p < steps; ++p, a += kPair, b += kPair) {
    _tile_loadd(4, a, kLine);
    _tile_loadd(6, b, kLine);
    _tile_dpbf16ps(0, 4, 6);
    if constexpr (kFetch) fetch(next.a, next.a_lines);
    _tile_loadd(7, b + kTileBytes, kLine);
    _tile_dpbf16ps(1, 4, 7);
    if constexpr (kFetch) fetch(next.b, next.b_lines);
    _tile_loadd(5, a + kTileBytes, kLine);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
  }
  _tile_stored(0, tile, 2 * kLine);
  _tile_stored(1, tile + kTile, 2 * kLine);
  _tile_stored(2, tile + kHalf, 2 * kLine);
  _tile_stored(3, tile + kHalf + kTile, 2 * kLine);
}

void step(const Step& s) noexcept {
  asm volatile("" ::: "memory");  // _tile_loadd does not say that it reads what was packed
  const size_t steps = s.depth / kDepth, lines = steps * kPair / 64;
  // Panel i of the next a is fetched by the tiles (i, 0), (i, 1), .., a part each; b likewise.
  const Fetch share{nullptr, nullptr, (lines / s.b_panels + steps) / (steps + (steps == 0)),
                    (lines / s.a_panels + steps) / (steps + (steps == 0))};
  for (size_t j = 0; j < s.b_panels; ++j) {
    for (size_t i = 0; i < s.a_panels; ++i) {
      if (s.lower && above(s.row0 + i * kPanel, kPanel, s.col0 + j * kPanel)) continue;
      const char* a = s.a + i * s.a_stride;
      const char* b = s.b + j * s.b_stride;
      float* tile = s.tiles + (j * s.a_panels + i) * kPanel * kPanel;
      if (s.fetch) {
        Fetch next = share;
        next.a = a + steps * (kPair + j * share.a_lines * 64);
        next.b = b + steps * (kPair + i * share.b_lines * 64);
        tile_sums<true>(a, b, steps, tile, s.first, next);
      } else {
        tile_sums<false>(a, b, steps, tile, s.first, share);
      }
    }
  }
  asm volatile("" ::: "memory");
}

}  // namespace

const Backend k_amx_bf16 = panel_backend<false>("amx", begin, end, step);

}  // namespace qp::gemm
