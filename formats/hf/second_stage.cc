#include "formats/hf/second_stage.h"

#include <array>
#include <bitset>
#include <cmath>
#include <cstring>
#include <limits>

#include "lib/base/error.h"
#include "lib/qmap/store.h"
#include "lib/scheme/numerics.h"
#include "lib/tensor/minifloat.h"

namespace qp {
namespace {

// The quotient first in few bits, as libraries that compute in BF16 store it, then around it.
std::array<float, 6> candidates(float x) {
  constexpr float kInf = std::numeric_limits<float>::infinity();
  float r = 1.0f / x, up = std::nextafter(r, kInf), down = std::nextafter(r, -kInf);
  return {bf16_to_f32(f32_to_bf16(r)), r, up, down, std::nextafter(up, kInf),
          std::nextafter(down, -kInf)};
}

float value_of(const Store& store, const Part& p) {
  float v = 0;
  std::memcpy(&v, store.read(p).data(), 4);
  return v;
}

}  // namespace

float reciprocal(float x) {
  for (float c : candidates(x)) {
    if (1.0f / c == x) return c;
  }
  return 1.0f / x;
}

float other_second_stage(const Store& store, const Tensor& t) {
  const Part *global = t.part(Role::global_scale), *two = t.part(Role::scale_2);
  const Part& from = global ? *global : *two;
  if (from.dtype != DType::f32 || from.shape.elements() != 1) {
    throw limit_error("has a second-stage scale that is no single F32").tensor(t.name);
  }
  float x = value_of(store, from);
  std::bitset<256> used;
  for (std::byte b : store.read(*t.part(Role::scale))) used.set(std::to_integer<size_t>(b));
  constexpr float kCodes[] = {0.5f, 1, 1.5f, 2, 3, 4, 6};
  auto same = [&](float y) {
    for (unsigned s = 0; s < 256; ++s) {
      if (!used[s]) continue;
      float scale = e4m3_to_f32(static_cast<uint8_t>(s));
      float a = global ? scale / x : scale * x, b = global ? scale * y : scale / y;
      for (float code : kCodes) {
        if (numerics::round_to(t.dtype, code * a) != numerics::round_to(t.dtype, code * b)) {
          return false;
        }
      }
    }
    return true;
  };
  // A candidate that comes back to x when it is converted again is preferred.
  for (bool exact : {true, false}) {
    for (float c : candidates(x)) {
      if (std::isfinite(c) && c > 0 && (!exact || reciprocal(c) == x) && same(c)) return c;
    }
  }
  throw limit_error(std::string("has weights that change in ") + std::string(dtype_name(t.dtype)) +
                    " when its second-stage scale is " + (global ? "multiplied" : "divided"))
      .file(store.label())
      .tensor(t.name)
      .hint(
          "keep the checkpoint in the family it came from, or quantize the base model with this "
          "family's numerics");
}

}  // namespace qp
