// DeepSeek's kv_b_proj [heads * (nope + v), rank] as the two tensors that llama.cpp has of it: keys
// of each head turned, whose blocks then run along nope, and values. Nothing is read or copied.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "lib/qmap/model.h"

namespace qp {

inline constexpr std::string_view kLatentKeys = ".key", kLatentValues = ".value";

// Names and shapes: M.kv_b_proj.key.weight [heads, rank, nope], M.kv_b_proj.value.weight
// [heads, v, rank], of M.kv_b_proj.weight. Nothing: it is another tensor, does not fit config.json,
// or its stored bytes cannot be taken apart.
std::optional<std::pair<Tensor, Tensor>> latents_of(const Model& model, const Tensor& tensor);

// The model with those apart whose names `wanted` says yes to; none: nothing to do.
std::optional<Model> with_latents_apart(
    const Model& model, const std::function<bool(const std::string& name)>& wanted);

}  // namespace qp
