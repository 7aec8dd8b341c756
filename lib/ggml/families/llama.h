// What the families that llama.cpp runs as Llama share.
#pragma once

#include "lib/ggml/describe.h"

namespace qp::ggml {

// CodeLlama's fill-in-the-middle tokens, which no file names, and no BOS for models with
// GPT-style vocabularies of 49152 tokens (SmolLM, Granite).
void adjust_llama_tokenizer(const Config& config, Metadata& out);
void describe_llama(const Config& config, const Defaults& defaults, Metadata& out);

}  // namespace qp::ggml
