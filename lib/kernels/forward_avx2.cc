// forward.inc for avx2.
#define QP_FORWARD_TABLE k_forward_avx2
#include "lib/kernels/forward.inc"
