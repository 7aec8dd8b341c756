// What Qwen2-MoE and Qwen3-MoE share.
#pragma once

#include "lib/ggml/describe.h"

namespace qp::ggml {

// Errors: limit, for a model some of whose layers have no experts: llama.cpp expects them in all.
void describe_qwen_moe(const Config& config, const Defaults& defaults, Metadata& out);

void restore_qwen_moe(const Restored& in, Json& config);

}  // namespace qp::ggml
