#include "lib/engine/ops/elementwise.h"

#include <cmath>
#include <map>
#include <numeric>

#include "lib/base/error.h"
#include "lib/engine/ops/rows.h"

namespace qp::engine {
namespace {

const kernels::ForwardTable& k() { return kernels::forward(); }

std::vector<uint32_t> all_channels(size_t n) {
  std::vector<uint32_t> channels(n);
  std::iota(channels.begin(), channels.end(), 0u);
  return channels;
}

}  // namespace

Act act_from_name(std::string_view name, const std::string& key) {
  static const std::map<std::string_view, Act> names = {
      {"silu", Act::silu},           {"swish", Act::silu},
      {"gelu_new", Act::gelu_tanh},  {"gelu_pytorch_tanh", Act::gelu_tanh},
      {"gelu_fast", Act::gelu_tanh}, {"gelu", Act::gelu},
      {"quick_gelu", Act::quick_gelu}, {"relu", Act::relu}};
  auto it = names.find(name);
  if (it != names.end()) return it->second;
  throw input_error("'" + key + "' is '" + printable(name) + "', an activation that is not known")
      .file("config.json");
}

void Add::forward(const Step&, std::span<const ConstMatrix> in, Matrix out) const {
  for_rows(out.rows, [&](size_t r) { k().add(in[0].row(r), in[1].row(r), width_, out.row(r)); });
}

void Add::backward(const Step&, std::span<const ConstMatrix>, ConstMatrix dout,
                   std::span<const Matrix> din) const {
  for (const Matrix& d : din) {
    for_rows(dout.rows, [&](size_t r) { k().add_scaled(dout.row(r), 1, width_, d.row(r)); });
  }
}

void Activation::forward(const Step&, std::span<const ConstMatrix> in, Matrix out) const {
  for_rows(out.rows, [&](size_t r) { k().act(act_, in[0].row(r), width_, out.row(r)); });
}

void Activation::backward(const Step&, std::span<const ConstMatrix> in, ConstMatrix dout,
                          std::span<const Matrix> din) const {
  for_rows(dout.rows, [&](size_t r) {
    k().act_grad(act_, in[0].row(r), dout.row(r), width_, din[0].row(r));
  });
}

void Gated::forward(const Step&, std::span<const ConstMatrix> in, Matrix out) const {
  for_rows(out.rows,
           [&](size_t r) { k().gated(act_, in[0].row(r), in[1].row(r), width_, out.row(r)); });
}

void Gated::backward(const Step&, std::span<const ConstMatrix> in, ConstMatrix dout,
                     std::span<const Matrix> din) const {
  for_rows(dout.rows, [&](size_t r) {
    k().gated_grad(act_, in[0].row(r), in[1].row(r), dout.row(r), width_, din[0].row(r),
                   din[1].row(r));
  });
}

void Softcap::forward(const Step&, std::span<const ConstMatrix> in, Matrix out) const {
  for_rows(out.rows, [&](size_t r) {
    std::copy(in[0].row(r), in[0].row(r) + width_, out.row(r));
    k().softcap(out.row(r), width_, cap_);
  });
}

void Softcap::backward(const Step&, std::span<const ConstMatrix> in, ConstMatrix dout,
                       std::span<const Matrix> din) const {
  for_rows(dout.rows, [&](size_t r) {
    for (size_t j = 0; j < width_; ++j) {
      float t = std::tanh(in[0].row(r)[j] / cap_);
      din[0].row(r)[j] += dout.row(r)[j] * (1 - t * t);
    }
  });
}

std::vector<uint32_t> Activation::carries(size_t) const {
  return act_ == Act::relu ? all_channels(width_) : std::vector<uint32_t>();
}

std::vector<uint32_t> Gated::carries(size_t input) const {
  return input == 1 ? all_channels(width_) : std::vector<uint32_t>();
}

std::vector<uint32_t> SliceHeads::carries(size_t) const {
  std::vector<uint32_t> channels;
  for (size_t c = 0; c < width(); ++c) {
    channels.push_back(static_cast<uint32_t>(c / count_ * head_dim_ + first_ + c % count_));
  }
  return channels;
}

void SliceHeads::forward(const Step&, std::span<const ConstMatrix> in, Matrix out) const {
  for_rows(out.rows, [&](size_t r) {
    for (size_t h = 0; h < heads_; ++h) {
      const float* x = in[0].row(r) + h * head_dim_ + first_;
      std::copy(x, x + count_, out.row(r) + h * count_);
    }
  });
}

void SliceHeads::backward(const Step&, std::span<const ConstMatrix>, ConstMatrix dout,
                          std::span<const Matrix> din) const {
  for_rows(dout.rows, [&](size_t r) {
    for (size_t h = 0; h < heads_; ++h) {
      k().add_scaled(dout.row(r) + h * count_, 1, count_, din[0].row(r) + h * head_dim_ + first_);
    }
  });
}

void ConcatHeads::forward(const Step&, std::span<const ConstMatrix> in, Matrix out) const {
  size_t dim = a_dim_ + b_dim_;
  for_rows(out.rows, [&](size_t r) {
    for (size_t h = 0; h < heads_; ++h) {
      const float* a = in[0].row(r) + h * a_dim_;
      const float* b = in[1].row(r) + (shared_ ? 0 : h * b_dim_);
      std::copy(a, a + a_dim_, out.row(r) + h * dim);
      std::copy(b, b + b_dim_, out.row(r) + h * dim + a_dim_);
    }
  });
}

void ConcatHeads::backward(const Step&, std::span<const ConstMatrix>, ConstMatrix dout,
                           std::span<const Matrix> din) const {
  size_t dim = a_dim_ + b_dim_;
  for_rows(dout.rows, [&](size_t r) {
    for (size_t h = 0; h < heads_; ++h) {
      const float* d = dout.row(r) + h * dim;
      k().add_scaled(d, 1, a_dim_, din[0].row(r) + h * a_dim_);
      k().add_scaled(d + a_dim_, 1, b_dim_, din[1].row(r) + (shared_ ? 0 : h * b_dim_));
    }
  });
}

void SigmoidScale::forward(const Step&, std::span<const ConstMatrix> in, Matrix out) const {
  for_rows(out.rows, [&](size_t r) {
    float s = 1 / (1 + std::exp(-in[1].row(r)[0]));
    for (size_t j = 0; j < width_; ++j) out.row(r)[j] = in[0].row(r)[j] * s;
  });
}

void SigmoidScale::backward(const Step&, std::span<const ConstMatrix> in, ConstMatrix dout,
                            std::span<const Matrix> din) const {
  for_rows(dout.rows, [&](size_t r) {
    float s = 1 / (1 + std::exp(-in[1].row(r)[0]));
    k().add_scaled(dout.row(r), s, width_, din[0].row(r));
    din[1].row(r)[0] += k().dot(dout.row(r), in[0].row(r), width_) * s * (1 - s);
  });
}

}  // namespace qp::engine
