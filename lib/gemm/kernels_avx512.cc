// AVX-512. Shares no inline function with code compiled for less.
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wuninitialized"  // GCC 12's own intrinsics set them off
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#include <immintrin.h>

#include "lib/gemm/backends.h"

namespace qp::gemm {
namespace {

#include "lib/gemm/vectors_avx512.inc"
#include "lib/gemm/finish.inc"
#include "lib/gemm/f32_kernels.inc"

}  // namespace

#ifndef MRX
#define MRX 14
#define NVX 2
#endif
const Backend k_avx512_bf16 = make_backend<MRX, NVX, true>("avx512");
const Backend k_avx512_f32 = make_backend<MRX, NVX, false>("avx512");

}  // namespace qp::gemm
