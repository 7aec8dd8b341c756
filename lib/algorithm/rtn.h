// Round-to-nearest: scales from the range of each group, codes by rounding. Rows are processed in
// chunks, so memory does not grow with the tensor.
#pragma once

#include <cstddef>
#include <span>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "lib/kernels/kernels.h"
#include "lib/qmap/store.h"
#include "lib/scheme/numerics.h"
#include "lib/scheme/scheme.h"

namespace qp {

class CodebookQuantizer;

// max |w| over a tensor, for scales that span it or a fused group. Errors: input (NaN, Inf).
float tensor_absmax(const Store& store, const Tensor& tensor);

// The small parts of a quantized tensor, encoded in the dtypes that part_specs() names.
struct SmallParts {
  std::vector<std::byte> scale;
  std::vector<std::byte> zero_point;    // empty when symmetric
  std::vector<std::byte> second_stage;  // global_scale or scale_2; empty unless the scheme has one
  std::vector<std::pair<Role, std::vector<std::byte>>> others;  // of codebooks
  const std::vector<std::byte>* find(Role role) const;  // null: not of these
};

// What turning some rows into codes needs, and the codes.
struct RtnScratch {
  std::vector<std::byte> codes;
  std::vector<float> lo, hi, scale, zero, values, factor;
};

// Quantizes one tensor, a chunk of rows at a time.
class RtnQuantizer {
 public:
  // `range` is tensor_absmax() over the tensor (strategy tensor) or its fused group (tensor_group);
  // unused otherwise. Keeps references to all three.
  RtnQuantizer(const Store& store, const Tensor& tensor, const Scheme& scheme, float range);
  ~RtnQuantizer();

  // Bytes of source that are read at a time, and the rows that chunks are multiples of.
  static constexpr uint64_t kChunkBytes = 1 << 20;  // stays in L2 between the two passes
  static uint64_t unit_of(const Scheme& scheme, const Shape& shape);

  // Rows [first, first + count), dense in the tensor's dtype, to scratch.codes. Chunks may run in
  // parallel. Errors: input (NaN or Inf in the weights), limit (a scale that overflows).
  void chunk(const std::byte* rows, uint64_t first, uint64_t count, RtnScratch& scratch);
  uint64_t code_bytes() const { return code_bytes_; }  // per row
  SmallParts finish() const;                           // after all chunks

 private:
  void set_tensor_scale(float range);
  const float* row_scales(const std::byte* row, uint64_t r, RtnScratch& w);
  void block_scales(const std::byte* rows, uint64_t first, uint64_t r, uint64_t count,
                    RtnScratch& w);
  void codes(const std::byte* row, const float* scale, const float* zero, RtnScratch& w, uint8_t* out) const;
  void codes_of(kernels::Src src, const void* row, const float* scale, const float* zero, uint8_t* out) const;
  void mx_scales(uint64_t r, RtnScratch& w);
  void set_scales(std::span<const float> amax, float* scale);
  void tinygemm(const std::byte* row, uint64_t r, RtnScratch& w, uint8_t* out);
  const float* scaled(const std::byte* row, const float* scale, RtnScratch& w) const;

  const Store& store_;
  const Tensor& t_;
  const Scheme& scheme_;
  const QuantArgs& w_;
  const numerics::Rules& rules_;
  const kernels::Table& k_;
  uint64_t cols_, group_, groups_, code_bytes_, source_bytes_;
  std::vector<float> scale_, zero_, ratio_;  // zero_: torchao's float zero points, too
  std::vector<uint8_t> small_codes_;  // E4M3 or E8M0 scales
  float global_ = 0;
  std::unique_ptr<CodebookQuantizer> codebook_;  // does it all for codebook schemes
};

}  // namespace qp
