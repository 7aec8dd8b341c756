// Learned rounding: every instruction set gives the same bits; ends of groups.
#include "lib/kernels/sign_round.h"

#include <gtest/gtest.h>

#include <random>
#include <string>
#include <vector>

#include "lib/kernels/kernels.h"

namespace qp::kernels {

#define QP_ISA(name, table, supported) extern const SignRoundTable k_sign_round_##table;
#include "lib/kernels/kernels.def"
#undef QP_ISA

namespace {

struct Outcome {
  std::vector<float> q, value, v;
  float sums[2] = {};
  bool operator==(const Outcome& o) const {
    return q == o.q && value == o.value && v == o.v && sums[0] == o.sums[0] && sums[1] == o.sums[1];
  }
};

Outcome outcome(const SignRoundTable& table, Rounding rounding, size_t n, float scale, float zero) {
  std::mt19937 rng(7);
  std::normal_distribution<float> normal;
  std::vector<float> w(n), g(n);
  Outcome out;
  out.q.resize(n);
  out.value.resize(n);
  out.v.resize(n);
  for (size_t i = 0; i < n; ++i) {
    w[i] = normal(rng);
    g[i] = normal(rng);
    out.v[i] = normal(rng) / 4;
  }
  table.values(rounding, w.data(), out.v.data(), n, scale, zero, out.q.data(), out.value.data());
  table.step(rounding, w.data(), g.data(), n, scale, zero, 0.125f, out.v.data(), out.sums);
  return out;
}

TEST(SignRoundKernels, EveryInstructionSetGivesTheSameBits) {
  for (Rounding rounding : {Rounding{Levels::integer, -8, 7}, Rounding{Levels::integer, -2, 1},
                            Rounding{Levels::e4m3}, Rounding{Levels::e2m1}}) {
    for (size_t n : {1u, 15u, 16u, 17u, 128u, 150u}) {
      for (float scale : {0.25f, 0.003f, 0.0f}) {
        float zero = rounding.levels == Levels::integer ? 1.0f : 0.0f;
        Outcome expected = outcome(k_sign_round_scalar, rounding, n, scale, zero);
#define QP_ISA(name, table, supported)                                                     \
  if (supports(#name)) {                                                                   \
    EXPECT_EQ(outcome(k_sign_round_##table, rounding, n, scale, zero), expected) << #name; \
  }
#include "lib/kernels/kernels.def"
#undef QP_ISA
        if (scale > 0) continue;
        for (size_t i = 0; i < n; ++i) EXPECT_EQ(expected.value[i], 0);
      }
    }
  }
}

}  // namespace
}  // namespace qp::kernels
