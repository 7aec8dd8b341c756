// Orthogonal matrices that are cheap to apply: signs and Hadamard matrices of any order that
// Sylvester's and Paley's constructions reach.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace qp::transform {

// Q = D H / sqrt(n) on each block of n channels: x -> x Q. D: signs.
class Rotation {
 public:
  // `blocks` blocks of `n` channels, each with the same Q. The signs follow from the seed alone.
  Rotation(size_t n, size_t blocks, uint64_t seed);
  size_t channels() const { return n_ * blocks_; }
  // The largest part of a block that is rotated as one: n, unless no Hadamard matrix of that order
  // is known here; then the largest power of two that divides n.
  size_t order() const { return order_; }
  const std::vector<float>& signs() const { return signs_; }

  // A row of channels() values times Q.
  void turn(float* row) const;
  // Q^T times a matrix of channels() rows, `cols` columns each: turns what every column holds.
  void turn_rows(float* matrix, size_t cols) const;

 private:
  void transform(float* x, size_t stride) const;

  size_t n_, blocks_, order_, dense_;  // order = dense * a power of two
  std::vector<int8_t> kernel_;         // [dense, dense], +-1
  std::vector<float> signs_;           // [n]
};

// A Hadamard matrix of order n (+-1, rows of n), or empty where neither construction gives one: 1,
// 2; q + 1 for a prime q = 3 mod 4 (Paley I), 2 (q + 1) for a prime q = 1 mod 4 (Paley II).
std::vector<int8_t> hadamard(size_t n);

}  // namespace qp::transform
