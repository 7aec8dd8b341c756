// What Gemma 2 and Gemma 3 share: norms that multiply by 1 + w, which llama.cpp stores so.
#pragma once

#include "lib/ggml/describe.h"
#include "lib/ggml/rules.h"

namespace qp::ggml {

inline constexpr TensorRule kGemmaModelRules[] = {{"token_embd", "embed_tokens"},
                                                  {"output_norm", "norm", Op::plus_one}};
inline constexpr TensorRule kGemmaNormRules[] = {
    {"attn_norm", "input_layernorm", Op::plus_one},
    {"post_attention_norm", "post_attention_layernorm", Op::plus_one},
    {"ffn_norm", "pre_feedforward_layernorm", Op::plus_one},
    {"post_ffw_norm", "post_feedforward_layernorm", Op::plus_one}};

// What scores are divided by the root of: llama.cpp takes the size of a head, in the 27B models
// hidden / heads.
uint64_t gemma_scalar(uint64_t layers, uint64_t layers_of_27b, uint64_t hidden, uint64_t heads,
                      uint64_t head_dim);
// Errors: limit, for another scale.
void expect_gemma_scale(const Config& config, uint64_t head_dim, uint64_t layers_of_27b);
void restore_gemma(const Restored& in, uint64_t layers_of_27b, Json& config);

// SentencePiece without a space in front.
inline void adjust_gemma_tokenizer(const Config&, Metadata& out) {
  const Value* model = out.find("tokenizer.ggml.model");
  if (model != nullptr && *model == Value(std::string("llama"))) {
    out.set("tokenizer.ggml.add_space_prefix", false);
  }
}

}  // namespace qp::ggml
