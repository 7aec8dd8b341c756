// y = x W^T + b.
#pragma once

#include <string>

#include "lib/engine/op.h"

namespace qp::engine {

class Linear : public Op {
 public:
  // `module` + ".weight" is [out, in]; with `bias`, `module` + ".bias" is [out].
  Linear(const std::string& module, size_t in, size_t out, bool bias, bool transposed = false);
  size_t width() const override { return weights[0].rows; }
  std::vector<size_t> inputs() const override { return {weights[0].cols}; }
  void forward(const Step& step, std::span<const ConstMatrix> in, Matrix out) const override;
  void backward(const Step& step, std::span<const ConstMatrix> in, ConstMatrix dout,
                std::span<const Matrix> din) const override;
};

// dx += dy W, and dW = dy^T x to the sink: what every product with a weight does backward.
void linear_backward(const Step& step, const WeightUse& use, ConstMatrix x, ConstMatrix dy,
                     Matrix dx);

}  // namespace qp::engine
