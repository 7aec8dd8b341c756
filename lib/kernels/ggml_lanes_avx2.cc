// ggml_lanes.inc for avx2.
#include <immintrin.h>

#define QP_GGML_TABLE k_ggml_avx2
#define QP_LANES 8
#define QP_GGML_NATIVE "lib/kernels/ggml_vectors_avx.inc"
#include "lib/kernels/ggml_lanes.inc"
