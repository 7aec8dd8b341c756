// Codes into a table of 16 values, scales per block of the matrix taken as one row: bitsandbytes' NF4
// and FP4 with its double quantization, as its CPU backend computes them (reference/int4-formats.md
// 1.4; bytes compared with bitsandbytes 0.50).
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "lib/qmap/model.h"
#include "lib/scheme/scheme.h"

namespace qp {

struct SmallParts;

namespace codebook {

// The values of NF4's codes, and of FP4's (sign, exponent, mantissa in bitsandbytes' order, over 12).
std::span<const float, 16> nf4();
std::span<const float, 16> fp4();
// Of a scheme's name: FP4 when it says so.
std::span<const float, 16> table_of(const Scheme& scheme);
// bitsandbytes' signed dynamic map of 8 bits, ascending: what quantized scales index.
const std::array<float, 256>& dynamic_map();

}  // namespace codebook

class CodebookQuantizer {
 public:
  CodebookQuantizer(const Tensor& tensor, const Scheme& scheme);

  // Rows that chunks are multiples of, so that no block lies in two.
  static uint64_t unit_of(const Scheme& scheme, const Shape& shape);
  // Whole rows from row `first` on, to codes two a byte. False: NaN or Inf among them.
  bool chunk(std::span<const float> values, uint64_t first, uint8_t* codes);
  void finish(SmallParts& parts) const;  // after all chunks

 private:
  uint64_t cols_, block_;
  bool nested_;
  std::span<const float, 16> table_;
  std::array<uint8_t, 16> order_{};     // codes by ascending value
  std::array<float, 15> bounds_{};      // between them
  std::vector<float> absmax_;
};

}  // namespace qp
