// Inputs for the kernel tests: random, extreme and tie-heavy rows of every source type.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <ostream>
#include <random>
#include <vector>

#include "lib/kernels/kernels.h"
#include "lib/tensor/minifloat.h"

namespace qp::kernels {

inline void PrintTo(const Table* t, std::ostream* out) { *out << t->isa; }

constexpr Src kSources[] = {Src::bf16, Src::f16, Src::f32};
inline size_t unit_of(Src s) { return s == Src::f32 ? 4 : 2; }

inline float round_to(Src s, float x) {
  if (s == Src::bf16) return bf16_to_f32(f32_to_bf16(x));
  if (s == Src::f16) return f16_to_f32(f32_to_f16(x));
  return x;
}

// `values` as elements of type s, starting `shift` elements into the buffer, which has not one
// byte more than needed (so that a sanitizer sees a read past the end).
struct Row {
  Row(Src s, const std::vector<float>& values, size_t shift = 0)
      : bytes((values.size() + shift) * unit_of(s)), offset(shift * unit_of(s)) {
    for (size_t i = 0; i < values.size(); ++i) {
      uint16_t h = s == Src::bf16 ? f32_to_bf16(values[i]) : f32_to_f16(values[i]);
      const void* from = s == Src::f32 ? static_cast<const void*>(&values[i]) : &h;
      std::memcpy(bytes.data() + offset + i * unit_of(s), from, unit_of(s));
    }
  }
  const void* data() const { return bytes.data() + offset; }
  std::vector<uint8_t> bytes;
  size_t offset;
};

class Random {
 public:
  explicit Random(uint64_t seed) : engine_(seed) {}
  uint32_t bits() { return static_cast<uint32_t>(engine_()); }
  size_t below(size_t n) { return engine_() % n; }
  float normal() { return normal_(engine_); }
  float any() {  // any bit pattern: NaN, Inf, denormals
    uint32_t u = bits();
    float f;
    std::memcpy(&f, &u, 4);
    return f;
  }
  float extreme() {
    constexpr float kInf = std::numeric_limits<float>::infinity();
    const float kValues[] = {0.0f, -0.0f, 1.0f, -1.0f, kInf, -kInf, std::nanf(""), -std::nanf(""),
                             0x1p-149f, -0x1p-149f, 0x1p-133f, -0x1p-126f, 0x1p-24f, -0x1p-14f,
                             0x1.fffffep127f, -0x1.fep127f, 65504.0f, -65520.0f, 0x1p-30f, 448.0f};
    return kValues[below(std::size(kValues))];
  }
  // Near a point where codes change: a multiple of s/16, a few units off.
  float tie(float s) {
    auto k = static_cast<float>(static_cast<int>(below(8192)) - 4096);
    if (below(2) == 0) k = static_cast<float>(static_cast<int>(below(512)) - 256);
    float x = k * 0.0625f * s;
    for (size_t n = below(4); n > 0; --n) {
      x = std::nextafter(x, bits() % 2 == 0 ? 1e30f : -1e30f);
    }
    return x;
  }

 private:
  std::mt19937_64 engine_;
  std::normal_distribution<float> normal_{0, 0.02f};
};

}  // namespace qp::kernels
