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
sys.path.insert(0, str(ROOT / "tests/cli"))
import gguf_broken as broken  # noqa: E402
from gguf_broken import LIES, LOADS, REFUSES  # noqa: E402

TEXT = "<s>In the king's beginning 123 </s> was\nthe word, and they said -- unto him."
ABOUT = ("Each file is loaded in a process of its own, which makes tokens of a text and evaluates eight tokens. llama.cpp \"refuses\" "
         "where that fails or the process dies; it \"lies\" where tokens, special tokens or numbers are not finite, or not those of the "
         "sound file that the broken one was made from; else it \"loads\". What is wrong with each file: tests/cli/gguf_broken.py.")
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


def shards(binary, tiny, folder):
    """Files in shards: (group, name, path, the sound file)."""
    jobs = []
    for i, name in enumerate(("in shards", "the second shard", "a shard less", "the first by another name", "a shard of another number")):
        inside = folder / f"shards-{i}"
        inside.mkdir()
        run(binary, "qexport", tiny, "-f", "gguf", "--shard-size", "500KB", "-o", inside / "s.gguf")
        files = sorted(inside.glob("*.gguf"))
        path = files[0]
        if name == "the second shard":
            path = files[1]
        if name == "a shard less":
            files[1].unlink()
        if name == "the first by another name":
            path = files[0].rename(inside / "first.gguf")
        if name == "a shard of another number":
            files[1].write_bytes(files[2].read_bytes())
        jobs.append(("shards", name, path, "tiny-lm bf16"))
    return [("sound", *jobs[0][1:]), *jobs[1:]]


def row(name, what, verdict, text, stderr, differs):
    last = (complaint(stderr) or [""])[0] if what == REFUSES else ""
    for path in sorted({w for w in last.replace("'", " ").split() if w.startswith("/")}):
        last = last.replace(path, Path(path).name)
    cells = [name, what, verdict if verdict != what else "the same", text, last[:160], differs]
    return "| " + " | ".join(c.replace("|", "/") for c in cells) + " |"


def section(binary, tiny, say=print):
    """(lines of the page, number of disagreements)"""
    
    head = ["| file | llama.cpp | qverify | prints our text | the first it prints | |", "| --- | --- | --- | --- | --- | --- |"]
    counts = dict.fromkeys(("all", "same", "known", "refused", "text", "none", "unrecorded"), 0)
    groups, bad, outcomes = {}, 0, {}
    with tempfile.TemporaryDirectory() as scratch, ThreadPoolExecutor(2) as pool:
        jobs = list(all_jobs(binary, tiny, Path(scratch)))

        def work(job):
            return observe(job[2]), judge(binary, job[2])

        for (group, name, path, base), ((seen, stderr), (verdict, errors, why)) in zip(jobs, pool.map(work, jobs)):
            outcomes[name] = seen
            kind = name.partition(": ")[2] if name.partition(": ")[0] in SHORT.values() else name
            what = truth(seen, outcomes.get(base), kind not in broken.OTHER_NUMBERS)
            text = said(errors, stderr) if what == verdict == REFUSES else ""
            known = what != verdict and broken.DIFFERENT.get(kind, ("", ""))
            differs = "" if what == verdict and text != "no" else f"known: {known[1]}" if known and known[0] == verdict else "DIFFERS"
            recorded = group in ("sound", "shards") or broken.seen(kind) == what
            counts["all"] += 1
            counts["same"] += what == verdict
            counts["known"] += differs.startswith("known")
            counts["refused"] += bool(text)
            counts["text"] += text == "yes"
            counts["none"] += text == "nothing"
            counts["unrecorded"] += not recorded
            bad += differs == "DIFFERS" or not recorded
            line = row(name, what, verdict, text, stderr, differs)
            groups.setdefault(group, []).append(line)
            say(line, flush=True)
            if differs == "DIFFERS" or not recorded:
                say("  ?", verdict, errors, why, complaint(stderr)[:4], "" if recorded else "not as recorded", sep="\n      ", flush=True)
    lines = [ABOUT, "", f"{counts['same']} of {counts['all']} verdicts are what llama.cpp does; {counts['known']} differ for a known reason, "
             f"{bad} otherwise. Of {counts['refused']} files refused by both, {counts['text']} are refused with the text that qverify says; "
             f"for {counts['none']}, where the process dies, it says none.", ""]
    for group, rows in groups.items():
        lines += [f"### {group}: {len(rows)}", "", *head, *rows, ""]
    return lines, bad


SHORT = {broken.SPM: "SentencePiece", broken.MOE: "qwen3_moe", broken.LATENT: "deepseek_v3"}


def all_jobs(binary, tiny, folder):
    """(group, name, path, name of the sound file or None), sound files first."""
    made = sound_files(binary, tiny, folder)
    for name, (base, change) in broken.DERIVED.items():
        made[name] = folder / "derived.gguf"
        broken.make(made[base], change, made[name])
    for name, path in made.items():
        yield "sound", name, path, None
    yield from shards(binary, tiny, folder)
    yield "file", "a directory", tiny, None
    for i, (group, name, base, change) in enumerate(broken.kinds()):
        path = folder / f"broken-{i}.gguf"
        broken.make(made[base], change, path)
        yield group, f"{SHORT[base]}: {name}" if base in SHORT else name, path, base


if __name__ == "__main__":
    if sys.argv[1] == "--load":
        load(sys.argv[2])
    else:
        section(Path(sys.argv[1]), ROOT / "tests/data/tiny-lm")
