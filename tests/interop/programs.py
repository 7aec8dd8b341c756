"""Runs qpipe's programs and reads what they wrote, bytes first."""

import json
import os
import subprocess
import tempfile
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

REPO = Path(__file__).resolve().parents[2]
TINY_LM = REPO / "tests/data/tiny-lm"


def bin_dir():
    return Path(os.environ.get("QPIPE_BIN", REPO / "build"))


def missing(what):
    """Skips; under CI=true fails, since ./check provides everything the tests ask for."""
    if os.environ.get("CI") == "true":
        pytest.fail(what)
    pytest.skip(what)


def pipe(*stages, expect=0, env=None):
    """Runs `qload A | qquantize B | ..`; returns (stdout, stderr of all) of the last stage.

    expect: the exit status of the last stage; the ones before it must be 0 when it is 0.
    """
    processes, errors, upstream = [], [], None
    for stage in stages:
        argv = [str(bin_dir() / stage[0]), *map(str, stage[1:])]
        err = tempfile.TemporaryFile()
        p = subprocess.Popen(argv, stdin=upstream or subprocess.DEVNULL, stdout=subprocess.PIPE,
                             stderr=err, env={**os.environ, **(env or {})})
        if upstream:
            upstream.close()
        upstream = p.stdout
        processes.append(p)
        errors.append(err)
    out = upstream.read().decode()
    statuses = [p.wait() for p in processes]
    text = ""
    for err in errors:
        err.seek(0)
        text += err.read().decode()
        err.close()
    line = " | ".join(" ".join(map(str, s)) for s in stages)
    assert statuses[-1] == expect, f"{line}\nexit statuses {statuses}, expected {expect}\n{text}"
    assert expect != 0 or not any(statuses), f"{line}\nexit statuses {statuses}\n{text}"
    return out, text


def export(source, out, args, env=None, more=()):
    """source -> qquantize ARGS -> a compressed-tensors directory."""
    pipe(["qload", source, "-q"], ["qquantize", *args, "-q"],
         ["qexport", "-f", "compressed-tensors", "-o", out, "-q", *more], env=env)
    return Path(out)


def dequantize(source, out):
    pipe(["qload", source, "--dequantize", "-q"], ["qexport", "-f", "safetensors", "-o", out, "-q"])
    return Path(out)


def read_tensors(directory):
    tensors = {}
    for file in sorted(Path(directory).glob("*.safetensors")):
        with safe_open(file, framework="pt") as f:
            for name in f.keys():
                tensors[name] = f.get_tensor(name)
    return tensors


def read_json(path):
    return json.loads(Path(path).read_text())


def bits(tensor):
    """The stored bytes, so that -0.0, NaN and FP8 compare as they are on disk."""
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8)


def same_bits(a, b):
    return a.dtype == b.dtype and a.shape == b.shape and torch.equal(bits(a), bits(b))


def list_schemes():
    out, _ = pipe(["qquantize", "--list-schemes", "--json"])
    return json.loads(out)
