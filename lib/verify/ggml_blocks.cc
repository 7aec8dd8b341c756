#include "lib/verify/ggml_blocks.h"

#include <cstring>

#include "lib/tensor/ggml_type.h"

namespace qp {
namespace {

enum class Kind : uint8_t { f16, f32, e8m0, spread };

// Where the scales of a block are, from its start (reference/gguf.md section 4).
struct Where {
  std::string_view type;
  Kind kind;
  uint8_t first;
  uint8_t second = 0;  // a minimum behind the scale; 0: none
};

constexpr Where kWhere[] = {
    {"q4_0", Kind::f16, 0},      {"q4_1", Kind::f16, 0, 2}, {"q5_0", Kind::f16, 0},
    {"q5_1", Kind::f16, 0, 2},   {"q8_0", Kind::f16, 0},    {"q8_1", Kind::f16, 0, 2},
    {"q2_k", Kind::f16, 80, 82}, {"q3_k", Kind::f16, 108},  {"q4_k", Kind::f16, 0, 2},
    {"q5_k", Kind::f16, 0, 2},   {"q6_k", Kind::f16, 208},  {"q8_k", Kind::f32, 0},
    {"iq2_xxs", Kind::f16, 0},   {"iq2_xs", Kind::f16, 0},  {"iq3_xxs", Kind::f16, 0},
    {"iq1_s", Kind::f16, 0},     {"iq4_nl", Kind::f16, 0},  {"iq3_s", Kind::f16, 0},
    {"iq2_s", Kind::f16, 0},     {"iq4_xs", Kind::f16, 0},  {"iq1_m", Kind::spread, 48},
    {"tq1_0", Kind::f16, 52},    {"tq2_0", Kind::f16, 64},  {"mxfp4", Kind::e8m0, 0},
    {"q1_0", Kind::f16, 0},      {"q2_0", Kind::f16, 0},
};

const Where* find(std::string_view type) {
  for (const Where& w : kWhere) {
    if (w.type == type) return &w;
  }
  return nullptr;
}

uint32_t load_u16(const std::byte* p) {
  uint16_t v;
  std::memcpy(&v, p, 2);
  return v;
}

// Bits that decide about a block: of its scales, each with its exponent where f16 has it.
struct Bits {
  bool bad;
  bool any;
};

Bits of_f16(uint32_t v) { return {(v & 0x7c00) == 0x7c00, (v & 0x7fff) != 0}; }

Bits of_f32(const std::byte* p) {
  uint32_t v;
  std::memcpy(&v, p, 4);
  return {(v & 0x7f800000) == 0x7f800000, (v & 0x7fffffff) != 0};
}

Bits of_e8m0(const std::byte* p) {
  auto e = std::to_integer<uint32_t>(*p);
  return {e == 255, e != 0};
}

// iq1_m: a quarter of the F16 in the highest bits of each of four words.
Bits of_spread(const std::byte* p) {
  uint32_t v = 0;
  for (int i = 0; i < 4; ++i) v |= (load_u16(p + 2 * i) >> 12) << (4 * i);
  return of_f16(v);
}

template <class Look>
void walk(std::span<const std::byte> blocks, size_t stride, Look look, BlockScales& out) {
  size_t n = blocks.size() / stride;
  const std::byte* p = blocks.data();
  for (size_t i = 0; i < n; ++i, p += stride) {
    Bits bits = look(p);
    out.any |= bits.any;
    if (!bits.bad) continue;
    if (out.bad++ == 0) out.first_bad = i;
  }
}

}  // namespace

bool has_block_scales(std::string_view type) { return find(type) != nullptr; }

BlockScales check_block_scales(std::string_view type, std::span<const std::byte> blocks) {
  BlockScales out;
  const Where* where = find(type);
  const GgmlType* layout = ggml_type(type);
  if (where == nullptr || layout == nullptr) return out;
  size_t stride = layout->bytes, first = where->first, second = where->second;
  auto one = [=](const std::byte* p) { return of_f16(load_u16(p + first)); };
  auto two = [=](const std::byte* p) {
    Bits d = of_f16(load_u16(p + first)), m = of_f16(load_u16(p + second));
    return Bits{d.bad || m.bad, d.any || m.any};
  };
  switch (where->kind) {
    case Kind::f16:
      second == 0 ? walk(blocks, stride, one, out) : walk(blocks, stride, two, out);
      break;
    case Kind::f32:
      walk(
          blocks, stride, [=](auto* p) { return of_f32(p + first); }, out);
      break;
    case Kind::e8m0:
      walk(
          blocks, stride, [=](auto* p) { return of_e8m0(p + first); }, out);
      break;
    case Kind::spread:
      walk(
          blocks, stride, [=](auto* p) { return of_spread(p + first); }, out);
      break;
  }
  return out;
}

}  // namespace qp
