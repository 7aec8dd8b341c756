// The keys of latent attention as llama.cpp keeps them: one matrix a head, turned.
#pragma once

#include <string>

#include "lib/engine/op.h"

namespace qp::engine {

// y[h] = x W[h], for `tensor` [heads, in, out]; the result is [rows, heads * out]. No hook sees it.
class LatentKeys : public Op {
 public:
  LatentKeys(const std::string& tensor, size_t heads, size_t in, size_t out);
  size_t width() const override { return weights.size() * weights[0].rows; }
  std::vector<size_t> inputs() const override { return {weights[0].cols}; }
  void forward(const Step& step, std::span<const ConstMatrix> in, Matrix out) const override;
  void backward(const Step& step, std::span<const ConstMatrix> in, ConstMatrix dout,
                std::span<const Matrix> din) const override;
};

}  // namespace qp::engine
