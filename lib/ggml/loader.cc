#include "lib/ggml/loader.h"

#include <array>

namespace qp::ggml {
namespace {

constexpr KeyRule kFileKeys[] = {
    {"general.architecture", KeyType::text},
    {"general.type", KeyType::text, false, false},
    {"general.name", KeyType::text},
    {"general.file_type", KeyType::u32},
    {"general.quantization_version", KeyType::u32, false, false},
    {"general.alignment", KeyType::u32},
    {"split.no", KeyType::u16},
    {"split.count", KeyType::u16},
    {"split.tensors.count", KeyType::i32},
    {"tokenizer.ggml.model", KeyType::text},
    {"tokenizer.ggml.pre", KeyType::text},
    {"tokenizer.ggml.tokens", KeyType::texts},
    {"tokenizer.ggml.merges", KeyType::texts},
    {"tokenizer.ggml.scores", KeyType::scores},
    {"tokenizer.ggml.token_type", KeyType::i32s},
    {"tokenizer.ggml.token_type_count", KeyType::u32},
    {"tokenizer.ggml.bos_token_id", KeyType::u32},
    {"tokenizer.ggml.eos_token_id", KeyType::u32},
    {"tokenizer.ggml.eot_token_id", KeyType::u32},
    {"tokenizer.ggml.eom_token_id", KeyType::u32},
    {"tokenizer.ggml.unknown_token_id", KeyType::u32},
    {"tokenizer.ggml.seperator_token_id", KeyType::u32},  // spelt so
    {"tokenizer.ggml.padding_token_id", KeyType::u32},
    {"tokenizer.ggml.mask_token_id", KeyType::u32},
    {"tokenizer.ggml.fim_pre_token_id", KeyType::u32},
    {"tokenizer.ggml.fim_suf_token_id", KeyType::u32},
    {"tokenizer.ggml.fim_mid_token_id", KeyType::u32},
    {"tokenizer.ggml.fim_pad_token_id", KeyType::u32},
    {"tokenizer.ggml.fim_rep_token_id", KeyType::u32},
    {"tokenizer.ggml.fim_sep_token_id", KeyType::u32},
    {"tokenizer.ggml.prefix_token_id", KeyType::u32},
    {"tokenizer.ggml.suffix_token_id", KeyType::u32},
    {"tokenizer.ggml.middle_token_id", KeyType::u32},
    {"tokenizer.ggml.add_bos_token", KeyType::boolean},
    {"tokenizer.ggml.add_eos_token", KeyType::boolean},
    {"tokenizer.ggml.add_sep_token", KeyType::boolean},
    {"tokenizer.ggml.add_space_prefix", KeyType::boolean},
    {"tokenizer.ggml.remove_extra_whitespaces", KeyType::boolean},
    {"tokenizer.chat_template", KeyType::text, false, false},
};

constexpr KeyRule kArchKeys[] = {
    {"context_length", KeyType::u32, true},
    {"embedding_length", KeyType::u32, true},
    {"block_count", KeyType::u32, true},
    {"nextn_predict_layers", KeyType::u32},
    {"feed_forward_length", KeyType::u32_or_list},
    {"attention.head_count", KeyType::u32_or_list},
    {"attention.head_count_kv", KeyType::u32_or_list},
    {"attention.key_length", KeyType::u32},
    {"attention.value_length", KeyType::u32},
    {"attention.causal", KeyType::boolean},
    {"attention.key_length_swa", KeyType::u32},
    {"attention.value_length_swa", KeyType::u32},
    {"rope.dimension_count", KeyType::u32},
    {"rope.dimension_count_swa", KeyType::u32},
    {"rope.freq_base", KeyType::f32},
    {"rope.scaling.type", KeyType::text},
    {"rope.scaling.factor", KeyType::f32},
    {"rope.scaling.original_context_length", KeyType::u32},
    {"rope.scaling.finetuned", KeyType::boolean},
    {"rope.scaling.attn_factor", KeyType::f32},
    {"expert_count", KeyType::u32},
    {"expert_used_count", KeyType::u32_or_list},
    {"expert_group_count", KeyType::u32},
    {"expert_group_used_count", KeyType::u32},
};

constexpr KeyRule kSomeKeys[] = {
    {"attention.layer_norm_rms_epsilon", KeyType::f32},
    {"attention.layer_norm_epsilon", KeyType::f32},
    {"attention.sliding_window", KeyType::u32},
    {"attention.q_lora_rank", KeyType::u32},
    {"attention.kv_lora_rank", KeyType::u32},
    {"attention.key_length_mla", KeyType::u32},
    {"attention.value_length_mla", KeyType::u32},
    {"rope.freq_base_swa", KeyType::f32},
    {"rope.scale_linear", KeyType::f32},
    {"rope.scaling.yarn_ext_factor", KeyType::f32},
    {"rope.scaling.yarn_attn_factor", KeyType::f32},
    {"rope.scaling.yarn_beta_fast", KeyType::f32},
    {"rope.scaling.yarn_beta_slow", KeyType::f32},
    {"rope.scaling.yarn_log_multiplier", KeyType::f32},
    {"expert_feed_forward_length", KeyType::u32_or_list},
    {"expert_shared_feed_forward_length", KeyType::u32},
    {"expert_shared_count", KeyType::u32},
    {"expert_gating_func", KeyType::u32},
    {"expert_weights_scale", KeyType::f32},
    {"expert_weights_norm", KeyType::boolean},
    {"leading_dense_block_count", KeyType::u32},
    {"attn_logit_softcapping", KeyType::f32},
    {"final_logit_softcapping", KeyType::f32},
    {"vocab_size", KeyType::u32},
};

constexpr KeyRule kRmsKey = {"attention.layer_norm_rms_epsilon", KeyType::f32, true};
constexpr KeyRule kWindow = {"attention.sliding_window", KeyType::u32};
constexpr KeyRule kWindowBase = {"rope.freq_base_swa", KeyType::f32};
constexpr KeyRule kCap = {"final_logit_softcapping", KeyType::f32};
constexpr KeyRule kExpertInner = {"expert_feed_forward_length", KeyType::u32_or_list};
constexpr KeyRule kNeedsInner = {"expert_feed_forward_length", KeyType::u32_or_list, true};

constexpr KeyRule kRms[] = {kRmsKey};
constexpr KeyRule kLlama[] = {kRmsKey, {"vocab_size", KeyType::u32}};
constexpr KeyRule kNorm[] = {{"attention.layer_norm_epsilon", KeyType::f32, true}};
constexpr KeyRule kQwen2Moe[] = {
    kRmsKey, kExpertInner, {"expert_shared_feed_forward_length", KeyType::u32}};
constexpr KeyRule kQwen3Moe[] = {kRmsKey, kExpertInner};
constexpr KeyRule kGemma2[] = {
    kRmsKey, kWindow, kWindowBase, kCap, {"attn_logit_softcapping", KeyType::f32}};
constexpr KeyRule kGemma3[] = {kRmsKey, kWindow, kWindowBase, kCap};
constexpr KeyRule kPhi3[] = {kRmsKey, kWindow};
constexpr KeyRule kOlmo2[] = {kRmsKey, kWindow, kWindowBase};
constexpr KeyRule kGptOss[] = {
    kRmsKey, kNeedsInner, kWindowBase, {"attention.sliding_window", KeyType::u32, true}};
constexpr KeyRule kDeepseek[] = {kRmsKey,
                                 {"attention.q_lora_rank", KeyType::u32},
                                 {"attention.kv_lora_rank", KeyType::u32, true},
                                 {"attention.key_length_mla", KeyType::u32},
                                 {"attention.value_length_mla", KeyType::u32},
                                 kNeedsInner,
                                 {"expert_shared_count", KeyType::u32, true},
                                 {"expert_gating_func", KeyType::u32},
                                 {"expert_weights_scale", KeyType::f32},
                                 {"expert_weights_norm", KeyType::boolean},
                                 {"leading_dense_block_count", KeyType::u32},
                                 {"rope.scaling.yarn_log_multiplier", KeyType::f32},
                                 {"vocab_size", KeyType::u32}};
constexpr KeyRule kVl[] = {kRmsKey, {"rope.dimension_sections", KeyType::ints, true}};

using enum Size;
using W = When;

constexpr TensorNeed kModel[] = {{"token_embd.weight", W::always, {hidden, vocab}},
                                 {"output_norm.weight", W::always, {hidden}}};
constexpr TensorNeed kHead[] = {{"output.weight", W::always, {hidden, vocab}}};
constexpr TensorNeed kHeadOrTied[] = {{"output.weight", W::optional, {hidden, vocab}}};
constexpr TensorNeed kHeadBias[] = {{"output.bias", W::optional, {vocab}}};
constexpr TensorNeed kRope[] = {{"rope_freqs.weight", W::no_longrope, {half_rotated}},
                                {"rope_factors_long.weight", W::longrope, {half_rotated}},
                                {"rope_factors_short.weight", W::longrope, {half_rotated}}};
constexpr TensorNeed kRopeFactors[] = {{"rope_factors_long.weight", W::optional, {half_rotated}},
                                       {"rope_factors_short.weight", W::optional, {half_rotated}}};
constexpr TensorNeed kClassifier[] = {{"cls.output.weight", W::optional}};
constexpr TensorNeed kDenseHeads[] = {{"dense_2.weight", W::optional},
                                      {"dense_3.weight", W::optional}};
constexpr TensorNeed kGpt2Model[] = {{"position_embd.weight", W::always, {hidden, positions}},
                                     {"output_norm.bias", W::always, {hidden}}};

constexpr TensorNeed kPreNorms[] = {{"attn_norm.weight", W::always, {hidden}},
                                    {"ffn_norm.weight", W::always, {hidden}}};
constexpr TensorNeed kPostNorms[] = {{"post_attention_norm.weight", W::always, {hidden}},
                                     {"post_ffw_norm.weight", W::always, {hidden}}};
constexpr TensorNeed kAttention[] = {{"attn_qkv.weight", W::optional, {hidden, qkv}},
                                     {"attn_qkv.bias", W::optional, {qkv}},
                                     {"attn_q.weight", W::split_qkv, {hidden, q}},
                                     {"attn_k.weight", W::split_qkv, {hidden, k}},
                                     {"attn_v.weight", W::split_qkv, {hidden, v}},
                                     {"attn_q.bias", W::optional, {q}},
                                     {"attn_k.bias", W::optional, {k}},
                                     {"attn_v.bias", W::optional, {v}},
                                     {"attn_output.weight", W::always, {q, hidden}}};
constexpr TensorNeed kAttentionBias[] = {{"attn_output.bias", W::optional, {hidden}}};
constexpr TensorNeed kHeadNorms[] = {{"attn_q_norm.weight", W::always, {head_k}},
                                     {"attn_k_norm.weight", W::always, {head_k}}};
constexpr TensorNeed kWideNorms[] = {{"attn_q_norm.weight", W::always, {q}},
                                     {"attn_k_norm.weight", W::always, {k}}};
constexpr TensorNeed kMlp[] = {{"ffn_gate.weight", W::dense, {hidden, inner}},
                               {"ffn_up.weight", W::dense, {hidden, inner}},
                               {"ffn_down.weight", W::dense, {inner, hidden}}};
constexpr TensorNeed kMlpBias[] = {{"ffn_gate.bias", W::dense_optional, {inner}},
                                   {"ffn_up.bias", W::dense_optional, {inner}},
                                   {"ffn_down.bias", W::dense_optional, {hidden}}};
constexpr TensorNeed kRouter[] = {{"ffn_gate_inp.weight", W::sparse, {hidden, experts}}};
constexpr TensorNeed kExperts[] = {
    {"ffn_gate_exps.weight", W::sparse, {hidden, expert_inner, experts}},
    {"ffn_up_exps.weight", W::sparse, {hidden, expert_inner, experts}},
    {"ffn_down_exps.weight", W::sparse, {expert_inner, hidden, experts}}};
constexpr TensorNeed kLlamaExperts[] = {
    {"ffn_gate_exps.weight", W::sparse_optional, {hidden, inner, experts}},
    {"ffn_up_exps.weight", W::sparse, {hidden, inner, experts}},
    {"ffn_down_exps.weight", W::sparse, {inner, hidden, experts}}};
constexpr TensorNeed kShared[] = {{"ffn_gate_shexp.weight", W::sparse, {hidden, shared_inner}},
                                  {"ffn_up_shexp.weight", W::sparse, {hidden, shared_inner}},
                                  {"ffn_down_shexp.weight", W::sparse, {shared_inner, hidden}}};
constexpr TensorNeed kSharedGate[] = {{"ffn_gate_inp_shexp.weight", W::sparse, {hidden}}};
constexpr TensorNeed kPhi3Mlp[] = {{"ffn_up.weight", W::always, {hidden, twice_inner}},
                                   {"ffn_down.weight", W::always, {inner, hidden}}};
constexpr TensorNeed kGpt2[] = {{"attn_norm.bias", W::always, {hidden}},
                                {"ffn_norm.bias", W::always, {hidden}},
                                {"attn_qkv.weight", W::always, {hidden, qkv}},
                                {"attn_qkv.bias", W::always, {qkv}},
                                {"attn_output.weight", W::always, {hidden, hidden}},
                                {"attn_output.bias", W::always, {hidden}},
                                {"ffn_up.weight", W::always, {hidden, inner}},
                                {"ffn_up.bias", W::always, {inner}},
                                {"ffn_down.weight", W::always, {inner, hidden}},
                                {"ffn_down.bias", W::always, {hidden}}};
constexpr TensorNeed kGptOssLayer[] = {{"attn_norm.weight", W::always, {hidden}},
                                       {"post_attention_norm.weight", W::always, {hidden}},
                                       {"attn_sinks.weight", W::always, {heads}},
                                       {"attn_output.bias", W::always, {hidden}},
                                       {"ffn_gate_inp.bias", W::always, {experts}},
                                       {"ffn_gate_exps.bias", W::always, {expert_inner, experts}},
                                       {"ffn_up_exps.bias", W::always, {expert_inner, experts}},
                                       {"ffn_down_exps.bias", W::always, {hidden, experts}}};
constexpr TensorNeed kMla[] = {{"attn_q.weight", W::full_q, {hidden, mla_q}},
                               {"attn_q_a.weight", W::low_q, {hidden, q_rank}},
                               {"attn_q_a_norm.weight", W::low_q, {q_rank}},
                               {"attn_q_b.weight", W::low_q, {q_rank, mla_q}},
                               {"attn_kv_a_mqa.weight", W::always, {hidden, kv_rank_rotated}},
                               {"attn_kv_a_norm.weight", W::always, {kv_rank}},
                               {"attn_k_b.weight", W::mla, {mla_nope, kv_rank, heads}},
                               {"attn_v_b.weight", W::mla, {kv_rank, mla_value, heads}},
                               {"attn_kv_b.weight", W::no_mla, {kv_rank, mla_kv}},
                               {"attn_output.weight", W::always, {mla_v, hidden}},
                               {"exp_probs_b.bias", W::sparse_optional, {experts}}};
constexpr TensorNeed kFusedExperts[] = {
    {"ffn_gate_up_exps.weight", W::sparse_optional, {hidden, twice_expert_inner, experts}},
    {"ffn_gate_exps.weight", W::split_experts, {hidden, expert_inner, experts}},
    {"ffn_up_exps.weight", W::split_experts, {hidden, expert_inner, experts}},
    {"ffn_down_exps.weight", W::sparse, {expert_inner, hidden, experts}}};

// Made once: families share most of their rows.
const std::vector<LoaderRules>& table() {
  static const std::vector<LoaderRules> rules = {
      {"llama",
       kLlama,
       {kModel, kHeadOrTied, kRope},
       {kPreNorms, kAttention, kAttentionBias, kMlp, kMlpBias, kRouter, kLlamaExperts},
       true},
      {"qwen2", kRms, {kModel, kHeadOrTied, kHeadBias}, {kPreNorms, kAttention, kMlp}, true},
      {"qwen2vl", kVl, {kModel, kHeadOrTied, kHeadBias}, {kPreNorms, kAttention, kMlp}, true},
      {"qwen2moe",
       kQwen2Moe,
       {kModel, kHead},
       {kPreNorms, kAttention, kRouter, kExperts, kSharedGate, kShared},
       true},
      {"qwen3",
       kRms,
       {kModel, kHeadOrTied, kClassifier},
       {kPreNorms, kAttention, kHeadNorms, kMlp},
       true},
      {"qwen3moe",
       kQwen3Moe,
       {kModel, kHeadOrTied},
       {kPreNorms, kAttention, kHeadNorms, kRouter, kExperts},
       true},
      {"gemma2", kGemma2, {kModel}, {kPreNorms, kPostNorms, kAttention, kMlp}},
      {"gemma3",
       kGemma3,
       {kModel, kHeadOrTied, kDenseHeads},
       {kPreNorms, kPostNorms, kAttention, kHeadNorms, kMlp}},
      {"phi3", kPhi3, {kModel, kHeadOrTied, kRopeFactors}, {kPreNorms, kAttention, kPhi3Mlp}},
      {"olmo2", kOlmo2, {kModel, kHead}, {kPostNorms, kAttention, kWideNorms, kMlp}, true},
      {"smollm3", kRms, {kModel, kHeadOrTied}, {kPreNorms, kAttention, kMlp}, true},
      {"gpt2", kNorm, {kModel, kHeadOrTied, kGpt2Model}, {kPreNorms, kGpt2}},
      {"gpt-oss", kGptOss, {kModel, kHead}, {kGptOssLayer, kAttention, kRouter, kExperts}},
      {"deepseek2",
       kDeepseek,
       {kModel, kHeadOrTied},
       {kPreNorms, kMla, kMlp, kRouter, kFusedExperts, kShared}},
  };
  return rules;
}

}  // namespace

std::span<const KeyRule> file_keys() { return kFileKeys; }
std::span<const KeyRule> arch_keys() { return kArchKeys; }
std::span<const KeyRule> some_keys() { return kSomeKeys; }

const LoaderRules* find_loader_rules(std::string_view arch) {
  for (const LoaderRules& rules : table()) {
    if (rules.arch == arch) return &rules;
  }
  return nullptr;
}

}  // namespace qp::ggml
