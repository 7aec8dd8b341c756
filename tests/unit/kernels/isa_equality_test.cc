// Every instruction set gives the bits of the scalar kernels.
#include <gtest/gtest.h>

#include <algorithm>
#include <bit>

#include "tests/unit/kernels/kernel_data.h"

namespace qp::kernels {
namespace {

const Table& scalar() { return *supported().data[0]; }

// What a row can look like. `scale` is the first one; the others of the row are near it.
enum class Kind { normal, ties, extreme, any };

struct Case {
  Case(Random& random, Src s, Kind kind, size_t n, size_t n_group, size_t shift)
      : src(s), cols(n), group(n_group), groups((n + n_group - 1) / n_group), row(s, {}) {
    float base = kind == Kind::any ? random.any() : std::ldexp(1.0f, 10 - int(random.below(40)));
    for (size_t g = 0; g < groups; ++g) {
      float f = base * (1 + static_cast<float>(random.below(1000)) / 999);
      if (random.below(2) == 0) f = round_to(s, f);
      if (kind == Kind::extreme && random.below(4) == 0) f = random.extreme();
      if (kind == Kind::any && random.below(2) == 0) f = random.any();
      if (random.below(50) == 0) {  // just below a power of two
        f = std::nextafter(std::ldexp(1.0f, 5 - int(random.below(9))), 0.0f);
      }
      scale.push_back(f);
      float z = static_cast<float>(static_cast<int>(random.below(257)) - 128);
      if (random.below(4) == 0) z = static_cast<float>(random.below(300)) / 8 - 17;
      if (kind == Kind::extreme && random.below(8) == 0) z = random.extreme();
      zero.push_back(z);
    }
    std::vector<float> values;
    for (size_t i = 0; i < cols; ++i) {
      float s_i = scale[i / group];
      switch (kind) {
        case Kind::normal: values.push_back(random.normal()); break;
        case Kind::ties: values.push_back(random.tie(s_i)); break;
        case Kind::extreme:
          values.push_back(random.below(3) == 0 ? random.extreme() : random.tie(s_i));
          break;
        case Kind::any: values.push_back(random.any()); break;
      }
    }
    row = Row(s, values, shift);
  }
  Src src;
  size_t cols, group, groups;
  std::vector<float> scale, zero;
  Row row;
};

class Isa : public ::testing::TestWithParam<const Table*> {
 protected:
  const Table& k() const { return *GetParam(); }
  Random random_{20240807};

  // Calls f(case) for every source, kind, tail length and for groups of all sizes.
  template <class F>
  void for_each_case(F f) {
    for (Src s : kSources) {
      for (size_t cols = 1; cols <= 200; ++cols) {
        for (Kind kind : {Kind::normal, Kind::ties, Kind::extreme, Kind::any}) {
          constexpr size_t kGroups[] = {1, 2, 3, 15, 16, 17, 32, 100, 128, 1000};
          size_t group = kGroups[random_.below(std::size(kGroups))];
          f(Case(random_, s, kind, cols, group, random_.below(3)));
        }
      }
      for (size_t group : {size_t{1}, size_t{2}, size_t{16}, size_t{32}, size_t{100}, size_t{128},
                           size_t{6200}, SIZE_MAX}) {
        for (Kind kind : {Kind::normal, Kind::ties, Kind::extreme}) {
          f(Case(random_, s, kind, 6200, std::min<size_t>(group, 6200), 1));
        }
      }
      if (::testing::Test::HasFailure()) return;
    }
  }
};

// The same bits, where any NaN equals any other.
::testing::AssertionResult same(const std::vector<float>& a, const std::vector<float>& b) {
  for (size_t i = 0; i < a.size(); ++i) {
    bool nan = std::isnan(a[i]) && std::isnan(b[i]);
    if (!nan && std::bit_cast<uint32_t>(a[i]) != std::bit_cast<uint32_t>(b[i])) {
      return ::testing::AssertionFailure() << "at " << i << ": " << a[i] << " and " << b[i];
    }
  }
  return ::testing::AssertionSuccess();
}

::testing::AssertionResult same_codes(const std::vector<uint8_t>& a, const std::vector<uint8_t>& b,
                                      const Case& c, size_t bits) {
  for (size_t i = 0; i < a.size(); ++i) {
    if (a[i] == b[i]) continue;
    size_t e = std::min(i * 8 / bits, c.cols - 1);
    float x = 0;
    scalar().to_f32(c.src, static_cast<const uint8_t*>(c.row.data()) + e * unit_of(c.src), 1, &x);
    return ::testing::AssertionFailure()
           << "byte " << i << ": " << int{a[i]} << " and " << int{b[i]} << ", source "
           << int(c.src) << " cols " << c.cols << " group " << c.group << " near weight " << x
           << " scale " << c.scale[e / c.group] << " zero " << c.zero[e / c.group];
  }
  return ::testing::AssertionSuccess();
}

// Bytes past the documented ones must not change, so outputs have a few more.
std::vector<uint8_t> bytes(size_t n) { return std::vector<uint8_t>(n + 8, 0xa5); }

TEST_P(Isa, IntCodesOfAllWidths) {
  for_each_case([&](const Case& c) {
    for (int bits = 2; bits <= 8; ++bits) {
      for (const float* zero : {static_cast<const float*>(nullptr), c.zero.data()}) {
        auto a = bytes((c.cols * size_t(bits) + 7) / 8), b = a;
        scalar().int_codes(c.src, c.row.data(), c.cols, c.group, c.scale.data(), zero, bits,
                           a.data());
        k().int_codes(c.src, c.row.data(), c.cols, c.group, c.scale.data(), zero, bits, b.data());
        ASSERT_TRUE(same_codes(a, b, c, size_t(bits)))
            << bits << " bits, zero " << (zero != nullptr);
      }
    }
  });
}

TEST_P(Isa, E4m3Codes) {
  for_each_case([&](const Case& c) {
    for (bool drop : {false, true}) {
      auto a = bytes(c.cols), b = a;
      scalar().e4m3_codes(c.src, c.row.data(), c.cols, c.group, c.scale.data(), drop, a.data());
      k().e4m3_codes(c.src, c.row.data(), c.cols, c.group, c.scale.data(), drop, b.data());
      ASSERT_TRUE(same_codes(a, b, c, 8)) << "drop " << drop;
    }
  });
}

TEST_P(Isa, E2m1Codes) {
  for_each_case([&](const Case& c) {
    for (bool round : {false, true}) {
      auto a = bytes((c.cols + 1) / 2), b = a;
      scalar().e2m1_codes(c.src, c.row.data(), c.cols, c.group, c.scale.data(), round, a.data());
      k().e2m1_codes(c.src, c.row.data(), c.cols, c.group, c.scale.data(), round, b.data());
      ASSERT_TRUE(same_codes(a, b, c, 4)) << "round " << round;
    }
  });
}

TEST_P(Isa, Reductions) {
  for_each_case([&](const Case& c) {
    std::vector<float> a(c.groups), b(c.groups), lo_a(a), lo_b(a);
    scalar().group_absmax(c.src, c.row.data(), c.cols, c.group, a.data());
    k().group_absmax(c.src, c.row.data(), c.cols, c.group, b.data());
    ASSERT_TRUE(same(a, b));
    scalar().group_minmax(c.src, c.row.data(), c.cols, c.group, lo_a.data(), a.data());
    k().group_minmax(c.src, c.row.data(), c.cols, c.group, lo_b.data(), b.data());
    ASSERT_TRUE(same(a, b));
    ASSERT_TRUE(same(lo_a, lo_b));
  });
}

TEST_P(Isa, ScalesOfMicroFormats) {
  for (Src s : kSources) {
    for (size_t n = 1; n <= 200; ++n) {
      std::vector<float> amax, a(n), b(n);
      for (size_t i = 0; i < n; ++i) {
        float x = i % 3 == 0 ? random_.extreme() : i % 3 == 1 ? random_.any() : random_.normal();
        amax.push_back(std::fabs(round_to(s, x)));
      }
      for (float global : {1.0f, 768.0f, 2688.0f, 0x1p-20f, 3e38f, -5.0f, 0.0f}) {
        auto c = bytes(n), d = c;
        scalar().nvfp4_scales(s, amax.data(), n, global, c.data(), a.data());
        k().nvfp4_scales(s, amax.data(), n, global, d.data(), b.data());
        ASSERT_EQ(c, d);
        ASSERT_TRUE(same(a, b));
      }
      for (int offset : {2, 8}) {
        auto c = bytes(n), d = c;
        scalar().mx_scales(s, amax.data(), n, offset, c.data(), a.data());
        k().mx_scales(s, amax.data(), n, offset, d.data(), b.data());
        ASSERT_EQ(c, d);
        ASSERT_TRUE(same(a, b));
      }
    }
  }
}

TEST_P(Isa, Values) {
  for_each_case([&](const Case& c) {
    std::vector<uint8_t> codes(c.cols);
    for (auto& u : codes) u = static_cast<uint8_t>(random_.bits());
    std::vector<float> a(c.cols), b(c.cols);
    for (int bits = 2; bits <= 8; ++bits) {
      for (const float* zero : {static_cast<const float*>(nullptr), c.zero.data()}) {
        std::vector<uint8_t> exact(codes.begin(),
                                   codes.begin() + long((c.cols * size_t(bits) + 7) / 8));
        scalar().int_values(exact.data(), c.cols, c.group, c.scale.data(), zero, bits, a.data());
        k().int_values(exact.data(), c.cols, c.group, c.scale.data(), zero, bits, b.data());
        ASSERT_TRUE(same(a, b));
      }
    }
    scalar().e4m3_values(codes.data(), c.cols, c.group, c.scale.data(), a.data());
    k().e4m3_values(codes.data(), c.cols, c.group, c.scale.data(), b.data());
    ASSERT_TRUE(same(a, b));
    scalar().e2m1_values(codes.data(), c.cols, c.group, c.scale.data(), a.data());
    k().e2m1_values(codes.data(), c.cols, c.group, c.scale.data(), b.data());
    ASSERT_TRUE(same(a, b));
  });
}

TEST_P(Isa, CastsKeepEveryBit) {
  for (Src s : {Src::bf16, Src::f16}) {
    std::vector<uint16_t> all(65536);
    for (size_t i = 0; i < all.size(); ++i) all[i] = static_cast<uint16_t>(i);
    std::vector<float> a(65536), b(65536);
    scalar().to_f32(s, all.data(), all.size(), a.data());
    k().to_f32(s, all.data(), all.size(), b.data());
    ASSERT_EQ(std::memcmp(a.data(), b.data(), 65536 * 4), 0);
  }
  for_each_case([&](const Case& c) {
    std::vector<float> x(c.cols), y(c.cols);
    scalar().to_f32(c.src, c.row.data(), c.cols, x.data());
    k().to_f32(c.src, c.row.data(), c.cols, y.data());
    ASSERT_EQ(std::memcmp(x.data(), y.data(), c.cols * 4), 0);
    for (size_t i = 0; i < c.cols; i += 3) x[i] = random_.any();
    for (Src s : kSources) {
      auto a = bytes(c.cols * 4), b = a;
      scalar().from_f32(s, x.data(), c.cols, a.data());
      k().from_f32(s, x.data(), c.cols, b.data());
      ASSERT_EQ(a, b);
    }
  });
}

TEST_P(Isa, CompareSumsInTheSameOrder) {
  for (size_t n = 0; n <= 300; ++n) {
    for (int kind = 0; kind < 3; ++kind) {
      std::vector<float> x, y;
      for (size_t i = 0; i < n; ++i) {
        x.push_back(kind == 0 ? random_.normal() : kind == 1 ? random_.any() : random_.extreme());
        y.push_back(x.back() * (1 + random_.normal()));
      }
      ErrorSums a, b;
      for (int twice = 0; twice < 2; ++twice) {
        scalar().compare(x.data(), y.data(), n, &a);
        k().compare(x.data(), y.data(), n, &b);
      }
      ASSERT_TRUE(a.diff2 == b.diff2 && a.a2 == b.a2 && a.b2 == b.b2 && a.ab == b.ab) << n;
      ASSERT_EQ(a.max_abs, b.max_abs);
      ASSERT_EQ(a.nonfinite, b.nonfinite);
    }
  }
}

TEST_P(Isa, Histogram) {
  for (size_t n : std::vector<size_t>{1, 2, 7, 8, 63, 64, 65, 100, 2047, 2048, 2049, 5003}) {
    std::vector<uint8_t> in(n);
    for (auto& u : in) u = static_cast<uint8_t>(random_.bits());
    for (size_t bits = 2; bits <= 8; ++bits) {
      std::vector<uint8_t> exact(in.begin(), in.begin() + long((n * bits + 7) / 8));
      std::vector<uint64_t> a(256, 3), b(256, 3);
      scalar().histogram(exact.data(), n, int(bits), a.data());
      k().histogram(exact.data(), n, int(bits), b.data());
      ASSERT_EQ(a, b);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Kernels, Isa,
                         ::testing::ValuesIn(supported().begin(), supported().end()),
                         [](const auto& tested) { return std::string(tested.param->isa); });

}  // namespace
}  // namespace qp::kernels
