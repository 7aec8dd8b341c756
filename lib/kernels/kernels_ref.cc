// The scalar kernels: the specification of every other file here. Written to be read.
#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>

#include "lib/kernels/tables.h"
#include "lib/tensor/minifloat.h"

namespace qp::kernels {
namespace {

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInf = std::numeric_limits<float>::infinity();

template <class T>
T load(const void* p, size_t i) {
  T v;
  std::memcpy(&v, static_cast<const uint8_t*>(p) + i * sizeof(T), sizeof(T));
  return v;
}

float element(Src src, const void* p, size_t i) {
  if (src == Src::bf16) return bf16_to_f32(load<uint16_t>(p, i));
  if (src == Src::f16) return f16_to_f32(load<uint16_t>(p, i));
  return load<float>(p, i);
}

float round_to(Src src, float x) {
  if (src == Src::bf16) return bf16_to_f32(f32_to_bf16(x));
  if (src == Src::f16) return f16_to_f32(f32_to_f16(x));
  return x;
}

// As max(lo, min(x, hi)) but a NaN gives lo.
float clamp_nan_low(float x, float lo, float hi) {
  if (!(x > lo)) return lo;
  return x < hi ? x : hi;
}

void group_absmax(Src src, const void* p, size_t cols, size_t group, float* out) noexcept {
  for (size_t begin = 0; begin < cols; begin += std::min(group, cols - begin)) {
    float m = 0;
    for (size_t i = begin; i < begin + std::min(group, cols - begin); ++i) {
      float a = std::fabs(element(src, p, i));
      m = std::isnan(a) || std::isnan(m) ? kNan : std::max(m, a);
    }
    *out++ = m;
  }
}

void group_minmax(Src src, const void* p, size_t cols, size_t group, float* lo,
                  float* hi) noexcept {
  for (size_t begin = 0; begin < cols; begin += std::min(group, cols - begin)) {
    float low = 0, high = 0;
    for (size_t i = begin; i < begin + std::min(group, cols - begin); ++i) {
      float x = element(src, p, i);
      if (std::isnan(x) || std::isnan(low)) {
        low = high = kNan;
        continue;
      }
      if (x < low) low = x;
      if (x > high) high = x;
    }
    *lo++ = low;
    *hi++ = high;
  }
}

void put_bits(uint8_t* out, size_t i, unsigned bits, unsigned code) {
  size_t at = i * bits;
  unsigned v = code << (at % 8);
  out[at / 8] = static_cast<uint8_t>(out[at / 8] | v);
  if (at % 8 + bits > 8) out[at / 8 + 1] = static_cast<uint8_t>(out[at / 8 + 1] | (v >> 8));
}

unsigned get_bits(const uint8_t* in, size_t i, unsigned bits) {
  size_t at = i * bits;
  unsigned v = in[at / 8];
  if (at % 8 + bits > 8) v |= static_cast<unsigned>(in[at / 8 + 1]) << 8;
  return (v >> (at % 8)) & ((1u << bits) - 1);
}

void int_codes(Src src, const void* p, size_t cols, size_t group, const float* scale,
               const float* zero_point, int bits, uint8_t* out) noexcept {
  auto b = static_cast<unsigned>(bits);
  auto half = static_cast<float>(1u << (b - 1));
  std::memset(out, 0, (cols * b + 7) / 8);
  for (size_t i = 0; i < cols; ++i) {
    float t = round_to(src, element(src, p, i) / scale[i / group]);
    if (zero_point != nullptr) t = round_to(src, t + zero_point[i / group]);
    float q = std::nearbyint(clamp_nan_low(t, -half, half - 1));
    put_bits(out, i, b, static_cast<unsigned>(static_cast<int>(q + half)));
  }
}

void e4m3_codes(Src src, const void* p, size_t cols, size_t group, const float* scale,
                bool drop_negative_zero, uint8_t* out) noexcept {
  for (size_t i = 0; i < cols; ++i) {
    float t = round_to(src, element(src, p, i) / scale[i / group]);
    out[i] = drop_negative_zero && t == 0 ? 0 : f32_to_e4m3(t);
  }
}

void e2m1_codes(Src src, const void* p, size_t cols, size_t group, const float* scale,
                bool round_quotient, uint8_t* out) noexcept {
  for (size_t i = 0; i < cols; ++i) {
    float t = element(src, p, i) / scale[i / group];
    if (round_quotient) t = round_to(src, t);
    uint8_t code = f32_to_e2m1(t);
    out[i / 2] = static_cast<uint8_t>(i % 2 == 0 ? code : out[i / 2] | (code << 4));
  }
}

void nvfp4_scales(Src src, const float* amax, size_t groups, float global, uint8_t* code,
                  float* effective) noexcept {
  for (size_t g = 0; g < groups; ++g) {
    uint8_t c = f32_to_e4m3(global * round_to(src, amax[g] / 6.0f));
    if ((c & 0x7f) == 0) c = 0x20;
    code[g] = c;
    effective[g] = e4m3_to_f32(c) / global;
  }
}

void mx_scales(Src src, const float* amax, size_t groups, int offset, uint8_t* code,
               float* effective) noexcept {
  for (size_t g = 0; g < groups; ++g) {
    // The exponent field of P, in f32 terms. F16 has other limits: its subnormals end at 2^-14
    // and 57344 carries into infinity.
    uint32_t u = std::bit_cast<uint32_t>(amax[g]) & 0x7fffffffu;
    uint32_t exponent = u > 0x7f800000u ? 255 : (u + 0x200000u) >> 23;
    if (src == Src::f16) {
      if (amax[g] < 0x1p-14f) exponent = amax[g] >= 0x1.8p-15f ? 113 : 0;
      if (exponent >= 127 + 16) exponent = 255;
    }
    int e = static_cast<int>(exponent) - offset;
    if (exponent == 255) e = 255;
    if (e < 0 || exponent == 0) e = 0;
    if (src == Src::f16 && e == 0) e = 127;
    code[g] = static_cast<uint8_t>(e);
    effective[g] = e == 255 ? kInf : e8m0_to_f32(static_cast<uint8_t>(e));
  }
}

void int_values(const uint8_t* codes, size_t cols, size_t group, const float* scale,
                const float* zero_point, int bits, float* out) noexcept {
  auto b = static_cast<unsigned>(bits);
  auto half = static_cast<float>(1u << (b - 1));
  for (size_t i = 0; i < cols; ++i) {
    float q = static_cast<float>(get_bits(codes, i, b)) - half;
    if (zero_point != nullptr) q = q - zero_point[i / group];
    out[i] = q * scale[i / group];
  }
}

void e4m3_values(const uint8_t* codes, size_t cols, size_t group, const float* scale,
                 float* out) noexcept {
  for (size_t i = 0; i < cols; ++i) out[i] = e4m3_to_f32(codes[i]) * scale[i / group];
}

void e2m1_values(const uint8_t* codes, size_t cols, size_t group, const float* scale,
                 float* out) noexcept {
  for (size_t i = 0; i < cols; ++i) {
    unsigned nibble = codes[i / 2] >> (i % 2 * 4);
    out[i] = e2m1_to_f32(static_cast<uint8_t>(nibble & 15u)) * scale[i / group];
  }
}

void to_f32(Src src, const void* p, size_t n, float* out) noexcept {
  for (size_t i = 0; i < n; ++i) {
    // F32 moves as bytes: a float variable may lose a NaN's bits on some processors.
    if (src == Src::f32) {
      std::memcpy(out + i, static_cast<const uint8_t*>(p) + 4 * i, 4);
    } else {
      out[i] = element(src, p, i);
    }
  }
}

void from_f32(Src src, const float* p, size_t n, void* out) noexcept {
  auto* bytes = static_cast<uint8_t*>(out);
  if (src == Src::f32) {
    std::memcpy(out, p, n * sizeof(float));
    return;
  }
  for (size_t i = 0; i < n; ++i) {
    uint16_t h = src == Src::bf16 ? f32_to_bf16(p[i]) : f32_to_f16(p[i]);
    std::memcpy(bytes + 2 * i, &h, 2);
  }
}

double sum_lanes(double* lanes) {
  for (size_t step = 8; step >= 1; step /= 2) {
    for (size_t i = 0; i < step; ++i) lanes[i] += lanes[i + step];
  }
  return lanes[0];
}

void compare(const float* a, const float* b, size_t n, ErrorSums* sums) noexcept {
  double diff2[16] = {}, a2[16] = {}, b2[16] = {}, ab[16] = {};
  for (size_t i = 0; i < n; ++i) {
    if (!std::isfinite(a[i]) || !std::isfinite(b[i])) {
      ++sums->nonfinite;
      continue;
    }
    auto x = static_cast<double>(a[i]), y = static_cast<double>(b[i]);
    double d = x - y;
    diff2[i % 16] += d * d;
    a2[i % 16] += x * x;
    b2[i % 16] += y * y;
    ab[i % 16] += x * y;
    sums->max_abs = std::max(sums->max_abs, std::fabs(d));
  }
  sums->diff2 += sum_lanes(diff2);
  sums->a2 += sum_lanes(a2);
  sums->b2 += sum_lanes(b2);
  sums->ab += sum_lanes(ab);
}

void histogram(const uint8_t* codes, size_t cols, int bits, uint64_t* counts) noexcept {
  for (size_t i = 0; i < cols; ++i) ++counts[get_bits(codes, i, static_cast<unsigned>(bits))];
}

}  // namespace

const Table k_scalar = {
    .isa = "scalar",
    .group_absmax = group_absmax,
    .group_minmax = group_minmax,
    .int_codes = int_codes,
    .e4m3_codes = e4m3_codes,
    .e2m1_codes = e2m1_codes,
    .nvfp4_scales = nvfp4_scales,
    .mx_scales = mx_scales,
    .int_values = int_values,
    .e4m3_values = e4m3_values,
    .e2m1_values = e2m1_values,
    .to_f32 = to_f32,
    .from_f32 = from_f32,
    .compare = compare,
    .histogram = histogram,
};

}  // namespace qp::kernels
