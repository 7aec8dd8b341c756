// ggml_codebook_search.inc for avx512.
#include <immintrin.h>

#define QP_CODEBOOK_TABLE k_codebook_avx512
#include "lib/kernels/ggml_codebook_search.inc"
