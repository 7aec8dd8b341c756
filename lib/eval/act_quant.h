// Quantized activations, as a serving engine computes them, simulated in floats.
#pragma once

#include <map>
#include <string>
#include <utility>
#include <vector>

#include "lib/engine/op.h"
#include "lib/gemm/gemm.h"
#include "lib/qmap/store.h"

namespace qp {

// Quantizes and dequantizes what enters each linear whose scheme has input activations, as
// compressed-tensors' forward does with activations of dtype bf16 (Precision::bf16) or f32: every
// step is rounded to that dtype (reference/compressed-tensors.md, sections 3.8, 3.11 and 4). Rows of
// an expert count as tokens of their own. ggml types and `--dequantize` have no activations.
// ModelOpt's input_scale of NVFP4 counts as its reciprocal; under a pre_scale, which weights already
// hold, x * pre_scale is quantized, then divided by it.
class ActivationQuant : public engine::LinearHook {
 public:
  ActivationQuant(const Store& store, gemm::Precision precision);

  engine::ConstMatrix before(const engine::LinearUse& linear, engine::ConstMatrix x,
                             std::span<const uint32_t> rows, std::vector<float>& storage) override;

  bool any() const { return !entries_.empty(); }
  // A scale spans all rows of a call: windows have to come one by one.
  bool per_tensor() const { return per_tensor_; }
  // "int8 token dynamic" and how many linears; and why others are left as they are.
  std::vector<std::pair<std::string, size_t>> simulated() const;
  std::vector<std::string> not_simulated() const;

 private:
  struct Entry {
    QuantArgs args;
    float scale = 0;   // static
    float global = 0;  // NVFP4
    std::vector<float> pre_scale;
    bool operator==(const Entry&) const = default;
  };
  void add(const Store& store, const Tensor& tensor, const QuantArgs& args);
  class Rows;  // one thread's work

  DType dtype_;
  std::map<std::string, Entry, std::less<>> entries_;  // by module
  std::map<std::string, size_t> simulated_, refused_;
  bool per_tensor_ = false;
  // The last result: linears that read the same activations share it.
  std::vector<float> last_;
  Entry last_entry_;
  std::string last_input_;
  const float* last_data_ = nullptr;
};

}  // namespace qp
