// How references turn ranges into scales and zero points: scalar formulas, one scale at a time, and
// one table of what sets the references apart. Scheme::numerics names a row of it.
#pragma once

#include <span>
#include <string>
#include <string_view>

#include "lib/scheme/scheme.h"
#include "lib/tensor/dtype.h"

namespace qp::numerics {

// How weights are brought to the unit of their codes.
enum class Apply : uint8_t {
  divide,       // w / scale
  by_inverse,   // w * (1 / scale)
  by_ratio,     // w * (448 / amax); the scale stored is the inverse of that ratio
};
// The shared exponent of MX: the amax rounded up when its mantissa exceeds what the element type
// holds (carry; OCP's "even"), or log2(amax / largest element) rounded up or log2(amax) down.
enum class MxScale : uint8_t { none, carry, ceil, floor };  // none: not known here

struct Rules {
  std::string_view name;
  std::string_view source;  // whose arithmetic this is, of which version
  // Scales are computed and stored in F32, quotients are F32; else all in the dtype of the weight.
  bool f32 = false;
  bool half_range = true;   // symmetric integers: amax / 127.5 (7.5 ..), else amax / 127 (7 ..)
  float min_amax = 0;       // of floats: a smaller range counts as this
  float zero_scale = 0;     // what a scale of zero becomes; 0: the epsilon of the scale's dtype
  Apply apply = Apply::divide;
  // What an F32 scale of a whole tensor was applied to is rounded to the dtype of the weight:
  // PyTorch's way with a tensor of no dimensions.
  bool tensor_in_source = false;
  MxScale mx = MxScale::none;
  bool mxfp4_ties_to_zero = false;  // and an exact zero is -0
  bool drop_negative_zero = false;  // E4M3 of -0 is 0
  bool fp4_without_negative_zero = false;  // E2M1: what rounds to -0 is 0
  bool floats_in_source = false;    // floats: as if not f32, though integers are
  bool scale_in_source = false;     // F32 scales were rounded to the dtype of the weight before
  bool integers_by_inverse = false;  // integers: w * (1 / scale)
  bool integers_half_away = false;   // integers: w * (127 / amax), halves away from zero
  float least_of_integers = 0;       // of integers: a smaller range counts as this
};

// Whether scales and quotients of these weights are F32.
constexpr bool in_f32(const Rules& rules, const QuantArgs& weights) {
  return rules.f32 && !(rules.floats_in_source && weights.type == NumType::floating);
}

std::span<const Rules> all_rules();
const Rules* find_rules(std::string_view name);  // null: unknown, as of checkpoints that others made
// Errors: usage, an unknown name with the known ones.
const Rules& rules(std::string_view name);
// Why these rules cannot choose the codes of a scheme, or "".
std::string why_not(const Rules& rules, const Scheme& scheme);

// x rounded to a source dtype (BF16, F16 or F32), to nearest even, as f32.
float round_to(DType dtype, float x);

// Machine epsilon of the dtype.
float epsilon(DType dtype);

// Symmetric integers and floats, from amax to scale; `source` is the dtype of the weight.
float scale_of(const Rules& rules, const QuantArgs& weights, DType source, float amax);
// The same of many: scale[i] from amax[i]; the two may be one.
void scales_of(const Rules& rules, const QuantArgs& weights, DType source,
               std::span<const float> amax, float* scale);

// by_ratio: what weights of a range are multiplied with (1 for an empty range).
float ratio_of(const Rules& rules, const QuantArgs& weights, float amax);

struct ScaleZero {
  float scale;
  float zero_point;  // signed domain: [-2^(b-1), 2^(b-1) - 1]
};
// Asymmetric integers, from lo <= 0 <= hi.
ScaleZero scale_zero_of(const Rules& rules, const QuantArgs& weights, DType source, float lo, float hi);

// The second stage of NVFP4 from the amax of all fused tensors, as stored: compressed-tensors'
// global_scale (reciprocal, then times 2688, each rounded to the dtype; NaN or infinite becomes 1),
// else scale_2 = amax / 2688 in F32 (0 becomes 1).
float second_stage_of(const Rules& rules, DType source, float amax);
// Local scales of NVFP4 beside a scale_2 (ModelOpt; reference/modelopt.md 2.1): E4M3 of
// amax / (6 * scale_2), an exact 0 counting as 1, clamped to [2^-9, 448]; effective = its value *
// scale_2. Those beside a global_scale: kernels' nvfp4_scales.
void nvfp4_scales(std::span<const float> amax, float scale_2, uint8_t* code, float* effective);
// E8M0 exponents by Rules::mx ceil or floor; carry: kernels' mx_scales. emax: 2 for E2M1, 8 for E4M3.
void mx_scales(const Rules& rules, std::span<const float> amax, int emax, uint8_t* code, float* effective);
// The E2M1 code of x, clamped to +-6, ties going to zero and an exact zero being -0.
uint8_t e2m1_ties_to_zero(float x);

}  // namespace qp::numerics
