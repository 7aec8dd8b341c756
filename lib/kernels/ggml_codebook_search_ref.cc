// ggml_codebook_search.inc for any processor.
#define QP_CODEBOOK_TABLE k_codebook_scalar
#include "lib/kernels/ggml_codebook_search.inc"
