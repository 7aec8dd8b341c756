"""Ids and decoded text against Hugging Face's tokenizers, on hostile text: tokenizers trained here
(tokenizers_made.py) and published ones, which Python packages carry."""

import random
import struct
import subprocess
import zipfile
from pathlib import Path

import pytest
from tokenizers import Tokenizer

import programs
from packages import fetch, llama_cpp
from tokenizers_made import make

MADE = make()
CLAUDE = "anthropic==0.3.11"          # a wheel with anthropic/tokenizer.json
# Those of which our GGUF reader makes a tokenizer.json; the others it says why not.
VOCABULARIES = ["baichuan", "command-r", "deepseek-coder", "falcon", "gpt-2", "gpt-neox",
                "llama-bpe", "llama-spm", "mpt", "phi-3", "qwen2", "refact", "starcoder"]
ADD, SKIP = 1, 2  # flags of a text
BLOCKS = [(0, 0x80), (0, 0x80), (0x80, 0x250), (0x300, 0x370), (0x370, 0x530), (0x590, 0x700),
          (0x900, 0xe00), (0xe00, 0x1200), (0x1200, 0x1400), (0x1780, 0x1900), (0x2000, 0x2070),
          (0x20d0, 0x2100), (0x2190, 0x2600), (0x2e80, 0x3100), (0x4e00, 0x9fff),
          (0xac00, 0xd7a4), (0xf900, 0xfb50), (0xfe00, 0xfe10), (0xff00, 0xfff0),
          (0x10000, 0x11000), (0x1d100, 0x1d800), (0x1f000, 0x1fb00), (0x20000, 0x20100),
          (0x31350, 0x31450), (0xe0000, 0xe01f0), (0, 0x110000)]
BETWEEN = ["", " ", "  ", "\n", "\r\n", "\t", " \n ", "'s", "'LL", "\u0301", "\u200d", "123456",
           "<s>", "</s>", "<|endoftext|>", "<special>", " <|x|>y", "word", "▁", "\0", "…",
           "   \n\n  "]
FIXED = ["", "a", " ", "  ", "\n", "\r\n\r\n", "a" * 1000, " " * 1000, "\n" * 300, "ab" * 500,
         "👨‍👩‍👧‍👦🏳️‍🌈👩🏽‍🚒" * 20, "e\u0301\u0323" * 50, "Hello world! It's 3.14159, don't you 'VE? ſ's",
         "x\0y\0\0", "\ufeffbom", "가각힣ᄀ", "ﬁ①Ⅷ㎏", "İIıi", "\u1e9b\u0323", "\u0344",
         "\u212b\u2126", "café Café CAFÉ cafe\u0301", "word words  word", "<special> <special>"]
INVALID = [b"\xff", b"a\x80b", b"\xe2\x82", b"\xe2\x82a", b"\xf0\x9f\x98", b"\xed\xa0\x80",
           b"\xc0\xaf", b"\xf4\x90\x80\x80", b"\xe1\x80\xe2\xf0\x91\x92\xf1\xbf"]


def hostile(seed, count=80):
    r = random.Random(seed)
    texts = []
    for _ in range(count):
        text = ""
        for _ in range(r.randrange(1, 30)):
            low, high = r.choice(BLOCKS)
            points = (r.randrange(low, high) for _ in range(r.randrange(1, 12)))
            text += "".join(chr(c) for c in points if not 0xd800 <= c < 0xe000) + r.choice(BETWEEN)
        texts.append(text)
    every = [chr(c) for c in range(0x110000) if not 0xd800 <= c < 0xe000]
    r.shuffle(every)
    return texts + FIXED + ["".join(every[:20000])]


def ask(path, texts, flags):
    """[(ids, decoded bytes)] by our tokenizer."""
    helper = programs.bin_dir() / "tests/qp_tokenize"
    if not helper.exists():
        programs.missing(f"no {helper} (build with QP_BUILD_TESTS)")
    frames = b"".join(struct.pack("<IB", len(t) + 1, flags) + t for t in texts)
    run = subprocess.run([helper, path], input=frames, capture_output=True)
    assert run.returncode == 0, run.stderr.decode()
    out, at = [], 0

    def frame():
        nonlocal at
        n, = struct.unpack_from("<I", run.stdout, at)
        at += 4 + n
        return run.stdout[at - n:at]

    for _ in texts:
        ids = frame()
        out.append((list(struct.unpack(f"<{len(ids) // 4}i", ids)), frame()))
    assert at == len(run.stdout)
    return out


def compare(path):
    reference = Tokenizer.from_file(str(path))
    reference.no_truncation()
    reference.no_padding()
    for flags in (ADD, SKIP):
        texts = [t.encode() for t in hostile(flags)] + INVALID
        for raw, (ids, text) in zip(texts, ask(path, texts, flags)):
            expected = reference.encode(raw.decode(errors="replace"),
                                        add_special_tokens=bool(flags & ADD)).ids
            where = next((i for i, (a, b) in enumerate(zip(ids, expected)) if a != b),
                         min(len(ids), len(expected)))
            assert ids == expected, (raw[:200], where, ids[where:where + 5],
                                     expected[where:where + 5])
            # The reference's BPEDecoder breaks on no tokens at all.
            if expected:
                back = reference.decode(expected, skip_special_tokens=bool(flags & SKIP))
                assert text.decode() == back, raw[:200]


@pytest.mark.parametrize("name", list(MADE))
def test_made(name, tmp_path):
    MADE[name]().save(str(tmp_path / "tokenizer.json"))
    compare(tmp_path / "tokenizer.json")


def test_claude(tmp_path):
    wheel = fetch(CLAUDE, "only-binary", "anthropic-*.whl")
    path = tmp_path / "claude.json"
    path.write_bytes(zipfile.ZipFile(wheel).read("anthropic/tokenizer.json"))
    compare(path)


@pytest.fixture(scope="module")
def vocabularies():
    """The folder with ggml-vocab-*.gguf, and the .inp and .out of most."""
    return llama_cpp() / "models"


def test_tiny_lm():
    compare(programs.TINY_LM / "tokenizer.json")


def from_gguf(gguf, folder):
    run = subprocess.run([programs.bin_dir() / "tests/qp_tokenize", "--from-gguf", gguf, folder],
                         capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return folder / "tokenizer.json"


def test_smollm2(smollm2, tmp_path):
    """The directory's tokenizer, and the one made of the GGUF, which gives the same ids."""
    directory = smollm2 / "smollm2-bf16/tokenizer.json"
    made = from_gguf(smollm2 / "smollm2.gguf", tmp_path)
    compare(directory)
    compare(made)
    texts = [t.encode() for t in hostile(3)]
    assert [a for a, _ in ask(directory, texts, 0)] == [a for a, _ in ask(made, texts, 0)]


@pytest.mark.parametrize("name", VOCABULARIES)
def test_llama_cpp_vocabulary(name, vocabularies, tmp_path):
    """A published vocabulary through our GGUF reader: the ids of tokenizers, and those that
    llama.cpp expects."""
    gguf = vocabularies / f"ggml-vocab-{name}.gguf"
    path = from_gguf(gguf, tmp_path)
    compare(path)
    texts, expected = Path(f"{gguf}.inp"), Path(f"{gguf}.out")
    if not texts.exists() or not expected.exists():
        return
    samples = texts.read_bytes().split(b"\n__ggml_vocab_test__\n")[:46]
    lines = [[int(i) for i in line.split()] for line in expected.read_text().split("\n")]
    assert len(samples) == 46
    wrong = [s for s, (ids, _), line in zip(samples, ask(path, samples, 0), lines) if ids != line]
    assert not wrong, wrong
