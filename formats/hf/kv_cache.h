// Scales of a quantized KV cache: canonical tensors ATTENTION.k_scale and .v_scale (model.h), and
// the names that families store them under.
#pragma once

#include <string>
#include <string_view>

#include "formats/format.h"

namespace qp {

QuantArgs fp8_kv_cache();  // FP8, one scale per tensor, static

// Renames ATTENTION.k_proj.K_SUFFIX and ATTENTION.v_proj.V_SUFFIX to the canonical names; they, and
// ATTENTION.k_scale as it may be stored, become [1]. With --dequantize they go: no float model has
// them. Returns whether there are any. Errors: input, when one is no single float.
bool adopt_kv_scales(Model& model, std::string_view k_suffix, std::string_view v_suffix,
                     const LoadOptions& options);

// Whether a tensor is a canonical scale of the KV cache.
bool is_kv_scale(const Tensor& tensor);
// "A.self_attn.k_scale" under another name: A.self_attn.k_proj.K_SUFFIX, .v_proj.V_SUFFIX.
std::string kv_scale_name(const Tensor& tensor, std::string_view k_suffix,
                          std::string_view v_suffix);

}  // namespace qp
