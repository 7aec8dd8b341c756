// One operation of a block: a forward and a vector-Jacobian product. Add one as a file in
// lib/engine/ops.
#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "lib/engine/batch.h"
#include "lib/engine/matrix.h"
#include "lib/engine/weights.h"

namespace qp::engine {

// A product with a weight, as observers know it.
struct LinearUse {
  std::string module;  // tensor name without ".weight"; "name[e]" for expert e of a stack
  std::string input;   // the first module that reads the same activations
};

// Sees, and may change, what enters each linear: statistics, activation quantization.
class LinearHook {
 public:
  virtual ~LinearHook() = default;
  // The rows that follow are those of `batch`, whose windows count from `first_window`.
  virtual void batch(const Batch& batch, size_t first_window) { (void)batch, (void)first_window; }
  // x holds the rows `rows` of the batch (empty: all). Returns what to multiply: x, or a matrix in
  // `storage` (in both cases x.rows by x.cols). Called in the order of the graph, from one thread.
  virtual ConstMatrix before(const LinearUse& linear, ConstMatrix x,
                             std::span<const uint32_t> rows, std::vector<float>& storage) = 0;
  // Keys and values as attention reads them (after rotation), for `--kv-cache` scales.
  virtual void keys_values(const std::string& block, ConstMatrix k, ConstMatrix v) {
    (void)block, (void)k, (void)v;
  }
  // How a router spread the rows: ids [rows x top_k].
  virtual void routed(const std::string& module, std::span<const uint32_t> ids, size_t top_k,
                      size_t experts) {
    (void)module, (void)ids, (void)top_k, (void)experts;
  }
};

// Takes the gradients of matrix weights: dw [out, in], the sum over this batch's rows.
class GradientSink {
 public:
  virtual ~GradientSink() = default;
  virtual bool wants(const WeightUse& weight) = 0;
  virtual void weight(const WeightUse& weight, ConstMatrix dw) = 0;
};

// Tokens that went before the batch, which then is one window that goes on: their number, and what
// each attention keeps of them. An op that needs more of the past than that cannot go on.
struct Past {
  struct KeysValues {
    std::vector<float> keys, values;  // [rows, width]
  };
  size_t rows = 0;
  std::map<const void*, KeysValues> attention;  // by op
};

// What an op works in: the batch, its own weights, and who looks on.
struct Step {
  const Batch& batch;
  gemm::Precision precision = gemm::Precision::f32;
  std::span<const Weight> weights = {};  // those of the op, in its order
  const WeightSource* source = nullptr;  // backward: transposed weights
  LinearHook* hook = nullptr;
  GradientSink* gradients = nullptr;
  bool input_gradient = true;  // backward: false spares what lies before the first wanted weight
  bool all_experts = false;  // experts see every row, with the router's weight or none
  Past* past = nullptr;      // generation, forward only
  gemm::Left* left = nullptr;  // the op's first input, if its other readers multiply it, too
};

class Op {
 public:
  virtual ~Op() = default;
  virtual size_t width() const = 0;  // columns of the result
  // Columns expected of each input; checked when the op is added to a graph.
  virtual std::vector<size_t> inputs() const = 0;
  // The result may be written over this input when nobody else reads it; -1: none.
  virtual int in_place() const { return -1; }
  // out: [rows, width()], not initialized.
  virtual void forward(const Step& step, std::span<const ConstMatrix> in, Matrix out) const = 0;
  // Channel c of the result is proportional to channel carries(i)[c] of input i, whatever the others
  // are, so that a factor may be moved past the op; empty: it is not.
  virtual std::vector<uint32_t> carries(size_t input) const {
    (void)input;
    return {};
  }
  // Adds to din[i] (data null: not wanted) the gradient of input i for the gradient dout of the
  // result.
  virtual void backward(const Step& step, std::span<const ConstMatrix> in, ConstMatrix dout,
                        std::span<const Matrix> din) const = 0;

  std::vector<WeightUse> weights;
  // Those among the weights that the hook sees. An op with one linear feeds it its first input.
  std::vector<LinearUse> linears;
};

}  // namespace qp::engine
