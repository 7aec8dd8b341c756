// GGUF checkpoints of llama.cpp, one file or split: reading only.
#pragma once

#include <span>
#include <string>

#include "formats/container/gguf.h"
#include "formats/format.h"

namespace qp {

// Reads one GGUF or, given the first shard PREFIX-00001-of-0000N.gguf, all of them.
//
// Every tensor has one part: `data` for unquantized types and, with options.dequantize, for block
// types decoded on read (to options.dtype, else BF16); else `blocks`. Shapes are PyTorch's.
// A Llama model (also Mistral's and SmolLM2's, which llama.cpp calls llama) gets the names and the
// row order of LlamaForCausalLM and generated config.json and tokenizer files. Other models keep
// GGUF's names and have no companions; options.warn says why.
// Errors: input (malformed, shards that do not belong together, a block type that cannot be
// decoded), system (a shard is missing).
Model read_gguf(const std::string& path, const LoadOptions& options);

// The model of parsed shards, the first of which has the metadata. Model::files is left empty:
// extents refer to it as if it held one entry per shard.
Model gguf_model(std::span<const GgufFile> shards, const LoadOptions& options);

// The vision part of a model as a GGUF of its own. Errors: limit, an architecture whose vision part
// llama.cpp's names are not known for; input, tensors or settings that do not fit.
ExportPlan export_mmproj(const Store& store, const ExportOptions& options);

}  // namespace qp
