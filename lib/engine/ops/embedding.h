// Rows of a table by token id or by position.
#pragma once

#include <string>

#include "lib/engine/op.h"

namespace qp::engine {

class Embedding : public Op {
 public:
  enum class By { token, position };
  // table [rows, width]. Row of token t: t; of position p: p + offset. Result times `scale`, which
  // runs in bf16 round to the table's dtype, as transformers does (Gemma: sqrt(2560) becomes 50.5).
  Embedding(std::string table, size_t rows, size_t width, By by, float scale = 1, size_t offset = 0);
  size_t width() const override { return weights[0].cols; }
  std::vector<size_t> inputs() const override { return {}; }
  // Errors: input, a token outside the table; a window longer than the table of positions.
  void forward(const Step& step, std::span<const ConstMatrix> in, Matrix out) const override;
  void backward(const Step&, std::span<const ConstMatrix>, ConstMatrix,
                std::span<const Matrix>) const override {}

 private:
  By by_;
  float scale_;
  size_t offset_;
};

}  // namespace qp::engine
