"""What can be wrong with a GGUF: (name, sound file it comes from, function that breaks it).

A function changes a Gguf or, of those in BYTES, returns other bytes. What llama.cpp does with each is at the end, as
tests/peers/ggml/loads.py saw it."""

import struct

import gguf_file as g

NAN = struct.pack("<H", 0x7E00)
TINY, MOE, LATENT = "tiny-lm q8_0", "qwen3_moe q8_0", "deepseek_v3 q8_0"
TOKENS = "tokenizer.ggml."


def f32(*values):
    return bytearray(struct.pack(f"<{len(values)}f", *values))


def drop(*keys):
    def change(f):
        for key in keys:
            del f.keys[key]
    return change


def put(key, *value):
    def change(f):
        f.keys[key] = value
    return change


def both(*changes):
    def change(f):
        for c in changes:
            c(f)
    return change


def drop_tensor(*names):
    def change(f):
        for name in names:
            del f.tensors[name]
    return change


def add(name, dims, kind, data):
    def change(f):
        f.tensors[name] = [dims, kind, data]
    return change


def rename(old, new):
    def change(f):
        f.tensors[new] = f.tensors.pop(old)
    return change


def copy(old, new):
    def change(f):
        f.tensors[new] = f.tensors[old]
    return change


def fill(name, kind, n, dims=None):
    """`name` as `n` bytes of zeros in another type."""
    def change(f):
        f.tensors[name] = [dims or f.tensors[name][0], kind, bytearray(n)]
    return change


def narrow(name, code, kind):
    """An F32 tensor in half the bytes."""
    def change(f):
        values = struct.unpack(f"<{len(f.tensors[name][2]) // 4}f", f.tensors[name][2])
        if code == "e":
            data = struct.pack(f"<{len(values)}e", *values)
        else:
            data = b"".join(struct.pack("<f", v)[2:] for v in values)
        f.tensors[name] = [f.tensors[name][0], kind, bytearray(data)]
    return change


def turned(name):
    def change(f):
        f.tensors[name][0] = f.tensors[name][0][::-1]
    return change


def bad_scale(name):
    def change(f):
        f.tensors[name][2][0:2] = NAN
    return change


def in_list(key, index, value):
    def change(f):
        f.keys[key][2][index] = value
    return change


def shorter(*keys, by=1):
    def change(f):
        for key in keys:
            kind, element, values = f.keys[TOKENS + key]
            f.keys[TOKENS + key] = (kind, element, values[:-by] if by > 0 else values + values[:-by])
    return change


def fused(f):
    """q, k and v in one tensor."""
    for i in range(3):
        parts = [f.tensors.pop(f"blk.{i}.attn_{n}.weight") for n in "qkv"]
        f.tensors[f"blk.{i}.attn_qkv.weight"] = [[256, sum(p[0][1] for p in parts)], parts[0][1],
                                                 bytearray(b"".join(p[2] for p in parts))]


def doubled_heads(f):
    """Twice the heads, half as wide: all shapes fit, the model is another."""
    f.keys["llama.attention.head_count"], f.keys["llama.attention.head_count_kv"] = (g.U32, 8), (g.U32, 4)
    for key in ("attention.key_length", "attention.value_length", "rope.dimension_count"):
        del f.keys["llama." + key]


def layer_beyond(f):
    for name in [n for n in f.tensors if n.startswith("blk.2.")]:
        f.tensors[name.replace("blk.2.", "blk.3.")] = f.tensors[name]


def as_spm(f):
    """tiny-lm's numbers under a vocabulary of SentencePiece's kind: sound, and of another text."""
    n = len(f.keys[TOKENS + "tokens"][2])
    pieces = [b"<unk>", b"<s>", b"</s>", *(b"<0x%02X>" % i for i in range(256))]
    words = [chr(c) for c in range(97, 123)] + ["\u2581" + chr(c) for c in range(97, 123)] + ["\u2581", "th", "the", "\u2581the"]
    pieces += [w.encode() for w in words]
    pieces += [b"piece%d" % i for i in range(n - len(pieces))]
    f.keys[TOKENS + "model"] = (g.STRING, b"llama")
    f.keys[TOKENS + "tokens"] = (g.ARRAY, g.STRING, pieces)
    f.keys[TOKENS + "scores"] = (g.ARRAY, g.F32, [float(-n + i) if i > 300 else float(-i) for i in range(n)])
    f.keys[TOKENS + "token_type"] = (g.ARRAY, g.I32, [2, 3, 3] + [6] * 256 + [1] * (n - 259))
    for name, i in (("unknown", 0), ("bos", 1), ("eos", 2)):
        f.keys[f"{TOKENS}{name}_token_id"] = (g.U32, i)
    for key in ("merges", "pre", "padding_token_id"):
        f.keys.pop(TOKENS + key, None)


SPM = "tiny-lm, SentencePiece"
DERIVED = {SPM: (TINY, as_spm)}

KEYS = [
    *((f"no {k}", TINY, drop(k)) for k in (
        "general.architecture", "general.type", "general.file_type", "general.quantization_version",
        "llama.context_length", "llama.embedding_length", "llama.block_count", "llama.attention.layer_norm_rms_epsilon",
        "llama.attention.head_count", "llama.attention.head_count_kv", "llama.feed_forward_length", "llama.rope.freq_base",
        "llama.rope.dimension_count", "llama.vocab_size", "llama.attention.key_length")),
    *((f"{k}: {what}", TINY, put(k, *v)) for k, what, v in (
        ("general.architecture", "u32", (g.U32, 1)),
        ("general.architecture", "one that is not known", (g.STRING, b"llamaa")),
        ("general.architecture", "mamba", (g.STRING, b"mamba")),
        ("general.architecture", "clip", (g.STRING, b"clip")),
        ("general.architecture", "qwen2", (g.STRING, b"qwen2")),
        ("general.name", "u32", (g.U32, 1)),
        ("general.name", "Phi-3", (g.STRING, b"Phi-3 mini")),
        ("general.type", "u32", (g.U32, 1)),
        ("general.type", "adapter", (g.STRING, b"adapter")),
        ("general.file_type", "u64", (g.U64, 7)),
        ("general.file_type", "one that is not known", (g.U32, 999)),
        ("general.quantization_version", "u64", (g.U64, 2)),
        ("llama.block_count", "u64", (g.U64, 3)),
        ("llama.block_count", "one too few", (g.U32, 2)),
        ("llama.block_count", "one too many", (g.U32, 4)),
        ("llama.block_count", "0", (g.U32, 0)),
        ("llama.block_count", "100000", (g.U32, 100000)),
        ("llama.context_length", "i32", (g.I32, 512)),
        ("llama.context_length", "0", (g.U32, 0)),
        ("llama.embedding_length", "half", (g.U32, 128)),
        ("llama.embedding_length", "0", (g.U32, 0)),
        ("llama.feed_forward_length", "twice", (g.U32, 1024)),
        ("llama.feed_forward_length", "a list for two layers", (g.ARRAY, g.U32, [512, 512])),
        ("llama.feed_forward_length", "a list for three layers", (g.ARRAY, g.U32, [512, 512, 512])),
        ("llama.feed_forward_length", "a list of f32", (g.ARRAY, g.F32, [512, 512, 512])),
        ("llama.attention.head_count", "twice", (g.U32, 8)),
        ("llama.attention.head_count", "0", (g.U32, 0)),
        ("llama.attention.head_count", "i32", (g.I32, 4)),
        ("llama.attention.head_count", "a list of i32", (g.ARRAY, g.I32, [4, 4, 4])),
        ("llama.attention.head_count_kv", "twice", (g.U32, 4)),
        ("llama.attention.head_count_kv", "3", (g.U32, 3)),
        ("llama.attention.key_length", "half", (g.U32, 32)),
        ("llama.attention.value_length", "half", (g.U32, 32)),
        ("llama.rope.dimension_count", "half", (g.U32, 32)),
        ("llama.rope.freq_base", "f64", (g.F64, 1e4)),
        ("llama.rope.freq_base", "NaN", (g.F32, float("nan"))),
        ("llama.rope.scaling.type", "twisted", (g.STRING, b"twisted")),
        ("llama.rope.scaling.type", "u32", (g.U32, 1)),
        ("llama.rope.scaling.type", "none", (g.STRING, b"none")),
        ("llama.attention.layer_norm_rms_epsilon", "u32", (g.U32, 0)),
        ("llama.attention.layer_norm_rms_epsilon", "NaN", (g.F32, float("nan"))),
        ("llama.expert_used_count", "8 of no experts", (g.U32, 8)),
        ("llama.expert_count", "8, none used", (g.U32, 8)),
        ("llama.vocab_size", "less", (g.U32, 100)),
        ("llama.vocab_size", "u64", (g.U64, 512)),
        ("llama.attention.sliding_window", "text, where it is not read", (g.STRING, b"128")),
        ("llama.attention.causal", "u8", (g.U8, 1)),
        ("llama.something.else", "a key that is not known", (g.U32, 1)),
        ("tokenizer.chat_template", "u32", (g.U32, 1)),
        ("split.count", "u32", (g.U32, 1)))),
    ("head counts that lie, shapes that fit", TINY, doubled_heads),
    ("no expert_count", MOE, drop("qwen3moe.expert_count")),
    ("no expert_used_count", MOE, drop("qwen3moe.expert_used_count")),
    ("no expert_feed_forward_length", MOE, drop("qwen3moe.expert_feed_forward_length")),
    ("expert_count: half", MOE, put("qwen3moe.expert_count", g.U32, 4)),
    ("expert_count: 1000", MOE, put("qwen3moe.expert_count", g.U32, 1000)),
    ("expert_used_count: more than there are", MOE, put("qwen3moe.expert_used_count", g.U32, 9)),
    ("expert_used_count: 0", MOE, put("qwen3moe.expert_used_count", g.U32, 0)),
    ("expert_used_count: a list", MOE, put("qwen3moe.expert_used_count", g.ARRAY, g.U32, [2, 2])),
    ("expert_feed_forward_length: a list", MOE, put("qwen3moe.expert_feed_forward_length", g.ARRAY, g.U32, [512, 512])),
    ("rope.dimension_count: half", MOE, put("qwen3moe.rope.dimension_count", g.U32, 32)),
    *((f"no {k}", LATENT, drop("deepseek2." + k)) for k in (
        "attention.q_lora_rank", "attention.kv_lora_rank", "attention.key_length_mla", "expert_shared_count",
        "leading_dense_block_count", "rope.dimension_count", "attention.head_count_kv", "expert_gating_func")),
    ("attention.head_count_kv: that of heads", LATENT, put("deepseek2.attention.head_count_kv", g.U32, 4)),
    ("leading_dense_block_count: 1", LATENT, put("deepseek2.leading_dense_block_count", g.U32, 1)),
    ("expert_weights_norm: u8", LATENT, put("deepseek2.expert_weights_norm", g.U8, 1)),
]

VOCABULARY = [
    *((f"no {k}", TINY, drop(TOKENS + k)) for k in ("model", "tokens", "merges", "pre", "token_type", "bos_token_id", "eos_token_id",
                                                    "padding_token_id", "add_bos_token")),
    *((f"{k}: {what}", TINY, put(TOKENS + k, *v)) for k, what, v in (
        ("model", "one that is not known", (g.STRING, b"gpt3")),
        ("model", "none", (g.STRING, b"none")),
        ("model", "u32", (g.U32, 1)),
        ("pre", "one that is not known", (g.STRING, b"no-such")),
        ("pre", "u32", (g.U32, 1)),
        ("tokens", "a list of u32", (g.ARRAY, g.U32, list(range(512)))),
        ("token_type", "a list of u32", (g.ARRAY, g.U32, [1] * 512)),
        ("merges", "a text", (g.STRING, b"t h")),
        ("scores", "a list of i32", (g.ARRAY, g.I32, [0] * 512)),
        ("scores", "a list of f64", (g.ARRAY, g.F64, [0.0] * 512)),
        ("bos_token_id", "i64", (g.I64, 0)),
        ("bos_token_id", "beyond", (g.U32, 512)),
        ("eos_token_id", "beyond", (g.U32, 100000)),
        ("padding_token_id", "beyond", (g.U32, 512)),
        ("add_bos_token", "u8", (g.U8, 1)),
        ("add_space_prefix", "u32", (g.U32, 0)))),
    ("no vocabulary at all", TINY, lambda f: [f.keys.pop(k) for k in list(f.keys) if k.startswith(TOKENS)]),
    ("token_type: one too few", TINY, shorter("token_type")),
    ("token_type: one too many", TINY, shorter("token_type", by=-1)),
    ("tokens: one less than rows", TINY, shorter("tokens", "token_type")),
    ("tokens: one twice", TINY, lambda f: in_list(TOKENS + "tokens", 100, f.keys[TOKENS + "tokens"][2][99])(f)),
    ("tokens: an empty one", TINY, in_list(TOKENS + "tokens", 511, b"")),
    ("merges: one without a space", TINY, in_list(TOKENS + "merges", 5, b"oneword")),
    ("merges: none", TINY, put(TOKENS + "merges", g.ARRAY, g.STRING, [])),
    ("no scores", SPM, drop(TOKENS + "scores")),
    ("scores: one too few", SPM, shorter("scores")),
    ("no token_type", SPM, drop(TOKENS + "token_type")),
    ("no byte tokens", SPM, lambda f: [in_list(TOKENS + "tokens", 3 + i, b"byte%d" % i)(f) for i in range(256)]),
]

W = "blk.1.ffn_up.weight"
TENSORS = [
    *((f"no {n}", TINY, drop_tensor(n)) for n in ("token_embd.weight", "output_norm.weight", "blk.2.ffn_norm.weight", W,
                                                  "blk.0.attn_q.weight")),
    ("no layer 1", TINY, lambda f: [f.tensors.pop(n) for n in list(f.tensors) if n.startswith("blk.1.")]),
    ("a layer beyond", TINY, layer_beyond),
    ("another name", TINY, rename("blk.0.attn_output.weight", "blk.0.attn_out.weight")),
    ("one too many", TINY, add("extra.weight", [32], 0, f32(*[0] * 32))),
    ("one too many in a layer", TINY, add("blk.0.extra.weight", [32], 0, f32(*[0] * 32))),
    ("a classifier", TINY, add("cls.output.weight", [256, 4], 0, f32(*[0] * 1024))),
    ("a head norm", TINY, add("blk.0.attn_q_norm.weight", [64], 0, f32(*[1] * 64))),
    ("a head of its own", TINY, copy("token_embd.weight", "output.weight")),
    ("rope_freqs of 1", TINY, add("rope_freqs.weight", [32], 0, f32(*[1] * 32))),
    ("rope_freqs, wrong shape", TINY, add("rope_freqs.weight", [64], 0, f32(*[1] * 64))),
    ("rope_factors_long without longrope", TINY, add("rope_factors_long.weight", [32], 0, f32(*[1] * 32))),
    ("rope_freqs with longrope", TINY, both(add("rope_freqs.weight", [32], 0, f32(*[1] * 32)),
                                           put("llama.rope.scaling.type", g.STRING, b"longrope"))),
    ("a bias of 0 at q", TINY, add("blk.0.attn_q.bias", [256], 0, f32(*[0] * 256))),
    ("a bias of 0 at ffn_up", TINY, add("blk.0.ffn_up.bias", [512], 0, f32(*[0] * 512))),
    ("a bias of 0 at the head", TINY, add("output.bias", [512], 0, f32(*[0] * 512))),
    ("a factor 1 beside a weight", TINY, add("blk.0.ffn_up.scale", [1], 0, f32(1))),
    ("a factor beside a weight, wrong shape", TINY, add("blk.0.ffn_up.scale", [2], 0, f32(1, 1))),
    ("a factor beside the embedding", TINY, add("token_embd.scale", [1], 0, f32(1))),
    ("a factor beside a norm", TINY, add("blk.0.attn_norm.scale", [1], 0, f32(1))),
    ("input_scale 1 beside a weight", TINY, add("blk.0.ffn_up.input_scale", [1], 0, f32(1))),
    ("a factor beside the head, which is not NVFP4", TINY, both(copy("token_embd.weight", "output.weight"),
                                                                add("output.scale", [1], 0, f32(1)))),
    ("q, k and v as one", TINY, fused),
    ("turned around", TINY, turned("blk.0.ffn_down.weight")),
    ("a norm with two dimensions", TINY, lambda f: f.tensors["output_norm.weight"].__setitem__(0, [256, 1])),
    ("a norm in F16", TINY, narrow("output_norm.weight", "e", 1)),
    ("a norm in BF16", TINY, narrow("output_norm.weight", "b", 30)),
    ("a layer's norm in F16", TINY, narrow("blk.1.attn_norm.weight", "e", 1)),
    ("a norm in Q8_0", TINY, fill("output_norm.weight", 8, 256 // 32 * 34)),
    ("a bias in F16", TINY, add("blk.0.attn_q.bias", [256], 1, bytearray(512))),
    ("a weight in F64", TINY, fill(W, 28, 256 * 512 * 8)),
    ("a weight in I8", TINY, fill(W, 24, 256 * 512)),
    ("a weight in I32", TINY, fill(W, 26, 256 * 512 * 4)),
    ("a weight in Q8_1", TINY, fill(W, 9, 256 * 512 // 32 * 36)),
    ("a weight in Q8_K", TINY, fill(W, 15, 256 * 512 // 256 * 292)),
    ("an embedding in I8", TINY, fill("token_embd.weight", 24, 256 * 512)),
    ("a weight in F32", TINY, fill(W, 0, 256 * 512 * 4)),
    ("NaN as a block's scale", TINY, bad_scale(W)),
    ("an expert tensor less", MOE, drop_tensor("blk.1.ffn_down_exps.weight")),
    ("no router", MOE, drop_tensor("blk.0.ffn_gate_inp.weight")),
    ("factors of experts", MOE, add("blk.0.ffn_up_exps.scale", [8], 0, f32(*[1] * 8))),
    ("a factor for all experts", MOE, add("blk.0.ffn_up_exps.scale", [1], 0, f32(1))),
    ("a router in F16", MOE, narrow("blk.0.ffn_gate_inp.weight", "e", 1)),
    ("no attn_k_b", LATENT, drop_tensor("blk.0.attn_k_b.weight")),
    ("no exp_probs_b", LATENT, drop_tensor("blk.0.exp_probs_b.bias")),
    ("a dense layer's tensor", LATENT, add("blk.0.ffn_up.weight", [256, 512], 0, f32(*[0] * 131072))),
]


def patched(at, new):
    return lambda data: data[:at] + new + data[at + len(new):]


def name_at(data, name):
    """Where a tensor's dimensions begin in the file."""
    raw = name.encode()
    return data.index(struct.pack("<Q", len(raw)) + raw) + 8 + len(raw)


def of_tensor(name, offset, new):
    """Other bytes in a matrix's entry: rank 4, dims 2*8, type 4, offset 8."""
    def change(data):
        at = name_at(data, name) + offset
        return data[:at] + new + data[at + len(new):]
    return change


def replaced(old, new):
    return lambda data: data.replace(old, new, 1)


def aligned(value, kind=g.U32, layout=None):
    def change(f):
        f.keys["general.alignment"] = (kind, value)
        return layout or value
    return change


# Functions of the file's bytes.
BYTES = [
    ("another magic", TINY, patched(0, b"GGUG")),
    ("empty", TINY, lambda data: b""),
    ("version 1", TINY, patched(4, struct.pack("<I", 1))),
    ("version 4", TINY, patched(4, struct.pack("<I", 4))),
    ("version 0", TINY, patched(4, struct.pack("<I", 0))),
    ("big-endian", TINY, patched(4, struct.pack(">I", 3))),
    ("cut in the header", TINY, lambda data: data[:400]),
    ("cut in the data", TINY, lambda data: data[:-40000]),
    ("cut by a byte", TINY, lambda data: data[:-1]),
    ("bytes after the end", TINY, lambda data: data + b"more"),
    ("more tensors than there are", TINY, patched(8, struct.pack("<Q", 1000))),
    ("2^60 tensors", TINY, patched(8, struct.pack("<Q", 1 << 60))),
    ("more keys than there are", TINY, patched(16, struct.pack("<Q", 1000))),
    ("one tensor less in the count", TINY, patched(8, struct.pack("<Q", 28))),
    ("a key twice", TINY, replaced(b"general.file_type", b"llama.block_count")),
    ("type of a key 99", TINY, replaced(b"llama.block_count" + struct.pack("<I", 4), b"llama.block_count" + struct.pack("<I", 99))),
    ("a key's length of 2^40", TINY, patched(24, struct.pack("<Q", 1 << 40))),
    ("a tensor twice", TINY, replaced(b"blk.1.attn_q.weight", b"blk.0.attn_q.weight")),
    ("tensor type 99", TINY, of_tensor(W, 20, struct.pack("<I", 99))),
    ("tensor type 4, which ggml has removed", TINY, of_tensor(W, 20, struct.pack("<I", 4))),
    ("tensor type 31, which ggml has removed", TINY, of_tensor(W, 20, struct.pack("<I", 31))),
    ("offset 32 further", TINY, lambda data: of_tensor(W, 24, struct.pack("<Q", 32 + struct.unpack_from("<Q", data, name_at(data, W) + 24)[0]))(data)),
    ("offset beyond the file", TINY, of_tensor(W, 24, struct.pack("<Q", 1 << 40))),
    ("five dimensions", TINY, of_tensor(W, 0, struct.pack("<I", 5))),
    ("a dimension of 0", TINY, of_tensor(W, 4, struct.pack("<Q", 0))),
    ("a dimension of -1", TINY, of_tensor(W, 4, struct.pack("<q", -1))),
    ("rows of 33 in blocks of 32", TINY, of_tensor(W, 4, struct.pack("<Q", 33))),
]

# Files written with another alignment: the function returns that of the layout.
ALIGNED = [
    ("alignment 64", TINY, aligned(64)),
    ("alignment 8", TINY, aligned(8)),
    ("alignment 4", TINY, aligned(4)),
    ("alignment 1", TINY, aligned(1)),
    ("alignment 24", TINY, aligned(24)),
    ("alignment 0", TINY, aligned(0, layout=32)),
    ("alignment as u64", TINY, aligned(32, g.U64)),
    ("alignment 64, laid out by 32", TINY, aligned(64, layout=32)),
    ("a tensor name of 64 bytes", TINY, lambda f: rename(W, "x" * 64)(f) or 32),
]


# Weights of other numbers: only whether what comes out is finite is looked at.
OTHER_NUMBERS = {name for name, *_ in TENSORS if name.startswith(("a weight in", "an embedding in", "a router in"))}


def kinds():
    """(group, name, the sound file it comes from, what breaks it)"""
    for group, rows in (("keys", KEYS), ("vocabulary", VOCABULARY), ("tensors", TENSORS), ("file", BYTES + ALIGNED)):
        for row in rows:
            yield group, *row


def make(base, change, out):
    """Writes the broken file of one kind."""
    if any(change is c for _, _, c in BYTES):
        out.write_bytes(change(base.read_bytes()))
        return
    f = g.Gguf(base)
    alignment = change(f)
    f.save(out, alignment if any(change is c for _, _, c in ALIGNED) else 32)


LOADS, LIES, REFUSES = "loads and uses everything", "loads but lies", "refuses"
# What llama.cpp 0.3.36's was seen to load all the same, and to load as another model; it refuses the others.
SEEN_LOADS = {
    "no general.type", "no general.file_type", "no general.quantization_version", "no llama.rope.freq_base",
    "no llama.rope.dimension_count", "no llama.vocab_size", "no llama.attention.key_length", "general.type: u32", "general.type: adapter",
    "general.file_type: one that is not known", "general.quantization_version: u64", "llama.context_length: 0",
    "llama.feed_forward_length: a list for three layers", "llama.attention.head_count: a list of i32", "llama.rope.scaling.type: none",
    "llama.vocab_size: less", "llama.attention.sliding_window: text, where it is not read", "llama.something.else: a key that is not known",
    "tokenizer.chat_template: u32", "expert_used_count: a list", "expert_feed_forward_length: a list", "no leading_dense_block_count",
    "no padding_token_id", "scores: a list of i32", "padding_token_id: beyond", "token_type: one too many", "tokens: an empty one",
    "a head of its own", "rope_freqs of 1", "a bias of 0 at q", "a bias of 0 at ffn_up", "a factor 1 beside a weight",
    "input_scale 1 beside a weight", "q, k and v as one", "a norm with two dimensions", "a weight in F32", "factors of experts",
    "a router in F16", "bytes after the end", "alignment 64", "alignment 64, laid out by 32"}
SEEN_LIES = {
    "llama.rope.freq_base: NaN", "head counts that lie, shapes that fit", "no expert_gating_func", "no pre", "no token_type",
    "no bos_token_id", "no eos_token_id", "no add_bos_token", "bos_token_id: beyond", "eos_token_id: beyond",
    "merges: one without a space", "merges: none", "no scores", "NaN as a block's scale", "no exp_probs_b"}
# What qverify says instead, and why.
DIFFERENT = {
    "head counts that lie, shapes that fit": (LOADS, "both are models of these shapes"),
    "no add_bos_token": (LOADS, "only the model's maker knows whether a text begins with a token"),
    "no exp_probs_b": (LOADS, "a model may have been made without it"),
    "NaN as a block's scale": (LOADS, "headers only are read; qverify without --target finds it (nan-scale)"),
}


def seen(name):
    return LOADS if name in SEEN_LOADS else LIES if name in SEEN_LIES else REFUSES
