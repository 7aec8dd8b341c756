// Round-to-nearest: scales from the range of each group, codes by rounding. Rows are processed in
// chunks, so memory does not grow with the tensor.
#pragma once

#include <cstddef>
#include <span>
#include <memory>
#include <vector>

#include "lib/algorithm/quantizer.h"
#include "lib/kernels/kernels.h"
#include "lib/qmap/store.h"
#include "lib/scheme/numerics.h"
#include "lib/scheme/scheme.h"

namespace qp {

class CodebookQuantizer;

// max |w| over a tensor, for scales that span it or a fused group. Errors: input (NaN, Inf).
float tensor_absmax(const Store& store, const Tensor& tensor);

// Quantizes one tensor, a chunk of rows at a time.
class RtnQuantizer : public Quantizer {
 public:
  RtnQuantizer(const Store& store, const Tensor& tensor, const Scheme& scheme, float range);
  ~RtnQuantizer() override;
  void chunk(const std::byte* rows, uint64_t first, uint64_t count, RowsScratch& scratch) override;
  uint64_t code_bytes() const override { return code_bytes_; }
  SmallParts finish() const override;

 private:
  void set_tensor_scale(float range);
  const float* row_scales(const std::byte* row, uint64_t r, RowsScratch& w);
  void block_scales(const std::byte* rows, uint64_t first, uint64_t r, uint64_t count,
                    RowsScratch& w);
  void codes(const std::byte* row, const float* scale, const float* zero, RowsScratch& w, uint8_t* out) const;
  void codes_of(kernels::Src src, const void* row, const float* scale, const float* zero, uint8_t* out) const;
  void mx_scales(uint64_t r, RowsScratch& w);
  void set_scales(std::span<const float> amax, float* scale);
  void tinygemm(const std::byte* row, uint64_t r, RowsScratch& w, uint8_t* out);
  const float* scaled(const std::byte* row, const float* scale, RowsScratch& w) const;

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
