// NEON (AArch64): the vocabulary of 16-lane operations in which the *.inc files are written, as
// four 128-bit registers. Like the other files of this kind it shares no inline function.
#include <arm_neon.h>
#include <string.h>

#include "lib/kernels/tables.h"

namespace qp::kernels {
namespace {

struct F {  // 16 floats
  float32x4_t v[4];
};
struct U {  // 16 unsigned or signed integers
  uint32x4_t v[4];
};
using M = U;  // all bits of a lane set or clear
struct D {    // 8 doubles
  float64x2_t v[4];
};

// op of each quarter.
template <class R, class Op, class... A>
inline R each(Op op, const A&... a) {
  return {{op(a.v[0]...), op(a.v[1]...), op(a.v[2]...), op(a.v[3]...)}};
}
using F4 = float32x4_t;
using U4 = uint32x4_t;
using D2 = float64x2_t;

inline F set1(float x) {
  F4 v = vdupq_n_f32(x);
  return {{v, v, v, v}};
}
inline F two_halves(const float* p) {  // p[0] in lanes 0-7, p[1] in lanes 8-15
  F4 a = vdupq_n_f32(p[0]), b = vdupq_n_f32(p[1]);
  return {{a, a, b, b}};
}
inline U set1_u(uint32_t x) {
  U4 v = vdupq_n_u32(x);
  return {{v, v, v, v}};
}
inline F as_f(U x) { return each<F>([](U4 a) { return vreinterpretq_f32_u32(a); }, x); }
inline U as_u(F x) { return each<U>([](F4 a) { return vreinterpretq_u32_f32(a); }, x); }

inline uint8x16_t load_128(const void* p) { return vld1q_u8(static_cast<const uint8_t*>(p)); }
inline F load_f32(const void* p) {
  auto* c = static_cast<const uint8_t*>(p);
  F x;
  for (size_t i = 0; i < 4; ++i) x.v[i] = vreinterpretq_f32_u8(vld1q_u8(c + 16 * i));
  return x;
}
inline void store_f32(float* p, F x) {
  for (size_t i = 0; i < 4; ++i) vst1q_f32(p + 4 * i, x.v[i]);
}
inline U load_u16(const void* p) {
  auto* c = static_cast<const uint8_t*>(p);
  uint16x8_t a = vreinterpretq_u16_u8(vld1q_u8(c)), b = vreinterpretq_u16_u8(vld1q_u8(c + 16));
  return {{vmovl_u16(vget_low_u16(a)), vmovl_high_u16(a), vmovl_u16(vget_low_u16(b)),
           vmovl_high_u16(b)}};
}
inline F f16_to_f32(U halves) {
  return each<F>([](U4 h) { return vcvt_f32_f16(vreinterpret_f16_u16(vmovn_u32(h))); }, halves);
}
inline U f16_bits(F x) {
  return each<U>([](F4 a) { return vmovl_u16(vreinterpret_u16_f16(vcvt_f16_f32(a))); }, x);
}
inline F round_f16(F x) {
  return each<F>([](F4 a) { return vcvt_f32_f16(vcvt_f16_f32(a)); }, x);
}
template <int kBits>
inline U shl(U x) {
  return each<U>([](U4 a) { return vshlq_n_u32(a, kBits); }, x);
}
template <int kBits>
inline U shr(U x) {
  return each<U>([](U4 a) { return vshrq_n_u32(a, kBits); }, x);
}
inline F load_bf16(const void* p) { return as_f(shl<16>(load_u16(p))); }
inline F load_f16(const void* p) { return f16_to_f32(load_u16(p)); }
inline U load_u8(const uint8_t* p) {
  uint8x16_t b = vld1q_u8(p);
  uint16x8_t low = vmovl_u8(vget_low_u8(b)), high = vmovl_high_u8(b);
  return {{vmovl_u16(vget_low_u16(low)), vmovl_high_u16(low), vmovl_u16(vget_low_u16(high)),
           vmovl_high_u16(high)}};
}
inline uint16x8_t narrow(U4 a, U4 b) { return vmovn_high_u32(vmovn_u32(a), b); }
inline void store_u16(uint8_t* p, U x) {
  vst1q_u8(p, vreinterpretq_u8_u16(narrow(x.v[0], x.v[1])));
  vst1q_u8(p + 16, vreinterpretq_u8_u16(narrow(x.v[2], x.v[3])));
}
inline void store_u8(uint8_t* p, U x) {
  vst1q_u8(p, vmovn_high_u16(vmovn_u16(narrow(x.v[0], x.v[1])), narrow(x.v[2], x.v[3])));
}
// 32 BF16 values or bytes, those with even index in one operand and those with odd in the other.
inline void load_bf16_pairs(const void* p, F* even, F* odd) {
  U x = as_u(load_f32(p));
  *even = as_f(shl<16>(x));
  *odd = as_f(each<U>([](U4 a) { return vandq_u32(a, vdupq_n_u32(0xffff0000u)); }, x));
}
inline void store_u8_pairs(uint8_t* p, U even, U odd) {
  uint8_t e[16], o[16];
  store_u8(e, even);
  store_u8(o, odd);
  vst2q_u8(p, (uint8x16x2_t{{vld1q_u8(e), vld1q_u8(o)}}));
}

inline F add(F x, F y) { return each<F>([](F4 a, F4 b) { return vaddq_f32(a, b); }, x, y); }
inline F sub(F x, F y) { return each<F>([](F4 a, F4 b) { return vsubq_f32(a, b); }, x, y); }
inline F mul(F x, F y) { return each<F>([](F4 a, F4 b) { return vmulq_f32(a, b); }, x, y); }
inline F div(F x, F y) { return each<F>([](F4 a, F4 b) { return vdivq_f32(a, b); }, x, y); }
inline F fma(F x, F y, F z) {  // x*y + z
  return each<F>([](F4 a, F4 b, F4 c) { return vfmaq_f32(c, a, b); }, x, y, z);
}
inline F fnma(F x, F y, F z) {  // z - x*y
  return each<F>([](F4 a, F4 b, F4 c) { return vfmsq_f32(c, a, b); }, x, y, z);
}
// Both give y if either is NaN.
inline F min_(F x, F y) {
  return each<F>([](F4 a, F4 b) { return vbslq_f32(vcltq_f32(a, b), a, b); }, x, y);
}
inline F max_(F x, F y) {
  return each<F>([](F4 a, F4 b) { return vbslq_f32(vcgtq_f32(a, b), a, b); }, x, y);
}
inline M less(F x, F y) { return each<M>([](F4 a, F4 b) { return vcltq_f32(a, b); }, x, y); }
inline U to_int(F x) {
  return each<U>([](F4 a) { return vreinterpretq_u32_s32(vcvtnq_s32_f32(a)); }, x);
}
inline F to_float(U x) {
  return each<F>([](U4 a) { return vcvtq_f32_s32(vreinterpretq_s32_u32(a)); }, x);
}

inline U add_u(U x, U y) { return each<U>([](U4 a, U4 b) { return vaddq_u32(a, b); }, x, y); }
inline U sub_u(U x, U y) { return each<U>([](U4 a, U4 b) { return vsubq_u32(a, b); }, x, y); }
inline U and_(U x, U y) { return each<U>([](U4 a, U4 b) { return vandq_u32(a, b); }, x, y); }
inline U or_(U x, U y) { return each<U>([](U4 a, U4 b) { return vorrq_u32(a, b); }, x, y); }
inline M less_u(U x, U y) { return each<M>([](U4 a, U4 b) { return vcltq_u32(a, b); }, x, y); }
inline U select(M m, U yes, U no) {
  return each<U>([](U4 c, U4 a, U4 b) { return vbslq_u32(c, a, b); }, m, yes, no);
}
inline M both_(M x, M y) { return and_(x, y); }
inline unsigned count(M m) {
  U4 sum = vdupq_n_u32(0);
  for (U4 v : m.v) sum = vsubq_u32(sum, v);  // a set lane is -1
  return vaddvq_u32(sum);
}

inline F e2m1_value(U code) {
  // The upper halves of the values as F32, split into a table of low and one of high bytes.
  constexpr uint8_t kLow[16] = {0, 0, 0x80, 0xc0, 0, 0x40, 0x80, 0xc0,
                                0, 0, 0x80, 0xc0, 0, 0x40, 0x80, 0xc0};
  constexpr uint8_t kHigh[16] = {0,    0x3f, 0x3f, 0x3f, 0x40, 0x40, 0x40, 0x40,
                                 0x80, 0xbf, 0xbf, 0xbf, 0xc0, 0xc0, 0xc0, 0xc0};
  const uint8x16_t low = vld1q_u8(kLow), high = vld1q_u8(kHigh);
  return each<F>(
      [=](U4 c) {
        // Bytes 2 and 3 of a lane look up; 0xff elsewhere gives 0.
        U4 at = vorrq_u32(vshlq_n_u32(c, 16), vdupq_n_u32(0xff00ffffu));
        U4 at_high = vorrq_u32(vshlq_n_u32(c, 24), vdupq_n_u32(0x00ffffffu));
        uint8x16_t x = vorrq_u8(vqtbl1q_u8(low, vreinterpretq_u8_u32(at)),
                                vqtbl1q_u8(high, vreinterpretq_u8_u32(at_high)));
        return vreinterpretq_f32_u8(x);
      },
      code);
}

// Bit streams: the low bits of eight bytes, and back. Neighbours are joined three times.
inline uint64_t squeeze(uint64_t x, unsigned bits) {
  x &= 0x0101010101010101u * ((1u << bits) - 1);
  x = (x & 0x00ff00ff00ff00ffu) | ((x & 0xff00ff00ff00ff00u) >> (8 - bits));
  x = (x & 0x0000ffff0000ffffu) | ((x & 0xffff0000ffff0000u) >> (16 - 2 * bits));
  return (x & 0x00000000ffffffffu) | ((x & 0xffffffff00000000u) >> (32 - 4 * bits));
}
inline uint64_t stretch(uint64_t x, unsigned bits) {
  uint64_t one = (1u << bits) - 1, two = (1u << 2 * bits) - 1,
           four = (uint64_t{1} << 4 * bits) - 1;
  x = (x & four) | ((x >> 4 * bits & four) << 32);
  x = (x & two * 0x0000000100000001u) | ((x >> 2 * bits & two * 0x0000000100000001u) << 16);
  return (x & one * 0x0001000100010001u) | ((x >> bits & one * 0x0001000100010001u) << 8);
}
// 64 codes of 4 bits, one a byte <-> 32 bytes.
inline void store_nibbles(const uint8_t* codes, uint8_t* out) {
  for (size_t i = 0; i < 2; ++i) {
    uint8x16x2_t x = vld2q_u8(codes + 32 * i);
    vst1q_u8(out + 16 * i, vorrq_u8(x.val[0], vshlq_n_u8(x.val[1], 4)));
  }
}
inline void load_nibbles(const uint8_t* in, uint8_t* codes) {
  for (size_t i = 0; i < 2; ++i) {
    uint8x16_t x = vld1q_u8(in + 16 * i);
    vst2q_u8(codes + 32 * i, (uint8x16x2_t{{vandq_u8(x, vdupq_n_u8(15)), vshrq_n_u8(x, 4)}}));
  }
}

// Lanes of 16 (kWide: 32) bits for reductions.
template <bool kWide>
struct LanesOf;
template <>
struct LanesOf<true> {
  static constexpr size_t kCount = 4;
  U4 v;
  static LanesOf load(const void* p) { return {vreinterpretq_u32_u8(load_128(p))}; }
  static LanesOf zero() { return {vdupq_n_u32(0)}; }
  static LanesOf sign_bits() { return {vdupq_n_u32(0x80000000u)}; }
  LanesOf magnitude() const { return {vandq_u32(v, vdupq_n_u32(0x7fffffffu))}; }
  LanesOf max_unsigned(LanesOf o) const { return {vmaxq_u32(v, o.v)}; }
  LanesOf max_signed(LanesOf o) const {
    return {vreinterpretq_u32_s32(
        vmaxq_s32(vreinterpretq_s32_u32(v), vreinterpretq_s32_u32(o.v)))};
  }
  uint32_t largest_unsigned() const { return vmaxvq_u32(v); }
};
template <>
struct LanesOf<false> {
  static constexpr size_t kCount = 8;
  uint16x8_t v;
  static LanesOf load(const void* p) { return {vreinterpretq_u16_u8(load_128(p))}; }
  static LanesOf zero() { return {vdupq_n_u16(0)}; }
  static LanesOf sign_bits() { return {vdupq_n_u16(0x8000u)}; }
  LanesOf magnitude() const { return {vandq_u16(v, vdupq_n_u16(0x7fffu))}; }
  LanesOf max_unsigned(LanesOf o) const { return {vmaxq_u16(v, o.v)}; }
  LanesOf max_signed(LanesOf o) const {
    return {vreinterpretq_u16_s16(
        vmaxq_s16(vreinterpretq_s16_u16(v), vreinterpretq_s16_u16(o.v)))};
  }
  uint32_t largest_unsigned() const { return vmaxvq_u16(v); }
};
inline uint32_t max_magnitude_16(const void* p) {
  auto* c = static_cast<const uint8_t*>(p);
  return LanesOf<false>::load(c)
      .magnitude()
      .max_unsigned(LanesOf<false>::load(c + 16).magnitude())
      .largest_unsigned();
}

inline D zero_f64() {
  D2 v = vdupq_n_f64(0);
  return {{v, v, v, v}};
}
inline D widen(F4 a, F4 b) {
  return {{vcvt_f64_f32(vget_low_f32(a)), vcvt_high_f64_f32(a), vcvt_f64_f32(vget_low_f32(b)),
           vcvt_high_f64_f32(b)}};
}
inline D low_f64(F x) { return widen(x.v[0], x.v[1]); }
inline D high_f64(F x) { return widen(x.v[2], x.v[3]); }
inline D add_f64(D x, D y) { return each<D>([](D2 a, D2 b) { return vaddq_f64(a, b); }, x, y); }
inline D sub_f64(D x, D y) { return each<D>([](D2 a, D2 b) { return vsubq_f64(a, b); }, x, y); }
inline D mul_f64(D x, D y) { return each<D>([](D2 a, D2 b) { return vmulq_f64(a, b); }, x, y); }
inline D max_magnitude_f64(D m, D x) {
  return each<D>([](D2 a, D2 b) { return vmaxq_f64(a, vabsq_f64(b)); }, m, x);
}
inline void store_f64(double* p, D x) {
  for (size_t i = 0; i < 4; ++i) vst1q_f64(p + 2 * i, x.v[i]);
}

#include "lib/kernels/vector_quotient.inc"
#include "lib/kernels/vector_kernels.inc"
#include "lib/kernels/vector_reduce.inc"

}  // namespace

const Table k_neon = {
    "neon",
#include "lib/kernels/vector_table.inc"
};

}  // namespace qp::kernels
