#include "lib/engine/ops/latent_keys.h"

namespace qp::engine {

LatentKeys::LatentKeys(const std::string& tensor, size_t heads, size_t in, size_t out) {
  for (size_t h = 0; h < heads; ++h) {
    weights.push_back({tensor, Form::matrix, out, in, true, true, h * in});
  }
}

void LatentKeys::forward(const Step& step, std::span<const ConstMatrix> in, Matrix out) const {
  gemm::Left x(in[0].data, in[0].cols, in[0].rows);
  for (size_t h = 0; h < weights.size(); ++h) {
    float* head = out.data + h * weights[h].rows;
    gemm::multiply(x, step.weights[h].packed, nullptr, head, out.cols, false);
  }
}

void LatentKeys::backward(const Step& step, std::span<const ConstMatrix> in, ConstMatrix dout,
                          std::span<const Matrix> din) const {
  ConstMatrix x = in[0];
  Matrix dx = din[0];
  for (size_t h = 0; h < weights.size(); ++h) {
    const WeightUse& use = weights[h];
    const float* dy = dout.data + h * use.rows;
    if (dx.data != nullptr) {
      gemm::Packed room;
      const gemm::Packed& turned = step.source->transposed(use, step.precision, room);
      gemm::multiply(dy, dout.cols, dout.rows, turned, nullptr, dx.data, dx.cols, true);
    }
    if (step.gradients == nullptr || !step.gradients->wants(use)) continue;
    std::vector<float> dw(use.rows * use.cols);
    gemm::product(step.precision, use.rows, use.cols, x.rows, 1.0f, {dy, dout.cols, true},
                  {x.data, x.cols, false}, dw.data(), use.cols, false);
    step.gradients->weight(use, {dw.data(), use.rows, use.cols});
  }
}

}  // namespace qp::engine
