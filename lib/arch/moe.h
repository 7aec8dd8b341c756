// What families with a mixture of experts share: a router and its experts in place of the MLP.
#pragma once

#include "lib/arch/decoder.h"
#include "lib/engine/ops/moe.h"

namespace qp::arch {

class MoeDecoder : public Decoder {
 public:
  using Decoder::Decoder;

 protected:
  virtual bool sparse(size_t) const { return true; }  // whether a layer has experts
  // Expert e of the block `module`; by default experts apart, or all of a layer stacked in two
  // tensors as transformers 5 holds them: gate_up_proj [E, 2F, H], gate first, down_proj [E, H, F].
  virtual engine::ExpertSpec expert(const std::string& module, size_t e) const;
  // What is added to the experts' sum y for the block's input x.
  virtual Value shared(Graph&, Value, Value y, const std::string&) const { return y; }
  virtual std::string block(size_t i) const { return layer_name(i) + ".mlp"; }
  Value mlp(Graph& g, Value x, size_t i) const override;

  engine::ExpertSpec expert_spec(size_t e) const;
  // Errors: input, when a stack is not [experts, ..] with these last dimensions.
  void check_stack(const std::string& tensor, size_t rows, size_t cols) const;

  engine::RouteSpec route_;
  size_t expert_inner_ = 0;
  const char* router_ = "gate";
  bool router_bias_ = false;
  // Names of an expert's matrices: gate, up, down.
  std::array<const char*, 3> parts_ = {"gate_proj", "up_proj", "down_proj"};
};

}  // namespace qp::arch
