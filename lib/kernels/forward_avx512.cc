// forward.inc for avx512.
#define QP_FORWARD_TABLE k_forward_avx512
#include "lib/kernels/forward.inc"
