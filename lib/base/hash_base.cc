#define QP_HASH_LOOPS k_hash_base
#include "lib/base/hash_loops.inc"
