// The inner size of a gated MLP and the key of config.json that says it. What a name means:
// reference/architectures.md 4 and 5.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "lib/base/json.h"
#include "lib/tensor/dtype.h"

namespace qp {

struct InnerSize {
  std::string mlp;     // "model.layers.0.mlp", "model.layers.0.mlp.experts.3"
  std::string key;     // "intermediate_size", "moe_intermediate_size" ..
  uint64_t times = 1;  // the size here is so many times the key's value: DeepSeek's shared experts
  bool rows = false;   // gate and up have it as rows, down as columns
};

// The keys that there are.
inline constexpr std::array<std::string_view, 3> kInnerSizeKeys = {
    "intermediate_size", "moe_intermediate_size", "shared_expert_intermediate_size"};

// Of gate, up and down of a decoder's MLP: experts, shared experts and dense ones. Nothing for
// everything else, and where config.json has no such key or another size.
std::optional<InnerSize> inner_size(std::string_view name, const Shape& shape, const Json& config);

// The object of config.json that describes the decoder: text_config, or config.json itself.
const Json& decoder_config(const Json& config);
Json& decoder_config(Json& config);

}  // namespace qp
