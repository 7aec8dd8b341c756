// Ops on single elements, and those that move columns about.
#pragma once

#include "lib/engine/op.h"
#include "lib/kernels/forward.h"

namespace qp::engine {

using kernels::Act;

// The activation that config.json names under `key`. Errors: input, an unknown name.
Act act_from_name(std::string_view name, const std::string& key = "hidden_act");

class Add : public Op {  // a + b
 public:
  explicit Add(size_t width) : width_(width) {}
  size_t width() const override { return width_; }
  std::vector<size_t> inputs() const override { return {width_, width_}; }
  int in_place() const override { return 0; }
  void forward(const Step&, std::span<const ConstMatrix> in, Matrix out) const override;
  void backward(const Step&, std::span<const ConstMatrix> in, ConstMatrix dout,
                std::span<const Matrix> din) const override;

 private:
  size_t width_;
};

class Activation : public Op {  // act(x)
 public:
  Activation(Act act, size_t width) : act_(act), width_(width) {}
  size_t width() const override { return width_; }
  std::vector<size_t> inputs() const override { return {width_}; }
  int in_place() const override { return 0; }
  std::vector<uint32_t> carries(size_t input) const override;  // relu, by factors above 0
  void forward(const Step&, std::span<const ConstMatrix> in, Matrix out) const override;
  void backward(const Step&, std::span<const ConstMatrix> in, ConstMatrix dout,
                std::span<const Matrix> din) const override;

 private:
  Act act_;
  size_t width_;
};

class Gated : public Op {  // act(gate) * up
 public:
  Gated(Act act, size_t width) : act_(act), width_(width) {}
  size_t width() const override { return width_; }
  std::vector<size_t> inputs() const override { return {width_, width_}; }
  int in_place() const override { return 0; }
  std::vector<uint32_t> carries(size_t input) const override;  // of up
  void forward(const Step&, std::span<const ConstMatrix> in, Matrix out) const override;
  void backward(const Step&, std::span<const ConstMatrix> in, ConstMatrix dout,
                std::span<const Matrix> din) const override;

 private:
  Act act_;
  size_t width_;
};

class Softcap : public Op {  // cap * tanh(x / cap)
 public:
  Softcap(float cap, size_t width) : cap_(cap), width_(width) {}
  size_t width() const override { return width_; }
  std::vector<size_t> inputs() const override { return {width_}; }
  void forward(const Step&, std::span<const ConstMatrix> in, Matrix out) const override;
  void backward(const Step&, std::span<const ConstMatrix> in, ConstMatrix dout,
                std::span<const Matrix> din) const override;

 private:
  float cap_;
  size_t width_;
};

// Columns [first, first + count) of each of `heads` equal parts of the row.
class SliceHeads : public Op {
 public:
  SliceHeads(size_t heads, size_t head_dim, size_t first, size_t count)
      : heads_(heads), head_dim_(head_dim), first_(first), count_(count) {}
  size_t width() const override { return heads_ * count_; }
  std::vector<size_t> inputs() const override { return {heads_ * head_dim_}; }
  std::vector<uint32_t> carries(size_t input) const override;
  void forward(const Step&, std::span<const ConstMatrix> in, Matrix out) const override;
  void backward(const Step&, std::span<const ConstMatrix> in, ConstMatrix dout,
                std::span<const Matrix> din) const override;

 private:
  size_t heads_, head_dim_, first_, count_;
};

// Per head: the part of a, then the part of b; b has one head for all when `shared`.
class ConcatHeads : public Op {
 public:
  ConcatHeads(size_t heads, size_t a_dim, size_t b_dim, bool shared)
      : heads_(heads), a_dim_(a_dim), b_dim_(b_dim), shared_(shared) {}
  size_t width() const override { return heads_ * (a_dim_ + b_dim_); }
  std::vector<size_t> inputs() const override {
    return {heads_ * a_dim_, (shared_ ? 1 : heads_) * b_dim_};
  }
  void forward(const Step&, std::span<const ConstMatrix> in, Matrix out) const override;
  void backward(const Step&, std::span<const ConstMatrix> in, ConstMatrix dout,
                std::span<const Matrix> din) const override;

 private:
  size_t heads_, a_dim_, b_dim_;
  bool shared_;
};

// x * sigmoid(g), g one column: Qwen2-MoE's shared expert.
class SigmoidScale : public Op {
 public:
  explicit SigmoidScale(size_t width) : width_(width) {}
  size_t width() const override { return width_; }
  std::vector<size_t> inputs() const override { return {width_, 1}; }
  void forward(const Step&, std::span<const ConstMatrix> in, Matrix out) const override;
  void backward(const Step&, std::span<const ConstMatrix> in, ConstMatrix dout,
                std::span<const Matrix> din) const override;

 private:
  size_t width_;
};

}  // namespace qp::engine
