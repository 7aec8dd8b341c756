// ggml_codebook_search.inc for avx2.
#include <immintrin.h>

#define QP_CODEBOOK_TABLE k_codebook_avx2
#include "lib/kernels/ggml_codebook_search.inc"
