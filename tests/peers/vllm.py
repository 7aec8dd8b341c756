"""qverify --target vllm beside vLLM's own code, its Python run on a CPU (vllm_cpu/): the checkpoints of
tests/cli/test_target.py, broken and sound, and what we export, by ranks.

    ./check --peers vllm

QPIPE_ONLY names parts of labels. A disagreement is a verdict that differs, or an error text of ours that is not
in theirs.
"""

import datetime
import json
import os
import resource
import subprocess
import sys
import tempfile
import traceback
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent
# Not this folder: it has a vllm.py.
sys.path[:] = [p for p in sys.path if Path(p or ".").resolve() != HERE]
sys.path[:0] = [str(HERE / "vllm_cpu"), str(HERE / "engines"), str(ROOT / "tests/cli")]
os.environ.setdefault("QP_TEST_DATA", str(ROOT / "tests/data"))

import cases  # noqa: E402
import exported  # noqa: E402
import load  # noqa: E402
import start  # noqa: E402

LOADS, LIES, REFUSES = "loads and uses everything", "loads but lies", "refuses"
# Parameters and tensors that mean nothing to the model's numbers, and where that is decided.
HARMLESS = {
    ".weight_shape": "no kernel reads it",
    "_weight_shape": "the same, of experts",
    ".g_idx": "auto_gptq.py has no such parameter without desc_act",
}

NOT_RUN = ["torchao: its tensors are subclasses, into which what follows tensors here cannot look; the rule is `not-replayed`",
           "GGUF and bitsandbytes: their loaders are others, and need their packages", "gpt-oss's MXFP4: `not-replayed`, too",
           "Quark is loaded, and `not-replayed` by qverify: an agreement says that it loads and no more", "pipeline parallelism"]


def harmless(name):
    return name.endswith(tuple(HARMLESS))


def theirs(case, path):
    """In a process of its own: vLLM keeps models, configs and groups in globals."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(reader)
            resource.setrlimit(resource.RLIMIT_AS, (12 << 30, 12 << 30))
            for file in (1, 2):
                os.dup2(os.open(os.devnull, os.O_WRONLY), file)
            ranks = range(case.tp) if case.all_ranks else {0, case.tp - 1}
            found = [load.load(path, case.tp, rank, case.ep, case.capability) for rank in sorted(ranks)]
            os.write(writer, json.dumps(found).encode())
        except BaseException:
            os.write(writer, json.dumps(traceback.format_exc()[-2000:]).encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as file:
        text = file.read()
    os.waitpid(pid, 0)
    found = json.loads(text) if text else "it died"
    if isinstance(found, str):
        raise RuntimeError(found)
    return found


def unread(found):
    """Tensors of which all ranks together leave a part."""
    for name in set.intersection(*(set(rank["read"]) for rank in found)):
        masks = [int(rank["read"][name], 16) for rank in found]
        union = 0
        for mask in masks:
            union |= mask
        bits, read = 4 * len(found[0]["read"][name]), bin(union).count("1")
        if bits - read >= 8:  # the last byte may have bits that stand for nothing
            yield f"about {bits - read} of {bits} elements of {name} are read by no rank"


def verdict_of(found, tp=1):
    """What the ranks' loaders did, and in words why."""
    for rank in found:
        if rank["error"]:
            return REFUSES, rank["error"]
    why = []
    for rank in found:
        why += [f"nothing is written into {n}" for n in rank["unwritten"] if not harmless(n)]
        why += [f"{n}: {a} becomes {b}" for n, a, b in rank["converted"] if not harmless(n)]
        why += [f"a scale of {n} is 1.0: none is stored" for n in rank["defaults"]]
    nowhere = set.intersection(*(set(rank["dropped"]) for rank in found))  # experts are one rank's
    why += [f"{n} goes nowhere" for n in nowhere if not harmless(n)]
    if len(found) == tp:
        why += unread(found)
    return (LIES, "; ".join(sorted(set(why)))) if why else (LOADS, "")


def ours(case, path):
    command = [exported.BIN / "qverify", path, "--target", "vllm", "--json", "--hw", f"sm{case.capability}", *case.arguments()]
    done = subprocess.run(command, capture_output=True, text=True)
    report = json.loads(done.stdout)
    findings = [f for f in report["target"]["findings"]]
    return report["target"]["verdict"], findings


def cell(text, length=300):
    text = " ".join(str(text).split()).replace("|", "/")
    return text if len(text) <= length else text[:length] + " .."


def compare(case, folder):
    """(row of the table, agreement)"""
    path = case.write(folder)
    their_verdict, why = verdict_of(theirs(case, path), case.tp)
    our_verdict, findings = ours(case, path)
    errors = [f["error"] for f in findings if f.get("error")]
    agree = our_verdict == their_verdict
    said = ""
    if agree and our_verdict == REFUSES:
        flat = " ".join(why.split())
        agree = any(" ".join(e.split()) in flat for e in errors)
        said = "" if agree else "another text: " + "; ".join(errors)
    if our_verdict != their_verdict:
        said = f"ours: {our_verdict}" + (" (" + ", ".join(sorted({f['rule'] for f in findings})) + ")" if findings else "")
    return f"| {case.label} | {their_verdict} | {cell(why)} | {'agrees' if agree else cell(said)} |", agree


def save(out, rows, bad, cannot, left):
    """After every case: a run that is stopped leaves a page that says how far it came."""
    count = sum(map(len, rows.values()))
    summary = f"{count} checkpoints: {count - len(bad)} agree, {len(bad)} do not; {len(cannot)} that we do not export"
    summary += f"; stopped before the last {left}." if left else "."
    if not out:
        return summary
    only = os.environ.get("QPIPE_ONLY", "")
    head = ["| checkpoint | vLLM's code | how | qverify |", "| --- | --- | --- | --- |"]
    lines = [f"# vLLM {start.VERSION}", "",
             "`qverify --target vllm` beside vLLM's own config classes, model classes and loaders, run without a GPU on a stubbed "
             "CUDA platform (tests/peers/vllm_cpu) up to, not with, `process_weights_after_loading` (but for scales of keys and "
             "values): memory that no tensor is written to, tensors or (where all ranks ran) parts of them that nobody reads, tensors "
             "that go nowhere, codes that become values, or the exception, of the first and the last rank (of all ranks of GPTQ, AWQ and "
             f"auto-round, whose groups can be cut). The tensors are zeros. Of what we export: {exported.RANKS}.",
             "", f"{datetime.date.today()}, `./check --peers vllm`{f' with QPIPE_ONLY={only!r}' if only else ''}: {summary}", "",
             "Counted as harmless: " + "; ".join(f"`{k}` ({v})" for k, v in HARMLESS.items()) + ".", "",
             "## Disagreements", "", *(head + bad if bad else ["None."]), ""]
    for part, table in rows.items():
        lines += [f"## {part}", "", *head, *table, ""]
    lines += ["## Not run", "", *(f"- {what}" for what in NOT_RUN), ""]
    if cannot:
        lines += ["## Not exported", "", "| what | why |", "| --- | --- |", *cannot, ""]
    out.write_text("\n".join(lines).rstrip() + "\n")
    return summary


def main():
    out = Path(sys.argv[1]) if len(sys.argv) > 1 else None
    only = os.environ.get("QPIPE_ONLY", "").split(",")
    rows, bad, cannot = {}, [], []
    with tempfile.TemporaryDirectory() as scratch:  # what is imported here is imported for all
        for name, model in exported.MODELS.items():
            found = load.load(model().write(Path(scratch) / name))
            print(f"{name}, unquantized: {verdict_of([found])}", flush=True)
    load.warm()
    chosen = [case for case in cases.all_of() if any(o in case.label for o in only)]
    for i, case in enumerate(chosen):
        with tempfile.TemporaryDirectory() as scratch:
            try:
                row, agree = compare(case, Path(scratch))
            except exported.NotExported as e:
                cannot.append(f"| {case.label} | {cell(e)} |")
                continue
            except Exception as e:
                row, agree = f"| {case.label} | - | {cell(e)} | FAILED |", False
        rows.setdefault(case.part, []).append(row)
        if not agree:
            bad.append(row)
        print(("agree  " if agree else "DIFFER ") + row, flush=True)
        save(out, rows, bad, cannot, len(chosen) - i - 1)
    print(save(out, rows, bad, cannot, 0))
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
