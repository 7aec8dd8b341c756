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
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# Not this folder: its files are called as the libraries are.
sys.path[:] = [p for p in sys.path if Path(p or ".").resolve() != Path(__file__).resolve().parent]
sys.path[:0] = [str(ROOT / "tests/peers/engines"), str(ROOT / "tests/cli")]
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import exported  # noqa: E402
import test_target  # noqa: E402

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
    ep: int = 1
    all_ranks: bool = False

    def quant(self):
        return json.loads((self.path / "config.json").read_text()).get("quantization_config", {})

    def ordered(self):
        """Whether columns have an order of their own; else g_idx means nothing."""
        return "actorder" in json.dumps(self.quant()) or self.quant().get("desc_act", False)


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
        args = {k.removeprefix("--").replace("-", "_"): int(v) if v.isdecimal() else v for k, v in zip(words[::2], words[1::2])}
        servers, answers = [self.server(row.hardware, place) for place in range(min(2, len(ranks)))], []
        for i in range(0, len(ranks), 2):
            for server, rank in zip(servers, ranks[i:i + 2]):
                server.stdin.write(json.dumps({"path": str(row.path), "tp": row.tp, "rank": rank, "args": args}) + "\n")
                server.stdin.flush()
            answers += [json.loads(server.stdout.readline()) for server, _ in zip(servers, ranks[i:i + 2])]
        return answers

    def close(self):
        for server in self.servers.values():
            server.stdin.close()
            server.wait()


def meant(name, ordered, weights_only):
    if weights_only and name.endswith("input_scale"):
        return False
    return not name.endswith(OWN) and (ordered or not name.endswith("g_idx"))


def unread(answers):
    """{tensor: elements} of what all ranks together leave."""
    left = {}
    for name in set.intersection(*(set(a.get("read", {})) for a in answers)):
        masks = [int(a["read"][name], 16) for a in answers]
        union = 0
        for mask in masks:
            union |= mask
        bits = 4 * len(answers[0]["read"][name])
        if bits - union.bit_count() >= 8:  # the last byte may have bits that stand for nothing
            left[name] = bits - union.bit_count()
    return left


@dataclasses.dataclass
class Found:
    error: str
    dropped: set
    empty: dict
    unread: dict
    schemes: list
    kernel: str  # where it stopped before the end; what the rest would do is not known


def theirs(sglang, row):
    """What the ranks did: the first and the last, or all."""
    error, dropped, empty, schemes, kernels = "", None, {}, set(), set()
    quant, order = row.quant(), row.ordered()
    weights_only = str(quant.get("quant_algo", "")).startswith("W4A16")
    ranks = list(range(row.tp)) if row.all_ranks else sorted({0, row.tp - 1})
    answers = sglang.ask(row, ranks)
    for answer in answers:
        after = next(iter(answer.get("process", {}).items()), ("", ""))
        error = error or answer.get("error", "") or after[0]
        schemes |= set(answer.get("schemes", []))
        kernels |= set(answer.get("kernels", []))
        here = {n for n in answer.get("dropped", []) if order or not n.endswith(".g_idx")}
        dropped = here if dropped is None else dropped & here
        for kind in ("uninitialised", "default"):
            empty |= {n: kind for n in answer.get(kind, {}) if meant(n, order, weights_only)}
    schemes = sorted(s for s in schemes if not s.startswith("Unquantized"))
    early = [k for k in kernels if k.startswith("before the end")]
    whole = len(ranks) == row.tp and not error and not early
    left = {n: e for n, e in unread(answers).items() if order or not n.endswith(".g_idx")} if whole else {}
    return Found(error, dropped or set(), empty, left, schemes, early[0] if early else "")


def ours(row):
    run = subprocess.run([exported.BIN / "qverify", row.path, "--target", "sglang", "--tp", str(row.tp), "--hw", row.hardware,
                          "--ep", str(row.ep), "--engine-args", row.flags, "--json"], capture_output=True, text=True)
    report = json.loads(run.stdout)
    target = report["target"]
    of = {}
    for tensor in target["tensors"]:
        of.setdefault(tensor["verdict"], set()).add(tensor["name"])
    return target["verdict"], target["findings"], report["findings"], of


def compare(sglang, row):
    """Cells of the row, and whether the two agree."""
    found = theirs(sglang, row)
    verdict, findings, report, of = ours(row)
    errors = [f["error"] for f in findings if f.get("error")]
    lost = found.dropped - of.get("ignored by design", set())
    fact = REFUSES if found.error else "-" if found.kernel else LIES if lost or found.empty or found.unread else LOADS
    told_dropped = {n for n in of.get("dropped silently", set()) if row.ordered() or not n.endswith(".g_idx")}
    told = of.keys() & {"missing, default", "missing, uninitialised", "wrong shape", "wrong dtype"}
    if found.kernel and not found.error:
        wrong = "not decided: it stops at a kernel"
    elif fact != verdict:
        wrong = "not decided: loading does not show it" if fact == LOADS and documented(report) else "another verdict"
    elif fact == REFUSES and not any(e in found.error for e in errors):
        wrong = "another error: " + "; ".join(sorted(set(errors)) or ["none"])
    elif fact != REFUSES and lost != told_dropped:
        odd = sorted(lost ^ told_dropped)
        wrong = f"{len(odd)} tensors are dropped in one only: {odd[0]}"
    elif fact == LIES and found.empty and not told:
        wrong = f"not told: {len(found.empty)} parameters are empty, {sorted(found.empty)[0]}"
    else:
        wrong = ""
    said = [" ".join(found.error.split())[:200]] if found.error else []
    if lost and not said:
        said.append(f"{len(lost)} tensors dropped: {sorted(lost)[0]}")
    if not found.error:
        said += [f"{len(found.empty)} parameters empty: {sorted(found.empty)[0]}"] if found.empty else []
        said += [f"{len(found.unread)} tensors read in part: {sorted(found.unread)[0]}"] if found.unread else []
    said = "; ".join(said) or found.kernel or ", ".join(found.schemes)
    return [row.label, row.hardware, row.tp, fact, said, verdict, wrong or "agree"], not wrong


def documented(findings):
    """Whether what we object to is what SGLang's documentation says, and not its code."""
    return all("documentation of" in f["hint"] or "docs_new/" in f["hint"] for f in findings if f["severity"] == "error")


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


NOT_RUN = ["bitsandbytes: it has a loader of its own, which needs the package", "GGUF: likewise",
           "ranks between the first and the last, but for GPTQ, AWQ and auto-round", "pipeline parallelism"]
# Hardware that SGLang asks for before it looks at anything else.
BLACKWELL, ASCEND, AMD = {"mxfp8", "mxfp8a16"}, {"modelslim"}, {"quark"}


def exports(wanted):
    """(b) what we export, by shapes of models and ranks."""
    written = exported.Exports()
    for name, family, scheme in exported.combinations():
        label = f"{name}, {family} {scheme}"
        if not wanted(label) or family == "bitsandbytes":
            continue
        try:
            out = written.write(name, family, scheme)
        except exported.NotExported as e:
            yield label, str(e)[:160]
            continue
        hardware = "a3" if family in ASCEND else "cdna4" if family in AMD else "sm100" if scheme in BLACKWELL else "sm90"
        for tp, ep in exported.ranks(name, family, scheme):
            if tp == 4:
                continue
            yield Row(label + (", experts over ranks" if ep > 1 else ""), out, hardware, tp, f"--ep-size {ep}" if ep > 1 else "", ep,
                      all_ranks=family in exported.GROUPS_CUT)


def save(out, parts, asked):
    total = sum(len(rows) for _, rows, _ in parts)
    open_ = [r for _, rows, _ in parts for r in rows if r[-1].startswith("not decided")]
    wrong = [r for _, rows, _ in parts for r in rows if r[-1] != "agree" and r not in open_]
    lines = [f"# SGLang {version('sglang')}", "",
             f"{datetime.date.today()}, `./check --peers sglang`{asked}: {total} checkpoints and ranks, {total - len(wrong) - len(open_)} "
             f"agree, {len(wrong)} do not, {len(open_)} cannot be decided here.", "",
             "SGLang's own code builds the model's class and its parameters for the first and the last rank and loads the",
             "checkpoint; what follows the loading runs until it comes to a kernel. The forward pass does not run.",
             f"Of what we export: {exported.RANKS} (but no 4 ranks).", ""]
    for title, rows, out_of_reach in parts:
        lines += [f"## {title}", "", "| what | hardware | ranks | SGLang | it says | qverify | |", "| --- | --- | --- | --- | --- | --- | --- |"]
        lines += ["| " + " | ".join(str(c).replace("|", "/") for c in row) + " |" for row in rows]
        if out_of_reach:
            lines += ["", "Not exported:", ""] + [f"- {label}: {why}" for label, why in out_of_reach]
        lines.append("")
    if open_:
        lines += ["## Not decided", ""] + [f"- {r[0]} ({r[1]}, {r[2]} ranks): qverify {r[5]}; {r[6]} ({r[4]})" for r in open_] + [""]
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
        wanted = lambda label: not only or any(word in label for word in only)  # noqa: E731
        for title, rows in (("Threads", threads(Path(scratch))), ("Hardware", hardware_rows(Path(scratch))),
                            ("What we export", exports(wanted))):
            parts.append((title, [], []))
            for row in rows:
                if isinstance(row, tuple):
                    parts[-1][2].append(row)
                    continue
                if not wanted(row.label):
                    continue
                cells, agree = compare(sglang, row)
                parts[-1][1].append(cells)
                print("" if agree else "!!", *cells, sep=" | ", flush=True)
                if len(parts[-1][1]) % 50 == 0:
                    save(out, parts, asked + ", so far")
            save(out, parts, asked)
    return 1 if save(out, parts, asked) else 0


if __name__ == "__main__":
    sys.exit(main())
