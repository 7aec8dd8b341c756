// ggml_lanes.inc for neon.
#define QP_GGML_TABLE k_ggml_neon
#define QP_LANES 4
#include "lib/kernels/ggml_lanes.inc"
