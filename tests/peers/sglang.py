"""What SGLang's own code does with checkpoints, beside what `qverify --target sglang` says it will do.

    ./check --peers sglang

sglang_cpu/load.py builds the model and loads it, without a GPU: DESIGN.md, "Targets". $QPIPE_ONLY holds words, when not
every row is wanted: a row is kept whose label has one of them.
"""

import contextlib
import dataclasses
import datetime
import json
import os
import random
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# Not this folder: its files are called as the libraries are.
sys.path[:] = [p for p in sys.path if Path(p or ".").resolve() != Path(__file__).resolve().parent]
sys.path[:0] = [str(ROOT / "tests/cli")]
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import target_models as t  # noqa: E402
import test_target  # noqa: E402
from support import Weights  # noqa: E402

BIN = Path(os.environ.get("QPIPE_BIN", ROOT / "build/release"))
LOADS, LIES, REFUSES = test_target.LOADS, test_target.LIES, test_target.REFUSES
# What kernels get ready from what was loaded: no tensor of a checkpoint is meant for it.
OWN = ("g_idx_sort_indices", "_blockscale_swizzled", "attn.k_scale", "attn.v_scale", "attn_mqa.k_scale",
       "attn_mqa.v_scale", "attn_mha.k_scale", "attn_mha.v_scale", "w13_weight_shape", "w2_weight_shape")


@dataclasses.dataclass
class Row:
    label: str
    path: Path
    hardware: str = "sm90"
    tp: int = 1
    flags: str = ""


class Sglang:
    """Processes that have imported SGLang, one for each hardware."""

    def __init__(self):
        self.servers = {}

    def server(self, hardware, place):
        key = hardware, place
        if key not in self.servers:
            self.servers[key] = subprocess.Popen(
                [sys.executable, ROOT / "tests/peers/sglang_cpu/load.py", hardware], stdin=subprocess.PIPE,
                stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
            self.servers[key].stdout.readline()
        return self.servers[key]

    def ask(self, row, ranks):
        """The ranks' answers; each has a process, so they load at once."""
        words = row.flags.split()
        args = {k.removeprefix("--").replace("-", "_"): v for k, v in zip(words[::2], words[1::2])}
        servers = [self.server(row.hardware, place) for place in range(len(ranks))]
        for server, rank in zip(servers, ranks):
            server.stdin.write(json.dumps({"path": str(row.path), "tp": row.tp, "rank": rank, "args": args}) + "\n")
            server.stdin.flush()
        return [json.loads(server.stdout.readline()) for server in servers]

    def close(self):
        for server in self.servers.values():
            server.stdin.close()
            server.wait()


def meant(name, ordered, weights_only):
    if weights_only and name.endswith("input_scale"):
        return False
    return not name.endswith(OWN) and (ordered or not name.endswith("g_idx"))


def theirs(sglang, row):
    """Verdict, text of the error, tensors nobody read, parameters nobody wrote; of the first and the last rank."""
    error, dropped, empty, schemes, kernels = "", None, {}, set(), set()
    quant = json.loads((row.path / "config.json").read_text()).get("quantization_config", {})
    ordered = "actorder" in json.dumps(quant) or quant.get("desc_act", False)
    weights_only = str(quant.get("quant_algo", "")).startswith("W4A16")
    for answer in sglang.ask(row, sorted({0, row.tp - 1})):
        after = next(iter(answer.get("process", {}).items()), ("", ""))
        error = error or answer.get("error", "") or after[0]
        schemes |= set(answer.get("schemes", []))
        kernels |= set(answer.get("kernels", []))
        here = set(answer.get("dropped", []))
        dropped = here if dropped is None else dropped & here
        for kind in ("uninitialised", "default"):
            empty |= {n: kind for n in answer.get(kind, {}) if meant(n, ordered, weights_only)}
    schemes = sorted(s for s in schemes if not s.startswith("Unquantized"))
    early = [k for k in kernels if k.startswith("before the end")]
    return error, dropped or set(), empty, early or schemes


def ours(row):
    run = subprocess.run([BIN / "qverify", row.path, "--target", "sglang", "--tp", str(row.tp), "--hw", row.hardware,
                          "--engine-args", row.flags, "--json"], capture_output=True, text=True)
    target = json.loads(run.stdout)["target"]
    of = {}
    for tensor in target["tensors"]:
        of.setdefault(tensor["verdict"], set()).add(tensor["name"])
    return target["verdict"], [f["error"] for f in target["findings"] if f.get("error")], of


def compare(sglang, row):
    """Cells of the row, and whether the two agree."""
    error, dropped, empty, schemes = theirs(sglang, row)
    verdict, errors, of = ours(row)
    ignored = of.get("ignored by design", set())
    lost = dropped - ignored
    fact = REFUSES if error else LIES if lost or empty else LOADS
    if fact != verdict:
        wrong = "another verdict"
    elif fact == REFUSES and not any(e in error for e in errors):
        wrong = "another error: " + "; ".join(errors or ["none"])
    elif fact != REFUSES and lost != of.get("dropped silently", set()):
        odd = sorted(lost ^ of.get("dropped silently", set()))
        wrong = f"{len(odd)} tensors are dropped in one only: {odd[0]}"
    elif fact == LIES and empty and not of.keys() & {"missing, default", "missing, uninitialised", "wrong shape", "wrong dtype"}:
        wrong = f"not told: {len(empty)} parameters are empty, {sorted(empty)[0]}"
    else:
        wrong = ""
    said = " ".join(error.split())[:200]
    if not said and lost:
        said = f"{len(lost)} tensors dropped: {sorted(lost)[0]}"
    if not error and empty:
        said += f"{'; ' if said else ''}{len(empty)} parameters empty: {sorted(empty)[0]}"
    if not error and not lost and not empty:
        said = ", ".join(schemes)
    return [row.label, row.hardware, row.tp, fact, said, verdict, wrong or "agree"], not wrong


def threads(folder):
    """(a) the threads of test_target.py, broken and sound."""
    for i, (thread, args, broken, _, _, sound) in enumerate(test_target.CASES):
        engine, *more = args.split()
        if engine != "sglang":
            continue
        tp = int(more[more.index("--tp") + 1]) if "--tp" in more else 1
        hardware = more[more.index("--hw") + 1] if "--hw" in more else "sm90"
        for kind, make in (("broken", broken), ("sound", sound)):
            yield Row(f"{thread}, {kind}", make().write(folder / f"{i}-{kind}"), hardware, tp)


def hardware_rows(folder):
    """(a) where schemes run."""
    for i, (args, make, _, _) in enumerate(test_target.HARDWARE):
        engine, _, hardware, *more = args.split()
        if engine == "sglang":
            yield Row(f"hardware {i}", make().write(folder / f"hw-{i}"), hardware, 1, " ".join(more[1:]))


SCHEMES = [("compressed-tensors", s) for s in
           ("w4a16", "w4a16-asym", "w4a16-g32", "w8a16", "w3a16", "fp8-dynamic", "fp8-tensor", "fp8-static", "fp8-block", "int8",
            "int8-static", "nvfp4", "nvfp4a16", "mxfp4", "mxfp4a16", "mxfp8", "mxfp8a16", "w4a8", "w4afp8")] + [
    ("gptq", "w4a16"), ("gptq", "w8a16"), ("gptq", "w4a16-asym"), ("gptq", "w3a16"), ("gptq", "w4a16-g64"),
    ("awq", "w4a16-asym"), ("awq", "w4a16"), ("auto-round", "w4a16"), ("auto-round", "w8a16"), ("auto-round", "mxfp4"),
    ("auto-round", "nvfp4"), ("fp8", "fp8-block"), ("fp8", "fp8-tensor"), ("fp8", "fp8-static"), ("fp8", "mxfp8"),
    ("w8a8-int8", "int8"), ("w8a8-fp8", "fp8-dynamic"), ("modelopt", "fp8-static"), ("modelopt", "nvfp4"), ("modelopt", "nvfp4a16"),
    ("modelopt", "mxfp8"), ("quark", "fp8-static"), ("quark", "fp8-dynamic"), ("quark", "mxfp4"), ("quark", "int8"), ("modelslim", "int8"),
    ("torchao", "torchao-int8wo")]
TP = (1, 2, 8)
NOT_RUN = ["bitsandbytes: it has a loader of its own, which needs the package", "GGUF: likewise",
           "TP 4, and ranks between the first and the last", "expert and pipeline parallelism"]
MODELS = {"llama": t.llama, "qwen3-moe": t.qwen3_moe, "deepseek-v3": t.deepseek_v3, "qwen2.5-vl": t.qwen2_5_vl}
# Hardware that SGLang asks for before it looks at anything else.
BLACKWELL, ASCEND, AMD = {"mxfp8", "mxfp8a16"}, {"modelslim"}, {"quark"}


def exports(folder):
    """(b) what we export, by shapes of models and ranks."""
    tokens, draw = folder / "tokens.jsonl", random.Random(1)
    tokens.write_text("".join(f"{json.dumps([draw.randrange(t.V) for _ in range(64)])}\n" for _ in range(4)))
    for name, make in MODELS.items():
        weights = Weights(seed=5)
        model, source = folder / name, folder / f"{name}.qmap"
        make().write(model, lambda dtype, n: weights.take(n) if dtype == "BF16" else bytes(4 * n))
        subprocess.run([BIN / "qcalibrate", model, "--tokens", tokens, "-n", "4", "--seqlen", "64", "-o", source], check=True,
                       capture_output=True)
        for family, scheme in SCHEMES:
            out = folder / f"{name}-{family}-{scheme}"
            done = subprocess.run(
                ["bash", "-o", "pipefail", "-c", '"$0/qquantize" "$1" -s "$2" | "$0/qexport" -f "$3" -o "$4"', BIN, source, scheme,
                 family, out], capture_output=True, text=True)
            label = f"{name}, {family} {scheme}"
            if done.returncode:
                yield label, " ".join(done.stderr.split())[:160]
                continue
            hardware = "a3" if family in ASCEND else "cdna4" if family in AMD else "sm100" if scheme in BLACKWELL else "sm90"
            for tp in TP:
                yield Row(label, out, hardware, tp)


def save(out, parts, asked):
    total = sum(len(rows) for _, rows, _ in parts)
    wrong = [r for _, rows, _ in parts for r in rows if r[-1] != "agree"]
    lines = [f"# SGLang {version('sglang')}", "",
             f"{datetime.date.today()}, `./check --peers sglang`{asked}: {total} checkpoints and ranks, {total - len(wrong)} agree, "
             f"{len(wrong)} do not.", "",
             "SGLang's own code builds the model's class and its parameters for the first and the last rank and loads the",
             "checkpoint; what follows the loading runs until it comes to a kernel. The forward pass does not run.", ""]
    for title, rows, out_of_reach in parts:
        lines += [f"## {title}", "", "| what | hardware | ranks | SGLang | it says | qverify | |", "| --- | --- | --- | --- | --- | --- | --- |"]
        lines += ["| " + " | ".join(str(c).replace("|", "/") for c in row) + " |" for row in rows]
        if out_of_reach:
            lines += ["", "Not exported:", ""] + [f"- {label}: {why}" for label, why in out_of_reach]
        lines.append("")
    lines += ["## Not run", ""] + [f"- {what}" for what in NOT_RUN] + [""]
    if wrong:
        lines += ["## Disagreements", ""] + [f"- {r[0]} ({r[1]}, {r[2]} ranks): SGLang {r[3]} ({r[4]}); qverify {r[5]}: {r[6]}" for r in wrong]
    if out:
        out.write_text("\n".join(lines).rstrip() + "\n")
    return len(wrong)


def main():
    out = Path(sys.argv[1]) if len(sys.argv) > 1 else None
    only = os.environ.get("QPIPE_ONLY", "").split()
    asked = f" with QPIPE_ONLY={' '.join(only)!r}" if only else ""
    parts = []
    with tempfile.TemporaryDirectory() as scratch, contextlib.closing(Sglang()) as sglang:
        for title, rows in (("Threads", threads), ("Hardware", hardware_rows), ("What we export", exports)):
            parts.append((title, [], []))
            for row in rows(Path(scratch)):
                if isinstance(row, tuple):
                    parts[-1][2].append(row)
                    continue
                if only and not any(word in row.label for word in only):
                    continue
                cells, agree = compare(sglang, row)
                parts[-1][1].append(cells)
                print("" if agree else "!!", *cells, sep=" | ", flush=True)
            save(out, parts, asked)
    return 1 if save(out, parts, asked) else 0


if __name__ == "__main__":
    sys.exit(main())
