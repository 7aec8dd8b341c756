// What the tests of the matrix products share.
#pragma once

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstdint>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "lib/base/parallel.h"
#include "lib/gemm/backends.h"
#include "lib/gemm/gemm.h"
#include "lib/tensor/minifloat.h"

namespace qp::gemm {

// One implementation and one precision at a time.
struct Case {
  Pair pair;
  Precision precision;
};

inline std::vector<Case> all_cases() {
  std::vector<Case> cases;
  for (const Pair& p : supported()) {
    cases.push_back({p, Precision::bf16});
    cases.push_back({p, Precision::f32});
  }
  return cases;
}

class EveryBackend : public ::testing::TestWithParam<Case> {
 protected:
  ~EveryBackend() override { set_threads(0); }
  Precision precision() const { return GetParam().precision; }
  // What the kernels see of an input.
  float seen(float x) const {
    return precision() == Precision::bf16 ? bf16_to_f32(f32_to_bf16(x)) : x;
  }
  const Backend& kernels() const { return active(precision()); }

 private:
  Forced forced_{GetParam().pair};
};

#define QP_EVERY_BACKEND(Suite)                                                     \
  INSTANTIATE_TEST_SUITE_P(Here, Suite, ::testing::ValuesIn(all_cases()), [](const auto& p) { \
    return std::string(p.param.pair.isa) +                                          \
           (p.param.precision == Precision::bf16 ? "_bf16" : "_f32");               \
  })

inline std::vector<float> normal(size_t n, uint32_t seed) {
  std::mt19937 g(seed);
  std::normal_distribution<float> d;
  std::vector<float> v(n);
  for (float& x : v) x = d(g);
  return v;
}

inline std::vector<uint32_t> bits(const std::vector<float>& v) {
  std::vector<uint32_t> b;
  for (float x : v) b.push_back(std::bit_cast<uint32_t>(x));
  return b;
}

// A sum in double precision and how far a f32 sum of the same terms may be from it: k roundings of
// partial sums no larger than the sum of magnitudes.
struct Exact {
  double sum = 0, magnitude = 0;
  void term(float a, float b) {
    double p = static_cast<double>(a) * static_cast<double>(b);
    sum += p;
    magnitude += std::fabs(p);
  }
  double bound(size_t k) const {
    return (static_cast<double>(k) + 4) * 0x1p-24 * magnitude + 0x1p-126;
  }
};

}  // namespace qp::gemm
