#include "lib/base/random.h"

namespace qp {

uint64_t SplitMix64::next() {
  uint64_t z = state_ += 0x9e3779b97f4a7c15u;
  z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
  z = (z ^ z >> 27) * 0x94d049bb133111ebu;
  return z ^ z >> 31;
}

uint64_t SplitMix64::below(uint64_t bound) {
  __extension__ using Wide = unsigned __int128;
  uint64_t threshold = -bound % bound;  // 2^64 mod bound
  while (true) {
    Wide product = Wide{next()} * bound;
    if (static_cast<uint64_t>(product) >= threshold) return static_cast<uint64_t>(product >> 64);
  }
}

}  // namespace qp
