// Weights of a block, as the products need them: loaded for one layer (or a wave of it), dropped
// when it is done.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "lib/engine/matrix.h"
#include "lib/gemm/gemm.h"
#include "lib/qmap/rows.h"
#include "lib/qmap/store.h"

namespace qp::engine {

// How an op wants a tensor: a vector of values, the right side of a product, or rows to look up.
enum class Form : uint8_t { values, matrix, table };

struct WeightUse {
  std::string tensor;
  Form form = Form::matrix;
  size_t rows = 1, cols = 0;  // out, in of a matrix; 1, n of values
  bool transposed = false;    // stored [in, out]
  // One expert of a stack, a block of the head: it begins at this row of the tensor seen as a matrix
  // (values: this many times their number further on).
  bool part = false;
  size_t first_row = 0;
};

struct Weight {
  gemm::Packed packed;                // matrix
  std::vector<float> values;          // values
  std::unique_ptr<RowSource> source;  // table; and what a gradient step reads again
  WeightUse use;
};

// Where weights come from. The default reads a store; algorithms put theirs in between.
class WeightSource {
 public:
  explicit WeightSource(const Store& store);
  virtual ~WeightSource() = default;

  bool has(const std::string& tensor) const { return index_.contains(tensor); }
  const Shape* shape(const std::string& tensor) const;
  DType dtype(const WeightUse& use) const { return find(use).dtype; }
  // Whether any tensor's name begins with this.
  bool has_any(const std::string& prefix) const;
  // Errors: input, when load() would find the tensor missing or of another shape.
  void check(const WeightUse& use) const { find(use); }
  // `used`: a weight that is not needed any more, whose memory may serve (new memory is slow).
  // Errors: input, when the tensor is missing or its shape does not fit the config.
  virtual Weight load(const WeightUse& use, gemm::Precision precision, Weight used = {}) const;
  // The values of a matrix [rows, cols], [out, in] however it is stored.
  std::vector<float> matrix(const WeightUse& use) const;
  // The right side of a product with the transposed weight (gradients): loaded into `room`, or one
  // that is there.
  virtual const gemm::Packed& transposed(const WeightUse& use, gemm::Precision precision,
                                         gemm::Packed& room) const;
  static uint64_t bytes(const WeightUse& use, gemm::Precision precision);
  const Store& store() const { return store_; }

 private:
  const Tensor& find(const WeightUse& use) const;
  gemm::Packed pack(const WeightUse& use, gemm::Precision precision, bool transpose,
                    gemm::Packed used) const;

  const Store& store_;
  std::map<std::string_view, const Tensor*, std::less<>> index_;
};

}  // namespace qp::engine
