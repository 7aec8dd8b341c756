#include "lib/engine/ops/linear.h"

namespace qp::engine {

Linear::Linear(const std::string& module, size_t in, size_t out, bool bias, bool transposed) {
  weights.push_back({module + ".weight", Form::matrix, out, in, transposed});
  if (bias) weights.push_back({module + ".bias", Form::values, 1, out});
  linears.push_back({module, ""});
}

void Linear::forward(const Step& step, std::span<const ConstMatrix> in, Matrix out) const {
  ConstMatrix x = in[0];
  std::vector<float> storage;
  if (step.hook != nullptr) x = step.hook->before(linears[0], x, {}, storage);
  const float* bias = weights.size() > 1 ? step.weights[1].values.data() : nullptr;
  gemm::Left own(x.data, x.cols, x.rows);
  bool shared = step.left != nullptr && x.data == in[0].data;
  gemm::multiply(shared ? *step.left : own, step.weights[0].packed, bias, out.data, out.cols,
                 false);
}

void linear_backward(const Step& step, const WeightUse& use, ConstMatrix x, ConstMatrix dy,
                     Matrix dx) {
  if (dx.data != nullptr) {
    gemm::Packed room;
    const gemm::Packed& transposed = step.source->transposed(use, step.precision, room);
    gemm::multiply(dy.data, dy.cols, dy.rows, transposed, nullptr, dx.data, dx.cols, true);
  }
  if (step.gradients == nullptr || !step.gradients->wants(use)) return;
  std::vector<float> dw(use.rows * use.cols);
  gemm::product(step.precision, use.rows, use.cols, x.rows, 1.0f, {dy.data, dy.cols, true},
                {x.data, x.cols, false}, dw.data(), use.cols, false);
  step.gradients->weight(use, {dw.data(), use.rows, use.cols});
}

void Linear::backward(const Step& step, std::span<const ConstMatrix> in, ConstMatrix dout,
                      std::span<const Matrix> din) const {
  linear_backward(step, weights[0], in[0], dout, din[0]);
}

}  // namespace qp::engine
