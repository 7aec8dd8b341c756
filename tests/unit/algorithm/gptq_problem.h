// What tests of GPTQ and what goes on behind it are run on.
#pragma once

#include <cmath>
#include <random>
#include <vector>

#include "lib/algorithm/gptq.h"
#include "tests/unit/algorithm/schemes.h"

namespace qp {

// A problem with correlated, uneven inputs.
struct Problem {
  gptq::Moments m;
  std::vector<float> w;
  Problem(size_t rows, size_t k, unsigned seed) {
    std::mt19937 random(seed);
    std::normal_distribution<float> normal;
    std::vector<float> mix(k * k), x(k), size(k);
    for (float& v : mix) v = normal(random);
    for (float& v : size) v = std::exp(normal(random));
    m.k = k;
    m.h.resize(k * k);
    for (size_t t = 0; t < 3 * k; ++t) {
      std::vector<float> z(k);
      for (float& v : z) v = normal(random);
      for (size_t i = 0; i < k; ++i) x[i] = size[i] * (z[i] + 0.5f * z[(i * 7 + 3) % k] + 0.3f * mix[i] * z[0]);
      for (size_t i = 0; i < k; ++i) {
        for (size_t j = 0; j <= i; ++j) m.h[i * k + j] += x[i] * x[j];
      }
    }
    w.resize(rows * k);
    for (float& v : w) v = 0.02f * normal(random);
  }
};

}  // namespace qp
