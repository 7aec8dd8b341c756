// XXH3's inner loop, compiled once per instruction set: the same hash, faster.
#pragma once

#include <cstddef>

namespace qp {

struct HashLoops {
  // XXH3_64bits_update and XXH3_64bits; `state` is an XXH3_state_t.
  void (*update)(void* state, const void* bytes, size_t n);
  unsigned long long (*whole)(const void* bytes, size_t n);
};

extern const HashLoops k_hash_base;
#if defined(__x86_64__) && !defined(QP_PORTABLE)
extern const HashLoops k_hash_avx2, k_hash_avx512;
#endif

}  // namespace qp
