"""What qpipe reads from GGUF files, beside gguf-py, transformers, sentencepiece and llama.cpp.

Each GGUF goes through `qload --dequantize | qexport -f safetensors`. QPIPE_VOCABS may name
llama.cpp's models/ (ggml-vocab-NAME.gguf with .inp and .out, whose ids llama.cpp computed).
"""

import json
import os
import random
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as T
from safetensors import safe_open

from programs import TINY_LM, pipe

DECODED = [T.Q4_0, T.Q4_1, T.Q5_0, T.Q5_1, T.Q8_0, T.Q2_K, T.Q3_K, T.Q4_K, T.Q5_K, T.Q6_K]
CONFIG_KEYS = ["hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
               "num_key_value_heads", "head_dim", "max_position_embeddings", "vocab_size",
               "rms_norm_eps", "tie_word_embeddings", "model_type", "hidden_act",
               "attention_bias", "mlp_bias", "bos_token_id", "eos_token_id"]


VOCABS = sorted(v for v in Path(os.environ.get("QPIPE_VOCABS", "/none")).glob("*.gguf")
                if Path(f"{v}.out").exists())


def through(source, out, dtype=None):
    """The GGUF as a checkpoint directory."""
    more = ["--dtype", dtype] if dtype else []
    pipe(["qload", source, "--dequantize", "-q", *more],
         ["qexport", "-f", "safetensors", "-o", out, "-q"])


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


@pytest.mark.parametrize("kind", DECODED, ids=lambda k: k.name)
def test_types(kind, tmp_path):
    """Every value has gguf-py's bits."""
    path = tmp_path / "model.gguf"
    expected = synthetic(path, kind, np.random.default_rng(7))
    through(path, tmp_path / "out", "F32")
    assert not differing(tensors_of(tmp_path / "out"), expected)


@pytest.mark.parametrize("scaling", [(8.0, 1.0, 4.0, 8192), (32.0, 1.0, 4.0, 8192), (16.0, 1.0, 8.0, 4096)])
def test_rope(scaling, tmp_path):
    """rope_freqs.weight becomes the rope_scaling that it was computed from."""
    synthetic(tmp_path / "model.gguf", T.Q8_0, np.random.default_rng(8),
              llama3_factors(500000.0, 64, *scaling))
    through(tmp_path / "model.gguf", tmp_path / "out")
    found = json.loads((tmp_path / "out/config.json").read_text())["rope_scaling"]
    assert found == dict(factor=scaling[0], low_freq_factor=scaling[1], high_freq_factor=scaling[2],
                         original_max_position_embeddings=scaling[3], rope_type="llama3")


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


def vocabulary_only(source, path):
    """A model with the vocabulary of another GGUF."""
    reader = gguf.GGUFReader(source)
    w = gguf.GGUFWriter(path, "llama")
    for key, field in reader.fields.items():
        if key.startswith("tokenizer.ggml."):
            sub = field.types[1] if len(field.types) > 1 else None
            w.add_key_value(key, field.contents(), field.types[0], sub)
    add_padding_model(w, len(reader.fields["tokenizer.ggml.tokens"].data))
    finish(w)


if VOCABS:
    @pytest.mark.parametrize("source", VOCABS, ids=lambda v: v.stem)
    def test_vocabulary(source, tmp_path):
        """llama.cpp's own expected ids for one of its vocabulary files."""
        vocabulary_only(source, tmp_path / "vocab.gguf")
        through(tmp_path / "vocab.gguf", tmp_path / "out")
        tokenizer = load_tokenizer(tmp_path / "out")
        inputs = Path(f"{source}.inp").read_text(encoding="utf-8").split("\n__ggml_vocab_test__\n")[:-1]
        expected = Path(f"{source}.out").read_text().split("\n")
        for text, line in zip(inputs, expected):
            assert tokenizer(text, add_special_tokens=False)["input_ids"] == [int(x) for x in line.split()], text


# ---------------------------------------------------------------------------------- real models


@pytest.fixture(scope="module")
def read_smollm2(smollm2, tmp_path_factory):
    out = tmp_path_factory.mktemp("gguf") / "smollm2"
    through(smollm2 / "smollm2.gguf", out)
    return out


def test_smollm2_weights(smollm2, read_smollm2):
    """As transformers reads them, in BF16."""
    found = {n: t.to(torch.bfloat16) for n, t in tensors_of(read_smollm2).items()}
    assert not differing(found, tensors_of(smollm2 / "smollm2-bf16"))


def test_smollm2_config(smollm2, read_smollm2):
    from transformers import AutoConfig

    ours = AutoConfig.from_pretrained(read_smollm2)
    theirs = AutoConfig.from_pretrained(smollm2, gguf_file="smollm2.gguf")
    assert not [(k, getattr(ours, k), getattr(theirs, k)) for k in CONFIG_KEYS
                if not close(getattr(ours, k), getattr(theirs, k))]
    assert ours.rope_parameters == theirs.rope_parameters


def test_smollm2_tokenizer(smollm2, read_smollm2):
    from transformers import AutoTokenizer

    mine = load_tokenizer(read_smollm2)
    # transformers' own reading with the digit rule its reader leaves out (make_smollm2.py) ..
    assert not ids_differ(mine, AutoTokenizer.from_pretrained(smollm2 / "smollm2-bf16"), texts())
    # .. and without it, where it makes no difference.
    plain = [t for t in texts() if not any(c.isnumeric() for c in t)]
    raw = AutoTokenizer.from_pretrained(smollm2, gguf_file="smollm2.gguf")
    assert not ids_differ(mine, raw, plain)
    chat = [{"role": "user", "content": "Hi 12"}]
    assert mine.apply_chat_template(chat, tokenize=False) == raw.apply_chat_template(chat, tokenize=False)


def close(a, b):
    if isinstance(a, float) and isinstance(b, float):
        return np.float32(a) == np.float32(b)  # the file has f32; transformers widens it
    return a == b


@pytest.fixture(scope="module")
def sentencepiece(tmp_path_factory):
    """A vocabulary of its own, with Llama's settings, as large as tiny-lm's embedding."""
    from sentencepiece import SentencePieceProcessor, SentencePieceTrainer

    prefix = tmp_path_factory.mktemp("sp") / "tokenizer"
    SentencePieceTrainer.Train(
        input=str(TINY_LM / "calib.txt"), model_prefix=str(prefix), vocab_size=512, model_type="bpe",
        byte_fallback=True, normalization_rule_name="identity", remove_extra_whitespaces=False,
        split_digits=True, allow_whitespace_only_pieces=True, minloglevel=2)
    return SentencePieceProcessor(f"{prefix}.model")


def add_sentencepiece_keys(w, sp):
    """The vocabulary as llama.cpp's converter writes it."""
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


@pytest.mark.parametrize("shards", [0, 12])
def test_roundtrip(shards, sentencepiece, tmp_path):
    """HF -> GGUF in BF16 by gguf-py -> HF: every bit is back, from one file and from shards."""
    config = json.loads((TINY_LM / "config.json").read_text())
    config.update(bos_token_id=sentencepiece.bos_id(), eos_token_id=sentencepiece.eos_id())
    weights = tensors_of(TINY_LM)
    heads, kv = config["num_attention_heads"], config["num_key_value_heads"]
    back = {hf: g for g, hf in llama_names(config["num_hidden_layers"]).items()}
    w = gguf.GGUFWriter(tmp_path / "roundtrip.gguf", "llama", split_max_tensors=shards)
    add_llama_keys(w, config["hidden_size"], config["intermediate_size"],
                   config["num_hidden_layers"], heads, kv, config["max_position_embeddings"],
                   config["rms_norm_eps"], config["rope_theta"])
    w.add_rope_dimension_count(config["head_dim"])
    add_sentencepiece_keys(w, sentencepiece)
    for name, t in weights.items():
        raw = t.contiguous().view(torch.int16).numpy()
        if name.endswith(("q_proj.weight", "k_proj.weight")):
            raw = permute(raw, heads if "q_proj" in name else kv)
        w.add_tensor(back[name], np.ascontiguousarray(raw).view(np.uint8), raw_dtype=T.BF16)
    finish(w)
    first = next(tmp_path.glob("roundtrip-00001-of-*.gguf" if shards else "roundtrip.gguf"))
    out = tmp_path / "out"
    through(first, out)
    assert not differing(tensors_of(out), weights)
    found = json.loads((out / "config.json").read_text())
    same = [k for k in CONFIG_KEYS if k in config] + ["rope_theta"]
    assert {k: found.get(k) for k in same} == {k: config[k] for k in same}
    tokenizer = load_tokenizer(out)
    # Names of control tokens in a text are text to sentencepiece, tokens to the others.
    for text in (t for t in texts() if "<" not in t and "\0" not in t):
        assert tokenizer(text, add_special_tokens=False)["input_ids"] == sentencepiece.EncodeAsIds(text), text
