// Experts that a model stacks in one tensor a projection, and the linears they are. What a stack
// is, by its name under a module "…experts": E experts, H hidden, F inner width
// (reference/architectures.md 4.7 and 4.14; Llama-4, Qwen3-VL-MoE and gpt-oss store [in, out]).
//
//   gate_up_proj       [E, 2F, H], or stored transposed [E, H, 2F]; gate's rows first, then up's,
//                      but in gpt-oss they alternate
//   down_proj          [E, H, F], or [E, F, H]
//   gate_up_proj_bias  [E, 2F]; down_proj_bias [E, H]: optional
//
// The two shapes together tell which of the two it is. Nothing is read or copied: the linears are
// pieces of the stack's extent (piece_of in decode.h).
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "lib/qmap/model.h"

namespace qp {

struct ExpertStack {
  std::string prefix;  // "model.layers.0.mlp.experts"
  const Tensor *gate_up = nullptr, *down = nullptr;
  const Tensor *gate_up_bias = nullptr, *down_bias = nullptr;  // or null
  uint64_t experts = 0, hidden = 0, inner = 0;
  bool transposed = false;   // matrices stored [in, out]
  bool interleaved = false;  // rows of gate and up alternate
  bool fused = false;        // linears_of: an expert's gate and up stay one, PREFIX.3.gate_up_proj
  std::array<std::string_view, 3> names;  // of an expert's linears in checkpoints: gate, up, down

  bool has(const Tensor& t) const {
    return &t == gate_up || &t == down || &t == gate_up_bias || &t == down_bias;
  }
};

// By prefix; those alone whose tensors fit together. Points into the model.
std::map<std::string, ExpertStack> find_stacks(const Model& model);
// The stack that a tensor belongs to; null: to none.
const ExpertStack* stack_of(const std::map<std::string, ExpertStack>& stacks, const Tensor& tensor);

// The linears (or biases) of one of the stack's tensors, experts in order: [out, in] each, named as
// checkpoints with experts apart name them, PREFIX.3.gate_proj.weight; quantized as the stack is.
// `input`, when not null, gets the module that calibration knows each by: PREFIX.gate_up_proj[3].
// Empty: its stored bytes cannot be taken apart (strides, ggml, scales that span experts).
std::vector<Tensor> linears_of(const Model& model, const ExpertStack& stack, const Tensor& tensor,
                               std::vector<std::string>* input = nullptr);

// A tensor whose matrices are stored [in, out], seen [.., out, in]: its rows are what is quantized.
// Parts empty: its stored bytes cannot be seen so.
Tensor turned(const Tensor& tensor);

// The model with the linears of every stack that `wanted` names, in the place of the stack; `fused`
// as above. Errors: limit, when one cannot be taken apart.
Model with_experts_apart(const Model& model, const std::function<bool(const ExpertStack&)>& wanted,
                         bool fused = false);

}  // namespace qp
