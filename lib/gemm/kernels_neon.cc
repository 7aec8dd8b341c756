// NEON (AArch64).
#include <arm_neon.h>

#include "lib/gemm/backends.h"

namespace qp::gemm {
namespace {

using V = float32x4_t;
constexpr size_t kLanes = 4;

inline V load(const float* p) { return vld1q_f32(p); }
inline void store(float* p, V v) { vst1q_f32(p, v); }
inline void stream(float* p, V v) { vst1q_f32(p, v); }
inline void fence() {}
inline V set1(float x) { return vdupq_n_f32(x); }
inline V add(V a, V b) { return vaddq_f32(a, b); }
inline V mul(V a, V b) { return vmulq_f32(a, b); }
inline V fma(V a, V b, V c) { return vfmaq_f32(c, a, b); }  // a*b + c
inline V load_bf16(const uint16_t* p) {
  return vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(p), 16));
}

#include "lib/gemm/finish.inc"
#include "lib/gemm/f32_kernels.inc"

}  // namespace

const Backend k_neon_bf16 = make_backend<6, 4, true>("neon");
const Backend k_neon_f32 = make_backend<6, 4, false>("neon");

}  // namespace qp::gemm
