// The loops of a model's forward pass and its gradients, except matrix products (lib/gemm).
//
// One source, forward.inc, compiled for each instruction set: sums go into 16 lanes that are added
// pairwise, so every instruction set gives the same bits. exp has at most 2 units in the last place
// of error. As in kernels.h: no allocation, no exceptions, no threads.
#pragma once

#include <cstddef>
#include <cstdint>

namespace qp::kernels {

// silu: x * sigmoid(x). gelu_tanh: 0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))), which
// config.json calls gelu_new, gelu_pytorch_tanh, gelu_fast. gelu: with erf. quick_gelu: x sigmoid(1.702 x).
enum class Act : uint8_t { silu, gelu_tanh, gelu, quick_gelu, relu };

struct ForwardTable {
  // out = x / sqrt(mean(x^2) + eps) * (w, or 1 + w). Returns 1 / sqrt(mean(x^2) + eps).
  float (*rms_norm)(const float* x, const float* w, size_t n, float eps, bool plus_one,
                    float* out) noexcept;
  // dx += gradient of rms_norm for the gradient dy of its result.
  void (*rms_norm_grad)(const float* x, const float* w, const float* dy, size_t n, float eps,
                        bool plus_one, float* dx) noexcept;
  // out = (x - mean) / sqrt(var + eps) * w + b, biased variance; b may be null.
  void (*layer_norm)(const float* x, const float* w, const float* b, size_t n, float eps,
                     float* out) noexcept;
  void (*layer_norm_grad)(const float* x, const float* w, const float* dy, size_t n, float eps,
                          float* dx) noexcept;

  // s = softmax(s) over n entries and one more logit `sink` whose share is dropped (-inf: none).
  void (*softmax)(float* s, size_t n, float sink) noexcept;
  // Running maximum and sum of exp(x - max) over more entries: log-sum-exp = max + log(sum).
  void (*log_sum_exp)(const float* x, size_t n, float* max, double* sum) noexcept;
  // The same over p, and with it the running sum of exp(p - max) * (p - q): what the divergence of
  // two softmaxes is made of.
  void (*log_sum_exp_gap)(const float* p, const float* q, size_t n, float* max, double* sum,
                          double* gap) noexcept;
  // s = cap * tanh(s / cap).
  void (*softcap)(float* s, size_t n, float cap) noexcept;

  // out = act(x), out = act(gate) * up; and dx += dy * act'(x), and both gradients of the product.
  void (*act)(Act, const float* x, size_t n, float* out) noexcept;
  void (*act_grad)(Act, const float* x, const float* dy, size_t n, float* dx) noexcept;
  void (*gated)(Act, const float* gate, const float* up, size_t n, float* out) noexcept;
  void (*gated_grad)(Act, const float* gate, const float* up, const float* dy, size_t n,
                     float* dgate, float* dup) noexcept;

  // Half-split rotation of r values: x[i], x[i + r/2] by the angle i whose cos and sin are given.
  void (*rotate_half)(const float* x, const float* cos, const float* sin, size_t r,
                      float* out) noexcept;

  void (*add)(const float* a, const float* b, size_t n, float* out) noexcept;
  void (*add_scaled)(const float* a, float factor, size_t n, float* out) noexcept;  // out += factor a
  // Sum of a[i] * b[i] in 16 lanes.
  float (*dot)(const float* a, const float* b, size_t n) noexcept;
  bool (*all_finite)(const float* x, size_t n) noexcept;
  float (*largest)(const float* x, size_t n) noexcept;  // max |x|, NaN left out; 0 of nothing

  // Columns of `rows` rows, one row after the other (so splitting the rows changes no bit):
  // amax[j] = max |x|, sum_abs[j] += |x|, sum_sq[j] += x^2, in f64. A NaN spreads to the sums only.
  void (*column_sums)(const float* x, size_t rows, size_t cols, size_t stride, float* amax,
                      double* sum_abs, double* sum_sq) noexcept;
};

// The table of the instruction set that active() chose.
const ForwardTable& forward();

}  // namespace qp::kernels
