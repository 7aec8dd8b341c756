"""Small checkpoints of random weights whose experts are apart or stacked, and with a vision tower:
names and shapes as published checkpoints have them."""

import json

from support import Weights, count, write_safetensors

H, F, E = 128, 128, 2  # hidden, inner width of an expert, experts
COMMON = {"torch_dtype": "bfloat16", "hidden_size": H, "num_hidden_layers": 1, "vocab_size": 32,
          "num_attention_heads": 2, "num_key_value_heads": 2, "tie_word_embeddings": False}


def attention(p):
    for name in "qkvo":
        yield f"{p}self_attn.{name}_proj.weight", (H, H)


def frame(layer, prefix="model."):
    yield prefix + "embed_tokens.weight", (32, H)
    yield prefix + "layers.0.input_layernorm.weight", (H,)
    yield from layer(prefix + "layers.0.")
    yield prefix + "layers.0.post_attention_layernorm.weight", (H,)
    yield prefix + "norm.weight", (H,)
    yield prefix.removesuffix("model.") + "lm_head.weight", (32, H)


def dense(p):
    yield from attention(p)
    yield p + "mlp.gate_proj.weight", (F, H)
    yield p + "mlp.up_proj.weight", (F, H)
    yield p + "mlp.down_proj.weight", (H, F)


def mixtral(p):
    yield from attention(p)
    yield p + "block_sparse_moe.gate.weight", (E, H)
    for e in range(E):
        for name, shape in (("w1", (F, H)), ("w2", (H, F)), ("w3", (F, H))):
            yield f"{p}block_sparse_moe.experts.{e}.{name}.weight", shape


def apart(p):
    for e in range(E):
        for name, shape in (("gate", (F, H)), ("up", (F, H)), ("down", (H, F))):
            yield f"{p}experts.{e}.{name}_proj.weight", shape


def deepseek_v3(p):
    yield p + "self_attn.q_a_proj.weight", (H, H)
    yield p + "self_attn.q_a_layernorm.weight", (H,)
    yield p + "self_attn.q_b_proj.weight", (2 * H, H)
    yield p + "self_attn.kv_a_proj_with_mqa.weight", (H + 64, H)
    yield p + "self_attn.kv_a_layernorm.weight", (H,)
    yield p + "self_attn.kv_b_proj.weight", (2 * H, H)
    yield p + "self_attn.o_proj.weight", (H, H)
    yield p + "mlp.gate.weight", (E, H)
    yield from apart(p + "mlp.")
    for name, shape in (("gate", (F, H)), ("up", (F, H)), ("down", (H, F))):
        yield f"{p}mlp.shared_experts.{name}_proj.weight", shape


def stacked(p):
    """As transformers 5 holds the experts of Qwen, Mixtral and DeepSeek: [out, in]."""
    yield from attention(p)
    yield p + "mlp.gate.weight", (E, H)
    yield p + "mlp.experts.gate_up_proj", (E, 2 * F, H)
    yield p + "mlp.experts.down_proj", (E, H, F)


def llama4(p):
    """[in, out], gate's columns before up's."""
    yield from attention(p)
    yield p + "feed_forward.router.weight", (E, H)
    yield p + "feed_forward.experts.gate_up_proj", (E, H, 2 * F)
    yield p + "feed_forward.experts.down_proj", (E, F, H)


def gpt_oss(p):
    """[in, out], gate and up in alternating columns."""
    yield from attention(p)
    yield p + "mlp.router.weight", (E, H)
    yield p + "mlp.experts.gate_up_proj", (E, H, 2 * F)
    yield p + "mlp.experts.gate_up_proj_bias", (E, 2 * F)
    yield p + "mlp.experts.down_proj", (E, F, H)
    yield p + "mlp.experts.down_proj_bias", (E, H)


def gpt2():
    yield "wte.weight", (32, H)
    yield "wpe.weight", (16, H)
    for name, out, inner in (("attn.c_attn", 3 * H, H), ("attn.c_proj", H, H), ("mlp.c_fc", 4 * H, H),
                             ("mlp.c_proj", H, 4 * H)):
        yield f"h.0.{name}.weight", (inner, out)
        yield f"h.0.{name}.bias", (out,)
    yield "ln_f.weight", (H,)


def qwen2_vl():
    yield "visual.patch_embed.proj.weight", (64, 3, 2, 4, 4)
    yield "visual.blocks.0.attn.qkv.weight", (192, 64)
    yield "visual.blocks.0.mlp.fc1.weight", (128, 64)
    yield "visual.merger.mlp.0.weight", (256, 256)
    yield from frame(dense)


def gemma3():
    yield "vision_tower.vision_model.encoder.layers.0.self_attn.q_proj.weight", (64, 64)
    yield "vision_tower.vision_model.encoder.layers.0.mlp.fc1.weight", (128, 64)
    yield "multi_modal_projector.mm_input_projection_weight", (64, H)
    yield "multi_modal_projector.mm_soft_emb_norm.weight", (64,)
    yield from frame(dense, "language_model.model.")


# name: (shapes, what config.json adds)
MODELS = {
    "mixtral": (lambda: frame(mixtral), {"architectures": ["MixtralForCausalLM"], "model_type": "mixtral"}),
    "deepseek_v3": (lambda: frame(deepseek_v3), {"architectures": ["DeepseekV3ForCausalLM"], "model_type": "deepseek_v3"}),
    "qwen3_moe": (lambda: frame(stacked), {"architectures": ["Qwen3MoeForCausalLM"], "model_type": "qwen3_moe"}),
    "llama4": (lambda: frame(llama4), {"architectures": ["Llama4ForCausalLM"], "model_type": "llama4_text"}),
    "gpt_oss": (lambda: frame(gpt_oss), {"architectures": ["GptOssForCausalLM"], "model_type": "gpt_oss"}),
    "gpt2": (gpt2, {"architectures": ["GPT2LMHeadModel"], "model_type": "gpt2", "tie_word_embeddings": True}),
    "qwen2_vl": (qwen2_vl, {"architectures": ["Qwen2VLForConditionalGeneration"], "model_type": "qwen2_vl",
                            "vision_config": {"depth": 1, "embed_dim": 64}}),
    "gemma3": (gemma3, {"architectures": ["Gemma3ForConditionalGeneration"], "model_type": "gemma3",
                        "text_config": {k: v for k, v in COMMON.items() if k != "torch_dtype"}}),
}
PROCESSOR = {"preprocessor_config.json": '{"image_processor_type": "Qwen2VLImageProcessor"}',
             "processor_config.json": '{"image_seq_length": 256}', "chat_template.json": '{"chat_template": "{{ x }}"}'}


def write(name, directory):
    """Writes the model; returns {tensor: (dtype, shape, bytes)}."""
    shapes, config = MODELS[name]
    directory.mkdir(parents=True, exist_ok=True)
    weights = Weights(seed=3)
    tensors = {n: ("BF16", s, weights.take(count(s))) for n, s in shapes()}
    write_safetensors(directory / "model.safetensors", tensors)
    (directory / "config.json").write_text(json.dumps({**COMMON, **config}, indent=2) + "\n")
    if "vision" in " ".join(tensors) or "visual" in " ".join(tensors):
        for file, text in PROCESSOR.items():
            (directory / file).write_text(text)
    return tensors


def apart_of(name, tensors):
    """The same model with its experts apart, [out, in], by the definition of the stack's layout."""
    out = {}
    turn, alternate = name in ("llama4", "gpt_oss"), name == "gpt_oss"
    for tensor, (dtype, shape, data) in tensors.items():
        prefix, _, kind = tensor.rpartition(".")
        if not prefix.endswith("experts"):
            out[tensor] = (dtype, shape, data)
            continue
        bias = kind.endswith("_bias")
        rows, cols = (shape[1], 1) if bias else (shape[2], shape[1]) if turn else (shape[1], shape[2])
        for e in range(shape[0]):
            base = e * rows * cols
            matrix = []
            for o in range(rows):
                at = [base + i * rows + o if turn or bias else base + o * cols + i for i in range(cols)]
                matrix.append(b"".join(data[2 * i:2 * i + 2] for i in at))
            if kind.startswith("down"):
                parts = {"down": matrix}
            elif alternate:
                parts = {"gate": matrix[0::2], "up": matrix[1::2]}
            else:
                parts = {"gate": matrix[:rows // 2], "up": matrix[rows // 2:]}
            for part, m in parts.items():
                suffix, dims = ("bias", (len(m),)) if bias else ("weight", (len(m), cols))
                out[f"{prefix}.{e}.{part}_proj.{suffix}"] = (dtype, dims, b"".join(m))
    return out


__all__ = ["MODELS", "PROCESSOR", "apart_of", "write"]
