// Which type each tensor of a GGUF gets under one of llama-quantize's file types (reference/gguf.md 7.3
// to 7.6; llama.cpp's src/llama-quant.cpp of June 2026).
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "lib/config/mixes.h"
#include "lib/tensor/dtype.h"

namespace qp::ggml {

struct MixTensor {
  std::string_view name;  // GGUF's
  Shape shape;            // PyTorch order: [experts, out, in]
  bool decided = false;   // somebody else said what becomes of it
};

// What the rules look at of a model.
struct MixModel {
  std::string_view arch;  // general.architecture
  uint64_t layers = 0, heads = 0, kv_heads = 0, experts = 0;
};

// A type for each tensor, in their order, which has to be llama-quantize's (as TensorMap has them). Null:
// it keeps its floats. "f16" where no block divides its rows. `importance`: an importance matrix is
// there, which some rules ask about.
// Errors: usage, a tensor whose rows cannot be cut into blocks and that has no fallback.
std::vector<const char*> choose_types(const MixRule& rule, const MixModel& model, bool importance,
                                      std::span<const MixTensor> tensors);

// Whether llama-quantize quantizes a tensor at all.
bool can_be_quantized(std::string_view gguf_name, const Shape& shape);

// Whether llama-quantize refuses to make this tensor so without an importance matrix.
bool needs_importance(const Mix& mix, std::string_view gguf_name, std::string_view type);

}  // namespace qp::ggml
