#!/usr/bin/env python3
"""Writes a random BF16 checkpoint of a given architecture and size, fast and in little memory.

    python tests/data/make_random_model.py DIR --arch llama --hidden 2048 --layers 16 \\
        --intermediate 8192 --vocab 32000 --shard-size 1G

DIR gets config.json and model.safetensors, or shards of at most --shard-size with
model.safetensors.index.json. Weights are normal with standard deviation 0.02 and a few input
columns 16 times as large in every matrix; norms are near 1, biases near 0. They are not drawn
one by one: one block of 8 million values is drawn and each tensor reads it round and round from
an offset of its own. The same arguments give the same bytes. For benches and tests of speed and
shapes; nothing in the output means anything.

Needs numpy only.
"""

import argparse
import json
import struct
import sys
import zlib
from pathlib import Path

import numpy as np

STD, OUTLIERS, OUTLIER_FACTOR = 0.02, 4, 16.0
BLOCK = 8388593  # values drawn; prime, so that no row comes back inside a tensor
CHUNK = 1 << 22  # values written at once


# --------------------------------------------------------------------------------------- values


def to_bf16(x):
    """Round to nearest even, as uint16. The values are finite."""
    bits = np.ascontiguousarray(x, dtype=np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2")


class Values:
    """Endless random values: one block, read round and round from any offset."""

    def __init__(self, seed):
        rng = np.random.default_rng(seed)
        block = rng.standard_normal(BLOCK, dtype=np.float32) * np.float32(STD)
        self.seed = seed
        self.plain = to_bf16(block)
        self.large = to_bf16(block * np.float32(OUTLIER_FACTOR))
        self.norm = to_bf16(1.0 + block)
        self.bias = self.plain

    def write(self, out, name, shape, kind):
        """Writes the tensor's bytes row-major; depends only on seed, name, shape, kind."""
        key = zlib.crc32(f"{self.seed}/{name}".encode())
        if kind == "matrix":
            rows, cols = int(np.prod(shape[:-1])), shape[-1]
            columns = np.random.default_rng(key).choice(cols, min(OUTLIERS, cols), replace=False)
            step = max(1, CHUNK // cols)
            for first in range(0, rows, step):
                count = min(step, rows - first)
                take = self.take(self.plain, key + first * cols, count * cols)
                chunk = take.reshape(count, cols)
                chunk[:, columns] = self.take(self.large, key + first, count * len(columns)
                                              ).reshape(count, -1)
                out.write(chunk.data)
        elif kind == "f32":
            values = self.take(self.plain, key, int(np.prod(shape)))
            out.write((values.astype("<u4") << 16).data)
        else:
            out.write(self.take(getattr(self, kind), key, int(np.prod(shape))).data)

    @staticmethod
    def take(source, offset, count):
        out = np.empty(count, dtype=source.dtype)
        at, done = offset % len(source), 0
        while done < count:
            n = min(count - done, len(source) - at)
            out[done : done + n] = source[at : at + n]
            at, done = 0, done + n
        return out


# -------------------------------------------------------------------------------- architectures


def common_config(a, model_type, architecture, **more):
    return {
        "architectures": [architecture], "model_type": model_type, "torch_dtype": "bfloat16",
        "vocab_size": a.vocab, "hidden_size": a.hidden, "intermediate_size": a.intermediate,
        "num_hidden_layers": a.layers, "num_attention_heads": a.heads,
        "num_key_value_heads": a.kv_heads, "hidden_act": "silu", "initializer_range": STD,
        "max_position_embeddings": 4096, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
        "rope_scaling": None, "attention_dropout": 0.0, "use_cache": True, "bos_token_id": 1,
        "eos_token_id": 2, "tie_word_embeddings": a.tied, **more}


def outer(a, layers):
    """Embedding, layers, final norm, head: the frame of every family here."""
    yield "model.embed_tokens.weight", (a.vocab, a.hidden), "matrix"
    for n in range(a.layers):
        p = f"model.layers.{n}."
        yield p + "input_layernorm.weight", (a.hidden,), "norm"
        yield p + "post_attention_layernorm.weight", (a.hidden,), "norm"
        yield from layers(n, p)
    yield "model.norm.weight", (a.hidden,), "norm"
    if not a.tied:
        yield "lm_head.weight", (a.vocab, a.hidden), "matrix"


def attention(a, p, bias=False, head_norm=False):
    p += "self_attn."
    q, kv = a.heads * a.head_dim, a.kv_heads * a.head_dim
    for name, rows in (("q_proj", q), ("k_proj", kv), ("v_proj", kv)):
        yield p + name + ".weight", (rows, a.hidden), "matrix"
        if bias:
            yield p + name + ".bias", (rows,), "bias"
    yield p + "o_proj.weight", (a.hidden, q), "matrix"
    if head_norm:
        yield p + "q_norm.weight", (a.head_dim,), "norm"
        yield p + "k_norm.weight", (a.head_dim,), "norm"


def gated_mlp(a, p, width, names=("gate_proj", "up_proj", "down_proj")):
    gate, up, down = names
    yield f"{p}{gate}.weight", (width, a.hidden), "matrix"
    yield f"{p}{up}.weight", (width, a.hidden), "matrix"
    yield f"{p}{down}.weight", (a.hidden, width), "matrix"


def llama(a):
    def layer(_, p):
        yield from attention(a, p)
        yield from gated_mlp(a, p + "mlp.", a.intermediate)

    config = common_config(a, "llama", "LlamaForCausalLM", head_dim=a.head_dim,
                           attention_bias=False, mlp_bias=False)
    return config, outer(a, layer)


def qwen3(a):
    def layer(_, p):
        yield from attention(a, p, head_norm=True)
        yield from gated_mlp(a, p + "mlp.", a.intermediate)

    config = common_config(a, "qwen3", "Qwen3ForCausalLM", head_dim=a.head_dim,
                           attention_bias=False, use_sliding_window=False, sliding_window=None)
    return config, outer(a, layer)


def mixtral(a):
    def layer(_, p):
        yield from attention(a, p)
        moe = p + "block_sparse_moe."
        yield moe + "gate.weight", (a.experts, a.hidden), "matrix"
        for e in range(a.experts):
            yield from gated_mlp(a, f"{moe}experts.{e}.", a.intermediate, ("w1", "w3", "w2"))

    config = common_config(a, "mixtral", "MixtralForCausalLM", head_dim=a.head_dim,
                           num_local_experts=a.experts, num_experts_per_tok=min(2, a.experts),
                           sliding_window=None, output_router_logits=False)
    return config, outer(a, layer)


def qwen2_moe(a):
    """--intermediate is the width of an expert; the shared expert is four times as wide."""
    shared = 4 * a.intermediate

    def layer(_, p):
        yield from attention(a, p, bias=True)
        p += "mlp."
        yield p + "gate.weight", (a.experts, a.hidden), "matrix"
        for e in range(a.experts):
            yield from gated_mlp(a, f"{p}experts.{e}.", a.intermediate)
        yield from gated_mlp(a, p + "shared_expert.", shared)
        yield p + "shared_expert_gate.weight", (1, a.hidden), "matrix"

    if a.head_dim * a.heads != a.hidden:
        sys.exit("error: qwen2_moe has no head_dim: hidden must be heads * head_dim")
    config = common_config(
        a, "qwen2_moe", "Qwen2MoeForCausalLM", moe_intermediate_size=a.intermediate,
        shared_expert_intermediate_size=shared, num_experts=a.experts,
        num_experts_per_tok=min(4, a.experts), norm_topk_prob=False, decoder_sparse_step=1,
        mlp_only_layers=[], qkv_bias=True, use_sliding_window=False, sliding_window=None)
    config["intermediate_size"] = shared
    return config, outer(a, layer)


def deepseek(a):
    """DeepSeek-V3: latent attention, layer 0 dense, then experts of --intermediate, one shared.

    The dense layer is four experts wide. The multi-token-prediction layer is left out.
    """
    nope, rope, v, kv_lora, q_lora = 128, 64, 128, 512, a.q_lora
    groups = 4 if a.experts % 4 == 0 and a.experts >= 8 else 1
    dense = 4 * a.intermediate

    def latent_attention(p):
        p += "self_attn."
        if q_lora:
            yield p + "q_a_proj.weight", (q_lora, a.hidden), "matrix"
            yield p + "q_a_layernorm.weight", (q_lora,), "norm"
            yield p + "q_b_proj.weight", (a.heads * (nope + rope), q_lora), "matrix"
        else:
            yield p + "q_proj.weight", (a.heads * (nope + rope), a.hidden), "matrix"
        yield p + "kv_a_proj_with_mqa.weight", (kv_lora + rope, a.hidden), "matrix"
        yield p + "kv_a_layernorm.weight", (kv_lora,), "norm"
        yield p + "kv_b_proj.weight", (a.heads * (nope + v), kv_lora), "matrix"
        yield p + "o_proj.weight", (a.hidden, a.heads * v), "matrix"

    def layer(n, p):
        yield from latent_attention(p)
        p += "mlp."
        if n == 0:
            yield from gated_mlp(a, p, dense)
            return
        yield p + "gate.weight", (a.experts, a.hidden), "matrix"
        yield p + "gate.e_score_correction_bias", (a.experts,), "f32"
        for e in range(a.experts):
            yield from gated_mlp(a, f"{p}experts.{e}.", a.intermediate)
        yield from gated_mlp(a, p + "shared_experts.", a.intermediate)

    config = common_config(
        a, "deepseek_v3", "DeepseekV3ForCausalLM", q_lora_rank=q_lora or None,
        kv_lora_rank=kv_lora, qk_nope_head_dim=nope, qk_rope_head_dim=rope, v_head_dim=v,
        n_routed_experts=a.experts, n_shared_experts=1, moe_intermediate_size=a.intermediate,
        num_experts_per_tok=min(4, a.experts), first_k_dense_replace=1, n_group=groups,
        topk_group=max(1, groups // 2), routed_scaling_factor=2.5, norm_topk_prob=True,
        topk_method="noaux_tc", scoring_func="sigmoid", moe_layer_freq=1, rope_interleave=True,
        attention_bias=False)
    config.update(intermediate_size=dense, num_key_value_heads=a.heads)
    return config, outer(a, layer)


ARCHS = {"llama": llama, "mixtral": mixtral, "qwen2_moe": qwen2_moe, "qwen3": qwen3,
         "deepseek": deepseek}


# -------------------------------------------------------------------------------------- writing


def tensor_bytes(shape, kind):
    return int(np.prod(shape)) * (4 if kind == "f32" else 2)


def plan_shards(tensors, limit):
    """Fills shards in order; a tensor larger than the limit gets one of its own."""
    shards, size = [[]], 0
    for t in tensors:
        n = tensor_bytes(t[1], t[2])
        if shards[-1] and size + n > limit:
            shards.append([])
            size = 0
        shards[-1].append(t)
        size += n
    return shards


def write_shard(path, tensors, values):
    """safetensors: u64 header length, JSON header padded to 8 bytes, tensor bytes."""
    tensors = sorted(tensors, key=lambda t: (t[2] != "f32", t[0]))  # widest elements first
    header, at = {"__metadata__": {"format": "pt"}}, 0
    for name, shape, kind in tensors:
        n = tensor_bytes(shape, kind)
        header[name] = {"dtype": "F32" if kind == "f32" else "BF16", "shape": list(shape),
                        "data_offsets": [at, at + n]}
        at += n
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    partial = path.with_name(path.name + ".partial")
    with open(partial, "wb") as out:
        out.write(struct.pack("<Q", len(text)) + text)
        for name, shape, kind in tensors:
            values.write(out, name, shape, kind)
    partial.rename(path)
    return at


def write_model(a):
    a.dir.mkdir(parents=True, exist_ok=True)
    if any(a.dir.glob("*.safetensors*")):
        sys.exit(f"error: {a.dir} already holds a model")
    config, tensors = ARCHS[a.arch](a)
    shards, values = plan_shards(tensors, a.shard_size), Values(a.seed)
    total, weight_map = 0, {}
    for i, shard in enumerate(shards):
        name = "model.safetensors"
        if len(shards) > 1:
            name = f"model-{i + 1:05d}-of-{len(shards):05d}.safetensors"
        total += write_shard(a.dir / name, shard, values)
        weight_map.update((t[0], name) for t in shard)
    if len(shards) > 1:
        index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
        (a.dir / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")
    (a.dir / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    print(f"{a.dir}: {len(weight_map)} tensors, {total} bytes, {len(shards)} file(s)")


def parse_size(text):
    units = {"K": 10**3, "M": 10**6, "G": 10**9}
    number, unit = (text[:-1], units[text[-1].upper()]) if text[-1].upper() in units else (text, 1)
    return int(float(number) * unit)


def main():
    ap = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    ap.add_argument("dir", type=Path)
    ap.add_argument("--arch", choices=sorted(ARCHS), default="llama")
    ap.add_argument("--hidden", type=int, default=1024)
    ap.add_argument("--layers", type=int, default=4)
    ap.add_argument("--intermediate", type=int, default=2816, help="width of the MLP or expert")
    ap.add_argument("--experts", type=int, default=8)
    ap.add_argument("--vocab", type=int, default=32000)
    ap.add_argument("--heads", type=int, help="default: hidden / head-dim")
    ap.add_argument("--kv-heads", type=int, help="default: heads / 4, at least 1")
    ap.add_argument("--head-dim", type=int, default=64)
    ap.add_argument("--q-lora", type=int, default=0, help="deepseek: rank of q, 0 for none")
    ap.add_argument("--shard-size", type=parse_size, default=parse_size("5G"),
                    help="bytes, or with K, M, G (decimal); default 5G")
    ap.add_argument("--seed", type=int, default=0)
    ap.add_argument("--tied", action="store_true", help="no lm_head.weight")
    a = ap.parse_args()
    a.heads = a.heads or max(1, a.hidden // a.head_dim)
    a.kv_heads = a.kv_heads or max(1, a.heads // 4)
    if a.heads % a.kv_heads:
        sys.exit(f"error: {a.kv_heads} key/value heads do not divide {a.heads} heads")
    write_model(a)
    return 0


if __name__ == "__main__":
    sys.exit(main())
