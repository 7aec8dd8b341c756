// forward.inc for neon.
#define QP_FORWARD_TABLE k_forward_neon
#include "lib/kernels/forward.inc"
