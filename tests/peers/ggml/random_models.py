"""Models of random BF16 weights with tiny-lm's tokenizer, in the shapes of several families."""

import json
import shutil

import numpy as np

HIDDEN, INNER, EXPERTS = 256, 512, 8


def write(directory, tiny, architecture, model_type, layer, config=None, layers=8, head=None):
    """`layer` names the shapes of a layer's tensors; `tiny` is the folder of tiny-lm."""
    directory.mkdir()
    for file in tiny.iterdir():
        if file.name.startswith(("tokenizer", "special")):
            shutil.copy(file, directory)
    base = json.loads((tiny / "config.json").read_text())
    vocab = base["vocab_size"]
    whole = {"architectures": [architecture], "model_type": model_type, "hidden_size": HIDDEN, "vocab_size": vocab,
             "num_hidden_layers": layers, "num_attention_heads": 4, "num_key_value_heads": 1, "head_dim": 64,
             "intermediate_size": INNER, "max_position_embeddings": 512, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
             "tie_word_embeddings": False, "torch_dtype": "bfloat16",
             "bos_token_id": base.get("bos_token_id", 1), "eos_token_id": base.get("eos_token_id", 2)} | (config or {})
    (directory / "config.json").write_text(json.dumps(whole))
    shapes = head or {"model.embed_tokens.weight": (vocab, HIDDEN), "model.norm.weight": (HIDDEN,)}
    if not head and not whole["tie_word_embeddings"]:
        shapes["lm_head.weight"] = (vocab, HIDDEN)
    stack = "h" if head else "model.layers"
    for i in range(layers):
        shapes |= {f"{stack}.{i}.{n}": s for n, s in layer.items()}
    rng, header, data = np.random.default_rng(7), {}, b""
    for name, shape in shapes.items():
        x = (rng.standard_normal(shape) * 0.05 + len(shape) % 2).astype(np.float32)
        raw = (x.view(np.uint32) >> 16).astype(np.uint16).tobytes()
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps(header).encode()
    (directory / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + data)


def experts(prefix, names, inner=INNER):
    gate, up, down = names
    return {f"{prefix}.{e}.{w}.weight": s for e in range(EXPERTS)
            for w, s in ((gate, (inner, HIDDEN)), (up, (inner, HIDDEN)), (down, (HIDDEN, inner)))}


def named(prefix, **shapes):
    return {f"{prefix}{name}.weight": shape for name, shape in shapes.items()}


ATTENTION = {f"self_attn.{n}_proj.weight": s for n, s in
             (("q", (256, 256)), ("k", (64, 256)), ("v", (64, 256)), ("o", (256, 256)))}
NORMS = {"input_layernorm.weight": (256,), "post_attention_layernorm.weight": (256,)}
HEAD_NORMS = {"self_attn.q_norm.weight": (64,), "self_attn.k_norm.weight": (64,)}
POST_NORMS = {"pre_feedforward_layernorm.weight": (256,), "post_feedforward_layernorm.weight": (256,)}
MLP = {"mlp.gate_proj.weight": (512, 256), "mlp.up_proj.weight": (512, 256), "mlp.down_proj.weight": (256, 512)}
BIASES = {"self_attn.q_proj.bias": (256,), "self_attn.k_proj.bias": (64,), "self_attn.v_proj.bias": (64,)}
MIXTRAL = experts("block_sparse_moe.experts", ("w1", "w3", "w2"))
APART = experts("mlp.experts", ("gate_proj", "up_proj", "down_proj"))
ROUTER = {"mlp.gate.weight": (EXPERTS, 256)}
# Those whose every file type llama.cpp.py compares.
QUANTIZED = {
    "llama": ("LlamaForCausalLM", "llama", ATTENTION | NORMS | MLP, {}),
    "qwen2": ("Qwen2ForCausalLM", "qwen2", ATTENTION | NORMS | MLP | BIASES, {}),
    "mixtral": ("MixtralForCausalLM", "mixtral", ATTENTION | NORMS | MIXTRAL | {"block_sparse_moe.gate.weight": (8, 256)},
                {"num_local_experts": 8, "num_experts_per_tok": 2}),
    "gemma2": ("Gemma2ForCausalLM", "gemma2", ATTENTION | NORMS | MLP | POST_NORMS,
               {"tie_word_embeddings": True, "hidden_activation": "gelu_pytorch_tanh", "query_pre_attn_scalar": 64,
                "sliding_window": 128, "attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0}),
}

LATENTS = named("self_attn.", q_a_proj=(256, 256), q_a_layernorm=(256,), q_b_proj=(4 * 96, 256), kv_a_proj_with_mqa=(256 + 32, 256),
                kv_a_layernorm=(256,), kv_b_proj=(4 * 128, 256), o_proj=(256, 256))
SHARED = named("mlp.shared_experts.", gate_proj=(512, 256), up_proj=(512, 256), down_proj=(256, 512))
QWEN_SHARED = named("mlp.shared_expert.", gate_proj=(512, 256), up_proj=(512, 256), down_proj=(256, 512)) | {
    "mlp.shared_expert_gate.weight": (1, 256)}
MOE = {"num_experts": EXPERTS, "num_experts_per_tok": 2, "moe_intermediate_size": 512}
DEEPSEEK = {"n_routed_experts": EXPERTS, "num_experts_per_tok": 2, "moe_intermediate_size": 512, "n_shared_experts": 1,
            "first_k_dense_replace": 0, "q_lora_rank": 256, "kv_lora_rank": 256, "qk_nope_head_dim": 64, "qk_rope_head_dim": 32,
            "v_head_dim": 64, "num_key_value_heads": 4, "routed_scaling_factor": 1.5, "n_group": 1, "topk_group": 1}
GPT_OSS = ATTENTION | NORMS | BIASES | ROUTER | {
    "self_attn.o_proj.bias": (256,), "self_attn.sinks": (4,), "mlp.router.weight": (EXPERTS, 256), "mlp.router.bias": (EXPERTS,),
    "mlp.experts.gate_up_proj": (EXPERTS, 256, 1024), "mlp.experts.gate_up_proj_bias": (EXPERTS, 1024),
    "mlp.experts.down_proj": (EXPERTS, 512, 256), "mlp.experts.down_proj_bias": (EXPERTS, 256)}
del GPT_OSS["mlp.gate.weight"]
GPT2 = {f"{n}.{p}": s for n, rows, cols in (("attn.c_attn", 256, 768), ("attn.c_proj", 256, 256), ("mlp.c_fc", 256, 512),
                                            ("mlp.c_proj", 512, 256)) for p, s in (("weight", (rows, cols)), ("bias", (cols,)))}
GPT2 |= {f"ln_{i}.{p}": (256,) for i in (1, 2) for p in ("weight", "bias")}
# Beside them: what loads.py loads.
MORE = {
    "qwen3": ("Qwen3ForCausalLM", "qwen3", ATTENTION | NORMS | MLP | HEAD_NORMS, {}),
    "qwen3_moe": ("Qwen3MoeForCausalLM", "qwen3_moe", ATTENTION | NORMS | HEAD_NORMS | ROUTER | APART, MOE | {"norm_topk_prob": True}),
    "qwen2_moe": ("Qwen2MoeForCausalLM", "qwen2_moe", ATTENTION | NORMS | BIASES | ROUTER | APART | QWEN_SHARED,
                  MOE | {"norm_topk_prob": False, "shared_expert_intermediate_size": 512}),
    "deepseek_v3": ("DeepseekV3ForCausalLM", "deepseek_v3",
                    LATENTS | NORMS | ROUTER | APART | SHARED | {"mlp.gate.e_score_correction_bias": (EXPERTS,)}, DEEPSEEK),
    "deepseek_v2": ("DeepseekV2ForCausalLM", "deepseek_v2", LATENTS | NORMS | ROUTER | APART | SHARED, DEEPSEEK),
    "gemma3": ("Gemma3ForCausalLM", "gemma3_text", ATTENTION | NORMS | MLP | POST_NORMS | HEAD_NORMS,
               {"tie_word_embeddings": True, "hidden_activation": "gelu_pytorch_tanh", "query_pre_attn_scalar": 64,
                "sliding_window": 128}),
    # llama.cpp looks up Phi-3's tokens where general.name, which is the folder's, has "phi3" or "phi-3".
    "phi_3": ("Phi3ForCausalLM", "phi3", NORMS | named("", **{"self_attn.qkv_proj": (384, 256), "self_attn.o_proj": (256, 256),
                                                            "mlp.gate_up_proj": (1024, 256), "mlp.down_proj": (256, 512)}), {}),
    "olmo2": ("Olmo2ForCausalLM", "olmo2",
              ATTENTION | MLP | named("", post_attention_layernorm=(256,), post_feedforward_layernorm=(256,))
              | {"self_attn.q_norm.weight": (256,), "self_attn.k_norm.weight": (64,)}, {}),
    "smollm3": ("SmolLM3ForCausalLM", "smollm3", ATTENTION | NORMS | MLP, {}),
    "gpt_oss": ("GptOssForCausalLM", "gpt_oss", GPT_OSS, {"num_local_experts": EXPERTS, "num_experts_per_tok": 2, "sliding_window": 128}),
    "gpt2": ("GPT2LMHeadModel", "gpt2", GPT2, {"n_embd": 256, "n_layer": 2, "n_head": 4, "n_positions": 512, "n_inner": 512,
                                               "tie_word_embeddings": True, "layer_norm_epsilon": 1e-5}),
}
GPT2_HEAD = {"wte.weight": (512, 256), "wpe.weight": (512, 256), "ln_f.weight": (256,), "ln_f.bias": (256,)}
