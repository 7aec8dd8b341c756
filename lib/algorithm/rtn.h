// Round-to-nearest: scales from the range of each group, codes by rounding. Rows are processed in
// chunks, so memory does not grow with the tensor.
#pragma once

#include <cstddef>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "lib/qmap/store.h"
#include "lib/scheme/scheme.h"

namespace qp {

// max |w| over a tensor, for scales that span it or a fused group. Errors: input (NaN, Inf).
float tensor_absmax(const Store& store, const Tensor& tensor);

// Where a tensor's big part goes. put() runs on any worker, in any order; retire() gets the same
// pieces once each, in order, one at a time.
class PieceSink {
 public:
  virtual ~PieceSink() = default;
  virtual void put(uint64_t offset, std::span<const std::byte> piece) = 0;
  virtual void retire(std::span<const std::byte> piece) = 0;
};

// The small parts of a quantized tensor, encoded in the dtypes that part_specs() names.
struct SmallParts {
  std::vector<std::byte> scale;
  std::vector<std::byte> zero_point;    // empty when symmetric
  std::vector<std::byte> global_scale;  // empty unless the scheme has one
};

// Quantizes one tensor. `range` is tensor_absmax() over the tensor (strategy tensor) or its fused
// group (tensor_group); unused otherwise. `advance` is told source bytes as they are done.
// Errors: input (NaN or Inf in the weights).
SmallParts quantize_rtn(const Store& store, const Tensor& tensor, const Scheme& scheme, float range,
                        PieceSink& sink, const std::function<void(uint64_t)>& advance);

}  // namespace qp
