// AVX2 with FMA, F16C and BMI2: the vocabulary of 16-lane operations in which the *.inc files are
// written, as pairs of 256-bit registers. Nothing here may be shared with code compiled for less:
// all in an anonymous namespace, no inline function of a common header.
#include <immintrin.h>
#include <string.h>

#include "lib/kernels/tables.h"

namespace qp::kernels {
namespace {

struct F {  // 16 floats
  __m256 a, b;
};
struct U {  // 16 unsigned or signed integers
  __m256i a, b;
};
using M = U;  // all bits of a lane set or clear
struct D {    // 8 doubles
  __m256d a, b;
};

inline F set1(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
inline F two_halves(const float* p) { return {_mm256_set1_ps(p[0]), _mm256_set1_ps(p[1])}; }
inline U set1_u(uint32_t x) {
  __m256i v = _mm256_set1_epi32(static_cast<int>(x));
  return {v, v};
}
inline F as_f(U u) { return {_mm256_castsi256_ps(u.a), _mm256_castsi256_ps(u.b)}; }
inline U as_u(F f) { return {_mm256_castps_si256(f.a), _mm256_castps_si256(f.b)}; }

inline __m128i load_128(const void* p) { return _mm_loadu_si128(static_cast<const __m128i*>(p)); }
inline __m256i load_256(const void* p) {
  return _mm256_loadu_si256(static_cast<const __m256i*>(p));
}
inline void store_128(void* p, __m128i x) { _mm_storeu_si128(static_cast<__m128i*>(p), x); }
inline void store_256(void* p, __m256i x) { _mm256_storeu_si256(static_cast<__m256i*>(p), x); }
inline F load_f32(const void* p) {
  auto* f = static_cast<const float*>(p);
  return {_mm256_loadu_ps(f), _mm256_loadu_ps(f + 8)};
}
inline void store_f32(float* p, F x) {
  _mm256_storeu_ps(p, x.a);
  _mm256_storeu_ps(p + 8, x.b);
}
inline F load_bf16(const void* p) {
  auto* c = static_cast<const char*>(p);
  return as_f({_mm256_slli_epi32(_mm256_cvtepu16_epi32(load_128(c)), 16),
               _mm256_slli_epi32(_mm256_cvtepu16_epi32(load_128(c + 16)), 16)});
}
inline F load_f16(const void* p) {
  auto* c = static_cast<const char*>(p);
  return {_mm256_cvtph_ps(load_128(c)), _mm256_cvtph_ps(load_128(c + 16))};
}
inline U load_u8(const uint8_t* p) {
  __m128i x = load_128(p);
  return {_mm256_cvtepu8_epi32(x), _mm256_cvtepu8_epi32(_mm_srli_si128(x, 8))};
}
// 16-bit lanes of both, in order.
inline __m256i narrow(U x) {
  return _mm256_permute4x64_epi64(_mm256_packus_epi32(x.a, x.b), 0xd8);
}
inline void store_u16(uint8_t* p, U x) { store_256(p, narrow(x)); }
inline void store_u8(uint8_t* p, U x) {
  const __m256i byte = _mm256_set1_epi32(0xff);
  // a0 b0 a1 b1, four lanes each
  __m256i h = _mm256_packus_epi32(_mm256_and_si256(x.a, byte), _mm256_and_si256(x.b, byte));
  h = _mm256_packus_epi16(h, h);
  const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 0, 4, 1, 5);
  store_128(p, _mm256_castsi256_si128(_mm256_permutevar8x32_epi32(h, order)));
}

// 32 BF16 values or bytes, those with even index in one operand and those with odd in the other.
inline void load_bf16_pairs(const void* p, F* even, F* odd) {
  auto* c = static_cast<const char*>(p);
  __m256i x = load_256(c), y = load_256(c + 32), high = _mm256_set1_epi32(-65536);
  *even = as_f({_mm256_slli_epi32(x, 16), _mm256_slli_epi32(y, 16)});
  *odd = as_f({_mm256_and_si256(x, high), _mm256_and_si256(y, high)});
}
inline __m256i interleave(__m256i even, __m256i odd) {  // 0x0000ooee in each lane
  const __m256i byte = _mm256_set1_epi32(0xff);
  return _mm256_or_si256(_mm256_and_si256(even, byte),
                         _mm256_slli_epi32(_mm256_and_si256(odd, byte), 8));
}
inline void store_u8_pairs(uint8_t* p, U even, U odd) {
  store_256(p, narrow({interleave(even.a, odd.a), interleave(even.b, odd.b)}));
}

inline F add(F x, F y) { return {_mm256_add_ps(x.a, y.a), _mm256_add_ps(x.b, y.b)}; }
inline F sub(F x, F y) { return {_mm256_sub_ps(x.a, y.a), _mm256_sub_ps(x.b, y.b)}; }
inline F mul(F x, F y) { return {_mm256_mul_ps(x.a, y.a), _mm256_mul_ps(x.b, y.b)}; }
inline F div(F x, F y) { return {_mm256_div_ps(x.a, y.a), _mm256_div_ps(x.b, y.b)}; }
inline F fma(F x, F y, F z) {  // x*y + z
  return {_mm256_fmadd_ps(x.a, y.a, z.a), _mm256_fmadd_ps(x.b, y.b, z.b)};
}
inline F fnma(F x, F y, F z) {  // z - x*y
  return {_mm256_fnmadd_ps(x.a, y.a, z.a), _mm256_fnmadd_ps(x.b, y.b, z.b)};
}
// Both give y if either is NaN.
inline F min_(F x, F y) { return {_mm256_min_ps(x.a, y.a), _mm256_min_ps(x.b, y.b)}; }
inline F max_(F x, F y) { return {_mm256_max_ps(x.a, y.a), _mm256_max_ps(x.b, y.b)}; }
inline M less(F x, F y) {
  return as_u({_mm256_cmp_ps(x.a, y.a, _CMP_LT_OQ), _mm256_cmp_ps(x.b, y.b, _CMP_LT_OQ)});
}
inline U to_int(F x) { return {_mm256_cvtps_epi32(x.a), _mm256_cvtps_epi32(x.b)}; }
inline F to_float(U x) { return {_mm256_cvtepi32_ps(x.a), _mm256_cvtepi32_ps(x.b)}; }

inline U add_u(U x, U y) { return {_mm256_add_epi32(x.a, y.a), _mm256_add_epi32(x.b, y.b)}; }
inline U sub_u(U x, U y) { return {_mm256_sub_epi32(x.a, y.a), _mm256_sub_epi32(x.b, y.b)}; }
inline U and_(U x, U y) { return {_mm256_and_si256(x.a, y.a), _mm256_and_si256(x.b, y.b)}; }
inline U or_(U x, U y) { return {_mm256_or_si256(x.a, y.a), _mm256_or_si256(x.b, y.b)}; }
template <int kBits>
inline U shl(U x) {
  return {_mm256_slli_epi32(x.a, kBits), _mm256_slli_epi32(x.b, kBits)};
}
template <int kBits>
inline U shr(U x) {
  return {_mm256_srli_epi32(x.a, kBits), _mm256_srli_epi32(x.b, kBits)};
}
// Of lanes below 2^31.
inline M less_u(U x, U y) { return {_mm256_cmpgt_epi32(y.a, x.a), _mm256_cmpgt_epi32(y.b, x.b)}; }
inline U select(M m, U yes, U no) {
  return {_mm256_blendv_epi8(no.a, yes.a, m.a), _mm256_blendv_epi8(no.b, yes.b, m.b)};
}
inline M both_(M x, M y) { return and_(x, y); }
inline unsigned count(M m) {
  F f = as_f(m);
  auto bits = static_cast<unsigned>(_mm256_movemask_ps(f.a) | (_mm256_movemask_ps(f.b) << 8));
  return static_cast<unsigned>(__builtin_popcount(bits));
}

constexpr int kNearest = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
inline F round_f16(F x) {
  return {_mm256_cvtph_ps(_mm256_cvtps_ph(x.a, kNearest)),
          _mm256_cvtph_ps(_mm256_cvtps_ph(x.b, kNearest))};
}
inline U f16_bits(F x) {
  return {_mm256_cvtepu16_epi32(_mm256_cvtps_ph(x.a, kNearest)),
          _mm256_cvtepu16_epi32(_mm256_cvtps_ph(x.b, kNearest))};
}
inline F f16_to_f32(U halves) {
  __m256i h = narrow(halves);
  return {_mm256_cvtph_ps(_mm256_castsi256_si128(h)),
          _mm256_cvtph_ps(_mm256_extracti128_si256(h, 1))};
}
inline F e2m1_value(U code) {
  const __m256 table = _mm256_setr_ps(0.0f, 0.5f, 1.0f, 1.5f, 2.0f, 3.0f, 4.0f, 6.0f);
  U sign = shl<28>(and_(code, set1_u(8)));  // the permutation looks at three bits only
  return as_f(or_(as_u({_mm256_permutevar8x32_ps(table, code.a),
                        _mm256_permutevar8x32_ps(table, code.b)}),
                  sign));
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
  const __m256i weights = _mm256_set1_epi16(0x1001);  // low + 16 * high
  __m256i x = _mm256_maddubs_epi16(load_256(codes), weights);
  __m256i y = _mm256_maddubs_epi16(load_256(codes + 32), weights);
  store_256(out, _mm256_permute4x64_epi64(_mm256_packus_epi16(x, y), 0xd8));
}
inline void load_nibbles(const uint8_t* in, uint8_t* codes) {
  for (size_t i = 0; i < 2; ++i) {
    __m256i x = _mm256_cvtepu8_epi16(load_128(in + 16 * i));
    x = _mm256_or_si256(x, _mm256_slli_epi16(x, 4));
    store_256(codes + 32 * i, _mm256_and_si256(x, _mm256_set1_epi8(15)));
  }
}

// Lanes of 16 (kWide: 32) bits for reductions.
template <bool kWide>
struct LanesOf {
  static constexpr size_t kCount = kWide ? 8 : 16;
  __m256i v;
  static LanesOf load(const void* p) { return {load_256(p)}; }
  static LanesOf zero() { return {_mm256_setzero_si256()}; }
  static LanesOf sign_bits() {
    return {kWide ? _mm256_set1_epi32(INT32_MIN) : _mm256_set1_epi16(INT16_MIN)};
  }
  LanesOf magnitude() const {
    return {_mm256_and_si256(v, kWide ? _mm256_set1_epi32(0x7fffffff) : _mm256_set1_epi16(0x7fff))};
  }
  LanesOf max_unsigned(LanesOf o) const {
    return {kWide ? _mm256_max_epu32(v, o.v) : _mm256_max_epu16(v, o.v)};
  }
  LanesOf max_signed(LanesOf o) const {
    return {kWide ? _mm256_max_epi32(v, o.v) : _mm256_max_epi16(v, o.v)};
  }
  uint32_t largest_unsigned() const {
    __m128i x = _mm256_castsi256_si128(v), y = _mm256_extracti128_si256(v, 1);
    if constexpr (!kWide) return largest_16(_mm_max_epu16(x, y));
    x = _mm_max_epu32(x, y);
    x = _mm_max_epu32(x, _mm_shuffle_epi32(x, 0x4e));
    x = _mm_max_epu32(x, _mm_shuffle_epi32(x, 0xb1));
    return static_cast<uint32_t>(_mm_cvtsi128_si32(x));
  }
  static uint32_t largest_16(__m128i x) {  // there is an instruction for the smallest
    x = _mm_minpos_epu16(_mm_xor_si128(x, _mm_set1_epi16(-1)));
    return ~static_cast<uint32_t>(_mm_cvtsi128_si32(x)) & 0xffffu;
  }
};
inline uint32_t max_magnitude_16(const void* p) {
  return LanesOf<false>::load(p).magnitude().largest_unsigned();
}

inline D zero_f64() { return {_mm256_setzero_pd(), _mm256_setzero_pd()}; }
inline D widen(__m256 x) {
  return {_mm256_cvtps_pd(_mm256_castps256_ps128(x)), _mm256_cvtps_pd(_mm256_extractf128_ps(x, 1))};
}
inline D low_f64(F x) { return widen(x.a); }
inline D high_f64(F x) { return widen(x.b); }
inline D add_f64(D x, D y) { return {_mm256_add_pd(x.a, y.a), _mm256_add_pd(x.b, y.b)}; }
inline D sub_f64(D x, D y) { return {_mm256_sub_pd(x.a, y.a), _mm256_sub_pd(x.b, y.b)}; }
inline D mul_f64(D x, D y) { return {_mm256_mul_pd(x.a, y.a), _mm256_mul_pd(x.b, y.b)}; }
inline D max_magnitude_f64(D m, D x) {
  const __m256d sign = _mm256_set1_pd(-0.0);
  return {_mm256_max_pd(m.a, _mm256_andnot_pd(sign, x.a)),
          _mm256_max_pd(m.b, _mm256_andnot_pd(sign, x.b))};
}
inline void store_f64(double* p, D x) {
  _mm256_storeu_pd(p, x.a);
  _mm256_storeu_pd(p + 4, x.b);
}

#include "lib/kernels/vector_quotient.inc"
#include "lib/kernels/vector_kernels.inc"
#include "lib/kernels/vector_reduce.inc"

}  // namespace

const Table k_avx2 = {
    "avx2",
#include "lib/kernels/vector_table.inc"
};

}  // namespace qp::kernels
