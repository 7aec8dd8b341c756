#!/usr/bin/env python3
"""Quality beside peers: the same token windows, bits and groups, and one judge for both sides.

    bench/quality/run.py --bin build/release --model DIR --calib TEXT --test TEXT --results FILE.jsonl
        [--peer gptqmodel=PYTHON --peer llmcompressor=PYTHON ..] [--group-size 128] [--draws 3]
        [--only REGEX] [--redo REGEX] [--table]

For each draw, 64 windows of 512 tokens begin at places that the draw's seed chooses in the text. A peer
(NAME_peer.py, run by its environment's PYTHON) quantizes and saves a checkpoint; `qverify --eval` measures
its perplexity and its divergence from the unquantized model, activations quantized, as it does ours.

A finished measurement is a line of FILE and is not made again, so an interrupted run continues; --redo
forgets those whose maker matches (`--redo qpipe` after a change of ours), --only takes the rows that
match, --table makes nothing and prints the table of what FILE holds.
"""
import argparse
import datetime
import json
import pathlib
import random
import re
import shlex
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
BITS = (4, 3, 2)


def by_bits(title, ours, *theirs):
    """Rows for each number of bits; {b} and {s} stand for it and for the scheme's name."""
    return [(t.format(b=b, s=f"w{b}a16"), o.format(s=f"w{b}a16"), p.format(b=b, s=f"w{b}a16"))
            for b in BITS for t, o, p in ((title + " {s}", ours, p) for p in theirs)]


# What, ours, theirs. Ours: arguments of qquantize, or of qcalibrate | qquantize. Theirs: a peer and its
# METHOD, with its arguments. "" on one side: the other alone.
ROWS = [
    *by_bits("rtn", "-s {s}", "llmcompressor rtn-{s}"),
    *by_bits("mse", "-s {s} -a mse", ""),
    *by_bits("hqq", "-s {s} -a hqq", ""),
    *by_bits("clip", "-s {s} -a clip", ""),
    *by_bits("gptq", "-s {s} -a gptq", "gptqmodel {b}", "llmcompressor gptq-{s}"),
    *by_bits("gptq, symmetric", "-s {s} -a gptq:alpha=0", "gptqmodel {b}", "llmcompressor gptq-{s}"),
    *by_bits("gptq, asymmetric", "-s {s} -a gptq:alpha=1", "gptqmodel {b}", "llmcompressor gptq-{s}"),
    *by_bits("gptq, 4 sweeps", "-s {s} -a gptq:sweeps=4", "gptqmodel {b}", "llmcompressor gptq-{s}", "autoround {b}"),
    *by_bits("awq", "-s {s} -a awq", "llmcompressor awq-{s}"),
    *by_bits("awq, gptq", "-s {s} -a awq,gptq", ""),
    *by_bits("rotate, gptq", "-s {s} -a rotate,gptq", ""),
    *by_bits("rotate, autoround", "-s {s} -a rotate,autoround", ""),
    ("awq w4a16", "-s w4a16 -a awq", "modelopt int4_awq"),
    *by_bits("autoround", "-s {s} -a autoround", "autoround {b}"),
    *by_bits("autoround, 20 iterations", "-s {s} -a autoround:iters=20", "autoround {b} iters=20"),
    ("int8", "-s int8", "llmcompressor rtn-int8"),
    ("smoothquant int8", "-s int8 -a smoothquant", "llmcompressor smoothquant-int8"),
    ("smoothquant, gptq int8", "-s int8 -a smoothquant,gptq", "llmcompressor smoothquant-int8"),
    ("int8-static", "-s int8-static", "llmcompressor rtn-int8-static"),
    ("int8-static, mse", "--observer mse | -s int8-static", "llmcompressor rtn-int8-static"),
    ("smoothquant int8-static", "-s int8-static -a smoothquant", "llmcompressor smoothquant-int8-static"),
    ("smoothquant int8-static", "-s int8-static -a smoothquant", "modelopt int8_smoothquant"),
    ("smoothquant int8-static", "-s int8-static -a smoothquant:alpha=1", "modelopt int8_smoothquant"),
    ("smoothquant, gptq int8-static", "-s int8-static -a smoothquant,gptq", "modelopt int8_smoothquant"),
    ("fp8-static", "-s fp8-static", "modelopt fp8"),
    ("fp8-static, its numerics", "-s fp8-static --numerics modelopt", "modelopt fp8"),
    ("fp8-static, mse", "--observer mse --observer-dtype fp8 | -s fp8-static", "modelopt fp8"),
    ("fp8-static, gptq", "-s fp8-static -a gptq", "modelopt fp8"),
    ("nvfp4", "-s nvfp4", "modelopt nvfp4"),
    ("nvfp4, its numerics", "-s nvfp4 --numerics modelopt", "modelopt nvfp4"),
    ("nvfp4, mse", "-s nvfp4 -a mse", "modelopt nvfp4"),
    ("nvfp4, gptq", "-s nvfp4 -a gptq", "modelopt nvfp4"),
    ("nvfp4", "-s nvfp4", "llmcompressor rtn-nvfp4"),
]
NO_GROUPS = re.compile(r"int8(?!wo)|fp8|nvfp4")  # makers that --group-size says nothing to

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
for name in ("bin", "model", "calib", "test", "results"):
    parser.add_argument(f"--{name}", required=True, type=lambda p: pathlib.Path(p).resolve())
parser.add_argument("--peer", action="append", default=[], metavar="NAME=PYTHON")
parser.add_argument("--group-size", default="128")
parser.add_argument("--draws", type=int, default=3)
parser.add_argument("--windows", default="96", help="of the test text; 0: all")
parser.add_argument("--only", default="", help="rows, ours or theirs, that match")
parser.add_argument("--redo", help="forget the results of makers that match")
parser.add_argument("--table", action="store_true")
args = parser.parse_args()
PEERS = dict(p.split("=", 1) for p in args.peer)
WORK = pathlib.Path(tempfile.mkdtemp(prefix="qpipe-quality-"))


class Failed(Exception):
    pass


def run(*command):
    start = time.perf_counter()
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, cwd=WORK)
    if done.returncode != 0:
        (args.results.parent / "failed.log").write_text(f"{command}\n{done.stdout[-20000:]}\n{done.stderr[-20000:]}")
        raise Failed((done.stderr.strip().splitlines() or ["no message"])[-1])
    return time.perf_counter() - start, done.stdout


def windows(draw):
    from tokenizers import Tokenizer
    ids = Tokenizer.from_file(str(args.model / "tokenizer.json")).encode(args.calib.read_text()).ids
    rng = random.Random(draw)
    chosen = [rng.randrange(len(ids) - 512) for _ in range(64)]
    found = [ids[i:i + 512] for i in chosen]
    (WORK / "windows.json").write_text(json.dumps(found))
    (WORK / "windows.jsonl").write_text("".join(json.dumps(w) + "\n" for w in found))


def judge(checkpoint):
    _, text = run(args.bin / "qverify", checkpoint, args.model, "--eval", args.test, "--seqlen", "512",
                  *(["-n", args.windows] if args.windows != "0" else []), "--json")
    e = json.loads(text)["evaluation"]
    return {"kl": e["divergence"]["kl"]["mean"], "kl_error": e["divergence"]["kl"]["error"],
            "perplexity": e["perplexity"]["value"], "base_perplexity": e["base_perplexity"]["value"],
            "tokens": e["perplexity"]["tokens"], "activations": e["activations"]}


def ours(command, groups):
    calibrate, _, quantize = command.rpartition("|")
    out = WORK / "ours.qmap"
    observed = WORK / f"calibrated{abs(hash(calibrate))}.qmap"
    took = 0
    if not observed.exists():  # shared by all rows of the draw
        took, _ = run(args.bin / "qcalibrate", args.model, "--tokens", WORK / "windows.jsonl", "-n", "64",
                      "--seqlen", "512", *shlex.split(calibrate), "-o", observed, "--no-sync")
    seconds, _ = run(args.bin / "qquantize", observed, *shlex.split(quantize), *groups, "-o", out, "--force", "--no-sync")
    version = run(args.bin / "qquantize", "--version")[1].split()[-1]
    return judge(out) | {"seconds": seconds + took, "versions": {"qpipe": version}}


def theirs(peer, method, groups):
    out = WORK / "theirs"
    shutil.rmtree(out, ignore_errors=True)
    first, *more = method.split()
    seconds, text = run(PEERS[peer], HERE / f"{peer}_peer.py", args.model, WORK / "windows.json", out, first,
                        *groups[1:], *more)
    # `made {..}` or `seconds X`, among whatever the peer prints.
    made = next((json.loads(l[5:]) for l in text.splitlines() if l.startswith("made ")), None)
    plain = next((float(l.split()[1]) for l in text.splitlines() if l.startswith("seconds ")), seconds)
    return judge(out) | (made or {"seconds": plain})


def results():
    return [json.loads(l) for l in args.results.read_text().splitlines()] if args.results.exists() else []


def measure(draw, maker):
    groups = [] if NO_GROUPS.search(maker) else ["--group-size", args.group_size]
    key = {"model": args.model.name, "group": groups[-1] if groups else None, "draw": draw, "by": maker}
    if any(key.items() <= line.items() for line in results()):
        return
    who, _, what = maker.partition(" ")
    if who != "qpipe" and who not in PEERS:
        return
    try:
        line = key | (ours(what, groups) if who == "qpipe" else theirs(who, what, groups))
    except Failed as failed:
        print(f"{key}: {failed}", file=sys.stderr, flush=True)
        if who == "qpipe":  # perhaps an algorithm that is not there yet
            return
        line = key | {"failed": str(failed)}
    with open(args.results, "a") as f:
        f.write(json.dumps(line) + "\n")
    print(json.dumps({k: line.get(k) for k in (*key, "kl", "perplexity", "seconds")}), file=sys.stderr, flush=True)


def summary(maker, known):
    """Mean KL, its error over draws and over tokens, perplexity, seconds; None; or why it failed."""
    group = None if NO_GROUPS.search(maker) else args.group_size
    lines = [l for l in known if (l["model"], l["group"], l["by"]) == (args.model.name, group, maker)]
    found = [l for l in lines if "kl" in l]
    if not found:
        return lines[0]["failed"] if lines else None
    kl = [l["kl"] for l in found]
    spread = statistics.stdev(kl) / len(kl) ** 0.5 if len(kl) > 1 else 0
    return {"n": len(kl), "kl": statistics.mean(kl), "draws": spread, "tokens": statistics.mean(l["kl_error"] for l in found),
            "perplexity": statistics.mean(l["perplexity"] for l in found),
            "seconds": statistics.mean(l["seconds"] for l in found)}


def cells(s):
    if not isinstance(s, dict):
        return [f"fails: {s[:60]}" if s else "-", "-", "-"]
    spread = f" ± {s['draws']:.1g}" if s["n"] > 1 else ""
    return [f"{s['kl']:.4g}{spread} (± {s['tokens']:.1g})", f"{s['perplexity']:.3f}", f"{s['seconds']:.0f}"]


def verdict(a, b):
    """A loss by less than twice the error of the difference is marked: it may be chance."""
    if not isinstance(a, dict) or not isinstance(b, dict):
        return "-"
    error = (a["draws"] ** 2 + b["draws"] ** 2) ** 0.5 if min(a["n"], b["n"]) > 1 else (a["tokens"] ** 2 + b["tokens"] ** 2) ** 0.5
    words = "ours" if a["kl"] <= b["kl"] else "loss within error" if a["kl"] - b["kl"] < 2 * error else "LOSS"
    return f"{words} ({a['kl'] / b['kl']:.3f})"


def table(rows, known):
    here = [l for l in known if l["model"] == args.model.name and "base_perplexity" in l]
    versions = {f"{k} {v}" for l in here for k, v in l.get("versions", {}).items()}
    print(f"{args.model.name}, groups of {args.group_size}, draws of 64 x 512 tokens; "
          f"perplexity of the model itself {here[-1]['base_perplexity']:.3f} on {here[-1]['tokens']} tokens of "
          f"{args.test.name}. KL in nats: mean ± standard error over draws (± over tokens). "
          f"Seconds are those of a shared machine: no measure of speed.\n"
          f"{datetime.date.today()}: {', '.join(sorted(versions))}.\n" if here else "nothing measured yet\n")
    print("| row | draws | ours | KL | perplexity | s | theirs | KL | perplexity | s | who is closer (ours / theirs) |\n"
          "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    for title, mine, peer in rows:
        a, b = summary(f"qpipe {mine}", known) if mine else None, summary(peer, known) if peer else None
        if a or b:
            n = "/".join(str(s["n"]) if isinstance(s, dict) else "0" for s in (a, b))
            print("|", " | ".join([title, n, f"`{mine.replace('|', '→')}`" if mine else "-", *cells(a),
                                   peer or "-", *cells(b), verdict(a, b)]), "|")
    print("\nOptions of the peers, as they ran:\n")
    for by in dict.fromkeys(peer for _, _, peer in rows):
        line = next((l for l in here if l["by"] == by and l.get("options")), None)
        if line:
            print(f"- {by}: `{json.dumps(line['options'])}`")


def main():
    if args.redo:
        kept = [l for l in results() if not re.search(args.redo, l["by"])]
        args.results.write_text("".join(json.dumps(l) + "\n" for l in kept))
    rows = [r for r in ROWS if re.search(args.only, " / ".join(r))]
    args.results.parent.mkdir(parents=True, exist_ok=True)
    for draw in range(0 if args.table else args.draws):
        windows(draw)
        for _, mine, peer in rows:
            for maker in filter(None, (mine and f"qpipe {mine}", peer)):
                measure(draw, maker)
        for old in WORK.glob("calibrated*.qmap"):
            old.unlink()
    table(rows, results())


if __name__ == "__main__":
    try:
        main()
    finally:
        shutil.rmtree(WORK, ignore_errors=True)
