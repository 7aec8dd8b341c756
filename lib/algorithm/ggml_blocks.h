// Rows to ggml's blocks, with or without an importance matrix.
#pragma once

#include <vector>

#include "lib/algorithm/quantizer.h"
#include "lib/kernels/ggml_quantize.h"
#include "lib/tensor/ggml_type.h"

namespace qp {

class BlockQuantizer : public Quantizer {
 public:
  // importance: as Importance::of() gives it, or empty. Errors: usage, the type needs one.
  BlockQuantizer(const Store& store, const Tensor& tensor, const Scheme& scheme, std::vector<float> importance);

  void chunk(const std::byte* rows, uint64_t first, uint64_t count, RowsScratch& scratch) override;
  uint64_t code_bytes() const override { return row_bytes_; }
  SmallParts finish() const override { return {}; }

 private:
  void check_scales(uint64_t first, uint64_t count, const uint8_t* blocks) const;

  const Store& store_;
  const Tensor& t_;
  const GgmlType& type_;
  const GgmlQuantizer& kernel_;
  uint64_t cols_, row_bytes_;
  uint64_t expert_rows_;  // that one importance vector is for
  std::vector<float> importance_;
};

}  // namespace qp
