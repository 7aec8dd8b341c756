// What a tensor is in its model: module kind, fused groups. Names as checkpoints spell them;
// facts about engines: reference/architectures.md 5.1 and 5.2.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "lib/base/json.h"
#include "lib/tensor/dtype.h"

namespace qp {

enum class ModuleKind : uint8_t {
  linear,     // 2-D projection of attention, MLP, shared expert; GPT-2's Conv1D
  expert,     // 2-D projection of one routed expert
  stack,      // all experts of a layer in one 3-D tensor
  embedding,
  head,
  norm,
  router,     // and shared-expert gates: engines build them unquantized
  vision,     // towers and projectors of other modalities
  conv,       // convolutions
  mtp,        // multi-token-prediction layers
  conditioning,  // of a diffusion transformer: embedders, modulation, output projection
  bias,       // and other 1-D parameters
  other,      // not a float tensor, or already quantized
};
std::string_view name_of(ModuleKind kind);  // "Linear", "Expert", ..
std::optional<ModuleKind> kind_from_name(std::string_view name);  // case-free
std::span<const ModuleKind> all_kinds();

struct ModuleInfo {
  ModuleKind kind = ModuleKind::other;
  std::string module;  // name without ".weight"
  // Tensors with the same non-empty key are one parameter in the engine: they share global scales.
  std::string fused;
  // What engines call that parameter, outside experts: "model.layers.0.self_attn.qkv_proj".
  std::string whole;
  // Tensors with the same key must have one scheme (fused members, and all experts of a layer).
  std::string agree;
  bool transposed = false;  // a linear stored [in, out]: GPT-2's Conv1D
};

// A diffusers component, by its config.json: its linears are those inside its lists of blocks.
bool is_diffusion_model(const Json& config);

// `config` is config.json (or null): it tells the layer count, and so which layers are MTP, and
// whether the model is a diffusion transformer. In a pipeline names tell: "transformer/blocks.0..".
ModuleInfo classify(std::string_view name, DType dtype, const Shape& shape, const Json& config);

// The decoder layer that a tensor belongs to: its name up to the first number ("model.layers.3"),
// or "" outside layers.
std::string_view layer_prefix(std::string_view name);

}  // namespace qp
