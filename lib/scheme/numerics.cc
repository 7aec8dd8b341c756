#include "lib/scheme/numerics.h"

#include <algorithm>
#include <cmath>

#include "lib/tensor/minifloat.h"

namespace qp::numerics {

float round_to(DType dtype, float x) {
  if (dtype == DType::bf16) return bf16_to_f32(f32_to_bf16(x));
  if (dtype == DType::f16) return f16_to_f32(f32_to_f16(x));
  return x;
}

float zero_scale(DType dtype) {
  if (dtype == DType::bf16) return 0x1p-7f;
  if (dtype == DType::f16) return 0x1p-10f;
  return 0x1p-23f;
}

float scale_of(const QuantArgs& w, DType source, float amax) {
  float scale = 0;
  scales_of(w, source, {&amax, 1}, &scale);
  return scale;
}

void scales_of(const QuantArgs& w, DType source, std::span<const float> amax, float* scale) {
  float half_range = w.num_bits == 4 ? 6.0f : 448.0f;
  if (w.type == NumType::integer) half_range = static_cast<float>((1 << w.num_bits) - 1) / 2;
  float zero = zero_scale(source);
  if (source == DType::bf16) {  // the dtype of nearly every model: a loop the compiler vectorizes
    for (size_t i = 0; i < amax.size(); ++i) {
      float s = bf16_to_f32(f32_to_bf16(amax[i] / half_range));
      scale[i] = s == 0 ? zero : s;
    }
    return;
  }
  for (size_t i = 0; i < amax.size(); ++i) {
    float s = round_to(source, amax[i] / half_range);
    scale[i] = s == 0 ? zero : s;
  }
}

ScaleZero scale_zero_of(const QuantArgs& w, DType source, float lo, float hi) {
  float q_min = -static_cast<float>(1 << (w.num_bits - 1)), q_max = -q_min - 1;
  float range = round_to(source, hi - lo);
  float scale = round_to(source, range / static_cast<float>((1 << w.num_bits) - 1));
  // With a scale of 0 the reference computes 0/0; its NaN becomes the integer 0.
  float zero = 0;
  if (scale != 0) {
    zero = round_to(source, q_min - round_to(source, lo / scale));
    zero = std::nearbyint(std::clamp(zero, q_min, q_max));
  }
  return {scale == 0 ? zero_scale(source) : scale, zero};
}

float global_scale_of(DType source, float amax) {
  float smallest = source == DType::f16 ? 0x1p-14f : 0x1p-126f;
  float a = std::max(amax, smallest);
  float global = round_to(source, round_to(source, 1.0f / a) * 2688.0f);
  return std::isfinite(global) ? global : 1.0f;
}

}  // namespace qp::numerics
