"""What llama.cpp does with GGUFs, sound and broken, beside what `qverify --target llama.cpp` says.

Each file is loaded in a process of its own (--load FILE), which evaluates a few tokens:
  refuses: it fails, or dies;
  loads but lies: other tokens, special tokens or numbers come out than of the file it was made from,
    or numbers that are not finite;
  loads and uses everything: the rest.
So what llama.cpp does is measured; qverify sees only the file."""

import hashlib
import json
import os
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
TEXT = "<s>In the king's beginning 123 </s> was\nthe word, and they said -- unto him."
LOADS, LIES, REFUSES = "loads and uses everything", "loads but lies", "refuses"
FILE_TYPES = ("bf16", "q4_0", "q5_1", "q8_0", "q2_k", "q3_k_m", "q4_k_m", "q5_k_s", "q6_k", "iq4_nl", "iq4_xs", "tq1_0", "tq2_0",
              "gguf:mxfp4", "gguf:nvfp4", "q1_0", "q2_0")


def load(path):
    """Runs in its own process: JSON of what came out, or an end by exception or signal."""
    import llama_cpp
    import numpy as np

    model = llama_cpp.Llama(path, n_ctx=64, n_batch=64, n_threads=1, logits_all=True, verbose=True)
    ids = model.tokenize(TEXT.encode(), add_bos=True, special=True)
    special = [f(model._model.vocab) for f in (llama_cpp.llama_vocab_bos, llama_cpp.llama_vocab_eos)]
    fixed = [0, 5, 77, 200, 3, 150, 42, 9]
    model.eval(fixed)
    scores = np.array(model.scores[: len(fixed)])
    print(json.dumps({"tokens": ids, "special": special, "text": model.detokenize(ids).hex(),
                      "scores": hashlib.sha256(scores.tobytes()).hexdigest(), "finite": bool(np.isfinite(scores).all())}))


def observe(path):
    """(what came out or None, standard error)"""
    environment = dict(os.environ, GGML_NO_BACKTRACE="1")  # which forks, and may hang
    try:
        done = subprocess.run([sys.executable, __file__, "--load", path], capture_output=True, text=True, errors="replace", timeout=120,
                              env=environment, stdin=subprocess.DEVNULL)
    except subprocess.TimeoutExpired as e:
        return None, (e.stderr or b"").decode(errors="replace") + "\n(still running after 120 s)"
    if done.returncode == 0:
        return json.loads(done.stdout.splitlines()[-1]), done.stderr
    return None, done.stderr + (f"\n(signal {-done.returncode})" if done.returncode < 0 else "")


def truth(seen, base, numbers):
    """What llama.cpp did; base: what came out of the sound file, or None."""
    if seen is None:
        return REFUSES
    if not seen["finite"]:
        return LIES
    same = base is None or all(seen[k] == base[k] for k in seen if numbers or k != "scores")
    return LOADS if same else LIES


def complaint(stderr):
    """The lines by which it ended."""
    words = ("error", "Error", "GGML_ASSERT", "gguf_init", "GGML_ABORT", "(signal", "(still", "fatal", "failed", "what()", "unsupported")
    lines = [line.strip() for line in stderr.splitlines() if any(w in line for w in words)]
    lines = [line for line in lines if not line.startswith(("llama_params_fit", "File "))]
    return lines


def judge(binary, path):
    """(verdict, error texts of what refuses) of qverify."""
    done = subprocess.run([binary / "qverify", path, "--target", "llama.cpp", "--json"], capture_output=True, text=True)
    try:
        target = json.loads(done.stdout)["target"]
    except (ValueError, KeyError):
        return f"no verdict: {done.stderr.strip()}", [], []
    found = target["findings"]
    return (target["verdict"], [f.get("error", "") for f in found if f["effect"] == "refuses"],
            [f"{f['rule']}: {f['what']}" for f in found])


def said(errors, stderr):
    """Whether what we say it prints is there: "yes", "no", or "" where nothing is said."""
    texts = [e for e in errors if e]
    if not texts:
        return "nothing"
    return "yes" if any(e in stderr for e in texts) else "no"


def run(binary, *arguments):
    subprocess.run([binary / arguments[0], "-q", *map(str, arguments[1:])], check=True, capture_output=True)


def sound_files(binary, tiny, folder):
    """Name -> path."""
    import random_models as r

    made = {}

    def make(name, source, kind):
        made[f"{name} {kind}"] = out = folder / f"{name}-{kind.replace(':', '-')}.gguf"
        if kind != "bf16":  # as it is
            run(binary, "qquantize", source, "-s", kind, "-o", folder / "t.qmap", "--force")
            source = folder / "t.qmap"
        run(binary, "qexport", source, "-f", "gguf", "-o", out)

    for kind in FILE_TYPES:
        make("tiny-lm", tiny, kind)
    for name, (architecture, model_type, layer, config) in (r.QUANTIZED | r.MORE).items():
        head = dict(r.GPT2_HEAD) if name == "gpt2" else None
        r.write(folder / name, tiny, architecture, model_type, layer, config, layers=2, head=head)
        for kind in ("bf16", "q8_0", "q4_k_m", "gguf:mxfp4"):
            make(name, folder / name, kind)
    return made


def row(name, what, verdict, text, stderr, agrees):
    last = (complaint(stderr) or [""])[0] if what == REFUSES else ""
    for path in sorted({w for w in last.replace("'", " ").split() if w.startswith("/")}):
        last = last.replace(path, Path(path).name)
    cells = [name, what, verdict if verdict != what else "the same", text, last[:160], "" if agrees else "DIFFERS"]
    return "| " + " | ".join(c.replace("|", "/") for c in cells) + " |"


def section(binary, tiny, say=print):
    """(lines of the page, number of disagreements)"""
    sys.path.insert(0, str(ROOT / "tests/cli"))
    import gguf_broken as broken

    head = ["| file | llama.cpp | qverify | its text is ours | the first it says | |", "| --- | --- | --- | --- | --- | --- |"]
    counts = {"verdict": 0, "text": 0, "none": 0, "refused": 0, "all": 0}
    groups, differ = {}, []
    with tempfile.TemporaryDirectory() as scratch, ThreadPoolExecutor(2) as pool:
        folder = Path(scratch)
        made = sound_files(binary, tiny, folder)
        jobs = [("sound", name, path, None) for name, path in made.items()]
        for name, (base, change) in broken.DERIVED.items():
            made[name] = folder / "derived.gguf"
            broken.make(made[base], change, made[name])
            jobs.append(("sound", name, made[name], None))
        for i, (group, name, base, change) in enumerate(broken.kinds()):
            path = folder / f"broken-{i}.gguf"
            broken.make(made[base], change, path)
            short = {broken.TINY: "", broken.SPM: "SentencePiece"}.get(base, base.partition(" ")[0])
            jobs.append((group, f"{short}: {name}" if short else name, path, base))

        def work(job):
            return observe(job[2]), judge(binary, job[2])

        outcomes = {}
        for (group, name, path, base), ((seen, stderr), (verdict, errors, why)) in zip(jobs, pool.map(work, jobs)):
            outcomes[name] = seen
            what = truth(seen, outcomes.get(base), name not in broken.OTHER_NUMBERS)
            text = said(errors, stderr) if what == verdict == REFUSES else ""
            agrees = what == verdict and text != "no"
            counts["all"] += 1
            counts["verdict"] += what == verdict
            counts["refused"] += bool(text)
            counts["text"] += text == "yes"
            counts["none"] += text == "nothing"
            line = row(name, what, verdict, text, stderr, agrees)
            groups.setdefault(group, []).append(line)
            if not agrees or text == "nothing":
                differ.append((name, what, verdict, errors, why, complaint(stderr)[:4]))
            say(line, flush=True)
    for d in differ:
        say("  ?", *d, sep="\n      ", flush=True)
    lines = [f"{counts['verdict']} of {counts['all']} verdicts are what llama.cpp does. Of {counts['refused']} files refused by both, "
             f"{counts['text']} are refused with the text that qverify says, {counts['none']} where it says none.", ""]
    for group, rows in groups.items():
        lines += [f"### {group}", "", *head, *rows, ""]
    return lines, counts["all"] - counts["verdict"] + counts["refused"] - counts["text"] - counts["none"]


if __name__ == "__main__":
    if sys.argv[1] == "--load":
        load(sys.argv[2])
    else:
        section(Path(sys.argv[1]), ROOT / "tests/data/tiny-lm")
