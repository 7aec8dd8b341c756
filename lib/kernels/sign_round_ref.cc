// sign_round.inc for any processor.
#define QP_SIGN_ROUND_TABLE k_sign_round_scalar
#include "lib/kernels/sign_round.inc"
