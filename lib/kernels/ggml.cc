// Loops are plain and branch-free over a block, which GCC and Clang turn into vector code by
// themselves. Every product is evaluated in f32 in the order ggml writes it, so the results have
// ggml's bits (this file must be built without contraction, like all others).
#include "lib/kernels/ggml.h"

#include <array>
#include <bit>
#include <cstring>

#include "lib/kernels/ggml_codebook_decode.h"

namespace qp {
namespace {

constexpr size_t kSuper = 256;  // elements of a K block

uint32_t load_u16(const uint8_t* p) {
  uint16_t v;
  std::memcpy(&v, p, 2);
  return v;
}

uint32_t load_u32(const uint8_t* p) {
  uint32_t v;
  std::memcpy(&v, p, 4);
  return v;
}

// IEEE binary16, exact, subnormals included.
float load_half(const uint8_t* p) {
  uint32_t h = load_u16(p);
  uint32_t sign = (h & 0x8000) << 16, exponent = (h >> 10) & 31, mantissa = h & 1023;
  if (exponent == 0) {
    float magnitude = static_cast<float>(mantissa) * 0x1p-24f;
    return sign != 0 ? -magnitude : magnitude;
  }
  uint32_t bits = exponent == 31 ? 0x7f800000u : (exponent + 112) << 23;
  return std::bit_cast<float>(sign | bits | mantissa << 13);
}

float as_float(int v) { return static_cast<float>(v); }
int as_signed(uint8_t v) { return static_cast<int8_t>(v); }

void from_f32(const uint8_t* in, size_t n, float* out) { std::memcpy(out, in, 4 * n); }

void from_f16(const uint8_t* in, size_t n, float* out) {
  for (size_t i = 0; i < n; ++i) out[i] = load_half(in + 2 * i);
}

void from_bf16(const uint8_t* in, size_t n, float* out) {
  for (size_t i = 0; i < n; ++i) out[i] = std::bit_cast<float>(load_u16(in + 2 * i) << 16);
}

void from_q4_0(const uint8_t* in, size_t n, float* out) {
  for (; n > 0; n -= 32, in += 18, out += 32) {
    float d = load_half(in);
    for (int j = 0; j < 16; ++j) {
      out[j] = as_float((in[2 + j] & 15) - 8) * d;
      out[j + 16] = as_float((in[2 + j] >> 4) - 8) * d;
    }
  }
}

void from_q4_1(const uint8_t* in, size_t n, float* out) {
  for (; n > 0; n -= 32, in += 20, out += 32) {
    float d = load_half(in), m = load_half(in + 2);
    for (int j = 0; j < 16; ++j) {
      out[j] = as_float(in[4 + j] & 15) * d + m;
      out[j + 16] = as_float(in[4 + j] >> 4) * d + m;
    }
  }
}

// The fifth bits: bit i belongs to element i of the block.
int high_bit(uint32_t bits, int i) { return static_cast<int>(bits >> i & 1) << 4; }

void from_q5_0(const uint8_t* in, size_t n, float* out) {
  for (; n > 0; n -= 32, in += 22, out += 32) {
    float d = load_half(in);
    uint32_t high = load_u32(in + 2);
    for (int j = 0; j < 16; ++j) {
      out[j] = as_float(((in[6 + j] & 15) | high_bit(high, j)) - 16) * d;
      out[j + 16] = as_float((in[6 + j] >> 4 | high_bit(high, j + 16)) - 16) * d;
    }
  }
}

void from_q5_1(const uint8_t* in, size_t n, float* out) {
  for (; n > 0; n -= 32, in += 24, out += 32) {
    float d = load_half(in), m = load_half(in + 2);
    uint32_t high = load_u32(in + 4);
    for (int j = 0; j < 16; ++j) {
      out[j] = as_float((in[8 + j] & 15) | high_bit(high, j)) * d + m;
      out[j + 16] = as_float(in[8 + j] >> 4 | high_bit(high, j + 16)) * d + m;
    }
  }
}

void from_q8_0(const uint8_t* in, size_t n, float* out) {
  for (; n > 0; n -= 32, in += 34, out += 32) {
    float d = load_half(in);
    for (int j = 0; j < 32; ++j) out[j] = as_float(as_signed(in[2 + j])) * d;
  }
}

// Two-bit fields of q2_K and q3_K: element i of a half is in byte i % 32, at bits 2 * (i / 32).
int two_bits(const uint8_t* half, int i) { return half[i % 32] >> (2 * (i / 32)) & 3; }

void from_q2_k(const uint8_t* in, size_t n, float* out) {
  for (; n > 0; n -= kSuper, in += 84, out += kSuper) {
    float d = load_half(in + 80), dmin = load_half(in + 82);
    for (int group = 0; group < 16; ++group) {
      const uint8_t* half = in + 16 + 32 * (group / 8);
      float scale = d * as_float(in[group] & 15), min = dmin * as_float(in[group] >> 4);
      for (int i = 0; i < 16; ++i) {
        out[16 * group + i] = scale * as_float(two_bits(half, 16 * (group % 8) + i)) - min;
      }
    }
  }
}

void from_q3_k(const uint8_t* in, size_t n, float* out) {
  for (; n > 0; n -= kSuper, in += 110, out += kSuper) {
    const uint8_t* scales = in + 96;
    float d = load_half(in + 108);
    for (int group = 0; group < 16; ++group) {
      int low = group < 8 ? scales[group] & 15 : scales[group - 8] >> 4;
      int high = scales[8 + group % 4] >> (2 * (group / 4)) & 3;
      float scale = d * as_float((low | high << 4) - 32);
      const uint8_t* half = in + 32 + 32 * (group / 8);
      for (int i = 0; i < 16; ++i) {
        int element = 16 * group + i;
        int set = in[element % 32] >> (element / 32) & 1;
        int q = two_bits(half, element % 128) - (set != 0 ? 0 : 4);
        out[element] = scale * as_float(q);
      }
    }
  }
}

struct ScaleMin {
  int scale, min;
};
// The twelve bytes of q4_K and q5_K hold eight 6-bit scales and eight 6-bit minima.
ScaleMin scale_min(const uint8_t* s, int j) {
  if (j < 4) return {s[j] & 63, s[j + 4] & 63};
  return {(s[j + 4] & 15) | (s[j - 4] >> 6) << 4, s[j + 4] >> 4 | (s[j] >> 6) << 4};
}

void from_q4_k(const uint8_t* in, size_t n, float* out) {
  for (; n > 0; n -= kSuper, in += 144, out += kSuper) {
    float d = load_half(in), dmin = load_half(in + 2);
    for (int group = 0; group < 8; ++group) {
      const uint8_t* q = in + 16 + 32 * (group / 2);
      auto [sc, m] = scale_min(in + 4, group);
      float scale = d * as_float(sc), min = dmin * as_float(m);
      int shift = 4 * (group % 2);
      for (int i = 0; i < 32; ++i) out[32 * group + i] = scale * as_float(q[i] >> shift & 15) - min;
    }
  }
}

void from_q5_k(const uint8_t* in, size_t n, float* out) {
  for (; n > 0; n -= kSuper, in += 176, out += kSuper) {
    const uint8_t* high = in + 16;
    float d = load_half(in), dmin = load_half(in + 2);
    for (int group = 0; group < 8; ++group) {
      const uint8_t* q = in + 48 + 32 * (group / 2);
      auto [sc, m] = scale_min(in + 4, group);
      float scale = d * as_float(sc), min = dmin * as_float(m);
      int shift = 4 * (group % 2);
      for (int i = 0; i < 32; ++i) {
        int code = (q[i] >> shift & 15) | (high[i] >> group & 1) << 4;
        out[32 * group + i] = scale * as_float(code) - min;
      }
    }
  }
}

void from_q6_k(const uint8_t* in, size_t n, float* out) {
  for (; n > 0; n -= kSuper, in += 210, out += kSuper) {
    float d = load_half(in + 208);
    for (int group = 0; group < 16; ++group) {
      // Quarter k of a half: nibble k / 2 of the low bytes, bit pair k of the high bytes.
      int half = group / 8, quarter = group % 8 / 2, start = 16 * (group % 2);
      const uint8_t* low = in + 64 * half + 32 * (quarter % 2) + start;
      const uint8_t* high = in + 128 + 32 * half + start;
      float scale = d * as_float(as_signed(in[192 + group]));
      for (int i = 0; i < 16; ++i) {
        int code = (low[i] >> (4 * (quarter / 2)) & 15) | (high[i] >> (2 * quarter) & 3) << 4;
        out[16 * group + i] = scale * as_float(code - 32);
      }
    }
  }
}

void from_q8_k(const uint8_t* in, size_t n, float* out) {
  for (; n > 0; n -= kSuper, in += 292, out += kSuper) {
    float d = std::bit_cast<float>(load_u32(in));
    for (size_t j = 0; j < kSuper; ++j) out[j] = d * as_float(as_signed(in[4 + j]));
  }
}

// Trit n of a byte that holds five as a fraction of 243: the whole part of three times what is
// left.
int trit(uint8_t byte, int n) {
  constexpr int kPower[] = {1, 3, 9, 27, 81};
  return ((byte * kPower[n]) & 255) * 3 >> 8;
}

void from_tq1_0(const uint8_t* in, size_t n, float* out) {
  for (; n > 0; n -= kSuper, in += 54, out += kSuper) {
    float d = load_half(in + 52);
    for (int i = 0; i < 160; ++i) out[i] = as_float(trit(in[i % 32], i / 32) - 1) * d;
    for (int i = 0; i < 80; ++i) out[160 + i] = as_float(trit(in[32 + i % 16], i / 16) - 1) * d;
    for (int i = 0; i < 16; ++i) out[240 + i] = as_float(trit(in[48 + i % 4], i / 4) - 1) * d;
  }
}

void from_tq2_0(const uint8_t* in, size_t n, float* out) {
  for (; n > 0; n -= kSuper, in += 66, out += kSuper) {
    float d = load_half(in + 64);
    for (int i = 0; i < 256; ++i) {
      out[i] = as_float(two_bits(in + 32 * (i / 128), i % 128) - 1) * d;
    }
  }
}

void from_q1_0(const uint8_t* in, size_t n, float* out) {
  for (; n > 0; n -= 128, in += 18, out += 128) {
    float d = load_half(in);
    for (int i = 0; i < 128; ++i) out[i] = (in[2 + i / 8] >> (i % 8) & 1) != 0 ? d : -d;
  }
}

void from_q2_0(const uint8_t* in, size_t n, float* out) {
  for (; n > 0; n -= 64, in += 18, out += 64) {
    float d = load_half(in);
    for (int i = 0; i < 64; ++i) out[i] = as_float((in[2 + i / 4] >> (2 * (i % 4)) & 3) - 1) * d;
  }
}

// Twice the numbers of E2M1.
constexpr int kE2m1[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};

void from_mxfp4(const uint8_t* in, size_t n, float* out) {
  for (; n > 0; n -= 32, in += 17, out += 32) {
    uint32_t e = in[0];  // 2^(e - 128)
    float d = std::bit_cast<float>(e < 2 ? 0x00200000u << e : (e - 1) << 23);
    for (int j = 0; j < 16; ++j) {
      out[j] = as_float(kE2m1[in[1 + j] & 15]) * d;
      out[j + 16] = as_float(kE2m1[in[1 + j] >> 4]) * d;
    }
  }
}

// Half of an E4M3 number without its sign; NaN is 0.
float half_of_ue4m3(uint8_t code) {
  uint32_t e = code >> 3 & 15, m = code & 7;
  if ((code & 127) == 127) return 0;
  if (e == 0) return static_cast<float>(m) * 0x1p-10f;
  return std::bit_cast<float>((e + 119) << 23 | m << 20);
}

void from_nvfp4(const uint8_t* in, size_t n, float* out) {
  for (; n > 0; n -= 64, in += 36, out += 64) {
    for (int group = 0; group < 4; ++group) {
      float d = half_of_ue4m3(in[group]);
      const uint8_t* q = in + 4 + 8 * group;
      for (int j = 0; j < 8; ++j) {
        out[16 * group + j] = as_float(kE2m1[q[j] & 15]) * d;
        out[16 * group + j + 8] = as_float(kE2m1[q[j] >> 4]) * d;
      }
    }
  }
}

constexpr int kIq4[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};

void from_iq4_nl(const uint8_t* in, size_t n, float* out) {
  for (; n > 0; n -= 32, in += 18, out += 32) {
    float d = load_half(in);
    for (int j = 0; j < 16; ++j) {
      out[j] = d * as_float(kIq4[in[2 + j] & 15]);
      out[j + 16] = d * as_float(kIq4[in[2 + j] >> 4]);
    }
  }
}

void from_iq4_xs(const uint8_t* in, size_t n, float* out) {
  for (; n > 0; n -= kSuper, in += 136, out += kSuper) {
    float d = load_half(in);
    for (int group = 0; group < 8; ++group) {
      int low = in[4 + group / 2] >> (4 * (group % 2)) & 15;
      int high = static_cast<int>(load_u16(in + 2) >> (2 * group) & 3);
      float scale = d * as_float((low | high << 4) - 32);
      const uint8_t* q = in + 8 + 16 * group;
      for (int j = 0; j < 16; ++j) {
        out[32 * group + j] = scale * as_float(kIq4[q[j] & 15]);
        out[32 * group + j + 16] = scale * as_float(kIq4[q[j] >> 4]);
      }
    }
  }
}

// Numbers as they are.
template <class T>
void from_plain(const uint8_t* in, size_t n, float* out) {
  for (size_t i = 0; i < n; ++i) {
    T v;
    std::memcpy(&v, in + i * sizeof(T), sizeof(T));
    out[i] = static_cast<float>(v);
  }
}

// Ids are on disk: never renumber.
struct Decoder {
  uint32_t id;  // of the type
  GgmlDecoder decode;
};

constexpr Decoder kDecoders[] = {
    {0, from_f32},
    {1, from_f16},
    {2, from_q4_0},
    {3, from_q4_1},
    {6, from_q5_0},
    {7, from_q5_1},
    {8, from_q8_0},
    {10, from_q2_k},
    {11, from_q3_k},
    {12, from_q4_k},
    {13, from_q5_k},
    {14, from_q6_k},
    {15, from_q8_k},
    {16, from_iq2_xxs},
    {17, from_iq2_xs},
    {18, from_iq3_xxs},
    {19, from_iq1_s},
    {20, from_iq4_nl},
    {21, from_iq3_s},
    {22, from_iq2_s},
    {23, from_iq4_xs},
    {24, from_plain<int8_t>},
    {25, from_plain<int16_t>},
    {26, from_plain<int32_t>},
    {27, from_plain<int64_t>},
    {28, from_plain<double>},
    {29, from_iq1_m},
    {30, from_bf16},
    {34, from_tq1_0},
    {35, from_tq2_0},
    {39, from_mxfp4},
    {40, from_nvfp4},
    {41, from_q1_0},
    {42, from_q2_0},
};

}  // namespace

GgmlDecoder ggml_decoder(uint32_t id) {
  for (const Decoder& d : kDecoders) {
    if (d.id == id) return d.decode;
  }
  return nullptr;
}

}  // namespace qp
