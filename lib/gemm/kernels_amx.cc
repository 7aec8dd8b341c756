// AMX: bf16 tiles of 16 x 32, sums in f32, one chain over all of k. A panel is 32 vectors, two
// tiles for each 32 k: left 16 rows x 32 k; right 16 pairs of k x 16 columns. Shares no inline
// function with code compiled for less.
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

constexpr size_t kTile = 16;              // vectors of a tile
constexpr size_t kDepth = 32;             // elements of k in a tile
constexpr size_t kPanel = 2 * kTile;      // vectors of a panel
constexpr size_t kTileBytes = 1024;
constexpr size_t kPair = 2 * kTileBytes;  // of a panel, for one step of kDepth
using I = __m512i;

// 16 rows of 16 pairs become 16 columns of them.
inline void turn(I (&r)[16]) {
  I t[16];
#pragma GCC unroll 8
  for (int i = 0; i < 16; i += 2) {
    t[i] = _mm512_unpacklo_epi32(r[i], r[i + 1]);
    t[i + 1] = _mm512_unpackhi_epi32(r[i], r[i + 1]);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 16; i += 4) {
    r[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
    r[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
    r[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
    r[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    t[i] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0x88);
    t[i + 4] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0xdd);
    t[i + 8] = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0x88);
    t[i + 12] = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0xdd);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    r[i] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0x88);
    r[i + 8] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0xdd);
    r[i + 4] = _mm512_shuffle_i32x4(t[i + 4], t[i + 12], 0x88);
    r[i + 12] = _mm512_shuffle_i32x4(t[i + 4], t[i + 12], 0xdd);
  }
}

inline __mmask32 first_of(size_t n) {
  return n >= 32 ? ~__mmask32{0} : static_cast<__mmask32>((uint32_t{1} << n) - 1);
}

// Two vectors of 16 floats as 32 bf16 in order.
inline I round_row(V low, V high) {
  const I upper_halves = _mm512_set_epi16(
      63, 61, 59, 57, 55, 53, 51, 49, 47, 45, 43, 41, 39, 37, 35, 33, 31, 29, 27, 25, 23, 21, 19,
      17, 15, 13, 11, 9, 7, 5, 3, 1);
  return _mm512_permutex2var_epi16(round_up_halves(low), upper_halves, round_up_halves(high));
}
// Two vectors of 16 floats as 16 pairs (a, b).
inline I round_pairs(V a, V b) {
  return _mm512_mask_blend_epi16(0xaaaaaaaau, _mm512_srli_epi32(round_up_halves(a), 16),
                                 round_up_halves(b));
}

// `count` <= 16 vectors, `depth` <= 32 elements of each, as rows of elements in order of k.
template <class T>
inline void load_rows(const T* in, size_t stride, size_t count, size_t depth, I (&r)[16]) {
  const __mmask32 mask = first_of(depth);
  for (size_t i = 0; i < 16; ++i) {
    const T* p = in + i * stride;
    if (i >= count) {
      r[i] = _mm512_setzero_si512();
    } else if constexpr (sizeof(T) == 2) {
      r[i] = _mm512_maskz_loadu_epi16(mask, p);
    } else {
      // Rows lie apart: what comes next in each would not be fetched by itself.
      constexpr size_t kAhead = 96;
      _mm_prefetch(reinterpret_cast<const char*>(p + kAhead), _MM_HINT_T0);
      _mm_prefetch(reinterpret_cast<const char*>(p + kAhead + 16), _MM_HINT_T0);
      V low = _mm512_maskz_loadu_ps(static_cast<__mmask16>(mask), p);
      V high = _mm512_maskz_loadu_ps(static_cast<__mmask16>(mask >> 16), p + 16);
      r[i] = round_row(low, high);
    }
  }
}
// The same from a source that lies transposed, as rows of pairs: row q has elements 2q and 2q + 1.
template <class T>
inline void load_pairs(const T* in, size_t stride, size_t count, size_t depth, I (&r)[16]) {
  const __mmask16 mask = static_cast<__mmask16>(first_of(count));
  for (size_t q = 0; q < 16; ++q) {
    const T* p = in + 2 * q * stride;
    const __mmask16 even = 2 * q < depth ? mask : __mmask16{0};
    const __mmask16 odd = 2 * q + 1 < depth ? mask : __mmask16{0};
    if constexpr (sizeof(T) == 2) {
      I a = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(even, p));
      I b = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(odd, p + stride));
      r[q] = _mm512_or_si512(a, _mm512_slli_epi32(b, 16));
    } else {
      r[q] = round_pairs(_mm512_maskz_loadu_ps(even, p), _mm512_maskz_loadu_ps(odd, p + stride));
    }
  }
}

// kPairs: tiles of pairs (right), else tiles of rows (left).
template <bool kPairs, class T>
inline void pack_from(const T* in, size_t stride, bool transposed, size_t count, size_t depth,
                      char* out) {
  for (size_t p = 0; p < depth; p += kDepth) {
    for (size_t t = 0; t < 2; ++t, out += kTileBytes) {
      size_t here = count > t * kTile ? count - t * kTile : 0;
      I r[16];
      if (transposed) {
        load_pairs(in + p * stride + t * kTile, stride, here, depth - p, r);
      } else {
        load_rows(in + t * kTile * stride + p, stride, here, depth - p, r);
      }
      if (transposed != kPairs) turn(r);
      for (size_t i = 0; i < 16; ++i) _mm512_store_si512(out + 64 * i, r[i]);
    }
  }
}

template <bool kPairs>
void pack_panel(const Source& s, size_t count, size_t depth, void* panel) noexcept {
  char* out = static_cast<char*>(panel);
  if (s.bf16) {
    pack_from<kPairs>(static_cast<const uint16_t*>(s.data), s.stride, s.transposed, count, depth,
                      out);
  } else {
    pack_from<kPairs>(static_cast<const float*>(s.data), s.stride, s.transposed, count, depth,
                      out);
  }
}

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

const Backend k_amx_bf16 = {.isa = "amx",
                            .rows = kPanel,
                            .cols = kPanel,
                            .depth_unit = kDepth,
                            .depth_block = 256,
                            .a_size = 2,
                            .b_size = 2,
                            .pack_a = pack_panel<false>,
                            .pack_b = pack_panel<true>,
                            .begin = begin,
                            .end = end,
                            .step = step,
                            .finish = finish_block<kPanel, kPanel>};

}  // namespace qp::gemm
