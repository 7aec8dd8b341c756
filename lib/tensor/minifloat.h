// Scalar conversions between f32 and the small float formats. All round to nearest even.
// Bit layouts: DESIGN.md, "Numerics". For loops over data use lib/kernels.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>

namespace qp {

// BF16 is the upper half of F32. A NaN keeps its upper payload and becomes quiet.
inline float bf16_to_f32(uint16_t h) {
  return std::bit_cast<float>(static_cast<uint32_t>(h) << 16);
}
inline uint16_t f32_to_bf16(float f) {
  auto u = std::bit_cast<uint32_t>(f);
  if ((u & 0x7fffffffu) > 0x7f800000u) return static_cast<uint16_t>((u >> 16) | 0x40u);
  return static_cast<uint16_t>((u + 0x7fffu + ((u >> 16) & 1u)) >> 16);
}

// F16: sign 1, exponent 5, mantissa 10. Subnormals are kept, too large becomes Inf, NaN quiet.
inline float f16_to_f32(uint16_t h) {
  uint32_t sign = static_cast<uint32_t>(h & 0x8000u) << 16, a = h & 0x7fffu;
  if (a > 0x7c00u) return std::bit_cast<float>(sign | 0x7fc00000u | (a << 13));
  if (a == 0x7c00u) return std::bit_cast<float>(sign | 0x7f800000u);
  float m = a < 0x400u ? static_cast<float>(a) * 0x1p-24f
                       : std::bit_cast<float>((a << 13) + ((127u - 15u) << 23));
  return std::bit_cast<float>(sign | std::bit_cast<uint32_t>(m));
}
inline uint16_t f32_to_f16(float f) {
  auto u = std::bit_cast<uint32_t>(f);
  uint32_t sign = (u >> 16) & 0x8000u, a = u & 0x7fffffffu;
  if (a > 0x7f800000u) return static_cast<uint16_t>(sign | 0x7e00u | ((a >> 13) & 0x3ffu));
  if (a >= 0x477ff000u) return static_cast<uint16_t>(sign | 0x7c00u);  // 65520 and more
  if (a < 0x38800000u) {  // below 2^-14: adding 0.5 leaves a multiple of 2^-24 in the low bits
    float r = std::bit_cast<float>(a) + 0.5f;
    return static_cast<uint16_t>(sign | (std::bit_cast<uint32_t>(r) - 0x3f000000u));
  }
  uint32_t r = a - ((127u - 15u) << 23) + 0xfffu + ((a >> 13) & 1u);
  return static_cast<uint16_t>(sign | (r >> 13));
}

// E4M3 ("fn": no Inf, 0x7F is NaN, 448 the largest). Input is clamped to +-448; NaN gives 0x7F.
inline float e4m3_to_f32(uint8_t c) {
  uint32_t e = (c >> 3) & 15u, m = c & 7u;
  if ((c & 0x7fu) == 0x7fu) return std::numeric_limits<float>::quiet_NaN();
  float a = e == 0 ? static_cast<float>(m) * 0x1p-9f
                   : std::bit_cast<float>(((e + 120u) << 23) | (m << 20));
  return (c & 0x80u) != 0 ? -a : a;
}
inline uint8_t f32_to_e4m3(float f) {
  if (std::isnan(f)) return 0x7f;
  auto u = std::bit_cast<uint32_t>(f);
  uint32_t sign = (u >> 24) & 0x80u, a = u & 0x7fffffffu;
  if (a >= 0x43e00000u) return static_cast<uint8_t>(sign | 0x7eu);
  if (a < 0x3c800000u) {  // below 2^-6: multiples of 2^-9 end up in the low bits
    float r = std::bit_cast<float>(a) + 0x1p14f;
    return static_cast<uint8_t>(sign | (std::bit_cast<uint32_t>(r) - 0x46800000u));
  }
  uint32_t r = a - (120u << 23) + 0x7ffffu + ((a >> 20) & 1u);
  return static_cast<uint8_t>(sign | (r >> 20));
}

// E2M1: 0 .5 1 1.5 2 3 4 6. Input is clamped to +-6. The sign bit is set iff f < 0; NaN gives 7.
inline float e2m1_to_f32(uint8_t c) {
  constexpr float kValues[8] = {0.0f, 0.5f, 1.0f, 1.5f, 2.0f, 3.0f, 4.0f, 6.0f};
  return (c & 8u) != 0 ? -kValues[c & 7u] : kValues[c & 7u];
}
inline uint8_t f32_to_e2m1(float f) {
  float a = std::fabs(f);
  uint8_t sign = f < 0 ? 8 : 0;
  if (a <= 0.25f) return sign;
  if (a < 0.75f) return sign | 1;
  if (a <= 1.25f) return sign | 2;
  if (a < 1.75f) return sign | 3;
  if (a <= 2.5f) return sign | 4;
  if (a < 3.5f) return sign | 5;
  if (a <= 5.0f) return sign | 6;
  return sign | 7;
}

// E8M0: the byte E means 2^(E-127); 255 is +Inf here, as compressed-tensors decodes it.
inline float e8m0_to_f32(uint8_t e) {
  return std::bit_cast<float>(e == 0 ? 0x00400000u : static_cast<uint32_t>(e) << 23);
}

}  // namespace qp
