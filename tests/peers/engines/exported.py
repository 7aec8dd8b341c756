"""Tiny models as we export them, for what is held beside engines' own code."""

import json
import os
import random
import shutil
import subprocess
import tempfile
from pathlib import Path

import target_models as t
from support import Weights

BIN = Path(os.environ.get("QPIPE_BIN", Path(__file__).resolve().parents[3] / "build/release")).resolve()
MODELS = {"llama": t.llama, "qwen3-moe": t.qwen3_moe, "deepseek-v3": t.deepseek_v3, "qwen2.5-vl": t.qwen2_5_vl}
SCHEMES = {
    "compressed-tensors": ("w4a16", "w4a16-g32", "w4a16-asym", "w8a16", "w3a16", "fp8-dynamic", "fp8-tensor", "fp8-static", "fp8-block",
                           "int8", "int8-static", "nvfp4", "nvfp4a16", "mxfp4", "mxfp4a16", "mxfp8", "mxfp8a16", "w4a8", "w4afp8"),
    "gptq": ("w4a16", "w8a16", "w3a16", "w4a16-asym", "w4a16-g64", "w4a16-g256"),
    "awq": ("w4a16-asym", "w4a16"),
    "auto-round": ("w4a16", "w8a16", "mxfp4", "mxfp8", "nvfp4"),
    "fp8": ("fp8-block", "fp8-tensor", "fp8-static", "mxfp8"),
    "modelopt": ("fp8-static", "fp8-dynamic", "fp8-block", "nvfp4", "nvfp4a16", "mxfp8"),
    "quark": ("fp8-dynamic", "fp8-tensor", "fp8-static", "mxfp4", "int8"),
    "w8a8-int8": ("int8",),
    "w8a8-fp8": ("fp8-dynamic",),
    "modelslim": ("int8",),
    "torchao": ("torchao-int8wo", "torchao-fp8wo"),
    "bitsandbytes": ("bnb-nf4",),
}
# Groups that ranks cut are seen when all ranks' parts are put together.
GROUPS_CUT = ("gptq", "awq", "auto-round")


class NotExported(Exception):
    pass


class Exports:
    """A model is calibrated once; an export stays until the next one is asked for."""

    def __init__(self):
        self.folder = tempfile.TemporaryDirectory()
        self.place = Path(self.folder.name)
        self.key, self.result = None, None

    def source(self, name):
        source = self.place / f"{name}.qmap"
        if not source.exists():
            tokens, draw, weights = self.place / "tokens.jsonl", random.Random(1), Weights(seed=5)
            tokens.write_text("".join(f"{json.dumps([draw.randrange(t.V) for _ in range(64)])}\n" for _ in range(4)))
            model = MODELS[name]().write(self.place / name, lambda dtype, n: weights.take(n) if dtype == "BF16" else bytes(4 * n))
            subprocess.run([BIN / "qcalibrate", model, "--tokens", tokens, "-n", "4", "--seqlen", "64", "-o", source], check=True,
                           capture_output=True)
        return source

    def write(self, *key):
        """A folder, or NotExported with what our programs say."""
        if key != self.key:
            self.key, self.result = key, self.export(*key)
        if isinstance(self.result, NotExported):
            raise self.result
        return self.result

    def export(self, model, format_, scheme):
        out = self.place / "out"
        shutil.rmtree(out, ignore_errors=True)
        line = '"$0/qquantize" -q "$1" -s "$2" | "$0/qexport" -q -f "$3" -o "$4"'
        done = subprocess.run(["bash", "-o", "pipefail", "-c", line, BIN, self.source(model), scheme, format_, out],
                              capture_output=True, text=True)
        return NotExported(" ".join(done.stderr.split())) if done.returncode else out


def ranks(model, format_, scheme):
    """(--tp, --ep): 4 and 8 ranks of the dense model and of one scheme of each format; experts over ranks, likewise."""
    first = scheme == SCHEMES[format_][0]
    for tp in (1, 2, 4, 8) if model == "llama" or first else (1, 2):
        yield tp, 1
    if first and model in ("qwen3-moe", "deepseek-v3"):
        yield 2, 2


RANKS = "TP 1 and 2 of all, 4 and 8 of llama and of one scheme of each format; experts over two ranks of one scheme of each format"


def combinations():
    for model in MODELS:
        for format_, schemes in SCHEMES.items():
            for scheme in schemes:
                yield model, format_, scheme
