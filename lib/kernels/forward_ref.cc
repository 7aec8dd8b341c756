// forward.inc for any processor.
#define QP_FORWARD_TABLE k_forward_scalar
#include "lib/kernels/forward.inc"
