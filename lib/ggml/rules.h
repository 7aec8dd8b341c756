// Names that most families share.
#pragma once

#include "lib/ggml/family.h"

namespace qp::ggml {

inline constexpr TensorRule kModelRules[] = {
    {"token_embd", "embed_tokens"}, {"output_norm", "norm"}, {"output", "lm_head"}};

inline constexpr TensorRule kPreNormRules[] = {{"attn_norm", "input_layernorm"},
                                               {"ffn_norm", "post_attention_layernorm"}};

inline constexpr TensorRule kAttentionRules[] = {{"attn_q", "self_attn.q_proj"},
                                                 {"attn_k", "self_attn.k_proj"},
                                                 {"attn_v", "self_attn.v_proj"},
                                                 {"attn_output", "self_attn.o_proj"}};

inline constexpr TensorRule kRotatedRules[] = {{"attn_q", "self_attn.q_proj", Op::rope_q},
                                               {"attn_k", "self_attn.k_proj", Op::rope_k},
                                               {"attn_v", "self_attn.v_proj"},
                                               {"attn_output", "self_attn.o_proj"}};

inline constexpr TensorRule kHeadNormRules[] = {{"attn_q_norm", "self_attn.q_norm"},
                                                {"attn_k_norm", "self_attn.k_norm"}};

inline constexpr TensorRule kMlpRules[] = {
    {"ffn_gate", "mlp.gate_proj"}, {"ffn_up", "mlp.up_proj"}, {"ffn_down", "mlp.down_proj"}};

inline constexpr TensorRule kExpertRules[] = {
    {"ffn_gate_inp", "mlp.gate"},
    {"ffn_gate_exps", "mlp.experts.*.gate_proj"},
    {"ffn_up_exps", "mlp.experts.*.up_proj"},
    {"ffn_down_exps", "mlp.experts.*.down_proj"},
    {"ffn_gate_exps.weight", "mlp.experts.gate_up_proj", Op::first_rows, true},
    {"ffn_up_exps.weight", "mlp.experts.gate_up_proj", Op::last_rows, true},
    {"ffn_down_exps.weight", "mlp.experts.down_proj", Op::plain, true}};

}  // namespace qp::ggml
