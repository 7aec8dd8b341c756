// Metadata that most families share, and its parts (reference/gguf.md 9.2 and 9.3).
#pragma once

#include "lib/ggml/family.h"

namespace qp::ggml {

// What a family takes where config.json is silent.
struct Defaults {
  uint64_t kv_heads = 0;      // 0: as many as heads
  uint64_t head_dim = 0;      // 0: hidden / heads
  bool says_head_dim = true;  // key_length and value_length are written even so
  double theta = 10000, eps = 1e-6;
  bool rotates = true;
};

uint64_t head_dim_of(const Config& config, const Defaults& defaults);

// All of it, in the converter's order.
void describe_decoder(const Config& config, const Defaults& defaults, Metadata& out);

void describe_sizes(const Config& config, const Defaults& defaults, Metadata& out);
// Scaling, sections and bases. Errors: limit, for a scaling that llama.cpp cannot express.
void describe_rope(const Config& config, const Defaults& defaults, Metadata& out);
void describe_experts(const Config& config, Metadata& out);

// Errors: limit, unless config.json's activation is one of these (or not said): llama.cpp takes
// for granted what a family computes.
void expect_text(const Config& config, const char* key, std::initializer_list<const char*> values);

// The other way: config.json from metadata. Rotations with `theta` are said even where the
// metadata is silent. Errors: input, naming a key that is missing; limit.
void restore_decoder(const Restored& in, Json& config);
void restore_sizes(const Restored& in, Json& config);
void restore_rope(const Restored& in, Json& config);
// config[name] = keys[key], where there is one. `needed`: or an input error.
void restore_key(const Restored& in, const char* key, const char* name, Json& config,
                 bool needed = false);

// rope_freqs.weight, where the model has llama3's scaling.
std::vector<Computed> llama3_factors(const Config& config);

}  // namespace qp::ggml
