#define QP_HASH_LOOPS k_hash_avx2
#include "lib/base/hash_loops.inc"
