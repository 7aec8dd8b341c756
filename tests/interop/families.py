"""Small random models of every family that the engine runs, made by transformers' own classes."""

import json
import math
from pathlib import Path

import torch
import transformers as tf
from safetensors.torch import load_file, save_file

VOCAB = 101
BASE = dict(vocab_size=VOCAB, hidden_size=72, intermediate_size=88, num_hidden_layers=3,
            num_attention_heads=6, num_key_value_heads=2, max_position_embeddings=256,
            bos_token_id=0, eos_token_id=1, pad_token_id=None)
EXPERTS = dict(moe_intermediate_size=40, num_experts=6, num_experts_per_tok=2)
LONG = [1.0 + 0.3 * i for i in range(6)]
SHORT = [1.0 + 0.05 * i for i in range(6)]


def rope(kind, theta=10000.0, **more):
    return dict(rope_parameters=dict(rope_type=kind, rope_theta=theta, **more))


def yarn(**more):
    return rope("yarn", **{"factor": 4.0, "original_max_position_embeddings": 64, **more})


MLA = dict(BASE, num_key_value_heads=6, q_lora_rank=24, kv_lora_rank=20, qk_nope_head_dim=10,
           qk_rope_head_dim=8, v_head_dim=14, moe_intermediate_size=40, n_routed_experts=8,
           num_experts_per_tok=3, first_k_dense_replace=1, routed_scaling_factor=1.7)
VISION = dict(depth=1, num_heads=2, hidden_size=32, intermediate_size=32, out_hidden_size=72,
              fullatt_block_indexes=[0])
LLAMA3 = rope("llama3", 500000.0, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
              original_max_position_embeddings=64)

# name: (model class, config class, fields)
CASES = {
    "llama": (tf.LlamaForCausalLM, tf.LlamaConfig, BASE),
    "llama biases tied": (tf.LlamaForCausalLM, tf.LlamaConfig,
                          dict(BASE, attention_bias=True, mlp_bias=True, tie_word_embeddings=True,
                               num_key_value_heads=6, hidden_act="gelu")),
    "llama llama3": (tf.LlamaForCausalLM, tf.LlamaConfig, dict(BASE, **LLAMA3, head_dim=16)),
    "llama linear": (tf.LlamaForCausalLM, tf.LlamaConfig, dict(BASE, **rope("linear", factor=3.0))),
    "llama dynamic": (tf.LlamaForCausalLM, tf.LlamaConfig,
                      dict(BASE, **rope("dynamic", factor=2.0), max_position_embeddings=64)),
    "llama yarn": (tf.LlamaForCausalLM, tf.LlamaConfig, dict(BASE, **yarn())),
    "llama yarn mscale": (tf.LlamaForCausalLM, tf.LlamaConfig,
                          dict(BASE, **yarn(mscale=0.7, mscale_all_dim=1.2, beta_fast=16))),
    "llama longrope": (tf.LlamaForCausalLM, tf.LlamaConfig,
                       dict(BASE, **rope("longrope", long_factor=LONG, short_factor=SHORT,
                                         original_max_position_embeddings=64))),
    "mistral window": (tf.MistralForCausalLM, tf.MistralConfig, dict(BASE, sliding_window=12)),
    "mistral nemo": (tf.MistralForCausalLM, tf.MistralConfig,
                     dict(BASE, sliding_window=None, head_dim=20)),
    "ministral": (tf.MinistralForCausalLM, tf.MinistralConfig,
                  dict(BASE, sliding_window=9, head_dim=16,
                       layer_types=["sliding_attention", "full_attention", "sliding_attention"])),
    "qwen2": (tf.Qwen2ForCausalLM, tf.Qwen2Config, dict(BASE, tie_word_embeddings=True)),
    "qwen2 sliding": (tf.Qwen2ForCausalLM, tf.Qwen2Config,
                      dict(BASE, use_sliding_window=True, sliding_window=10, max_window_layers=1)),
    "qwen3": (tf.Qwen3ForCausalLM, tf.Qwen3Config, dict(BASE, head_dim=16)),
    "qwen3 sliding bias": (tf.Qwen3ForCausalLM, tf.Qwen3Config,
                           dict(BASE, head_dim=24, attention_bias=True, use_sliding_window=True,
                                sliding_window=7, max_window_layers=2)),
    "gemma2": (tf.Gemma2ForCausalLM, tf.Gemma2Config,
               dict(BASE, head_dim=20, sliding_window=11, query_pre_attn_scalar=30,
                    attn_logit_softcapping=5.0, final_logit_softcapping=4.0)),
    "gemma3": (tf.Gemma3ForCausalLM, tf.Gemma3TextConfig,
               dict(BASE, num_hidden_layers=7, head_dim=16, sliding_window=6,
                    query_pre_attn_scalar=16)),
    "gemma3 scaled": (tf.Gemma3ForCausalLM, tf.Gemma3TextConfig,
                      dict(BASE, head_dim=16, sliding_window=6, query_pre_attn_scalar=16,
                           sliding_window_pattern=2, final_logit_softcapping=6.0,
                           rope_parameters=dict(
                               full_attention=dict(rope_type="linear", factor=8.0, rope_theta=1e6),
                               sliding_attention=dict(rope_type="default", rope_theta=5e3)))),
    "phi3": (tf.Phi3ForCausalLM, tf.Phi3Config, dict(BASE, sliding_window=20)),
    "phi3 longrope": (tf.Phi3ForCausalLM, tf.Phi3Config,
                      dict(BASE, original_max_position_embeddings=64,
                           **rope("longrope", long_factor=LONG, short_factor=SHORT))),
    "phi3 partial": (tf.Phi3ForCausalLM, tf.Phi3Config,
                     dict(BASE, hidden_size=96, original_max_position_embeddings=64,
                          tie_word_embeddings=True,
                          **rope("longrope", long_factor=LONG, short_factor=SHORT,
                                 partial_rotary_factor=0.75))),
    "olmo2": (tf.Olmo2ForCausalLM, tf.Olmo2Config, BASE),
    "smollm3": (tf.SmolLM3ForCausalLM, tf.SmolLM3Config, dict(BASE, num_hidden_layers=4)),
    "smollm3 list": (tf.SmolLM3ForCausalLM, tf.SmolLM3Config,
                     dict(BASE, no_rope_layers=[0, 1, 0], use_sliding_window=True,
                          sliding_window=13, tie_word_embeddings=False)),
    "gpt2": (tf.GPT2LMHeadModel, tf.GPT2Config,
             dict(vocab_size=VOCAB, n_embd=72, n_layer=3, n_head=6, n_positions=200)),
    "gpt2 options": (tf.GPT2LMHeadModel, tf.GPT2Config,
                     dict(vocab_size=VOCAB, n_embd=72, n_layer=2, n_head=4, n_positions=200,
                          n_inner=100, activation_function="relu", tie_word_embeddings=False,
                          scale_attn_by_inverse_layer_idx=True)),
    "opt": (tf.OPTForCausalLM, tf.OPTConfig,
            dict(BASE, ffn_dim=88, num_key_value_heads=6)),
    "opt post-norm": (tf.OPTForCausalLM, tf.OPTConfig,
                      dict(BASE, ffn_dim=88, num_key_value_heads=6, do_layer_norm_before=False)),
    "mixtral": (tf.MixtralForCausalLM, tf.MixtralConfig,
                dict(BASE, num_local_experts=5, num_experts_per_tok=2, head_dim=16)),
    "mixtral window": (tf.MixtralForCausalLM, tf.MixtralConfig,
                       dict(BASE, num_local_experts=4, num_experts_per_tok=3, sliding_window=15)),
    "qwen2_moe": (tf.Qwen2MoeForCausalLM, tf.Qwen2MoeConfig,
                  dict(BASE, **EXPERTS, shared_expert_intermediate_size=48, num_hidden_layers=4,
                       decoder_sparse_step=2)),
    "qwen2_moe normed": (tf.Qwen2MoeForCausalLM, tf.Qwen2MoeConfig,
                         dict(BASE, **EXPERTS, shared_expert_intermediate_size=48, qkv_bias=False,
                              norm_topk_prob=True, mlp_only_layers=[1], use_sliding_window=True,
                              sliding_window=9, max_window_layers=2)),
    "qwen3_moe": (tf.Qwen3MoeForCausalLM, tf.Qwen3MoeConfig,
                  dict(BASE, **EXPERTS, head_dim=16, norm_topk_prob=True)),
    "qwen3_moe raw": (tf.Qwen3MoeForCausalLM, tf.Qwen3MoeConfig,
                      dict(BASE, **EXPERTS, head_dim=12, mlp_only_layers=[0],
                           use_sliding_window=True, sliding_window=14)),
    "deepseek_v2": (tf.DeepseekV2ForCausalLM, tf.DeepseekV2Config,
                    dict(MLA, n_shared_experts=2, **yarn(mscale=0.7, mscale_all_dim=0.7))),
    "deepseek_v2 groups": (tf.DeepseekV2ForCausalLM, tf.DeepseekV2Config,
                           dict(MLA, n_shared_experts=1, q_lora_rank=None, n_group=4, topk_group=2,
                                topk_method="group_limited_greedy")),
    "deepseek_v3": (tf.DeepseekV3ForCausalLM, tf.DeepseekV3Config,
                    dict(MLA, n_shared_experts=1, n_group=4, topk_group=2,
                         **yarn(mscale=1.0, mscale_all_dim=1.0))),
    "deepseek_v3 flat": (tf.DeepseekV3ForCausalLM, tf.DeepseekV3Config,
                         dict(MLA, n_shared_experts=2, n_group=1, topk_group=1, q_lora_rank=None,
                              norm_topk_prob=False, rope_interleave=False)),
    "gpt_oss": (tf.GptOssForCausalLM, tf.GptOssConfig,
                dict(BASE, head_dim=16, num_local_experts=6, num_experts_per_tok=3,
                     sliding_window=9,
                     **rope("yarn", 150000.0, factor=4.0, beta_fast=32.0, beta_slow=1.0,
                            truncate=False, original_max_position_embeddings=64))),
    "qwen2_vl": (tf.Qwen2VLForConditionalGeneration, tf.Qwen2VLConfig,
                 dict(text_config=dict(BASE, **rope("default", 1e6, mrope_section=[2, 2, 2])),
                      vision_config=dict(VISION, embed_dim=32, hidden_size=72))),
    "qwen2_5_vl": (tf.Qwen2_5_VLForConditionalGeneration, tf.Qwen2_5_VLConfig,
                   dict(text_config=dict(BASE, tie_word_embeddings=True,
                                         **rope("default", 1e6, mrope_section=[2, 2, 2])),
                        vision_config=VISION, tie_word_embeddings=True)),
    "gemma3 multimodal": (tf.Gemma3ForConditionalGeneration, tf.Gemma3Config,
                          dict(text_config=dict(BASE, head_dim=16, sliding_window=6,
                                                sliding_window_pattern=2),
                               vision_config=dict(hidden_size=32, intermediate_size=32,
                                                  num_hidden_layers=1, num_attention_heads=2,
                                                  image_size=28, patch_size=14),
                               mm_tokens_per_image=4, image_token_index=100)),
}


def randomize(model, seed):
    """Weights so large that softmax, routers and rotations matter: the classes' own are tiny."""
    generator = torch.Generator().manual_seed(seed)
    one = 0.0 if "gemma" in model.config.model_type else 1.0
    for name, p in [*model.named_parameters(), *model.named_buffers()]:
        if not p.is_floating_point() or "inv_freq" in name or "embed_scale" in name:
            continue
        noise = torch.randn(p.shape, generator=generator)
        if "norm" in name or ".ln_" in name:
            p.data = 0.3 * noise + (0.0 if name.endswith("bias") else one)
        elif p.dim() < 2 or name.endswith("bias"):  # biases, sinks
            p.data = 0.4 * noise
        elif "embed" in name or "wte" in name or "wpe" in name:
            p.data = 0.5 * noise
        else:
            inputs = p.shape[-2] if model.config.model_type in ("gpt2", "gpt_oss") else p.shape[-1]
            gain = 1.8 if any(s in name for s in ("q_", "k_", "qkv", "gate.", "router")) else 1.0
            p.data = noise * gain / math.sqrt(inputs)


def build(name, directory, dtype=torch.bfloat16, seed=0):
    """Saves the model of a case, as save_pretrained writes it."""
    model_class, config_class, fields = CASES[name]
    model = model_class(config_class(**fields))
    randomize(model, seed)
    model.to(dtype).save_pretrained(directory)
    return Path(directory)


def load(directory, dtype):
    config = tf.AutoConfig.from_pretrained(directory)
    model_class = getattr(tf, config.architectures[0])
    return model_class.from_pretrained(directory, dtype=dtype, attn_implementation="eager").eval()


def edit_config(directory, change):
    path = Path(directory) / "config.json"
    config = json.loads(path.read_text())
    change(config)
    path.write_text(json.dumps(config))


def edit_tensors(directory, change):
    """change: {name: tensor} -> {name: tensor}"""
    path = Path(directory) / "model.safetensors"
    save_file({n: t.contiguous() for n, t in change(load_file(path)).items()}, path,
              metadata={"format": "pt"})


@torch.no_grad()
def log_probs(model, windows):
    logits = [model(torch.tensor([w])).logits[0].double() for w in windows]
    return torch.log_softmax(torch.cat(logits), -1)
