#!/usr/bin/env python3
"""Makes the fixtures of the GGUF tests.

    python tests/data/gguf/make_gguf_fixtures.py            # rewrites them; git diff stays empty

dequantize.txt: one line per block: type, the block in hex, its values in hex (f32, little-endian)
as gguf-py 0.19.0 dequantizes them. q8_K, q1_0 and q2_0 are not in gguf-py: their lines are d * q in
numpy, in f32 (reference: ggml-common.h), and plain numbers are cast. ../../fuzz/corpus/gguf/*: small whole files, written by
gguf-py's GGUFWriter, as seeds for the fuzzer.
"""

from pathlib import Path

import gguf
import numpy as np
from gguf import GGMLQuantizationType as T

HERE = Path(__file__).resolve().parent
CORPUS = HERE.parents[1] / "fuzz" / "corpus" / "gguf"
# Offsets of the half-precision scales inside a block: kept finite, everything else is random.
SCALES = {T.F32: [], T.F16: [0], T.BF16: [], T.Q4_0: [0], T.Q4_1: [0, 2], T.Q5_0: [0],
          T.Q5_1: [0, 2], T.Q8_0: [0], T.Q2_K: [80, 82], T.Q3_K: [108], T.Q4_K: [0, 2],
          T.Q5_K: [0, 2], T.Q6_K: [208], T.Q8_K: [],
          T.IQ4_NL: [0], T.IQ4_XS: [0], T.TQ1_0: [52], T.TQ2_0: [64], T.MXFP4: [], T.NVFP4: [], T.Q1_0: [0],
          T.I8: [], T.I16: [], T.I32: [], T.I64: [], T.F64: [],
          T.IQ2_XXS: [0], T.IQ2_XS: [0], T.IQ2_S: [0], T.IQ3_XXS: [0], T.IQ3_S: [0], T.IQ1_S: [0], T.IQ1_M: []}
PLAIN = {T.I8: np.int8, T.I16: np.int16, T.I32: np.int32, T.I64: np.int64, T.F64: np.float64}


def block(rng, kind):
    data = rng.integers(0, 256, gguf.GGML_QUANT_SIZES[kind][1], dtype=np.uint8)
    for at in SCALES[kind]:
        if data[at + 1] & 0x7C == 0x7C:
            data[at + 1] &= 0x83
    if kind in (T.F32, T.BF16, T.Q8_K):  # a finite number that is no subnormal
        top = 1 if kind == T.BF16 else 3
        data[top] = 0x3D
    if kind == T.F64:
        data[6:] = (0xF3, 0x3F)
    if kind == T.IQ1_M:  # the scale's exponent begins in the last byte
        data[55] &= 0xBF
    if kind == T.MXFP4:
        data[0] = 0x7B
    return data


def values(kind, data):
    if kind == T.Q8_K:
        return data[:4].view(np.float32) * data[4:260].view(np.int8).astype(np.float32)
    if kind == T.Q1_0:
        return data[:2].view(np.float16).astype(np.float32) * (
            np.unpackbits(data[2:], bitorder="little").astype(np.float32) * 2 - 1)
    if kind in PLAIN:
        return data.view(PLAIN[kind]).astype(np.float32)
    return gguf.dequantize(data.reshape(1, -1), kind).ravel().astype(np.float32)


def write_vectors():
    rng = np.random.default_rng(2024)
    lines = ["# type block values; made by make_gguf_fixtures.py with gguf-py"]
    for kind in SCALES:
        for _ in range(2):
            data = block(rng, kind)
            lines.append(f"{kind.name.lower()} {data.tobytes().hex()} "
                         f"{values(kind, data).tobytes().hex()}")
    # Half-precision corner cases: subnormals, zeros, the largest number.
    for bits in (0x0001, 0x83FF, 0x8000, 0x7BFF, 0x0400):
        data = np.array([bits], np.uint16).view(np.uint8)
        lines.append(f"f16 {data.tobytes().hex()} {values(T.F16, data).tobytes().hex()}")
    for _ in range(2):  # 64 two-bit fields that stand for -1 .. 2
        data = rng.integers(0, 256, 18, dtype=np.uint8)
        data[1] = 0x2C
        q = np.stack([data[2:] >> shift & 3 for shift in (0, 2, 4, 6)], axis=1).astype(np.float32) - 1
        d = data[:2].view(np.float16).astype(np.float32)
        lines.append(f"q2_0 {data.tobytes().hex()} {(q.ravel() * d).tobytes().hex()}")
    (HERE / "dequantize.txt").write_text("\n".join(lines) + "\n")


def writer(name, arch):
    CORPUS.mkdir(parents=True, exist_ok=True)
    return gguf.GGUFWriter(CORPUS / name, arch)


def finish(w):
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


def add_llama(w, kind):
    """One layer of width 32, every matrix of one type."""
    w.add_context_length(64)
    w.add_embedding_length(32)
    w.add_block_count(1)
    w.add_feed_forward_length(32)
    w.add_head_count(2)
    w.add_head_count_kv(1)
    w.add_layer_norm_rms_eps(1e-5)
    rng = np.random.default_rng(1)

    def matrix(name, rows):
        data = rng.standard_normal((rows, 32), dtype=np.float32)
        stored = data if kind == T.F32 else gguf.quantize(data, kind)
        w.add_tensor(name, stored, raw_dtype=kind)

    matrix("token_embd.weight", 8)
    for name in ("output_norm", "blk.0.attn_norm", "blk.0.ffn_norm"):
        w.add_tensor(name + ".weight", np.ones(32, np.float32))
    for name, rows in [("attn_q", 32), ("attn_k", 16), ("attn_v", 16), ("attn_output", 32),
                       ("ffn_gate", 32), ("ffn_up", 32), ("ffn_down", 32)]:
        matrix(f"blk.0.{name}.weight", rows)


def write_seeds():
    w = writer("llama-spm-q8_0.gguf", "llama")
    w.add_tokenizer_model("llama")
    w.add_token_list(["<unk>", "<s>", "</s>", "\u2581", "a", "b", "ab", "\u2581ab"])
    w.add_token_scores([0.0, 0.0, 0.0, -4.0, -5.0, -6.0, -1.0, -2.0])
    w.add_token_types([2, 3, 3, 1, 1, 1, 1, 1])
    w.add_bos_token_id(1)
    w.add_eos_token_id(2)
    w.add_chat_template("{{ messages }}")
    add_llama(w, T.Q8_0)
    finish(w)

    w = writer("llama-bpe-q4_0.gguf", "llama")
    w.add_tokenizer_model("gpt2")
    w.add_tokenizer_pre("llama-bpe")
    w.add_token_list(["a", "b", "ab", "\u0120", "\u0120ab", "<|eot_id|>", "<think>", "[PAD7]"])
    w.add_token_types([1, 1, 1, 1, 1, 3, 4, 5])
    w.add_token_merges(["a b", "\u0120 ab"])
    w.add_bos_token_id(5)
    w.add_eos_token_id(5)
    w.add_custom_alignment(64)
    add_llama(w, T.Q4_0)
    finish(w)

    w = writer("other-f32.gguf", "qwen2")
    w.add_array("qwen2.numbers", [1, 2, 3])
    w.add_float64("qwen2.double", 0.5)
    w.add_int8("qwen2.small", -3)
    w.add_uint64("qwen2.large", 1 << 40)
    w.add_tensor("token_embd.weight", np.arange(12, dtype=np.float32).reshape(3, 4))
    w.add_tensor("ids", np.arange(6, dtype=np.int32).reshape(1, 2, 3))
    finish(w)


if __name__ == "__main__":
    write_vectors()
    write_seeds()
