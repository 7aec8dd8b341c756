#!/usr/bin/env python3
"""Quality beside a peer: the same token windows, the same bits and groups, and one judge for both.

    bench/quality/run.py --bin build/release --model DIR --calib TEXT --test TEXT --peer NAME=PYTHON
        [--schemes w4a16,w3a16,w2a16] [--group-size 128] [--draws 3] [--algorithm gptq]

For each draw, 64 windows of 512 tokens begin at places that the draw's seed chooses in the text. The
peer (NAME_peer.py, run by its environment's PYTHON) quantizes and saves a checkpoint; qload reads it,
and `qverify --eval` measures its perplexity and its divergence from the unquantized model, as it does ours.
"""
import argparse
import json
import pathlib
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

from tokenizers import Tokenizer

HERE = pathlib.Path(__file__).resolve().parent
BITS = {"w4a16": 4, "w3a16": 3, "w2a16": 2}

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
for name in ("bin", "model", "calib", "test"):
    parser.add_argument(f"--{name}", required=True, type=lambda p: pathlib.Path(p).resolve())
parser.add_argument("--peer")
parser.add_argument("--schemes", default="w4a16,w3a16,w2a16")
parser.add_argument("--algorithm", action="append", help="ours; repeatable (gptq)")
parser.add_argument("--group-size", default="128")
parser.add_argument("--draws", type=int, default=3)
args = parser.parse_args()
WORK = pathlib.Path(tempfile.mkdtemp(prefix="qpipe-quality-"))
ALGORITHMS = args.algorithm or ["gptq"]
PEER, PYTHON = args.peer.split("=", 1) if args.peer else (None, None)


def run(*command):
    start = time.perf_counter()
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, cwd=WORK)
    if done.returncode != 0:
        sys.exit(f"failed: {command}\n{done.stdout[-1000:]}\n{done.stderr[-3000:]}")
    return time.perf_counter() - start, done.stdout


def windows(draw):
    ids = Tokenizer.from_file(str(args.model / "tokenizer.json")).encode(args.calib.read_text()).ids
    rng = random.Random(draw)
    chosen = [rng.randrange(len(ids) - 512) for _ in range(64)]
    found = [ids[i:i + 512] for i in chosen]
    (WORK / "windows.json").write_text(json.dumps(found))
    (WORK / "windows.jsonl").write_text("".join(json.dumps(w) + "\n" for w in found))


def judge(checkpoint):
    _, text = run(args.bin / "qverify", checkpoint, args.model, "--eval", args.test, "--json")
    e = json.loads(text)["evaluation"]
    return e["divergence"]["kl"]["mean"], e["divergence"]["kl"]["error"], e["perplexity"]["value"]


def ours(scheme, algorithm):
    out = WORK / "ours.qmap"
    seconds, _ = run(args.bin / "qquantize", WORK / "c.qmap", "-s", scheme, "--group-size", args.group_size,
                     "-a", algorithm, "-o", out, "--force", "--no-sync")
    return judge(out), seconds


def theirs(scheme):
    out = WORK / "theirs"
    shutil.rmtree(out, ignore_errors=True)
    _, text = run(PYTHON, HERE / f"{PEER}_peer.py", args.model, WORK / "windows.json", out, BITS[scheme], args.group_size)
    seconds = float(next(line for line in text.splitlines() if line.startswith("seconds")).split()[1])
    return judge(out), seconds


try:
    results = {}
    for draw in range(args.draws):
        windows(draw)
        took, _ = run(args.bin / "qcalibrate", args.model, "--tokens", WORK / "windows.jsonl", "-n", "64", "--seqlen",
                      "512", "-o", WORK / "c.qmap", "--force", "--no-sync")
        for scheme in args.schemes.split(","):
            for algorithm in ALGORITHMS:
                figures, seconds = ours(scheme, algorithm)
                results.setdefault((scheme, f"qpipe {algorithm}"), []).append((*figures, seconds + took))
            if PEER:
                figures, seconds = theirs(scheme)
                results.setdefault((scheme, PEER), []).append((*figures, seconds))
    print(f"{args.model.name}, groups of {args.group_size}, {args.draws} draws of 64 x 512 tokens\n")
    print("| scheme | by | KL | +- draws | +- tokens | perplexity | seconds |\n| --- | --- | --- | --- | --- | --- | --- |")
    for (scheme, by), rows in results.items():
        kl = [r[0] for r in rows]
        spread = statistics.stdev(kl) / len(kl) ** 0.5 if len(kl) > 1 else float("nan")
        print(f"| {scheme} | {by} | {statistics.mean(kl):.5f} | {spread:.5f} | {rows[0][1]:.5f} | "
              f"{statistics.mean(r[2] for r in rows):.3f} | {statistics.mean(r[3] for r in rows):.1f} |")
finally:
    shutil.rmtree(WORK, ignore_errors=True)
