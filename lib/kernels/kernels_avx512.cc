// AVX-512 (F BW VL DQ VBMI): the vocabulary of 16-lane operations in which the *.inc files are
// written. Nothing here may be shared with code compiled for less: all in an anonymous namespace,
// no inline function of a common header.
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wuninitialized"  // GCC 12's own intrinsics set them off
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#include <immintrin.h>
#include <string.h>

#include "lib/kernels/tables.h"

namespace qp::kernels {
namespace {

using F = __m512;    // 16 floats
using U = __m512i;   // 16 unsigned or signed integers
using M = __mmask16;
using D = __m512d;   // 8 doubles

inline F set1(float x) { return _mm512_set1_ps(x); }
inline F two_halves(const float* p) {  // p[0] in lanes 0-7, p[1] in lanes 8-15
  return _mm512_insertf32x8(set1(p[0]), _mm256_set1_ps(p[1]), 1);
}
inline U set1_u(uint32_t x) { return _mm512_set1_epi32(static_cast<int>(x)); }
inline F as_f(U u) { return _mm512_castsi512_ps(u); }
inline U as_u(F f) { return _mm512_castps_si512(f); }

inline F load_f32(const void* p) { return _mm512_loadu_ps(p); }
inline void store_f32(float* p, F x) { _mm512_storeu_ps(p, x); }
inline __m256i load_256(const void* p) {
  return _mm256_loadu_si256(static_cast<const __m256i*>(p));
}
inline F load_bf16(const void* p) {
  return as_f(_mm512_slli_epi32(_mm512_cvtepu16_epi32(load_256(p)), 16));
}
inline F load_f16(const void* p) { return _mm512_cvtph_ps(load_256(p)); }
inline U load_u8(const uint8_t* p) {
  return _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}
inline void store_u8(uint8_t* p, U x) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtepi32_epi8(x));
}
// 32 BF16 values or bytes, those with even index in one operand and those with odd in the other.
inline void load_bf16_pairs(const void* p, F* even, F* odd) {
  __m512i v = _mm512_loadu_si512(p);
  *even = as_f(_mm512_slli_epi32(v, 16));
  *odd = as_f(_mm512_and_si512(v, set1_u(0xffff0000u)));
}
inline void store_u8_pairs(uint8_t* p, U even, U odd) {
  U both = _mm512_ternarylogic_epi32(set1_u(0xff), even, _mm512_slli_epi32(odd, 8), 0xca);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtepi32_epi16(both));
}
inline void store_u16(uint8_t* p, U x) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtepi32_epi16(x));
}

inline F add(F a, F b) { return _mm512_add_ps(a, b); }
inline F sub(F a, F b) { return _mm512_sub_ps(a, b); }
inline F mul(F a, F b) { return _mm512_mul_ps(a, b); }
inline F div(F a, F b) { return _mm512_div_ps(a, b); }
inline F fma(F a, F b, F c) { return _mm512_fmadd_ps(a, b, c); }    // a*b + c
inline F fnma(F a, F b, F c) { return _mm512_fnmadd_ps(a, b, c); }  // c - a*b
inline F min_(F a, F b) { return _mm512_min_ps(a, b); }  // b if either is NaN
inline F max_(F a, F b) { return _mm512_max_ps(a, b); }  // b if either is NaN
inline M less(F a, F b) { return _mm512_cmp_ps_mask(a, b, _CMP_LT_OQ); }
inline U to_int(F x) { return _mm512_cvtps_epi32(x); }  // nearest even
inline F to_float(U x) { return _mm512_cvtepi32_ps(x); }

inline U add_u(U a, U b) { return _mm512_add_epi32(a, b); }
inline U sub_u(U a, U b) { return _mm512_sub_epi32(a, b); }
inline U and_(U a, U b) { return _mm512_and_si512(a, b); }
inline U or_(U a, U b) { return _mm512_or_si512(a, b); }
template <int kBits>
inline U shl(U a) { return _mm512_slli_epi32(a, kBits); }
template <int kBits>
inline U shr(U a) { return _mm512_srli_epi32(a, kBits); }
inline M less_u(U a, U b) { return _mm512_cmplt_epu32_mask(a, b); }
inline U select(M m, U yes, U no) { return _mm512_mask_mov_epi32(no, m, yes); }
inline M both_(M a, M b) { return static_cast<M>(a & b); }
inline unsigned count(M m) { return static_cast<unsigned>(_mm_popcnt_u32(m)); }

inline __m256i f16_of(F x) {
  return _mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
inline F round_f16(F x) { return _mm512_cvtph_ps(f16_of(x)); }
inline U f16_bits(F x) { return _mm512_cvtepu16_epi32(f16_of(x)); }
inline F f16_to_f32(U halves) { return _mm512_cvtph_ps(_mm512_cvtepi32_epi16(halves)); }
inline F e2m1_value(U code) {
  const F table = _mm512_setr_ps(0.0f, 0.5f, 1.0f, 1.5f, 2.0f, 3.0f, 4.0f, 6.0f, -0.0f, -0.5f,
                                 -1.0f, -1.5f, -2.0f, -3.0f, -4.0f, -6.0f);
  return _mm512_permutexvar_ps(code, table);
}

// Bit streams: the low bits of eight bytes, and back.
inline uint64_t squeeze(uint64_t eight, unsigned bits) {
  return _pext_u64(eight, 0x0101010101010101u * ((1u << bits) - 1));
}
inline uint64_t stretch(uint64_t stream, unsigned bits) {
  return _pdep_u64(stream, 0x0101010101010101u * ((1u << bits) - 1));
}
// 64 codes of 4 bits, one a byte <-> 32 bytes.
inline void store_nibbles(const uint8_t* codes, uint8_t* out) {
  __m512i x = _mm512_loadu_si512(codes);
  x = _mm512_maddubs_epi16(x, _mm512_set1_epi16(0x1001));  // low + 16 * high
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(out), _mm512_cvtepi16_epi8(x));
}
inline void load_nibbles(const uint8_t* in, uint8_t* codes) {
  __m512i x = _mm512_cvtepu8_epi16(load_256(in));
  x = _mm512_or_si512(x, _mm512_slli_epi16(x, 4));
  _mm512_storeu_si512(codes, _mm512_and_si512(x, _mm512_set1_epi8(15)));
}

// Lanes of 16 (kWide: 32) bits for reductions.
template <bool kWide>
struct LanesOf {
  static constexpr size_t kCount = kWide ? 16 : 32;
  __m512i v;
  static LanesOf load(const void* p) { return {_mm512_loadu_si512(p)}; }
  static LanesOf zero() { return {_mm512_setzero_si512()}; }
  static LanesOf sign_bits() {
    return {kWide ? _mm512_set1_epi32(INT32_MIN) : _mm512_set1_epi16(INT16_MIN)};
  }
  LanesOf magnitude() const {
    return {_mm512_and_si512(v, kWide ? _mm512_set1_epi32(0x7fffffff) : _mm512_set1_epi16(0x7fff))};
  }
  LanesOf max_unsigned(LanesOf o) const {
    return {kWide ? _mm512_max_epu32(v, o.v) : _mm512_max_epu16(v, o.v)};
  }
  LanesOf max_signed(LanesOf o) const {
    return {kWide ? _mm512_max_epi32(v, o.v) : _mm512_max_epi16(v, o.v)};
  }
  uint32_t largest_unsigned() const {
    if constexpr (kWide) return _mm512_reduce_max_epu32(v);
    __m256i h = _mm256_max_epu16(_mm512_castsi512_si256(v), _mm512_extracti64x4_epi64(v, 1));
    return largest_16(_mm_max_epu16(_mm256_castsi256_si128(h), _mm256_extracti128_si256(h, 1)));
  }
  static uint32_t largest_16(__m128i x) {  // there is an instruction for the smallest
    x = _mm_minpos_epu16(_mm_xor_si128(x, _mm_set1_epi16(-1)));
    return ~static_cast<uint32_t>(_mm_cvtsi128_si32(x)) & 0xffffu;
  }
};
inline uint32_t max_magnitude_16(const void* p) {
  __m256i v = _mm256_and_si256(load_256(p), _mm256_set1_epi16(0x7fff));
  return LanesOf<false>::largest_16(
      _mm_max_epu16(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1)));
}

inline D zero_f64() { return _mm512_setzero_pd(); }
inline D low_f64(F x) { return _mm512_cvtps_pd(_mm512_castps512_ps256(x)); }
inline D high_f64(F x) { return _mm512_cvtps_pd(_mm512_extractf32x8_ps(x, 1)); }
inline D add_f64(D a, D b) { return _mm512_add_pd(a, b); }
inline D sub_f64(D a, D b) { return _mm512_sub_pd(a, b); }
inline D mul_f64(D a, D b) { return _mm512_mul_pd(a, b); }
inline D max_magnitude_f64(D m, D x) { return _mm512_max_pd(m, _mm512_abs_pd(x)); }
inline void store_f64(double* p, D x) { _mm512_storeu_pd(p, x); }

#include "lib/kernels/vector_quotient.inc"
#include "lib/kernels/vector_kernels.inc"
#include "lib/kernels/vector_reduce.inc"

}  // namespace

const Table k_avx512 = {
    "avx512",
#include "lib/kernels/vector_table.inc"
};

}  // namespace qp::kernels
