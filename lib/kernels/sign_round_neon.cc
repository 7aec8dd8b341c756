// sign_round.inc for neon.
#define QP_SIGN_ROUND_TABLE k_sign_round_neon
#include "lib/kernels/sign_round.inc"
