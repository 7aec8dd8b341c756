// GGUF files of architecture "llama" as LlamaForCausalLM: hyperparameters, names, config.json.
// Names: reference/gguf.md section 11; row order of q and k: section 12.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "formats/container/gguf.h"
#include "lib/base/json.h"

namespace qp {

struct Llama {
  uint64_t layers = 0, hidden = 0, intermediate = 0, vocab = 0, context = 0;
  uint64_t heads = 0, kv_heads = 0, head_dim = 0;
  double eps = 0, theta = 10000;
  Json rope_scaling;  // null or an object
  bool tied = false, attention_bias = false, mlp_bias = false;
};

struct LlamaName {
  std::string name;
  uint32_t unpermute_heads = 0;  // as Decode::unpermute_heads
};

// Fills `llama`, or returns why the shards (metadata in the first) are not exactly a
// LlamaForCausalLM: another architecture, experts, tensors or settings its config cannot express.
std::string read_llama(std::span<const GgufFile> shards, Llama& llama);

// The Hugging Face name of a tensor of such a model; nothing for rope_freqs.weight.
std::optional<LlamaName> llama_name(std::string_view gguf_name, const Llama& llama);

// config.json and generation_config.json. `torch_dtype` is PyTorch's name of the weights' dtype.
Json llama_config(const Llama& llama, const GgufFile& metadata, std::string_view torch_dtype);
Json llama_generation_config(const Llama& llama, const GgufFile& metadata);

// The llama3 rope_scaling whose divisors are `factors` (the values of rope_freqs.weight, one per
// pair of a head), as config.json spells it; null when all are 1; nothing when none fits.
// The file has no original context length: only its ratios to low_freq_factor and
// high_freq_factor show, so low_freq_factor is taken to be 1, as Meta's models have it.
std::optional<Json> llama3_scaling(std::span<const float> factors, double theta);

}  // namespace qp
