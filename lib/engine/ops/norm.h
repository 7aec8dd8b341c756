// RMSNorm and LayerNorm over a row, or over each head of a row.
#pragma once

#include <string>

#include "lib/engine/op.h"

namespace qp::engine {

struct NormSpec {
  enum class Kind { rms, rms_plus_one, layer } kind = Kind::rms;  // plus_one: times 1 + w (Gemma)
  float eps = 1e-6f;
  bool bias = false;  // LayerNorm's
};

class Norm : public Op {
 public:
  // `module`.weight (and .bias): [group]; width is a multiple of group.
  Norm(const std::string& module, size_t width, size_t group, NormSpec spec);
  size_t width() const override { return width_; }
  std::vector<size_t> inputs() const override { return {width_}; }
  int in_place() const override { return 0; }
  const NormSpec& spec() const { return spec_; }
  void forward(const Step& step, std::span<const ConstMatrix> in, Matrix out) const override;
  void backward(const Step& step, std::span<const ConstMatrix> in, ConstMatrix dout,
                std::span<const Matrix> din) const override;

 private:
  size_t width_, group_;
  NormSpec spec_;
};

}  // namespace qp::engine
