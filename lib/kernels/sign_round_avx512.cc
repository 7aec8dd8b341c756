// sign_round.inc for avx512.
#define QP_SIGN_ROUND_TABLE k_sign_round_avx512
#include "lib/kernels/sign_round.inc"
