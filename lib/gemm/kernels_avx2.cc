// AVX2 with FMA. Shares no inline function with code compiled for less.
#include <immintrin.h>

#include "lib/gemm/backends.h"

namespace qp::gemm {
namespace {

using V = __m256;
constexpr size_t kLanes = 8;

inline V load(const float* p) { return _mm256_loadu_ps(p); }
inline void store(float* p, V v) { _mm256_storeu_ps(p, v); }
inline void stream(float* p, V v) { _mm256_stream_ps(p, v); }
inline void fence() { _mm_sfence(); }
inline V set1(float x) { return _mm256_set1_ps(x); }
inline V add(V a, V b) { return _mm256_add_ps(a, b); }
inline V mul(V a, V b) { return _mm256_mul_ps(a, b); }
inline V fma(V a, V b, V c) { return _mm256_fmadd_ps(a, b, c); }  // a*b + c
inline V load_bf16(const uint16_t* p) {
  __m128i h = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(h), 16));
}

#include "lib/gemm/finish.inc"
#include "lib/gemm/f32_kernels.inc"

}  // namespace

const Backend k_avx2_bf16 = make_backend<6, 2, true>("avx2");
const Backend k_avx2_f32 = make_backend<6, 2, false>("avx2");

}  // namespace qp::gemm
