// Products are evaluated in f32 in the order ggml writes them, db * grid * sign.
#include "lib/kernels/ggml_codebook_decode.h"

#include <array>
#include <bit>
#include <cstring>

#include "lib/kernels/ggml_codebook_tables.h"
#include "lib/tensor/minifloat.h"

namespace qp {
namespace {

using kernels::Book;

constexpr size_t kSuper = 256;

template <typename T>
T load(const uint8_t* p) {
  T v;
  std::memcpy(&v, p, sizeof v);
  return v;
}
float half(const uint8_t* p) { return f16_to_f32(load<uint16_t>(p)); }

// The points of a book as the numbers of a type, an int8 for each element.
template <Book kBook, size_t kCount, size_t kElements>
const auto& grid(const std::array<int8_t, 8>& numbers) {
  static const auto made = [&] {
    std::array<std::array<int8_t, kElements>, kCount> all{};
    auto points = kernels::book_points(kBook);
    constexpr uint32_t kBits = kElements == 8 ? 2 : 3;
    for (size_t i = 0; i < kCount; ++i) {
      for (uint32_t e = 0; e < kElements; ++e) {
        all[i][e] = numbers[points[i] >> (kBits * e) & ((1u << kBits) - 1)];
      }
    }
    return all;
  }();
  return made;
}
constexpr std::array<int8_t, 8> kIq1 = {-1, 0, 1}, kIq2 = {8, 25, 43},
                                kIq3Xxs = {4, 12, 20, 28, 36, 44, 52, 62},
                                kIq3S = {1, 3, 5, 7, 9, 11, 13, 15};

// Seven bits stand for eight signs of which an even number is set.
uint32_t even_signs(uint32_t bits) {
  bits &= 127;
  return bits | static_cast<uint32_t>(std::popcount(bits) & 1) << 7;
}

// Element e is negated where bit e is set.
template <size_t kElements>
void put(float scale, const std::array<int8_t, kElements>& point, uint32_t signs, float* out) {
  for (uint32_t e = 0; e < kElements; ++e) {
    auto bits = std::bit_cast<uint32_t>(scale * static_cast<float>(point[e]));
    out[e] = std::bit_cast<float>(bits ^ (signs << (31 - e) & 0x80000000u));
  }
}

float iq2_scale(float d, uint32_t code) { return d * (0.5f + static_cast<float>(code)) * 0.25f; }

constexpr float kDelta = 0.125f;

void put_shifted(float scale, const std::array<int8_t, 8>& point, float delta, float* out) {
  for (size_t e = 0; e < 8; ++e) out[e] = scale * (static_cast<float>(point[e]) + delta);
}
float odd_scale(float d, uint32_t code) { return d * static_cast<float>(2 * code + 1); }

}  // namespace

void from_iq2_xxs(const uint8_t* in, size_t n, float* out) {
  const auto& points = grid<Book::iq2_xxs, 256, 8>(kIq2);
  for (; n > 0; n -= kSuper, in += 66) {
    float d = half(in);
    for (int ib = 0; ib < 8; ++ib) {
      const uint8_t* q = in + 2 + 8 * ib;
      auto signs = load<uint32_t>(q + 4);
      float scale = iq2_scale(d, signs >> 28);
      for (int l = 0; l < 4; ++l, out += 8)
        put(scale, points[q[l]], even_signs(signs >> (7 * l)), out);
    }
  }
}

void from_iq2_xs(const uint8_t* in, size_t n, float* out) {
  const auto& points = grid<Book::iq2_xs, 512, 8>(kIq2);
  for (; n > 0; n -= kSuper, in += 74) {
    float d = half(in);
    for (int i = 0; i < 32; ++i, out += 8) {
      uint32_t q = load<uint16_t>(in + 2 + 2 * i);
      float scale = iq2_scale(d, in[66 + i / 4] >> (i % 4 / 2 * 4) & 15u);
      put(scale, points[q & 511], even_signs(q >> 9), out);
    }
  }
}

void from_iq2_s(const uint8_t* in, size_t n, float* out) {
  const auto& points = grid<Book::iq2_s, 1024, 8>(kIq2);
  for (; n > 0; n -= kSuper, in += 82) {
    float d = half(in);
    for (int i = 0; i < 32; ++i, out += 8) {
      uint32_t high = in[66 + i / 4] >> (2 * (i % 4)) & 3u;
      float scale = iq2_scale(d, in[74 + i / 4] >> (i % 4 / 2 * 4) & 15u);
      put(scale, points[in[2 + i] | high << 8], in[34 + i], out);
    }
  }
}

void from_iq3_xxs(const uint8_t* in, size_t n, float* out) {
  const auto& points = grid<Book::iq3_xxs, 256, 4>(kIq3Xxs);
  for (; n > 0; n -= kSuper, in += 98) {
    float d = half(in);
    for (int ib = 0; ib < 8; ++ib) {
      const uint8_t* q = in + 2 + 8 * ib;
      auto code = load<uint32_t>(in + 66 + 4 * ib);
      float scale = d * (0.5f + static_cast<float>(code >> 28)) * 0.5f;
      for (int l = 0; l < 4; ++l, out += 8) {
        uint32_t signs = even_signs(code >> (7 * l));
        put(scale, points[q[2 * l]], signs, out);
        put(scale, points[q[2 * l + 1]], signs >> 4, out + 4);
      }
    }
  }
}

void from_iq3_s(const uint8_t* in, size_t n, float* out) {
  const auto& points = grid<Book::iq3_s, 512, 4>(kIq3S);
  for (; n > 0; n -= kSuper, in += 110) {
    float d = half(in);
    for (int i = 0; i < 64; ++i, out += 4) {
      uint32_t high = in[66 + i / 8] >> (i % 8) & 1u;
      float scale = odd_scale(d, in[106 + i / 16] >> (i % 16 / 8 * 4) & 15u);
      put(scale, points[in[2 + i] | high << 8], in[74 + i / 2] >> (i % 2 * 4), out);
    }
  }
}

void from_iq1_s(const uint8_t* in, size_t n, float* out) {
  const auto& points = grid<Book::iq1, 2048, 8>(kIq1);
  for (; n > 0; n -= kSuper, in += 50) {
    float d = half(in);
    for (int ib = 0; ib < 8; ++ib) {
      uint32_t h = load<uint16_t>(in + 34 + 2 * ib);
      float scale = odd_scale(d, h >> 12 & 7), delta = (h & 0x8000) != 0 ? -kDelta : kDelta;
      for (int l = 0; l < 4; ++l, out += 8) {
        put_shifted(scale, points[in[2 + 4 * ib + l] | (h >> (3 * l) & 7) << 8], delta, out);
      }
    }
  }
}

void from_iq1_m(const uint8_t* in, size_t n, float* out) {
  const auto& points = grid<Book::iq1, 2048, 8>(kIq1);
  for (; n > 0; n -= kSuper, in += 56) {
    const uint8_t* scales = in + 48;
    uint32_t bits = 0;  // of d: four in the highest of each word
    for (int k = 0; k < 4; ++k) bits |= (load<uint16_t>(scales + 2 * k) >> 12 & 15u) << (4 * k);
    float d = f16_to_f32(static_cast<uint16_t>(bits));
    for (int i = 0; i < 32; ++i, out += 8) {
      uint32_t high = in[32 + i / 2] >> (i % 2 * 4) & 15u;
      uint32_t code = load<uint16_t>(scales + i / 8 * 2) >> (i % 8 / 2 * 3) & 7u;
      float delta = (high & 8) != 0 ? -kDelta : kDelta;
      put_shifted(odd_scale(d, code), points[in[i] | (high & 7) << 8], delta, out);
    }
  }
}

}  // namespace qp
