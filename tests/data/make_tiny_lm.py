#!/usr/bin/env python3
"""Makes tests/data/tiny-lm: a small trained Llama model on public-domain text.

    python tests/data/make_tiny_lm.py                 # fetch, train, write, measure: half an hour
    python tests/data/make_tiny_lm.py --eval-only     # measure the committed folder again

The text comes out of three Debian packages (apt-get download, no install): the novels of Jane
Austen, the King James Bible, The Devil's Dictionary of Ambrose Bierce. Only two excerpts of it
are written into the folder: heldout.txt (for perplexity) and calib.txt (for calibration);
neither is in the training data.

Everything is seeded and runs on --threads threads (default 1). On one CPU model and one set of
library versions two runs give the same bytes; bf16 matrix products differ between CPU models, so
elsewhere the weights differ and the quality does not.
"""

import argparse
import gzip
import hashlib
import json
import math
import os
import platform
import re
import struct
import subprocess
import sys
import time
import zlib
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
PACKAGES = ("r-cran-janeaustenr", "bible-kjv-text", "bible-kjv", "dict-devil")
BOS, EOS = "<s>", "</s>"
VOCAB = 512
HIDDEN, LAYERS, INTERMEDIATE, HEADS, KV_HEADS, HEAD_DIM = 256, 3, 512, 4, 2, 64
MAX_POSITION = 512
WINDOW = 256  # tokens of an evaluation window


# ---------------------------------------------------------------------------------------- text


def fetch(cache):
    """Unpacks the packages under cache/root; returns {package: version}."""
    cache.mkdir(parents=True, exist_ok=True)
    versions = {}
    for name in PACKAGES:
        if not list(cache.glob(f"{name}_*.deb")):
            subprocess.run(["apt-get", "download", name], cwd=cache, check=True)
        deb = sorted(cache.glob(f"{name}_*.deb"))[-1]
        versions[name] = deb.name.split("_")[1].replace("%3a", ":")
        subprocess.run(["dpkg-deb", "-x", deb, cache / "root"], check=True)
    return versions


def r_string_vectors(path):
    """Character vectors of an R lazy-load data base, in file order.

    Blocks of (u32 big-endian size, zlib stream); each holds R's XDR serialization, version 3:
    'X\\n', three u32 versions, the native encoding, then STRSXP (type 16) with CHARSXP items.
    """
    data, pos = path.read_bytes(), 0
    while pos < len(data):
        (size,) = struct.unpack_from(">I", data, pos)
        stream = zlib.decompressobj()
        block = stream.decompress(data[pos + 4 :])
        pos = len(data) - len(stream.unused_data)
        assert len(block) == size and block[:2] == b"X\n"
        at = 14
        at += 4 + struct.unpack_from(">I", block, at)[0]
        kind, count = struct.unpack_from(">II", block, at)
        assert kind & 0xFF == 16
        at += 8
        lines = []
        for _ in range(count):
            length = struct.unpack_from(">i", block, at + 4)[0]
            lines.append(block[at + 8 : at + 8 + length].decode("utf-8"))
            at += 8 + length
        yield "\n".join(lines)


def unwrap(text, keep_indented=False):
    """Undoes hard line wrapping: one line per paragraph (and per indented line, if kept)."""
    out = []
    for block in re.split(r"\n\s*\n", text):
        joined = ""
        for line in block.split("\n"):
            indented = keep_indented and line.startswith("    ")
            line = re.sub(r"\s+", " ", line).strip()
            if line:
                joined += ("\n" if indented else " ") * bool(joined) + line
        if joined:
            out.append(joined)
    return "\n".join(out)


def austen(root):
    """{title: [chapter, ...]}, the chapter headings kept, front and back matter dropped."""
    base = root / "usr/lib/R/site-library/janeaustenr/data/Rdata.rdb"
    books = {}
    for text in r_string_vectors(base):
        title = text.split("\n", 1)[0].strip().title()
        text = re.split(r"\n\s*(?:FINIS|Finis|THE END|A NOTE ON THE TEXT)\b", text)[0]
        parts = re.split(r"\n(?=(?:CHAPTER|Chapter) +[0-9IVXL]+)", text)[1:]
        books[title] = [unwrap(re.sub(r"\n\s*VOLUME [IVX]+\s*$", "", p)) for p in parts]
    return books


def king_james(root):
    """[(book, chapter text)], one verse per line, without verse numbers."""
    run = subprocess.run(
        [root / "usr/bin/bible", "-p", root / "usr/lib", "-f", "ge1:1-re22:21"],
        check=True, capture_output=True, stdin=subprocess.DEVNULL, text=True)
    chapters = []
    for line in run.stdout.splitlines():
        match = re.match(r"(\d?[A-Za-z]+?)(\d+):\d+ (.*)", line)
        if not match:
            continue
        book, chapter, verse = match.groups()
        if not chapters or chapters[-1][0] != (book, chapter):
            chapters.append(((book, chapter), []))
        chapters[-1][1].append(re.sub(r"\s+", " ", verse).strip())
    return [(key[0], "\n".join(verses)) for key, verses in chapters]


def bierce(root):
    """The dictionary in documents of about 20 paragraphs, dictd's own headers dropped."""
    text = gzip.decompress((root / "usr/share/dictd/devil.dict.dz").read_bytes()).decode("latin-1")
    text = text[text.index("ABASEMENT, n.") :]
    text = "\n".join(l for l in text.split("\n") if "abcdefghijklm" not in l)
    lines = unwrap(text, keep_indented=True).split("\n")
    return ["\n".join(lines[i : i + 40]) for i in range(0, len(lines), 40)]


def corpus(root):
    """(training documents, held-out documents, calibration documents): disjoint."""
    train, held, calib = [], [], []
    for title, chapters in austen(root).items():
        if title == "Persuasion":
            last = chapters.pop()
            held += [tail(chapters.pop(), 38000 - len(last.encode())), last]
        if title == "Northanger Abbey":
            calib += chapters[-2:]
            del chapters[-2:]
        train += chapters
    jonah, ruth = [], []
    for book, text in king_james(root):
        (jonah if book == "Jonah" else ruth if book == "Ruth" else train).append(text)
    return train + bierce(root), held + jonah, calib + ruth


def tail(text, size):
    """The last whole paragraphs of at most `size` bytes."""
    lines = text.split("\n")
    while len("\n".join(lines).encode()) > size:
        lines.pop(0)
    return "\n".join(lines)


# ----------------------------------------------------------------------------------- tokenizer


def train_tokenizer(docs):
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    tok = Tokenizer(models.BPE())
    tok.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tok.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB, special_tokens=[BOS, EOS], show_progress=False,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()))
    tok.train_from_iterator(docs, trainer)
    tok.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A {BOS} $B", special_tokens=[(BOS, 0)])
    assert tok.get_vocab_size() == VOCAB
    return tok


def encode_docs(tok, docs):
    """<s> tokens </s> of every document, one after the other."""
    out = []
    for enc in tok.encode_batch(docs):  # the post-processor adds <s>
        out += enc.ids + [1]
    return np.array(out, dtype=np.int64)


# ---------------------------------------------------------------------------------------- model


def model_config():
    from transformers import LlamaConfig

    return LlamaConfig(
        vocab_size=VOCAB, hidden_size=HIDDEN, intermediate_size=INTERMEDIATE,
        num_hidden_layers=LAYERS, num_attention_heads=HEADS, num_key_value_heads=KV_HEADS,
        head_dim=HEAD_DIM, max_position_embeddings=MAX_POSITION, rms_norm_eps=1e-5,
        tie_word_embeddings=True, bos_token_id=0, eos_token_id=1)


def init_model(seed):
    import torch
    from transformers import LlamaForCausalLM

    torch.manual_seed(seed)
    model = LlamaForCausalLM(model_config())
    with torch.no_grad():
        for name, p in model.named_parameters():
            if p.ndim == 2:
                residual = name.endswith(("o_proj.weight", "down_proj.weight"))
                p.normal_(0.0, 0.02 / (math.sqrt(2 * LAYERS) if residual else 1.0))
    return model


def batches(tokens, steps, per_step, seed):
    """Random windows. The last 15 % are 512 long; half of all start with <s>."""
    rng = np.random.default_rng(seed)
    for step in range(steps):
        length = MAX_POSITION if step >= 0.85 * steps else WINDOW
        rows = per_step // length
        at = rng.integers(0, len(tokens) - length, rows)
        x = np.stack([tokens[a : a + length] for a in at])
        x[rng.random(rows) < 0.5, 0] = 0
        yield step, x


def train(tokens, args):
    import torch
    import torch.nn.functional as F

    model = init_model(args.seed)
    matrices = [p for p in model.parameters() if p.ndim == 2]
    vectors = [p for p in model.parameters() if p.ndim < 2]
    opt = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}],
        lr=args.lr, betas=(0.9, 0.95))
    warmup, began, recent = 100, time.process_time(), []
    for step, x in batches(tokens, args.steps, args.batch_tokens, args.seed):
        t = step / args.steps
        lr = args.lr * min((step + 1) / warmup, 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * t)))
        for group in opt.param_groups:
            group["lr"] = lr
        x = torch.from_numpy(x)
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(input_ids=x, use_cache=False).logits
        loss = F.cross_entropy(logits[:, :-1].float().reshape(-1, VOCAB), x[:, 1:].reshape(-1))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        opt.step()
        opt.zero_grad()
        recent.append(loss.item())
        if (step + 1) % 100 == 0:
            cpu = time.process_time() - began
            print(f"step {step + 1} loss {np.mean(recent[-100:]):.4f} lr {lr:.2e} cpu {cpu:.0f} s",
                  flush=True)
    return model, time.process_time() - began


# -------------------------------------------------------------------------------------- measure


def window_nll(model, tokens, window=WINDOW):
    """(sum of -ln p, predictions): windows without overlap, the short last one dropped."""
    import torch
    import torch.nn.functional as F

    x = torch.from_numpy(tokens[: len(tokens) // window * window].reshape(-1, window))
    total = 0.0
    with torch.no_grad():
        for rows in x.split(16):
            logits = model(input_ids=rows, use_cache=False).logits.float()
            total += F.cross_entropy(logits[:, :-1].reshape(-1, VOCAB), rows[:, 1:].reshape(-1),
                                     reduction="sum").double().item()
    return total, x.shape[0] * (window - 1)


def ngram_nll(train_tokens, tokens, window=WINDOW):
    """(unigram, bigram) sums over the same predictions. Add-one unigram; the bigram is
    interpolated with it, p = (count(a, b) + 8 p(b)) / (count(a) + 8)."""
    one = np.bincount(train_tokens, minlength=VOCAB).astype(float) + 1.0
    one /= one.sum()
    two = np.zeros((VOCAB, VOCAB))
    np.add.at(two, (train_tokens[:-1], train_tokens[1:]), 1.0)
    two = (two + 8.0 * one) / (two.sum(1, keepdims=True) + 8.0)
    x = tokens[: len(tokens) // window * window].reshape(-1, window)
    return -np.log(one[x[:, 1:]]).sum(), -np.log(two[x[:, :-1], x[:, 1:]]).sum()


def measure(folder, train_docs):
    """The figures of the README, on the bf16 weights as stored, computed in float32."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tok = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    half = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).eval()
    text = (folder / "heldout.txt").read_text(encoding="utf-8")
    tokens = np.array(tok(text, add_special_tokens=False)["input_ids"], dtype=np.int64)
    assert tok.decode(tokens) == text, "the tokenizer does not give the text back"
    raw = encode_docs(tok.backend_tokenizer, train_docs)
    uni, bi = ngram_nll(raw, tokens)
    nll, count = window_nll(model, tokens)
    used = tokens[: len(tokens) // WINDOW * WINDOW].reshape(-1, WINDOW)[:, 1:].reshape(-1)
    size = sum(len(t) for t in tok.convert_ids_to_tokens(used))  # one character is one byte
    rows = [("unigram", uni), ("bigram", bi), ("tiny-lm, f32 arithmetic", nll),
            ("tiny-lm, bf16 arithmetic", window_nll(half, tokens)[0])]
    table = [(n, v / count, math.exp(v / count), v / math.log(2) / size) for n, v in rows]
    long_nll, long_count = window_nll(model, tokens, MAX_POSITION)
    ids = tok("The ", return_tensors="pt")["input_ids"]
    prompt = tok("It was the opinion of", return_tensors="pt")["input_ids"]
    sample = model.generate(prompt, max_new_tokens=60, do_sample=False)
    assert ids[0, 0] == 0
    return {"table": table, "predictions": count, "bytes": size, "tokens": len(tokens),
            "ppl512": math.exp(long_nll / long_count),
            "train_tokens": len(raw), "sample": tok.decode(sample[0], skip_special_tokens=True)}


# ---------------------------------------------------------------------------------------- write


def write_json(path, value):
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def write_tokenizer(tok, out):
    tok.save(str(out / "tokenizer.json"))
    write_json(out / "tokenizer_config.json", {
        "tokenizer_class": "PreTrainedTokenizerFast", "bos_token": BOS, "eos_token": EOS,
        "pad_token": EOS, "model_max_length": MAX_POSITION, "clean_up_tokenization_spaces": False,
        "added_tokens_decoder": {
            str(i): {"content": t, "lstrip": False, "normalized": False, "rstrip": False,
                     "single_word": False, "special": True} for i, t in enumerate((BOS, EOS))}})
    write_json(out / "special_tokens_map.json",
               {"bos_token": BOS, "eos_token": EOS, "pad_token": EOS})


def write_model(model, out):
    import torch
    from safetensors.torch import save_file

    state = {k: v.detach().to(torch.bfloat16).contiguous() for k, v in model.state_dict().items()
             if k != "lm_head.weight"}  # tied: stored once, as the embedding
    save_file(state, out / "model.safetensors", metadata={"format": "pt"})
    # The classic (version 4) spelling of the config, which every reader understands.
    write_json(out / "config.json", {
        "architectures": ["LlamaForCausalLM"], "attention_bias": False, "attention_dropout": 0.0,
        "bos_token_id": 0, "eos_token_id": 1, "head_dim": HEAD_DIM, "hidden_act": "silu",
        "hidden_size": HIDDEN, "initializer_range": 0.02, "intermediate_size": INTERMEDIATE,
        "max_position_embeddings": MAX_POSITION, "mlp_bias": False, "model_type": "llama",
        "num_attention_heads": HEADS, "num_hidden_layers": LAYERS,
        "num_key_value_heads": KV_HEADS, "rms_norm_eps": 1e-05, "rope_scaling": None,
        "rope_theta": 10000.0, "tie_word_embeddings": True, "torch_dtype": "bfloat16",
        "use_cache": True, "vocab_size": VOCAB})
    write_json(out / "generation_config.json",
               {"bos_token_id": 0, "eos_token_id": 1, "do_sample": False})


def environment():
    import tokenizers
    import torch
    import transformers

    cpu = next((l.split(":")[1].strip() for l in open("/proc/cpuinfo") if "model name" in l), "?")
    return (f"Python {platform.python_version()}, torch {torch.__version__}, "
            f"transformers {transformers.__version__}, tokenizers {tokenizers.__version__}, "
            f"numpy {np.__version__}, {cpu}")


def figures(m):
    lines = ["| model | nats per token | perplexity | bits per byte |", "|---|---|---|---|"]
    lines += [f"| {n} | {nll:.4f} | {ppl:.3f} | {bpb:.4f} |" for n, nll, ppl, bpb in m["table"]]
    return "\n".join(lines)


README = """\
# tiny-lm

A real, trained language model, small enough to live in the repository: LlamaForCausalLM,
hidden 256, 3 layers, intermediate 512, 4 heads of 64, 2 key/value heads, vocabulary 512,
embeddings tied, BF16, 1,902,336 parameters. Every linear has 256 or 512 input features, so
block formats of 256 apply. Made by `tests/data/make_tiny_lm.py`; not a copy of any other model.

## Where the text comes from

Debian packages, versions {packages}:
Jane Austen's six novels (1811-1818), the King James Bible (1611), Ambrose Bierce's *The Devil's
Dictionary* (1911). All three are in the public domain: the
packages' copyright files say so for the Bible and the dictionary; the novels' author died in
1817. From the packages only those texts are used. The training text is
{text_bytes} bytes ({train_tokens} tokens), sha256
`{text_sha}`; it is not in the repository.

- `heldout.txt`: the end of *Persuasion* (most of chapter 23, and chapter 24) and the Book of
  Jonah. For perplexity.
- `calib.txt`: the last two chapters of *Northanger Abbey*, the Book of Ruth. For calibration.

Neither excerpt is in the training text. The weights, the tokenizer and the other files are under
the licence of the repository; the excerpts stay in the public domain. Lines are unwrapped: one
paragraph or verse a line.

## Training

AdamW, {steps} steps of {batch_tokens} tokens ({seen} M tokens), peak learning rate {lr}, cosine,
bf16 autocast over f32 weights, seed {seed}, {threads} thread(s), {cpu} CPU minutes.
{environment}.
The same machine and versions give the same bytes again (checked on runs of 30 steps); another CPU
model need not, because its
bf16 matrix products round differently.

## Measured

On `heldout.txt`, {tokens} tokens without `<s>`, in windows of 256 tokens without overlap (the
incomplete last one left out), 255 predictions a window, {predictions} in all, of {bytes} bytes.
The weights are those stored (BF16). Unigram and bigram models are counted on the training text
with the same tokenizer.

{figures}

Windows of 512: perplexity {ppl512} (f32 arithmetic). Measured with:

    python tests/data/make_tiny_lm.py --eval-only

Greedy continuation of "It was the opinion of":

> {sample}

## Tokenizer

Byte-level BPE (`tokenizers`), GPT-2 splitting rule, no prefix space; `<s>` is 0, `</s>` is 1, the
256 bytes are 2 to 257, merges follow. A `<s>` is put in front by default.
"""


def write_readme(out, m, facts):
    values = dict(facts, figures=figures(m), sample=m["sample"].replace("\n", "\n> "),
                  predictions=m["predictions"], bytes=m["bytes"], tokens=m["tokens"],
                  ppl512=f"{m['ppl512']:.3f}", train_tokens=m["train_tokens"])
    (out / "README.md").write_text(README.format(**values), encoding="utf-8")


def main():
    ap = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    ap.add_argument("--out", type=Path, default=HERE / "tiny-lm")
    ap.add_argument("--cache", type=Path, default=Path.home() / ".cache/qpipe/tiny-lm-text")
    ap.add_argument("--steps", type=int, default=5000)
    ap.add_argument("--batch-tokens", type=int, default=4096)
    ap.add_argument("--lr", type=float, default=3e-3)
    ap.add_argument("--seed", type=int, default=1)
    ap.add_argument("--threads", type=int, default=1)
    ap.add_argument("--eval-only", action="store_true")
    args = ap.parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    import torch

    torch.set_num_threads(args.threads)
    torch.use_deterministic_algorithms(True)
    versions = fetch(args.cache)
    docs, held, calib = corpus(args.cache / "root")
    text = "\n".join(docs).encode()
    print(f"training text {len(text)} bytes, sha256 {hashlib.sha256(text).hexdigest()}")
    if not args.eval_only:
        args.out.mkdir(parents=True, exist_ok=True)
        (args.out / "heldout.txt").write_text("\n\n".join(held) + "\n", encoding="utf-8")
        (args.out / "calib.txt").write_text("\n\n".join(calib) + "\n", encoding="utf-8")
        tok = train_tokenizer(docs)
        model, cpu = train(encode_docs(tok, docs), args)
        write_tokenizer(tok, args.out)
        write_model(model, args.out)
    m = measure(args.out, docs)
    print(figures(m), f"\nperplexity at windows of 512: {m['ppl512']:.3f}\n{m['sample']}")
    if not args.eval_only:
        write_readme(args.out, m, {
            "environment": environment(), "seed": args.seed, "threads": args.threads,
            "steps": args.steps, "batch_tokens": args.batch_tokens, "lr": args.lr,
            "seen": f"{args.steps * args.batch_tokens / 1e6:.1f}", "cpu": f"{cpu / 60:.0f}",
            "text_bytes": len(text), "text_sha": hashlib.sha256(text).hexdigest(),
            "packages": ", ".join(f"{k} {v}" for k, v in versions.items())})
    return 0


if __name__ == "__main__":
    sys.exit(main())
