// ggml_codebook_search.inc for neon.
#define QP_CODEBOOK_TABLE k_codebook_neon
#include "lib/kernels/ggml_codebook_search.inc"
