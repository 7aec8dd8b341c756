"""Our GGUFs beside llama.cpp's own, through llama-cpp-python.

    ./check --peers llama.cpp

1. The bytes of every type of ggml's, row by row (ggml_types.py).
2. Every file type on whole models: types and bytes of each tensor as llama_model_quantize makes them from the
   same unquantized GGUF, with and without the same importance matrix.
3. Those files loaded: tokens, text generated, perplexity beside what `qverify --eval` says.
4. DeepSeek's matrices by heads (ggml/latents.py).
5. Files loaded, sound and broken in many ways, beside `qverify --target llama.cpp` (ggml/loads.py).

$QPIPE_ONLY names what is made anew: "types", "latents", "loads", models, file types. Other sections of the page stay.
"""

import ctypes
import json
import math
import os
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
import loads  # noqa: E402
import numpy as np  # noqa: E402
import random_models  # noqa: E402
from gguf import GGUFReader  # noqa: E402
from llama_quantize import file_type, theirs  # noqa: E402
from page import Page  # noqa: E402

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


def models(folder):
    """Name, directory, text to calibrate with."""
    yield "tiny-lm", TINY, TINY / "heldout.txt"
    if (DATA / "docs-lm").exists():
        yield "docs-lm", DATA / "docs-lm", DATA / "docs-lm/calib.txt"
    smollm2 = Path(os.environ.get("QPIPE_CACHE", Path.home() / ".cache/qpipe/x")).parent / "smollm2/smollm2-bf16"
    if smollm2.exists() and (DATA / "wikitext-2").exists():  # ./check makes it
        yield "smollm2", smollm2, DATA / "wikitext-2/calib.txt"
    for name, row in random_models.QUANTIZED.items():
        random_models.write(folder / name, TINY, *row)
        yield name, folder / name, TINY / "heldout.txt"


@llama_cpp.llama_log_callback
def quiet(level, text, data):
    pass


def pytest_or_script(*arguments):
    """(whether it failed, its output as a block of the page)"""
    done = subprocess.run([sys.executable, *map(str, arguments)], capture_output=True, text=True,
                          env=dict(os.environ, CI="true", QPIPE_BIN=str(BIN)))
    print(done.stdout, flush=True)
    return done.returncode != 0, ["```", done.stdout.rstrip(), "```"]


HEAD = ["| model | file type | importance | tensors | other type | other bytes | perplexity, llama.cpp | ours | it goes on \"The\" |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |"]


def whole_models(only, folder, put):
    """Number of comparisons that failed."""
    lines, bad = list(HEAD), 0
    kinds = [k for k in file_types() if not set(only) & {n for n, _ in file_types()} or k[0] in only]
    for name, directory, text in models(folder):
        if only and name not in only:
            continue
        base, calibrated, matrix = folder / "base.gguf", folder / "c.qmap", folder / "i.gguf"
        run("qcalibrate", directory, "--text", text, "-n", 8, "--seqlen", 64, "-o", calibrated, "--force")
        run("qcalibrate", calibrated, "--save-imatrix", matrix)
        run("qexport", calibrated, "-f", "gguf", "-o", base, "--force")
        test = folder / "test.txt"
        test.write_bytes(text.read_bytes()[-20000:])
        speaks = name not in random_models.QUANTIZED
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
        put([f"{bad} comparisons failed. llama.cpp quantizes activations, we do not: perplexities differ by that.", "", *lines])
    return bad


def main():
    llama_cpp.llama_log_set(quiet, ctypes.c_void_p(0))
    page = Page(sys.argv[1] if len(sys.argv) > 1 else None, [f"# llama.cpp, by llama-cpp-python {version('llama-cpp-python')}"])
    bad, chosen = 0, os.environ.get("QPIPE_ONLY", "")
    only = chosen.split()
    how = "`./check --peers llama.cpp`" + (f" with QPIPE_ONLY='{chosen}'." if chosen else ".")
    ggml = ROOT / "tests/peers/ggml"
    if not only or "types" in only:
        library = next(Path(llama_cpp.__file__).parent.glob("lib/libggml-base.so"))
        failed, lines = pytest_or_script(ggml / "ggml_types.py", "--library", library)
        bad += failed
        page.put("Rows of every type", lines, how)
    if not only or "latents" in only:
        failed, lines = pytest_or_script("-m", "pytest", "-q", "-p", "no:cacheprovider", ggml / "latents.py")
        bad += failed
        page.put("attn_k_b and attn_v_b of DeepSeek", lines, how)
    if not only or "loads" in only:
        lines, differ = loads.section(BIN, TINY)
        bad += differ
        page.put("Files loaded", lines, how)
    chosen_models = [o for o in only if o not in ("types", "latents", "loads")]
    if not only or chosen_models:
        title = f"Whole models{': ' if chosen_models else ''}{', '.join(chosen_models)}"  # a part does not replace the whole
        with tempfile.TemporaryDirectory() as scratch:
            os.environ["QPIPE_TMPDIR"] = scratch
            bad += whole_models(chosen_models, Path(scratch), lambda lines: page.put(title, lines, how))
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
