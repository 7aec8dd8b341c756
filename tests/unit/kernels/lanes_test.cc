// Every instruction set gives the bits of the scalar code, and that what the formulas say.
#include "lib/kernels/lanes.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <random>
#include <string_view>
#include <vector>

#include "lib/kernels/kernels.h"
#include "lib/tensor/minifloat.h"

namespace qp::kernels {

#define QP_ISA(name, table, supported) extern const LaneTable k_lanes_##table;
#include "lib/kernels/kernels.def"
#undef QP_ISA

namespace {

struct Named {
  const char* isa;
  const LaneTable* table;
};
std::vector<Named> tables() {
  std::vector<Named> all;
#define QP_ISA(name, lanes, supported) \
  if (supports(#name)) all.push_back({#name, &k_lanes_##lanes});
#include "lib/kernels/kernels.def"
#undef QP_ISA
  return all;
}

bool same(const std::vector<float>& a, const std::vector<float>& b) {
  return std::memcmp(a.data(), b.data(), a.size() * 4) == 0;
}

struct Strip {
  size_t n = 37;
  std::vector<float> w, scale, zero, u;
  Strip() : w(n * kStrip), scale(kStrip), zero(kStrip), u(n * n) {
    std::mt19937 random(1);
    std::normal_distribution<float> normal;
    for (float& x : w) x = normal(random);
    const float edges[] = {0.0f, -0.0f, 1e-42f, -1e-42f, 0.5f, -1.5f, 2.5f, 3.5f, 7.5f, -8.5f, 1e30f, -1e30f};
    for (size_t i = 0; i < std::size(edges); ++i) w[i * 17] = edges[i];
    for (float& s : scale) s = std::fabs(normal(random)) + 0.01f;
    scale[3] = 0;
    scale[4] = 1;
    for (float& z : zero) z = std::nearbyint(2 * normal(random));
    for (size_t i = 0; i < n; ++i) {
      for (size_t j = i; j < n; ++j) u[i * n + j] = i == j ? 1.5f : 0.1f * normal(random);
    }
  }
};

const Rounding kRoundings[] = {{Levels::integer, -8, 7}, {Levels::integer, -2, 1}, {Levels::integer, -128, 127},
                               {Levels::e4m3}, {Levels::e2m1}};

TEST(Lanes, EveryInstructionSetGivesTheSameBits) {
  Strip s;
  const LaneTable& scalar = *tables().front().table;
  for (const Named& other : tables()) {
    SCOPED_TRACE(other.isa);
    for (const Rounding& r : kRoundings) {
      const float* zero = r.levels == Levels::integer ? s.zero.data() : nullptr;
      auto all = [&](const LaneTable& t) {
        std::vector<float> out(s.w.size()), e(kStrip), w = s.w, q(s.w.size()), loss(kStrip), num(kStrip), den(kStrip);
        t.round(r, s.w.data(), s.n, s.scale.data(), zero, out.data());
        t.error(r, s.w.data(), s.n, s.scale.data(), zero, s.u.data(), e.data());
        out.insert(out.end(), e.begin(), e.end());
        std::vector<float> room(s.n * kStrip);
        t.quadratic(r, s.w.data(), s.n, s.scale.data(), zero, s.u.data(), s.n, room.data(), e.data());
        out.insert(out.end(), e.begin(), e.end());
        t.sweep(r, w.data(), 0, 20, s.n, s.u.data(), s.n, s.scale.data(), zero, q.data(), loss.data());
        t.sweep(r, w.data(), 20, s.n, s.n, s.u.data(), s.n, s.scale.data(), zero, q.data(), loss.data());
        for (auto* v : {&w, &q, &loss}) out.insert(out.end(), v->begin(), v->end());
        std::vector<float> rest = s.w, chosen = q, moved(s.w.size()), inverse(s.n, 0.7f), y(s.w.size());
        inverse[5] = 0;
        for (size_t first : {size_t{0}, size_t{20}}) {
          t.descend(r, rest.data(), first, first == 0 ? 20 : s.n, s.n, s.u.data(), s.n, inverse.data(), s.scale.data(),
                    zero, chosen.data(), moved.data());
        }
        t.times(s.w.data(), s.n, s.u.data(), s.n, s.n, y.data());
        for (auto* v : {&rest, &chosen, &moved, &y}) out.insert(out.end(), v->begin(), v->end());
        for (bool zeros : {false, true}) {
          t.shrink(r, s.w.data(), s.n, s.scale.data(), zero, 10, zeros, num.data(), den.data(), e.data());
          for (auto* v : {&num, &den, &e}) out.insert(out.end(), v->begin(), v->end());
        }
        t.range(s.w.data(), s.n, num.data(), den.data());
        for (auto* v : {&num, &den}) out.insert(out.end(), v->begin(), v->end());
        return out;
      };
      EXPECT_TRUE(same(all(scalar), all(*other.table)));
    }
  }
}

// Quotients of every number of the format, of the midpoints between neighbours (ties to even codes),
// and of what lies beyond: the codec of lib/tensor rounds the same way.
TEST(Lanes, MinifloatsRoundAsTheirCodecs) {
  std::vector<float> scale(kStrip, 1.0f);
  std::vector<float> points = {0, 1e-9f, 500, 1e9f};
  for (int c = 0; c < 126; ++c) {
    float a = e4m3_to_f32(static_cast<uint8_t>(c)), b = e4m3_to_f32(static_cast<uint8_t>(c + 1));
    for (float x : {a, (a + b) / 2, std::nextafter((a + b) / 2, 0.0f), std::nextafter((a + b) / 2, 1e9f)}) points.push_back(x);
  }
  for (float p : points) {
    for (float x : {p, -p}) {
      std::vector<float> w(kStrip, x), q(kStrip);
      lanes().round({Levels::e4m3}, w.data(), 1, scale.data(), nullptr, q.data());
      float expected = e4m3_to_f32(f32_to_e4m3(std::clamp(x, -448.0f, 448.0f)));
      EXPECT_EQ(q[5], expected) << x;
      uint8_t code;
      float values[2] = {x, 0}, one = 1;
      active().e2m1_codes(Src::f32, values, 2, 2, &one, false, &code);
      const float kE2m1[] = {0, 0.5f, 1, 1.5f, 2, 3, 4, 6};
      lanes().round({Levels::e2m1}, w.data(), 1, scale.data(), nullptr, q.data());
      EXPECT_EQ(std::fabs(q[5]), kE2m1[code & 7]) << x;
      EXPECT_TRUE(q[5] == 0 || std::signbit(q[5]) == ((code & 8) != 0)) << x;
    }
  }
}

TEST(Lanes, DescendMovesOneCodeAtATime) {
  // h = [[2, 1], [1, 4]], scale 0.5, codes 1 and -2, t = (3, 1): the first's best value is 0.5 + 3 / 2, code 4; the
  // second's t is then 1 - 1.5 * 1, its best value -1 - 0.125 stays code -2.
  std::vector<float> t(2 * kStrip, 3.0f), q(2 * kStrip, 1.0f), moved(2 * kStrip, 0.25f), scale(kStrip, 0.5f);
  std::fill_n(t.begin() + kStrip, kStrip, 1.0f);
  std::fill_n(q.begin() + kStrip, kStrip, -2.0f);
  const float h[] = {2, 1, 1, 4}, inverse[] = {0.5f, 0.25f};
  lanes().descend({}, t.data(), 0, 2, 2, h, 2, inverse, scale.data(), nullptr, q.data(), moved.data());
  EXPECT_EQ(q[0], 4.0f);
  EXPECT_EQ(q[kStrip], -2.0f);
  EXPECT_EQ(moved[0], 1.75f);
  EXPECT_EQ(moved[kStrip], 0.25f);
  EXPECT_EQ(t[kStrip], -0.5f);
  std::vector<float> y(2 * kStrip);
  lanes().times(q.data(), 2, h, 2, 2, y.data());
  EXPECT_EQ(y[3], 6.0f);
  EXPECT_EQ(y[kStrip + 3], -4.0f);
}

TEST(Lanes, SweepSpreadsTheError) {
  // Two columns, u = [[2, 0.5], [., 1]], scale 1: 1.25 -> 1, e = 0.125; the next loses 0.0625.
  std::vector<float> w(2 * kStrip), q(2 * kStrip), loss(kStrip), scale(kStrip, 1.0f);
  std::fill_n(w.begin(), kStrip, 1.25f);
  std::fill_n(w.begin() + kStrip, kStrip, 0.5f);
  const float u[] = {2, 0.5f, 0, 1};
  lanes().sweep({}, w.data(), 0, 2, 2, u, 2, scale.data(), nullptr, q.data(), loss.data());
  EXPECT_EQ(q[0], 1.0f);
  EXPECT_EQ(w[0], 0.125f);
  EXPECT_EQ(q[kStrip], 0.0f);
  EXPECT_EQ(w[kStrip], 0.4375f);
  EXPECT_EQ(loss[7], 0.125f * 0.125f + 0.4375f * 0.4375f);
}

TEST(Lanes, ShrinkFollowsTheFormula) {
  std::mt19937 random(4);
  std::normal_distribution<float> normal;
  size_t n = 32;
  std::vector<float> w(n * kStrip), scale(kStrip, 0.3f), zero(kStrip, 1.0f), num(kStrip), den(kStrip), error(kStrip);
  for (float& x : w) x = normal(random);
  lanes().shrink({}, w.data(), n, scale.data(), zero.data(), 20, true, num.data(), den.data(), error.data());
  double top = 0, sum = 0;
  for (size_t c = 0; c < n; ++c) {
    double x = static_cast<double>(w[c * kStrip + 2]), s = static_cast<double>(0.3f);
    double q = std::clamp(std::nearbyint(x / s + 1), -8.0, 7.0), d = x - (q - 1) * s, a = std::fabs(d);
    double soft = std::max(a - std::pow(std::max(a, 1e-30), -0.3) / 20, 0.0);
    top += q - (x - (d < 0 ? -soft : soft)) / s;
    sum += a;
  }
  EXPECT_NEAR(num[2], top, 2e-3);
  EXPECT_NEAR(error[2], sum, 1e-4);
}

}  // namespace
}  // namespace qp::kernels
