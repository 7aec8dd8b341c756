#include "lib/engine/ops/norm.h"

#include "lib/engine/ops/rows.h"
#include "lib/kernels/forward.h"

namespace qp::engine {

Norm::Norm(const std::string& module, size_t width, size_t group, NormSpec spec)
    : width_(width), group_(group), spec_(spec) {
  weights.push_back({module + ".weight", Form::values, 1, group});
  if (spec.bias) weights.push_back({module + ".bias", Form::values, 1, group});
}

void Norm::forward(const Step& step, std::span<const ConstMatrix> in, Matrix out) const {
  const kernels::ForwardTable& k = kernels::forward();
  const float* w = step.weights[0].values.data();
  const float* b = spec_.bias ? step.weights[1].values.data() : nullptr;
  bool plus_one = spec_.kind == NormSpec::Kind::rms_plus_one;
  for_rows(out.rows, [&](size_t r) {
    for (size_t g = 0; g < width_; g += group_) {
      const float* x = in[0].row(r) + g;
      if (spec_.kind == NormSpec::Kind::layer) {
        k.layer_norm(x, w, b, group_, spec_.eps, out.row(r) + g);
      } else {
        k.rms_norm(x, w, group_, spec_.eps, plus_one, out.row(r) + g);
      }
    }
  });
}

void Norm::backward(const Step& step, std::span<const ConstMatrix> in, ConstMatrix dout,
                    std::span<const Matrix> din) const {
  const kernels::ForwardTable& k = kernels::forward();
  const float* w = step.weights[0].values.data();
  bool plus_one = spec_.kind == NormSpec::Kind::rms_plus_one;
  for_rows(dout.rows, [&](size_t r) {
    for (size_t g = 0; g < width_; g += group_) {
      const float* x = in[0].row(r) + g;
      if (spec_.kind == NormSpec::Kind::layer) {
        k.layer_norm_grad(x, w, dout.row(r) + g, group_, spec_.eps, din[0].row(r) + g);
      } else {
        k.rms_norm_grad(x, w, dout.row(r) + g, group_, spec_.eps, plus_one, din[0].row(r) + g);
      }
    }
  });
}

}  // namespace qp::engine
