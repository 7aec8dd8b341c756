// What turns the rows of one tensor into codes, a chunk at a time, without running the model. One
// data-free algorithm is one file with such a class and a line in quantizer.cc.
#pragma once

#include <cstddef>
#include <memory>
#include <string_view>
#include <vector>

#include "lib/algorithm/scale_sign.h"
#include "lib/algorithm/small_parts.h"
#include "lib/qmap/store.h"

namespace qp {

// What turning some rows into codes needs, and the codes.
struct RowsScratch {
  std::vector<std::byte> codes;
  std::vector<float> lo, hi, scale, zero, values, factor, strip;
};

class Quantizer {
 public:
  virtual ~Quantizer() = default;
  // Bytes of source that are read at a time: they stay in L2 between passes.
  static constexpr uint64_t kChunkBytes = 1 << 20;

  // Rows [first, first + count), dense in the tensor's dtype, to scratch.codes. Chunks may run in
  // parallel; they are multiples of rows_unit(). Errors: input (NaN or Inf in the weights), limit (a
  // scale that overflows).
  virtual void chunk(const std::byte* rows, uint64_t first, uint64_t count, RowsScratch& scratch) = 0;
  virtual uint64_t code_bytes() const = 0;    // per row
  virtual SmallParts finish() const = 0;      // after all chunks
};

// `range`: tensor_absmax() over the tensor (strategy tensor) or its fused group (tensor_group);
// unused otherwise. `sign`: of scales that are searched for. `importance`: Importance::of() for imatrix. Keeps references to all. Errors: usage, an
// algorithm that is not data-free.
std::unique_ptr<Quantizer> make_quantizer(std::string_view algorithm, const Store& store, const Tensor& tensor,
                                          const Scheme& scheme, float range, ScaleSign sign,
                                          std::vector<float> importance = {});
// Rows that chunks are multiples of.
uint64_t rows_unit(const Scheme& scheme, const Shape& shape);
// Why an algorithm cannot choose the codes of a scheme, or "": what it lacks and what to do.
std::string why_not(std::string_view algorithm, const Scheme& scheme);

// Errors that all of them have.
[[noreturn]] void refuse_nonfinite(const Store& store, const Tensor& tensor, uint64_t row);
[[noreturn]] void refuse_overflow(const Store& store, const Tensor& tensor, uint64_t row);

}  // namespace qp
