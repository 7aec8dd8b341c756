"""llm-compressor's oneshot against ours on tests/data/tiny-lm: the stored bytes of every tensor.

    ./check --peers llm-compressor

Run by check with the programs in $QPIPE_BIN; writes its table to the file it is given.
"""

import datetime
import importlib.metadata
import os
import subprocess
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch  # noqa: E402
from llmcompressor import oneshot  # noqa: E402
from llmcompressor.modifiers.quantization import QuantizationModifier  # noqa: E402
from safetensors import safe_open  # noqa: E402
from transformers import AutoModelForCausalLM  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
MODEL = ROOT / "tests/data/tiny-lm"
BIN = Path(os.environ.get("QPIPE_BIN", ROOT / "build/release"))
SCHEMES = {"FP8_DYNAMIC": "fp8-dynamic", "W8A8": "int8", "W4A16": "w4a16",
           "W4A16_ASYM": "w4a16-asym", "FP8_BLOCK": "fp8-block", "NVFP4A16": "nvfp4a16"}
PACKAGES = ("llmcompressor", "compressed-tensors", "torch", "transformers")


def theirs(scheme, out):
    model = AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.bfloat16)
    oneshot(model=model, recipe=QuantizationModifier(
        targets="Linear", scheme=scheme, ignore=["lm_head"]))
    model.save_pretrained(out, save_compressed=True)


def ours(scheme, out):
    pipe = ('"$QPIPE_BIN/qload" -q "$1" | "$QPIPE_BIN/qquantize" -q -s "$2" |'
            '"$QPIPE_BIN/qexport" -q -f compressed-tensors -o "$3" | cat >/dev/null')
    subprocess.run(["sh", "-c", pipe, "sh", MODEL, scheme, out], check=True,
                   env={**os.environ, "QPIPE_BIN": str(BIN)})


def tensors(directory):
    found = {}
    for file in sorted(Path(directory).glob("*.safetensors")):
        with safe_open(file, "pt") as f:
            for name in f.keys():
                found[name] = f.get_tensor(name)
    return found


def same(a, b):
    """Equal dtype, shape and bytes."""
    return (a.dtype == b.dtype and a.shape == b.shape and
            torch.equal(a.contiguous().view(-1).view(torch.uint8), b.contiguous().view(-1).view(torch.uint8)))


def compare(peer, scheme, scratch):
    """One row of the table, and lines about what differs."""
    theirs(peer, scratch / f"theirs-{peer}")
    ours(scheme, scratch / f"ours-{peer}")
    a, b = tensors(scratch / f"ours-{peer}"), tensors(scratch / f"theirs-{peer}")
    both = sorted(a.keys() & b.keys())
    differ = [n for n in both if not same(a[n], b[n])]
    row = f"| {peer} | {scheme} | {len(both)} | {len(both) - len(differ)} | {len(differ)} |"
    notes = [f"- {scheme}: `{n}` is only in ours" for n in sorted(a.keys() - b.keys())]
    notes += [f"- {scheme}: `{n}` is only in theirs" for n in sorted(b.keys() - a.keys())]
    for n in differ[:10]:
        how = f"{a[n].dtype} {list(a[n].shape)} and {b[n].dtype} {list(b[n].shape)}"
        if a[n].shape == b[n].shape and a[n].dtype == b[n].dtype:
            unequal = (a[n].float() != b[n].float()).sum().item()
            how = f"{unequal} of {a[n].numel()} elements"
        notes.append(f"- {scheme}: `{n}` differs: {how}")
    return row, notes, bool(differ)


def main():
    report = Path(sys.argv[1])
    rows, notes, bad = [], [], False
    with tempfile.TemporaryDirectory() as scratch:
        for peer, scheme in SCHEMES.items():
            row, more, differs = compare(peer, scheme, Path(scratch))
            rows.append(row)
            notes += more
            bad |= differs
    versions = ", ".join(f"{p} {importlib.metadata.version(p)}" for p in PACKAGES)
    version = subprocess.run([BIN / "qquantize", "--version"], capture_output=True, text=True,
                             check=True).stdout.strip()
    report.write_text("\n".join([
        "# llm-compressor", "",
        "`oneshot` with `QuantizationModifier` (data-free) on tests/data/tiny-lm, saved compressed;",
        "every stored tensor against ours, byte for byte. Made by `./check --peers llm-compressor`.",
        "", f"{datetime.date.today().isoformat()}; {versions}; {version}", "",
        "| their scheme | ours | tensors in both | equal | different |",
        "| --- | --- | --- | --- | --- |", *rows, "", *notes]).rstrip() + "\n")
    print(report.read_text())
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
