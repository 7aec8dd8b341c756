// Loops are plain and branch-free over a block, which GCC and Clang turn into vector code by
// themselves. Every product is evaluated in f32 in the order ggml writes it, so the results have
// ggml's bits (this file must be built without contraction, like all others).
#include "lib/kernels/ggml.h"

#include <array>
#include <bit>
#include <cstring>

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

// Ids are on disk: never renumber.
constexpr GgmlType kTypes[] = {
    {0, "f32", 1, 4, from_f32},
    {1, "f16", 1, 2, from_f16},
    {2, "q4_0", 32, 18, from_q4_0},
    {3, "q4_1", 32, 20, from_q4_1},
    {6, "q5_0", 32, 22, from_q5_0},
    {7, "q5_1", 32, 24, from_q5_1},
    {8, "q8_0", 32, 34, from_q8_0},
    {9, "q8_1", 32, 36, nullptr},
    {10, "q2_k", 256, 84, from_q2_k},
    {11, "q3_k", 256, 110, from_q3_k},
    {12, "q4_k", 256, 144, from_q4_k},
    {13, "q5_k", 256, 176, from_q5_k},
    {14, "q6_k", 256, 210, from_q6_k},
    {15, "q8_k", 256, 292, from_q8_k},
    {16, "iq2_xxs", 256, 66, nullptr},
    {17, "iq2_xs", 256, 74, nullptr},
    {18, "iq3_xxs", 256, 98, nullptr},
    {19, "iq1_s", 256, 50, nullptr},
    {20, "iq4_nl", 32, 18, nullptr},
    {21, "iq3_s", 256, 110, nullptr},
    {22, "iq2_s", 256, 82, nullptr},
    {23, "iq4_xs", 256, 136, nullptr},
    {24, "i8", 1, 1, nullptr},
    {25, "i16", 1, 2, nullptr},
    {26, "i32", 1, 4, nullptr},
    {27, "i64", 1, 8, nullptr},
    {28, "f64", 1, 8, nullptr},
    {29, "iq1_m", 256, 56, nullptr},
    {30, "bf16", 1, 2, from_bf16},
    {34, "tq1_0", 256, 54, nullptr},
    {35, "tq2_0", 256, 66, nullptr},
    {39, "mxfp4", 32, 17, nullptr},
    {40, "nvfp4", 64, 36, nullptr},
    {41, "q1_0", 128, 18, nullptr},
    {42, "q2_0", 64, 18, nullptr},
};

constexpr uint32_t kIdEnd = 43;
constexpr auto kIndexOfId = [] {
  std::array<int8_t, kIdEnd> index{};
  index.fill(-1);
  for (size_t i = 0; i < std::size(kTypes); ++i) index[kTypes[i].id] = static_cast<int8_t>(i);
  return index;
}();

bool same_name(std::string_view lower, std::string_view given) {
  if (lower.size() != given.size()) return false;
  for (size_t i = 0; i < lower.size(); ++i) {
    char c = given[i] >= 'A' && given[i] <= 'Z' ? static_cast<char>(given[i] + 32) : given[i];
    if (c != lower[i]) return false;
  }
  return true;
}

}  // namespace

std::span<const GgmlType> ggml_types() { return kTypes; }

const GgmlType* ggml_type(uint32_t id) {
  if (id >= kIdEnd || kIndexOfId[id] < 0) return nullptr;
  return &kTypes[kIndexOfId[id]];
}

const GgmlType* ggml_type(std::string_view name) {
  for (const GgmlType& type : kTypes) {
    if (same_name(type.name, name)) return &type;
  }
  return nullptr;
}

}  // namespace qp
