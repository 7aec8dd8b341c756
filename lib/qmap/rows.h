// Rows of a tensor as consumers want them, whatever holds them: a part's decoded rows, or the
// float values of a quantized tensor.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "lib/qmap/store.h"

namespace qp {

// One per thread: buffers of row conversions.
struct RowScratch {
  std::vector<std::byte> bytes, codes, aux;
  std::vector<float> values, scale, zero, offset, pre_scale, row;
};

class RowSource {
 public:
  // A part's rows.
  RowSource(const Store& store, const Part& part);
  // A tensor's values in its dtype: its data, or its codes dequantized in f32 (Role in scheme.h) and
  // rounded once to the dtype. NVFP4's stages are put together first, in f32: scale / global_scale
  // (reference/compressed-tensors.md 7) or scale * scale_2 (reference/modelopt.md 1.7). ggml blocks
  // have values too.
  RowSource(const Store& store, const Tensor& tensor);

  uint64_t rows() const { return rows_; }
  uint64_t cols() const { return cols_; }
  DType dtype() const { return dtype_; }
  uint64_t row_bytes() const { return row_bytes_; }
  // Rows [first, first + count), dense. Valid until the scratch is used again.
  const std::byte* get(uint64_t first, uint64_t count, RowScratch& scratch) const;
  // The same as f32, not rounded to the dtype when `exact` and the tensor is quantized.
  const float* get_f32(uint64_t first, uint64_t count, RowScratch& scratch, bool exact) const;
  // These rows will not be read again soon.
  void drop(uint64_t first, uint64_t count) const;

 private:
  void dequantize(uint64_t first, uint64_t count, RowScratch& scratch) const;
  void dequantize_transposed(uint64_t first, uint64_t count, RowScratch& scratch) const;
  void row_values(const std::byte* codes, uint64_t row, uint64_t begin, uint64_t end, RowScratch& scratch,
                  float* out) const;
  uint64_t column_unit() const;
  uint64_t row_scales(uint64_t row, RowScratch& scratch) const;
  void stored_scales(const Scheme& scheme, uint64_t row, RowScratch& scratch) const;
  void second_stage(uint64_t row, RowScratch& scratch) const;
  void nested_scales(const Part& scale, uint64_t first, uint64_t n, RowScratch& scratch) const;
  uint64_t spread(const Scheme& scheme, uint64_t row, RowScratch& scratch) const;

  const Store& store_;
  const Tensor* tensor_ = nullptr;  // set when values come from quantized parts
  const Part* part_;
  DType dtype_;
  uint64_t rows_, cols_, row_bytes_;
  uint64_t coded_cols_ = 0;  // columns of the codes: cols_ unless the tensor is transposed
};

// Rows [first, first + count) in f32, [count, cols], read by all threads.
std::vector<float> read_f32(const RowSource& source, uint64_t first, uint64_t count);

}  // namespace qp
