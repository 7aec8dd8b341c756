// Schemes that tests of algorithms are run with.
#pragma once

#include "lib/scheme/scheme.h"

namespace qp {

inline Scheme int_scheme(int bits, bool symmetric, int group) {
  Scheme s;
  s.weights.num_bits = bits;
  s.weights.symmetric = symmetric;
  s.weights.strategy = Strategy::group;
  s.weights.group_size = group;
  return s;
}

}  // namespace qp
