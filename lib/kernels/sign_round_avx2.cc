// sign_round.inc for avx2.
#define QP_SIGN_ROUND_TABLE k_sign_round_avx2
#include "lib/kernels/sign_round.inc"
