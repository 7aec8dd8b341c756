// ggml_lanes.inc for avx512.
#include <immintrin.h>

#define QP_GGML_TABLE k_ggml_avx512
#define QP_LANES 16
#define QP_GGML_NATIVE "lib/kernels/ggml_vectors_avx.inc"
#include "lib/kernels/ggml_lanes.inc"
