"""What the peers' scripts share. A script describes its library in one Peer and calls main(Peer).

    ./check --peers NAME
    python tests/peers/NAME.py --keep DIR [LABEL..]   only write checkpoints: DIR/NAME-LABEL/ and
                                                      DIR/NAME-LABEL.expected.safetensors

$QPIPE_ONLY holds labels or kinds, when not every row is wanted. Import this module before the
library: it takes this folder, whose files are called as the libraries are, off the import path.
"""

import contextlib
import dataclasses
import datetime
import importlib.metadata
import io
import os
import subprocess
import sys
import tempfile
import traceback
import warnings
from pathlib import Path

sys.path[:] = [p for p in sys.path if Path(p or ".").resolve() != Path(__file__).resolve().parent]
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("TQDM_DISABLE", "1")
warnings.filterwarnings("ignore")

import torch  # noqa: E402
from safetensors import safe_open  # noqa: E402
from safetensors.torch import save_file  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
MODEL = ROOT / "tests/data/tiny-lm"
BIN = Path(os.environ.get("QPIPE_BIN", ROOT / "build/release"))
# What our programs say about a family or scheme that they do not have.
NOT_THERE = ("cannot read yet", "unknown format", "unknown scheme", "unknown method", "unknown numerics",
             "not available", "were not expected")


@dataclasses.dataclass
class Peer:
    title: str
    about: str
    packages: tuple
    load: object  # fn(dir) -> {module: weight as the library sees it}; None: no such rows
    save: dict    # label -> fn(out) that quantizes tests/data/tiny-lm and saves a checkpoint
    target: str   # our name of the library's format
    exports: dict = dataclasses.field(default_factory=dict)  # label -> arguments of qquantize
    stored: dict = dataclasses.field(default_factory=dict)   # label of save -> arguments of qquantize
    transcodes: dict = dataclasses.field(default_factory=dict)  # label -> (arguments, first format)
    more: dict = dataclasses.field(default_factory=dict)  # (kind, label) -> fn(scratch) -> problem
    cannot: dict = dataclasses.field(default_factory=dict)  # (kind, label) -> why the library cannot
    notes: tuple = ()


KINDS = {
    "write": "the library quantizes and saves tests/data/tiny-lm; our dequantized values and its own",
    "read": "we quantize and export; the library's dequantized values and ours",
    "bytes": "both quantize; every stored tensor, byte for byte",
    "weights": "as bytes, but for the activations' scales, which come from each one's own calibration",
    "transcode": "we export to one family, turn that into the library's; its values and ours",
    "state": "`qload --modelopt-state`, quantize and export; every stored tensor of the library's own export",
    "carry": "we export as it is; the library loads it: files, weights of every component, outputs",
    "decode": "we quantize and export; stored codes times scales by torch, and our dequantized values",
    "save": "the library saves a pipeline, plain or quantized; our (dequantized) values and its own",
    "refuse": "the library says that it has no loader for the form",
    "function": "the library's function on plain tensors; our stored tensors, byte for byte",
}


class Failed(Exception):
    """One of our programs said no; the text is its message."""


def pipe(*stages):
    """Runs `qload A | qquantize B | qexport C`; raises Failed with what they said."""
    line = " | ".join('"$QPIPE_BIN/{}" -q {}'.format(s[0], " ".join(f"'{a}'" for a in s[1:]))
                      for s in stages)
    done = subprocess.run(["bash", "-o", "pipefail", "-c", f"{line} | cat >/dev/null"],
                          env={**os.environ, "QPIPE_BIN": str(BIN)}, capture_output=True, text=True)
    if done.returncode:
        raise Failed(done.stderr.strip())


def dequantize(source, out):
    pipe(["qload", source, "--dequantize"], ["qexport", "-f", "safetensors", "-o", out])
    return tensors(out)


def export(args, target, out, source=MODEL):
    """source | qquantize ARGS | qexport -f TARGET; no qquantize where args is None."""
    middle = [["qquantize", *args]] if args else []
    pipe(["qload", source], *middle, ["qexport", "-f", target, "-o", out])
    return out


def tensors(directory):
    found = {}
    for file in sorted(Path(directory).glob("*.safetensors")):
        with safe_open(file, "pt") as f:
            for name in f.keys():
                found[name] = f.get_tensor(name)
    return found


def bits(tensor):
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8)


def same(a, b):
    """Equal dtype, shape and bytes."""
    return a.dtype == b.dtype and a.shape == b.shape and torch.equal(bits(a), bits(b))


def linears(model):
    """{name: module} of the linears of a transformers model, quantized or not, lm_head left out."""
    return {n: m for n, m in model.named_modules()
            if n.endswith("_proj") and ({"in_features", "infeatures"} & vars(m).keys())}


def by_identity(model):
    """{module: weight} as y = layer(identity) shows it, for libraries that cannot dequantize; in F32,
    where its products are exact: in F16 they would be rounded, and then again to our dtype."""
    found = {}
    with torch.no_grad():
        for name, m in linears(model).items():
            if type(m) is torch.nn.Linear:  # not quantized; perhaps rounded to F16
                continue
            if hasattr(m, "scales"):
                m.scales = m.scales.float()
            width = next(getattr(m, a) for a in ("in_features", "infeatures") if a in vars(m))
            bias = m.bias if getattr(m, "bias", None) is not None else 0
            dtype = next((p.dtype for p in m.parameters() if p.is_floating_point()), torch.float32)
            found[name] = (m(torch.eye(width, dtype=dtype)) - bias).T.contiguous()
    return found


def compare_values(ours, expected, what="ours"):
    """"" when every weight is bit equal after rounding to ours' dtype, else the largest difference.
    expected: {module: weight}; ours: {tensor name: weight} of a dequantized checkpoint."""
    lines = []
    for module, want in sorted(expected.items()):
        got = ours.get(f"{module}.weight", ours.get(module))
        if got is None:
            lines.append(f"`{module}` is not in {what}")
        elif got.shape != want.shape:
            lines.append(f"`{module}`: {list(got.shape)} and {list(want.shape)}")
        else:
            want = want.to(got.dtype)
            if not torch.equal(got, want):  # -0.0 and 0.0 are alike
                d = (got.double() - want.double()).abs()
                lines.append(f"`{module}`: {(got != want).sum()} of {got.numel()} elements, "
                             f"at most {d.max():.3g} apart (largest {want.double().abs().max():.3g})")
    return f"{len(lines)} of {len(expected)} differ; {lines[0]}" if lines else ""


def compare_bytes(ours, theirs):
    only = [f"`{n}` is only in {who}" for a, b, who in ((ours, theirs, "ours"), (theirs, ours, "theirs"))
            for n in sorted(a.keys() - b.keys())]
    both = sorted(ours.keys() & theirs.keys())
    differ = [n for n in both if not same(ours[n], theirs[n])]
    for n in differ:
        a, b = ours[n], theirs[n]
        how = f"{a.dtype} {list(a.shape)} and {b.dtype} {list(b.shape)}"
        if a.shape == b.shape and a.dtype == b.dtype:
            how = f"{(bits(a) != bits(b)).sum()} of {bits(a).numel()} bytes"
        only.append(f"`{n}`: {how}")
    return f"{len(only)} of {len(ours.keys() | theirs.keys())} differ; {only[0]}" if only else ""


def quietly(function, *args):
    """The library's chatter is shown only when it fails."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            return function(*args)
    except Failed:
        raise
    except BaseException:
        sys.stderr.write(said.getvalue()[-4000:])
        raise


def write_row(peer, save, scratch):
    quietly(save, scratch / "theirs")
    expected = quietly(peer.load, scratch / "theirs")
    if not expected:
        return "the library showed no weights"
    return compare_values(dequantize(scratch / "theirs", scratch / "plain"), expected)


def read_row(peer, args, scratch, source=MODEL):
    export(args, peer.target, scratch / "ours", source)
    expected = dequantize(scratch / "ours" if source == MODEL else source, scratch / "plain")
    decoded = quietly(peer.load, scratch / "ours")
    if not decoded:
        return "the library showed no weights"
    return compare_values(expected, decoded)


def transcode_row(peer, args, first, scratch):
    export(args, first, scratch / "first")
    return read_row(peer, None, scratch, scratch / "first")


def bytes_row(peer, save, args, scratch, keep=lambda name: True):
    export(args, peer.target, scratch / "ours")
    quietly(save, scratch / "theirs")
    ours, theirs = ({n: t for n, t in tensors(scratch / d).items() if keep(n)} for d in ("ours", "theirs"))
    return compare_bytes(ours, theirs)


def attempt(kind, label, function, *args):
    """(row of the table, passed)"""
    with tempfile.TemporaryDirectory() as scratch:
        try:
            problem = function(*args, Path(scratch))
            result = problem or "equal"
        except Failed as e:
            said = str(e).splitlines()[0].replace(f"{scratch}/", "")
            missing = any(words in said for words in NOT_THERE)
            problem = result = ("not there yet: " if missing else "FAILED: ") + said[:240]
        except Exception as e:  # a library's own refusal is a result too
            traceback.print_exc()
            problem = result = f"{type(e).__name__}: {' '.join(str(e).split())[:240]}"
    print(f"{kind:8} {label:24} {result}", flush=True)
    return f"| {kind} | {label} | {result.replace('|', '/')} |", not problem


def rows_of(peer):
    for label, save in peer.save.items() if peer.load else ():
        yield "write", label, write_row, peer, save
    for label, args in peer.exports.items():
        yield "read", label, read_row, peer, args
    for label, args in peer.stored.items():
        yield "bytes", label, bytes_row, peer, peer.save[label], args
    for label, (args, first) in peer.transcodes.items():
        yield "transcode", label, transcode_row, peer, args, first
    for (kind, label), function in peer.more.items():
        yield kind, label, function


def keep(peer, name, folder, wanted):
    """Writes what is not there yet, and always the expected values."""
    for label, save in peer.save.items():
        if wanted and label not in wanted:
            continue
        out = Path(folder) / f"{name}-{label}"
        try:
            if not out.exists():
                quietly(save, out)
            expected = quietly(peer.load, out)
            save_file({k: v.contiguous() for k, v in expected.items()}, f"{out}.expected.safetensors")
            print(f"{out}: {len(expected)} weights, {next(iter(expected.values())).dtype}", flush=True)
        except Exception as e:
            traceback.print_exc()
            print(f"{out}: FAILED {type(e).__name__}: {str(e)[:500]}", flush=True)


def main(peer):
    torch.set_num_threads(2)
    name = Path(sys.argv[0]).stem
    if sys.argv[1] == "--keep":
        return keep(peer, name, sys.argv[2], sys.argv[3:])
    report = Path(sys.argv[1])
    wanted = os.environ.get("QPIPE_ONLY", "").split()
    rows, bad, seen = [], 0, set()
    for kind, label, function, *args in rows_of(peer):
        if wanted and not {kind, label} & set(wanted) or (kind, label) in peer.cannot:
            continue
        row, passed = attempt(kind, label, function, *args)
        rows.append(row)
        bad += not passed
        seen.add(kind)
    impossible = [f"| {kind} | {label} | not possible: {why} |" for (kind, label), why in peer.cannot.items()]
    seen |= {kind for kind, label in peer.cannot}
    versions = ", ".join(f"{p} {importlib.metadata.version(p)}" for p in peer.packages)
    version = subprocess.run([BIN / "qquantize", "--version"], capture_output=True, text=True,
                             check=True).stdout.strip()
    report.write_text("\n".join([
        f"# {peer.title}", "", peer.about, f"Made by `./check --peers {name}`.", "",
        f"{datetime.date.today().isoformat()}; {versions}; {version}", "",
        *(f"- `{kind}`: {text}." for kind, text in KINDS.items() if kind in seen), "",
        "| kind | what | result |", "| --- | --- | --- |", *rows, *impossible, "",
        f"{len(rows) + len(impossible)} rows, {len(rows) - bad} equal, {bad} not, "
        f"{len(impossible)} that the library cannot do here.",
        *([""] if peer.notes else []), *peer.notes]).rstrip() + "\n")
    print(report.read_text().splitlines()[-1])
    return 1 if bad else 0
