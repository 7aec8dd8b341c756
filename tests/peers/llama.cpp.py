"""Our GGUFs beside llama.cpp's own, through llama-cpp-python.

    ./check --peers llama.cpp

1. The bytes of every type of ggml's, row by row (ggml_types.py).
2. Every file type on whole models: types and bytes of each tensor as llama_model_quantize makes them from the
   same unquantized GGUF, with and without the same importance matrix.
3. Those files loaded: tokens, text generated, perplexity beside what `qverify --eval` says.
4. DeepSeek's matrices by heads (ggml/latents.py).
"""

import ctypes
import datetime
import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# Not this folder: it has a transformers.py.
sys.path[:] = [p for p in sys.path if Path(p or ".").resolve() != Path(__file__).resolve().parent]
sys.path[:0] = [str(ROOT / "tests/peers/ggml"), str(ROOT / "tests/interop")]
from packages import llama_cpp as source  # noqa: E402

sys.path.insert(0, str(source() / "gguf-py"))  # the published gguf is older than the library

import llama_cpp  # noqa: E402
import numpy as np  # noqa: E402
from gguf import GGUFReader  # noqa: E402
from llama_quantize import file_type, theirs  # noqa: E402

BIN = Path(os.environ.get("QPIPE_BIN", ROOT / "build/release"))
DATA = Path(os.environ.get("QPIPE_DATA", ROOT.parent / "shared/data"))
TINY = ROOT / "tests/data/tiny-lm"
CHUNK, CHUNKS = 128, 8


def run(program, *arguments):
    return subprocess.run([BIN / program, *map(str, arguments)], check=True, capture_output=True, text=True).stdout


def file_types():
    """Name, number."""
    for row in json.loads(run("qquantize", "--list-schemes", "--json")):
        if "mix" in row:
            yield row["mix"], file_type(row["mix"])


def needs_importance(name):
    return name.startswith(("iq1", "iq2", "iq3_xxs", "iq3_xs")) or name == "q2_k_s"


def tensors(path):
    return {t.name: (t.tensor_type.name, t.data.tobytes()) for t in GGUFReader(path).tensors}


def compare(a, b):
    """Number of tensors, those of another type, those of other bytes."""
    x, y = tensors(a), tensors(b)
    if set(x) != set(y):
        return len(y), sorted(set(x) ^ set(y)), []
    return len(y), [n for n in y if x[n][0] != y[n][0]], [n for n in y if x[n] != y[n]]


def perplexity(path, ids):
    """As llama-perplexity: chunks that begin with BOS, the second half of each counts."""
    model = llama_cpp.Llama(str(path), n_ctx=CHUNK, n_batch=CHUNK, logits_all=True, verbose=False)
    bos, loss, count = model.token_bos(), 0.0, 0
    for at in range(0, len(ids) - CHUNK + 1, CHUNK):
        chunk = [bos, *ids[at + 1 : at + CHUNK]]
        model.reset()
        model.eval(chunk)
        scores = model.scores[:CHUNK].astype(np.float64)
        for i in range(CHUNK // 2, CHUNK - 1):
            loss += np.logaddexp.reduce(scores[i]) - scores[i][chunk[i + 1]]
            count += 1
    text = model.create_completion("The", max_tokens=8, temperature=0)["choices"][0]["text"]
    return math.exp(loss / count), text


def spoken(path, test):
    """Perplexity of a GGUF by llama.cpp and by qverify, and how it goes on a word."""
    model = llama_cpp.Llama(str(path), vocab_only=True, verbose=False)
    ids = model.tokenize(test.read_bytes(), add_bos=True)[: CHUNK * CHUNKS]
    theirs_, words = perplexity(path, ids)
    report = json.loads(run("qverify", path, "--eval", test, "--ppl", "llama.cpp", "--seqlen", CHUNK, "-n", CHUNKS, "--json"))
    return [f"{theirs_:.3f}", f"{report['evaluation']['perplexity']['value']:.3f}", json.dumps(words)]


def write_random(directory, architecture, model_type, layer, **config):
    """Random BF16 weights with tiny-lm's tokenizer; `layer` names the shapes of a layer's tensors."""
    directory.mkdir()
    for file in TINY.iterdir():
        if file.name.startswith(("tokenizer", "special")):
            shutil.copy(file, directory)
    tiny = json.loads((TINY / "config.json").read_text())
    hidden, vocab, layers = 256, tiny["vocab_size"], 8
    whole = {"architectures": [architecture], "model_type": model_type, "hidden_size": hidden, "vocab_size": vocab,
             "num_hidden_layers": layers, "num_attention_heads": 4, "num_key_value_heads": 1, "head_dim": 64,
             "intermediate_size": 512, "max_position_embeddings": 512, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
             "tie_word_embeddings": False, "torch_dtype": "bfloat16",
             "bos_token_id": tiny.get("bos_token_id", 1), "eos_token_id": tiny.get("eos_token_id", 2)} | config
    (directory / "config.json").write_text(json.dumps(whole))
    shapes = {"model.embed_tokens.weight": (vocab, hidden), "model.norm.weight": (hidden,)}
    if not whole["tie_word_embeddings"]:
        shapes["lm_head.weight"] = (vocab, hidden)
    for i in range(layers):
        shapes |= {f"model.layers.{i}.{n}": s for n, s in layer.items()}
    rng, header, data = np.random.default_rng(7), {}, b""
    for name, shape in shapes.items():
        x = (rng.standard_normal(shape) * 0.05 + len(shape) % 2).astype(np.float32)
        raw = (x.view(np.uint32) >> 16).astype(np.uint16).tobytes()
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps(header).encode()
    (directory / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + data)


ATTENTION = {f"self_attn.{n}_proj.weight": s for n, s in
             (("q", (256, 256)), ("k", (64, 256)), ("v", (64, 256)), ("o", (256, 256)))}
NORMS = {"input_layernorm.weight": (256,), "post_attention_layernorm.weight": (256,)}
MLP = {"mlp.gate_proj.weight": (512, 256), "mlp.up_proj.weight": (512, 256), "mlp.down_proj.weight": (256, 512)}
BIASES = {"self_attn.q_proj.bias": (256,), "self_attn.k_proj.bias": (64,), "self_attn.v_proj.bias": (64,)}
EXPERTS = {f"block_sparse_moe.experts.{e}.{w}.weight": s for e in range(8)
           for w, s in (("w1", (512, 256)), ("w2", (256, 512)), ("w3", (512, 256)))}
RANDOM = {
    "llama": ("LlamaForCausalLM", "llama", ATTENTION | NORMS | MLP, {}),
    "qwen2": ("Qwen2ForCausalLM", "qwen2", ATTENTION | NORMS | MLP | BIASES, {}),
    "mixtral": ("MixtralForCausalLM", "mixtral", ATTENTION | NORMS | EXPERTS | {"block_sparse_moe.gate.weight": (8, 256)},
                {"num_local_experts": 8, "num_experts_per_tok": 2}),
    "gemma2": ("Gemma2ForCausalLM", "gemma2",
               ATTENTION | NORMS | MLP | {"pre_feedforward_layernorm.weight": (256,), "post_feedforward_layernorm.weight": (256,)},
               {"tie_word_embeddings": True, "hidden_activation": "gelu_pytorch_tanh", "query_pre_attn_scalar": 64,
                "sliding_window": 128, "attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0}),
}


def models(folder):
    """Name, directory, text to calibrate with."""
    yield "tiny-lm", TINY, TINY / "heldout.txt"
    if (DATA / "docs-lm").exists():
        yield "docs-lm", DATA / "docs-lm", DATA / "docs-lm/calib.txt"
    smollm2 = Path(os.environ.get("QPIPE_CACHE", Path.home() / ".cache/qpipe/x")).parent / "smollm2/smollm2-bf16"
    if smollm2.exists() and (DATA / "wikitext-2").exists():  # ./check makes it
        yield "smollm2", smollm2, DATA / "wikitext-2/calib.txt"
    for name, (architecture, kind, layer, config) in RANDOM.items():
        write_random(folder / name, architecture, kind, layer, **config)
        yield name, folder / name, TINY / "heldout.txt"


@llama_cpp.llama_log_callback
def quiet(level, text, data):
    pass


def save(out, lines, bad):
    if not out:
        return
    only = os.environ.get("QPIPE_ONLY", "")
    head = [f"# llama.cpp, by llama-cpp-python {version('llama-cpp-python')}", "",
            f"{datetime.date.today()}, `./check --peers llama.cpp`{f' with QPIPE_ONLY={only!r}' if only else ''}: "
            f"{bad} comparisons failed. llama.cpp quantizes activations, we do not: perplexities differ by that.", ""]
    out.write_text("\n".join(head + lines) + "\n")


def main():
    llama_cpp.llama_log_set(quiet, ctypes.c_void_p(0))
    out = Path(sys.argv[1]) if len(sys.argv) > 1 else None
    lines, bad = [], 0
    only = os.environ.get("QPIPE_ONLY", "").split()  # models, "types", "latents", file types
    library = next(Path(llama_cpp.__file__).parent.glob("lib/libggml-base.so"))
    if not only or "types" in only:
        done = subprocess.run([sys.executable, ROOT / "tests/peers/ggml/ggml_types.py", "--library", library],
                              capture_output=True, text=True)
        bad += done.returncode != 0
        lines += ["## Rows of every type", "", "```", done.stdout.rstrip(), "```", ""]
        print(done.stdout, flush=True)
    if not only or "latents" in only:
        environment = dict(os.environ, CI="true", QPIPE_BIN=str(BIN))
        done = subprocess.run([sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", ROOT / "tests/peers/ggml/latents.py"],
                              capture_output=True, text=True, env=environment)
        bad += done.returncode != 0
        lines += ["## attn_k_b and attn_v_b of DeepSeek", "", "```", done.stdout.rstrip(), "```", ""]
        print(done.stdout, flush=True)
    kinds = [k for k in file_types() if not set(only) & {n for n, _ in file_types()} or k[0] in only]
    lines += ["## Whole models", "", "| model | file type | importance | tensors | other type | other bytes | perplexity, llama.cpp | ours | it goes on \"The\" |", "| --- | --- | --- | --- | --- | --- | --- | --- | --- |"]
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        os.environ["QPIPE_TMPDIR"] = scratch
        for name, directory, text in models(folder):
            if only and name not in only:
                continue
            base, calibrated, matrix = folder / "base.gguf", folder / "c.qmap", folder / "i.gguf"
            run("qcalibrate", directory, "--text", text, "-n", 8, "--seqlen", 64, "-o", calibrated, "--force")
            run("qcalibrate", calibrated, "--save-imatrix", matrix)
            run("qexport", calibrated, "-f", "gguf", "-o", base, "--force")
            test = folder / "test.txt"
            test.write_bytes(text.read_bytes()[-20000:])
            speaks = name not in RANDOM
            if speaks:
                lines.append("| " + " | ".join([name, "unquantized", "", "", "", "", *spoken(base, test)]) + " |")
                print(lines[-1], flush=True)
            for kind, number in kinds:
                for importance in (None, matrix):
                    if importance is None and (needs_importance(kind) or name == "smollm2"):
                        continue
                    a, b = folder / "ours.gguf", folder / "theirs.gguf"
                    step = ["-a", "imatrix"] if importance else []
                    run("qquantize", calibrated, "-s", kind, *step, "-o", folder / "q.qmap", "--force")
                    run("qexport", folder / "q.qmap", "-f", "gguf", "-o", a, "--force")
                    row = [name, kind, "yes" if importance else "no"]
                    if not theirs(base, b, number, importance):
                        lines.append("| " + " | ".join(row + ["llama.cpp refuses"] + [""] * 5) + " |")
                        continue
                    n, types, bytes_ = compare(a, b)
                    bad += bool(types or bytes_)
                    row += [str(n), str(len(types)), str(len(bytes_))]
                    row += spoken(a, test) if speaks and importance else ["", "", ""]
                    lines.append("| " + " | ".join(row) + " |")
                    print(lines[-1], flush=True)
            save(out, lines, bad)
    save(out, lines, bad)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
