#!/usr/bin/env python3
"""Compares what qpipe reads from GGUF files with gguf-py, transformers and llama.cpp.

    python tests/interop/gguf_interop.py --build BUILD --cache CACHE [--data DIR] [--vocabs DIR]

CACHE holds smollm2.gguf and smollm2-bf16 (tests/data/make_smollm2.py); DIR a Llama checkpoint in
BF16 with a SentencePiece tokenizer.json and tokenizer.model; VOCABS llama.cpp's models/
(ggml-vocab-NAME.gguf with .inp and .out, whose ids llama.cpp computed). Missing inputs are
reported as skipped. Each GGUF goes through `qload --dequantize | qexport -f safetensors`.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
warnings.filterwarnings("ignore")

import gguf  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402
from gguf import GGMLQuantizationType as T  # noqa: E402
from safetensors import safe_open  # noqa: E402

DECODED = [T.Q4_0, T.Q4_1, T.Q5_0, T.Q5_1, T.Q8_0, T.Q2_K, T.Q3_K, T.Q4_K, T.Q5_K, T.Q6_K]
CONFIG_KEYS = ["hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
               "num_key_value_heads", "head_dim", "max_position_embeddings", "vocab_size",
               "rms_norm_eps", "tie_word_embeddings", "model_type", "hidden_act",
               "attention_bias", "mlp_bias", "bos_token_id", "eos_token_id"]


class Report:
    def __init__(self):
        self.failures = 0

    def check(self, what, ok, detail=""):
        print(("ok    " if ok else "FAIL  ") + what + (f": {detail}" if detail and not ok else ""))
        self.failures += not ok

    def skip(self, what, why):
        print(f"skip  {what}: {why}")


class Tools:
    """The programs under test."""

    def __init__(self, build, tool):
        self.build, self.tool = build, tool

    def export(self, source, out, dtype=None):
        if self.tool:
            command = [self.tool, source, out] + ([dtype] if dtype else [])
            return subprocess.run(command, check=True)
        load = [self.find("qload"), source, "--dequantize"]
        if dtype:
            load += ["--dtype", dtype]
        first = subprocess.Popen(load, stdout=subprocess.PIPE)
        subprocess.run([self.find("qexport"), "-f", "safetensors", "-o", out], stdin=first.stdout,
                       stdout=subprocess.DEVNULL, check=True)
        first.stdout.close()
        return first.wait()

    def find(self, name):
        return next(p for p in (self.build / name, self.build / "bin" / name, name)
                    if not isinstance(p, Path) or p.exists())


def tensors_of(folder):
    out = {}
    for file in sorted(Path(folder).glob("*.safetensors")):
        with safe_open(file, "pt") as f:
            out.update({name: f.get_tensor(name) for name in f.keys()})
    return out


def same_bits(a, b):
    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    kinds = {2: torch.int16, 4: torch.int32}
    kind = kinds[a.element_size()]
    return torch.equal(a.contiguous().view(kind), b.contiguous().view(kind))


def differing(found, expected):
    """Names that differ, in either set or in bits."""
    names = set(found) ^ set(expected)
    names |= {n for n in set(found) & set(expected) if not same_bits(found[n], expected[n])}
    return sorted(names)


# ------------------------------------------------------------------------- synthetic Llama files


def permute(rows, heads):
    """llama.cpp's order of q and k: the halves of each head interleaved."""
    shape = rows.shape
    return rows.reshape(heads, 2, shape[0] // heads // 2, *shape[1:]).swapaxes(1, 2).reshape(shape)


def finite_blocks(rng, kind, rows, cols):
    """Random blocks whose half-precision scales are finite: all other bits are free."""
    block, size = gguf.GGML_QUANT_SIZES[kind]
    data = rng.integers(0, 256, (rows * cols // block, size), dtype=np.uint8)
    scales = {T.Q4_0: [0], T.Q4_1: [0, 2], T.Q5_0: [0], T.Q5_1: [0, 2], T.Q8_0: [0],
              T.Q2_K: [80, 82], T.Q3_K: [108], T.Q4_K: [0, 2], T.Q5_K: [0, 2], T.Q6_K: [208]}[kind]
    for at in scales:
        high = data[:, at + 1]
        data[:, at + 1] = np.where((high & 0x7C) == 0x7C, high & 0x83, high)
    return data.reshape(rows, cols // block * size)


def llama_names(layers):
    """{GGUF name: HF name} as transformers' LlamaForCausalLM and gguf-py's own tables give it."""
    table = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, layers)
    hf = ["model.embed_tokens", "model.norm", "lm_head"]
    for i in range(layers):
        hf += [f"model.layers.{i}.{x}" for x in (
            "input_layernorm", "post_attention_layernorm", "self_attn.q_proj", "self_attn.k_proj",
            "self_attn.v_proj", "self_attn.o_proj", "mlp.gate_proj", "mlp.up_proj",
            "mlp.down_proj")]
    return {table.get_name(n) + s: n + s for n in hf for s in (".weight", ".bias")}


def add_llama_keys(w, hidden, ffn, layers, heads, kv, context=512, eps=1e-5, theta=10000.0):
    w.add_context_length(context)
    w.add_embedding_length(hidden)
    w.add_block_count(layers)
    w.add_feed_forward_length(ffn)
    w.add_head_count(heads)
    w.add_head_count_kv(kv)
    w.add_layer_norm_rms_eps(eps)
    w.add_rope_freq_base(theta)


def finish(w):
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


def synthetic(path, kind, rng, rope=None):
    """A Llama of one layer with biases, its matrices of one type; returns what F32 must come out."""
    hidden, ffn, heads, kv, vocab = 256, 512, 4, 2, 64
    w = gguf.GGUFWriter(path, "llama")
    add_llama_keys(w, hidden, ffn, 1, heads, kv, theta=500000.0)
    names = llama_names(1)
    expected = {}

    def add(name, rows, cols=None, permuted=0):
        if cols is None:
            stored = values = rng.standard_normal(rows, dtype=np.float32)
            w.add_tensor(name, stored)
        else:
            stored = finite_blocks(rng, kind, rows, cols)
            values = gguf.dequantize(stored, kind).reshape(rows, cols)
            w.add_tensor(name, stored, raw_dtype=kind)
        if permuted:  # the inverse: HF's row is found where permute() put it
            order = permute(np.arange(rows), permuted)
            back = np.empty_like(values)
            back[order] = values
            values = back
        expected[names[name]] = torch.from_numpy(values.astype(np.float32))

    q, k = hidden, hidden // heads * kv
    for name, rows, cols in [("token_embd", vocab, hidden), ("output", vocab, hidden)]:
        add(name + ".weight", rows, cols)
    add("output_norm.weight", hidden)
    for name in ("attn_norm", "ffn_norm"):
        add(f"blk.0.{name}.weight", hidden)
    for name, rows, cols, permuted in [
            ("attn_q", q, hidden, heads), ("attn_k", k, hidden, kv), ("attn_v", k, hidden, 0),
            ("attn_output", hidden, q, 0), ("ffn_gate", ffn, hidden, 0), ("ffn_up", ffn, hidden, 0),
            ("ffn_down", hidden, ffn, 0)]:
        add(f"blk.0.{name}.weight", rows, cols, permuted)
        add(f"blk.0.{name}.bias", rows, None, permuted)
    if rope is not None:
        w.add_tensor("rope_freqs.weight", rope)
    finish(w)
    return expected


def llama3_factors(theta, dim, factor, low, high, original):
    """As transformers computes them: the ratio of its plain and scaled frequencies."""
    from transformers import LlamaConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    config = LlamaConfig(hidden_size=dim * 4, num_attention_heads=4, head_dim=dim,
                         max_position_embeddings=131072,
                         rope_parameters=dict(rope_type="llama3", rope_theta=theta, factor=factor,
                                              low_freq_factor=low, high_freq_factor=high,
                                              original_max_position_embeddings=original))
    scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](config, "cpu")
    plain = 1.0 / theta ** (torch.arange(0, dim, 2, dtype=torch.int64).float() / dim)
    return (plain / scaled).numpy().astype(np.float32)


def check_types(r, tools, work):
    rng = np.random.default_rng(7)
    for kind in DECODED:
        path = work / f"{kind.name}.gguf"
        expected = synthetic(path, kind, rng)
        tools.export(path, work / kind.name, "F32")
        bad = differing(tensors_of(work / kind.name), expected)
        r.check(f"{kind.name}: every value has gguf-py's bits", not bad, bad[:5])


def check_rope(r, tools, work):
    rng = np.random.default_rng(8)
    for scaling in [(8.0, 1.0, 4.0, 8192), (32.0, 1.0, 4.0, 8192), (16.0, 1.0, 8.0, 4096)]:
        name = "rope%d" % scaling[0]
        synthetic(work / f"{name}.gguf", T.Q8_0, rng, llama3_factors(500000.0, 64, *scaling))
        tools.export(work / f"{name}.gguf", work / name)
        found = json.loads((work / name / "config.json").read_text())["rope_scaling"]
        expected = dict(factor=scaling[0], low_freq_factor=scaling[1], high_freq_factor=scaling[2],
                        original_max_position_embeddings=scaling[3], rope_type="llama3")
        r.check(f"rope_freqs.weight becomes rope_scaling {scaling}", found == expected, found)


# ------------------------------------------------------------------------------------ tokenizers

TEXTS = [
    "", " ", "  ", "   \t\n\r\n \n\n  x", "Hello world", " leading", "trailing  ", "a  b   c    d",
    "don't we'll I'M YOU'RE it's", "1 22 333 4444 55555 3.14159 1,000,000 ½ ² Ⅷ ٣٤",
    "x1y22z 3a  4 b\n5\t6", "日本語のテキスト。中文测试！한국어 문장", "Привет, мир! Γειά σου Κόσμε",
    "😀👩‍👩‍👧‍👦🏳️‍🌈🇩🇪 é e\u0301 ﬁ ﷺ \u202eabc\u202c", "\u0000\u0001\u0007\u001b[0m\u007f\u0085\ufeff\u200b\u2028",
    "def f(x):\n    return x**2  # comment\n\n\nprint(f(3))\n", "<|im_start|>user\nhi<|im_end|>\n",
    "<s>hi</s> <unk><|endoftext|>", "<s> hi </s>", "<0x41><0x0A>", "\u2581under\u2581score\u2581",
    "https://example.org/a_b-c?d=e&f=%20#g", "$$$ ~~~ ``` ^^^ ||| <<<>>> +=+ {}[]()",
    "נוסח בעברית مرحبا بالعالم हिन्दी ไทย", "\U0001f9ff\U000e0041\U0010ffff \ue000", "ÀÉÎõü ß ẞ ı İ ǅ",
    "\u00a0\u3000\u2003 wide\u00a0spaces", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
]


def texts():
    """The list above and seeded random mixtures of scripts, spaces, digits and symbols."""
    rng = random.Random(5)
    pools = ["abcdefgh THE the ", "0123456789", " \t\n\r", "!?.,;:'\"()-_/\\|<>$%^`~", "äöüßéñçø",
             "漢字仮名交じり文", "абвгд", "😀🎉👍🏽", "\u0301\u200d\u00ad\u2028", "ابت٠١٢"]
    out = list(TEXTS)
    for _ in range(400):
        out.append("".join(rng.choice(rng.choice(pools)) for _ in range(rng.randrange(1, 60))))
    return out


def load_tokenizer(folder):
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast.from_pretrained(folder)


def ids_differ(ours, theirs, samples):
    return [t for t in samples if ours(t)["input_ids"] != theirs(t)["input_ids"]]


def add_padding_model(w, vocab):
    """The least Llama a vocabulary can belong to."""
    add_llama_keys(w, 32, 32, 1, 1, 1)
    one = lambda *shape: np.ones(shape, np.float32)  # noqa: E731
    w.add_tensor("token_embd.weight", one(vocab, 32))
    w.add_tensor("output_norm.weight", one(32))
    for name in ("attn_norm", "ffn_norm"):
        w.add_tensor(f"blk.0.{name}.weight", one(32))
    for name in ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"):
        w.add_tensor(f"blk.0.{name}.weight", one(32, 32))


def check_vocab(r, tools, work, source):
    """llama.cpp's own expected ids for one of its vocabulary files."""
    name = source.stem.replace("ggml-vocab-", "")
    reader = gguf.GGUFReader(source)
    w = gguf.GGUFWriter(work / f"vocab-{name}.gguf", "llama")
    for key, field in reader.fields.items():
        if key.startswith("tokenizer.ggml."):
            sub = field.types[1] if len(field.types) > 1 else None
            w.add_key_value(key, field.contents(), field.types[0], sub)
    add_padding_model(w, len(reader.fields["tokenizer.ggml.tokens"].data))
    finish(w)
    out = work / f"vocab-{name}"
    tools.export(work / f"vocab-{name}.gguf", out)
    if not (out / "tokenizer.json").exists():
        return r.skip(f"llama.cpp vocabulary {name}", "no tokenizer.json (warned)")
    tokenizer = load_tokenizer(out)
    inputs = Path(f"{source}.inp").read_text(encoding="utf-8").split("\n__ggml_vocab_test__\n")[:-1]
    expected = Path(f"{source}.out").read_text().split("\n")
    encode = lambda text: tokenizer(text, add_special_tokens=False)["input_ids"]  # noqa: E731
    bad = [text for text, line in zip(inputs, expected)
           if encode(text) != [int(x) for x in line.split()]]
    return r.check(f"llama.cpp vocabulary {name}: {len(inputs)} texts", not bad, bad)


# ---------------------------------------------------------------------------------- real models


def check_smollm2(r, tools, work, cache):
    source, dense = cache / "smollm2.gguf", cache / "smollm2-bf16"
    if not (source.exists() and dense.exists()):
        return r.skip("SmolLM2", f"{source} or {dense} is missing")
    out = work / "smollm2"
    tools.export(source, out)
    expected = tensors_of(dense)
    found = {n: t.to(torch.bfloat16) for n, t in tensors_of(out).items()}
    bad = differing(found, expected)
    what = f"SmolLM2: {len(expected)} weights as transformers reads them, in BF16"
    r.check(what, not bad, bad[:5])

    from transformers import AutoConfig, AutoTokenizer
    ours = AutoConfig.from_pretrained(out)
    theirs = AutoConfig.from_pretrained(source.parent, gguf_file=source.name)
    bad = [(k, getattr(ours, k), getattr(theirs, k)) for k in CONFIG_KEYS
           if not close(getattr(ours, k), getattr(theirs, k))]
    bad += [] if ours.rope_parameters == theirs.rope_parameters else ["rope_parameters"]
    r.check("SmolLM2: config as transformers reads it", not bad, bad)

    mine = load_tokenizer(out)
    # transformers' own reading with the digit rule its reader leaves out (make_smollm2.py) ..
    bad = ids_differ(mine, AutoTokenizer.from_pretrained(dense), texts())
    r.check("SmolLM2: ids of the tokenizer with tokenizer.ggml.pre's digit rule", not bad, bad[:3])
    # .. and without it, where it makes no difference.
    plain = [t for t in texts() if not any(c.isnumeric() for c in t)]
    raw = AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name)
    bad = ids_differ(mine, raw, plain)
    r.check(f"SmolLM2: ids of transformers' GGUF reader on {len(plain)} texts", not bad, bad[:3])
    chat = [{"role": "user", "content": "Hi 12"}]
    rendered = [t.apply_chat_template(chat, tokenize=False) for t in (mine, raw)]
    return r.check("SmolLM2: the chat template renders the same", rendered[0] == rendered[1])


def close(a, b):
    if isinstance(a, float) and isinstance(b, float):
        return np.float32(a) == np.float32(b)  # the file has f32; transformers widens it
    return a == b


def sentencepiece_keys(w, folder):
    """The vocabulary as llama.cpp's converter writes it, from tokenizer.model."""
    from sentencepiece import SentencePieceProcessor

    sp = SentencePieceProcessor(str(folder / "tokenizer.model"))
    ids = range(sp.GetPieceSize())
    types = [2 if sp.IsUnknown(i) else 3 if sp.IsControl(i) else 6 if sp.IsByte(i) else 1
             for i in ids]
    w.add_tokenizer_model("llama")
    w.add_tokenizer_pre("default")
    w.add_token_list([sp.IdToPiece(i) for i in ids])
    w.add_token_scores([sp.GetScore(i) for i in ids])
    w.add_token_types(types)
    w.add_bos_token_id(sp.bos_id())
    w.add_eos_token_id(sp.eos_id())
    w.add_unk_token_id(sp.unk_id())
    w.add_add_bos_token(True)
    w.add_add_eos_token(False)


def check_roundtrip(r, tools, work, data):
    """HF -> GGUF in BF16 by gguf-py -> HF: every bit is back, from one file and from shards."""
    if not (data / "tokenizer.model").exists():
        return r.skip("SentencePiece model", f"{data}/tokenizer.model is missing")
    config = json.loads((data / "config.json").read_text())
    weights = tensors_of(data)
    heads, kv = config["num_attention_heads"], config["num_key_value_heads"]
    back = {hf: g for g, hf in llama_names(config["num_hidden_layers"]).items()}
    for shards in (0, 12):
        w = gguf.GGUFWriter(work / "roundtrip.gguf", "llama", split_max_tensors=shards)
        add_llama_keys(w, config["hidden_size"], config["intermediate_size"],
                       config["num_hidden_layers"], heads, kv, config["max_position_embeddings"],
                       config["rms_norm_eps"], config["rope_theta"])
        w.add_rope_dimension_count(config["head_dim"])
        sentencepiece_keys(w, data)
        for name, t in weights.items():
            raw = t.contiguous().view(torch.int16).numpy()
            if name.endswith(("q_proj.weight", "k_proj.weight")):
                raw = permute(raw, heads if "q_proj" in name else kv)
            w.add_tensor(back[name], np.ascontiguousarray(raw).view(np.uint8), raw_dtype=T.BF16)
        finish(w)
        pattern = "roundtrip-00001-of-*.gguf" if shards else "roundtrip.gguf"
        first = next(work.glob(pattern))
        out = work / f"roundtrip{shards}"
        tools.export(first, out)
        bad = differing(tensors_of(out), weights)
        files = "shards" if shards else "one file"
        r.check(f"HF -> GGUF -> HF, {files}: same bits", not bad, bad[:5])
        found = json.loads((out / "config.json").read_text())
        bad = [(k, config[k], found.get(k)) for k in config if found.get(k) != config[k]]
        r.check("config.json is back", not bad, bad)
    from transformers import AutoTokenizer
    bad = ids_differ(load_tokenizer(out), AutoTokenizer.from_pretrained(data), texts())
    return r.check("SentencePiece: ids of the model's own tokenizer.json", not bad, bad[:3])


def main():
    ap = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    ap.add_argument("--build", type=Path, default=Path("build"))
    ap.add_argument("--cache", type=Path, default=Path("cache"))
    ap.add_argument("--data", type=Path, default=Path("shared/data/docs-lm"))
    ap.add_argument("--vocabs", type=Path)
    ap.add_argument("--tool", help="run `TOOL IN OUT [DTYPE]` instead of qload and qexport")
    args = ap.parse_args()
    r, tools = Report(), Tools(args.build, args.tool)
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        check_types(r, tools, work)
        check_rope(r, tools, work)
        check_roundtrip(r, tools, work, args.data)
        check_smollm2(r, tools, work, args.cache)
        for source in sorted(args.vocabs.glob("*.gguf")) if args.vocabs else []:
            if Path(f"{source}.out").exists():
                check_vocab(r, tools, work, source)
    print(f"{r.failures} failures")
    return r.failures > 0


if __name__ == "__main__":
    sys.exit(main())
