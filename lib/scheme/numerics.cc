#include "lib/scheme/numerics.h"

#include <algorithm>
#include <cmath>
#include <string>

#include "lib/base/error.h"
#include "lib/tensor/minifloat.h"

namespace qp::numerics {
namespace {

constexpr Rules kRules[] = {
    {.name = "compressed-tensors",
     .source = "compressed-tensors 0.20, PyTorch CPU, oneshot; reference/compressed-tensors.md 4",
     .mx = MxScale::carry,
     .drop_negative_zero = true},
    {.name = "modelopt",
     .source = "NVIDIA ModelOpt 0.47; reference/modelopt.md 2",
     .f32 = true,
     .half_range = false,
     .zero_scale = 1,
     .tensor_in_source = true,
     .mx = MxScale::ceil,
     .mxfp4_ties_to_zero = true},
    {.name = "deepgemm",
     .source = "DeepGEMM's and vLLM's per_block_cast_to_fp8; fp8-torchao-quark-modelslim.md 1.3",
     .f32 = true,
     .min_amax = 1e-4f,
     .apply = Apply::by_inverse},
    {.name = "transformers",
     .source = "transformers' Fp8Quantize; fp8-torchao-quark-modelslim.md 1.3",
     .f32 = true,
     .zero_scale = 1,
     .apply = Apply::by_ratio},
    {.name = "sglang",
     .source = "SGLang's input_to_float8, per_token_quant_int8; fp8-torchao-quark-modelslim.md 1.3, 6",
     .f32 = true,
     .half_range = false,
     .min_amax = 1e-12f,
     .apply = Apply::by_ratio,
     .tensor_in_source = true,
     .integers_half_away = true,
     .least_of_integers = 1e-10f},
    {.name = "quark",
     .source = "AMD Quark 0.13 on the CPU; fp8-torchao-quark-modelslim.md 4",
     .f32 = true,
     .mx = MxScale::carry,
     .fp4_without_negative_zero = true,
     .floats_in_source = true,
     .scale_in_source = true,
     .integers_by_inverse = true},
    {.name = "modelslim",
     .source = "msmodelslim; fp8-torchao-quark-modelslim.md 5.4",
     .f32 = true,
     .half_range = false,
     .zero_scale = 0x1p-23f},
    {.name = "torchao",
     .source = "torchao 0.18; fp8-torchao-quark-modelslim.md 3.2",
     .f32 = true,
     .zero_scale = 0x1p-23f,
     .scale_in_source = true,
     .integers_by_inverse = true},
    {.name = "bitsandbytes",
     .source = "bitsandbytes 0.50 on the CPU; int4-formats.md 1.4 (lib/algorithm/codebook.h)",
     .f32 = true},
};

float divisor(const Rules& r, const QuantArgs& w) {
  if (w.type == NumType::floating) return w.num_bits == 4 ? 6.0f : 448.0f;
  auto steps = static_cast<float>((1 << w.num_bits) - 1);
  // INT4 under FP8 is SGLang's, whoever stores it: amax / 7.
  return r.half_range && !w.fp8_stage ? steps / 2 : (steps - 1) / 2;
}

float least_of(const Rules& r, const QuantArgs& w) {
  return w.type == NumType::floating ? r.min_amax : r.least_of_integers;
}

// The same in both loops below: `round` is to the dtype in which scales are computed.
template <class Round>
void scales_with(const Rules& r, const QuantArgs& w, DType source, std::span<const float> amax,
                 float* scale, Round round) {
  float by = divisor(r, w), zero = r.zero_scale;
  if (zero == 0) zero = epsilon(in_f32(r, w) ? DType::f32 : source);
  bool ratio = r.apply == Apply::by_ratio && w.type == NumType::floating;
  for (size_t i = 0; i < amax.size(); ++i) {
    float a = std::max(amax[i], least_of(r, w));
    float s = ratio ? 1.0f / ratio_of(r, w, amax[i]) : round(a / by);
    scale[i] = s == 0 ? zero : s;
  }
}

}  // namespace

float ratio_of(const Rules& r, const QuantArgs& w, float amax) {
  float a = std::max(amax, least_of(r, w));
  if (a == 0) return 1.0f;
  // Python's number / tensor is the number times the reciprocal.
  return w.type == NumType::floating ? divisor(r, w) * (1.0f / a) : divisor(r, w) / a;
}

std::span<const Rules> all_rules() { return kRules; }

const Rules* find_rules(std::string_view name) {
  auto it = std::ranges::find(kRules, name, &Rules::name);
  return it == std::end(kRules) ? nullptr : &*it;
}

std::string why_not(const Rules& r, const Scheme& s) {
  bool bnb = s.weights.type == NumType::codebook || s.weights.amax_scale;
  if (bnb != (r.name == "bitsandbytes")) {
    return bnb ? "its codes are bitsandbytes' (--numerics bitsandbytes)"
               : "numerics 'bitsandbytes' are those of its own schemes (bnb-nf4, bnb-int8 ..)";
  }
  if (r.name == "torchao" && !s.weights.symmetric &&
      (s.weights.num_bits != 4 || s.weights.strategy != Strategy::group)) {
    return "numerics 'torchao' have zero points for int4 groups only";
  }
  if (r.integers_half_away && !s.weights.symmetric) {
    return "numerics '" + std::string(r.name) + "' have no zero points";
  }
  bool mx = s.scale_kind() == ScaleKind::e8m0;
  if (mx && r.mx == MxScale::none)
    return "numerics '" + std::string(r.name) + "' are not known for MX schemes";
  if (s.scale_kind() == ScaleKind::e4m3_global && r.f32 && r.name != "modelopt") {
    return "numerics '" + std::string(r.name) + "' are not known for NVFP4";
  }
  return "";
}

const Rules& rules(std::string_view name) {
  if (const Rules* r = find_rules(name)) return *r;
  std::string known;
  for (const Rules& r : kRules) {
    known += (known.empty() ? "" : ", ") + std::string(r.name);
  }
  throw usage_error("unknown numerics '" + printable(std::string(name)) + "'")
      .hint("expected one of " + known);
}

float round_to(DType dtype, float x) {
  if (dtype == DType::bf16) return bf16_to_f32(f32_to_bf16(x));
  if (dtype == DType::f16) return f16_to_f32(f32_to_f16(x));
  return x;
}

float epsilon(DType dtype) {
  if (dtype == DType::bf16) return 0x1p-7f;
  if (dtype == DType::f16) return 0x1p-10f;
  return 0x1p-23f;
}

float scale_of(const Rules& r, const QuantArgs& w, DType source, float amax) {
  float scale = 0;
  scales_of(r, w, source, {&amax, 1}, &scale);
  return scale;
}

void scales_of(const Rules& r, const QuantArgs& w, DType source, std::span<const float> amax,
               float* scale) {
  if (in_f32(r, w) && !r.scale_in_source)
    return scales_with(r, w, source, amax, scale, [](float x) { return x; });
  if (source == DType::bf16) {  // the dtype of nearly every model: a loop the compiler vectorizes
    return scales_with(r, w, source, amax, scale,
                       [](float x) { return bf16_to_f32(f32_to_bf16(x)); });
  }
  scales_with(r, w, source, amax, scale, [source](float x) { return round_to(source, x); });
}

ScaleZero scale_zero_of(const Rules& r, const QuantArgs& w, DType source, float lo, float hi) {
  DType in = r.f32 ? DType::f32 : source;
  float q_min = -static_cast<float>(1 << (w.num_bits - 1)), q_max = -q_min - 1;
  float range = round_to(in, hi - lo);
  float scale = round_to(in, range / static_cast<float>((1 << w.num_bits) - 1));
  // With a scale of 0 the reference computes 0/0; its NaN becomes the integer 0.
  float zero = 0;
  if (scale != 0) {
    zero = round_to(in, q_min - round_to(in, lo / scale));
    zero = std::nearbyint(std::clamp(zero, q_min, q_max));
  }
  return {scale == 0 ? epsilon(in) : scale, zero};
}

float second_stage_of(const Rules& r, DType source, float amax) {
  if (r.f32) return amax == 0 ? 1.0f : amax / 2688.0f;
  float smallest = source == DType::f16 ? 0x1p-14f : 0x1p-126f;
  float a = std::max(amax, smallest);
  float global = round_to(source, round_to(source, 1.0f / a) * 2688.0f);
  return std::isfinite(global) ? global : 1.0f;
}

void nvfp4_scales(std::span<const float> amax, float scale_2, uint8_t* code, float* effective) {
  for (size_t i = 0; i < amax.size(); ++i) {
    float s = amax[i] / (6.0f * scale_2);
    if (s == 0) s = 1;
    code[i] = f32_to_e4m3(std::clamp(s, 0x1p-9f, 448.0f));
    effective[i] = e4m3_to_f32(code[i]) * scale_2;
  }
}

void mx_scales(const Rules& r, std::span<const float> amax, int emax, uint8_t* code,
               float* effective) {
  float largest = emax == 2 ? 6.0f : 448.0f;
  for (size_t i = 0; i < amax.size(); ++i) {
    // log2 rounded to f32, as PyTorch has it: a hair above a power of two is that power.
    double x = r.mx == MxScale::ceil ? amax[i] / largest : amax[i];
    auto log = x == 0 ? -127.0f : static_cast<float>(std::log2(x));
    float e = r.mx == MxScale::ceil ? std::ceil(log) : std::floor(log) - static_cast<float>(emax);
    auto exponent = static_cast<int>(std::clamp(e, -127.0f, 127.0f));
    if (amax[i] == 0) exponent = -127;
    code[i] = static_cast<uint8_t>(exponent + 127);
    effective[i] = std::ldexp(1.0f, exponent);
  }
}

uint8_t e2m1_ties_to_zero(float x) {
  constexpr float kBounds[] = {0.25f, 0.75f, 1.25f, 1.75f, 2.5f, 3.5f, 5.0f};
  auto code = static_cast<uint8_t>(
      std::ranges::count_if(kBounds, [x](float b) { return std::fabs(x) > b; }));
  return x > 0 ? code : static_cast<uint8_t>(code | 8);
}

}  // namespace qp::numerics
