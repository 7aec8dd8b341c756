// How far a tensor is from the one it was made from.
#pragma once

#include <cstdint>
#include <string>

#include "lib/qmap/store.h"
#include "lib/verify/sample.h"

namespace qp {

// b is the base. Sums run over the pairs in which both values are finite, in f64, in an order that
// depends on the shape alone: neither threads nor instruction set change a bit.
struct TensorErrors {
  uint64_t count = 0;      // elements
  uint64_t nonfinite = 0;  // pairs with NaN or infinity, left out of the sums
  double diff2 = 0;        // sum (a-b)^2
  double a2 = 0, b2 = 0;   // sum a^2, sum b^2
  double ab = 0;           // sum a*b
  double max_abs = 0;      // max |a-b|
  // Pairs whose a is further from zero than b, or beyond it, by more than 0.4 (near: 0.2) of the
  // largest value of b in their quantization group. Rounding to three bits or more does not
  // do that; GPTQ's corrections do it a little, so with many near; flipped bits do either. 0 of a
  // tensor with a pre_quant_scale, whose rounding has another measure.
  uint64_t far = 0, near = 0;

  uint64_t used() const { return count - nonfinite; }
  bool identical() const { return diff2 == 0 && max_abs == 0 && nonfinite == 0; }  // as values: -0 equals 0
  double mse() const;      // diff2 / used; 0 for an empty tensor
  double signal() const;   // b2 / used: the mean square of the base
  // 10 log10(sum b^2 / sum (a-b)^2): +inf when identical, -inf when the base is all zero, NaN when
  // no pair is finite.
  double sqnr_db() const;
  double cosine() const;  // ab / sqrt(a2 b2); 1 when identical, 0 when one side is all zero
  // Another tensor's elements; order matters to the last bit. `weight`: how many elements each of
  // a sample stands for.
  void add(const TensorErrors& other, double weight = 1);
};

// True when the tensor stands for float values: floats, quantized ones, ggml blocks that decode.
bool has_values(const Tensor& tensor);

// Compares values: floats as f32, quantized tensors dequantized and rounded once to their dtype.
// One pass over both. The shapes must have as many elements and the same last dimension.
// With a sampling, the same rows of both.
// Errors: input (tensor cannot be decoded, shapes differ).
TensorErrors compare_tensors(const Store& store_a, const Tensor& a, const Store& store_b,
                             const Tensor& b, const Sampling& sampling = {});

// Compares the stored elements of tensors without values (integers, booleans): 0 differing bytes
// and equal dtypes and shapes make them equal. With a sampling: of its rows.
bool equal_bytes(const Store& store_a, const Tensor& a, const Store& store_b, const Tensor& b,
                 const Sampling& sampling = {});

// "32.1", "exact", "-inf", "nan".
std::string db_text(double sqnr_db);

}  // namespace qp
