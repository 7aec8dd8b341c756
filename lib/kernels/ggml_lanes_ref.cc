// ggml_lanes.inc for any processor.
#define QP_GGML_TABLE k_ggml_scalar
#define QP_LANES 4
#include "lib/kernels/ggml_lanes.inc"
