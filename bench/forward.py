#!/usr/bin/env python3
"""Measures how fast a model runs, as ratios, alternately (A B A B ..), and prints a Markdown table.

    bench/forward.py --bin build/release --model DIR [--runs 3] [--windows 8] [--seqlen 512]
                     [--python PYTHON] [--llama-bench PATH --gguf FILE]

Prefill in tokens per second of bf16 runs on all processors. Ours is `qcalibrate`, a whole process:
start, packing of weights, statistics, writing. transformers (PYTHON has it; PyTorch bf16) and
llama-bench are timed inside their process, loaded and warmed up. What statistics cost is the same
run with and without them (qp_forward does not collect any). Memory is anonymous, at its peak.
"""
import argparse
import json
import os
import pathlib
import random
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--bin", required=True)
parser.add_argument("--model", required=True)
parser.add_argument("--runs", type=int, default=3)
parser.add_argument("--windows", type=int, default=8)
parser.add_argument("--seqlen", type=int, default=512)
parser.add_argument("--python", help="an interpreter with torch and transformers")
parser.add_argument("--llama-bench")
parser.add_argument("--gguf")
args = parser.parse_args()
BIN, MODEL = pathlib.Path(args.bin).resolve(), pathlib.Path(args.model).resolve()
WORK = pathlib.Path(tempfile.mkdtemp(prefix="qpipe-forward-"))
VOCAB = json.loads((MODEL / "config.json").read_text())["vocab_size"]
TOKENS = args.windows * args.seqlen

TORCH = """
import json, sys, time, torch
from transformers import AutoModelForCausalLM
model = AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=torch.bfloat16).eval()
windows = [torch.tensor([w]) for w in json.load(open(sys.argv[2]))]
print("ready", flush=True)
for line in sys.stdin:
    begin = time.perf_counter()
    with torch.no_grad():
        for w in windows:
            model.model(w)
    print(time.perf_counter() - begin, flush=True)
"""


def make_windows(n):
    rng = random.Random(n)
    windows = [[rng.randrange(VOCAB) for _ in range(args.seqlen)] for _ in range(n)]
    (WORK / "tokens.jsonl").write_text("".join(json.dumps(w) + "\n" for w in windows))
    (WORK / "tokens.json").write_text(json.dumps(windows))


def anonymous(pid, peak):
    """Watches a process's anonymous memory until it is gone."""
    while True:
        try:
            text = pathlib.Path(f"/proc/{pid}/status").read_text()
            peak[0] = max(peak[0], int(re.search(r"RssAnon:\s+(\d+)", text)[1]))
        except (OSError, TypeError):
            return
        time.sleep(0.005)


def timed(command, peak=None):
    begin = time.perf_counter()
    process = subprocess.Popen([str(c) for c in command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    if peak is not None:
        watcher = threading.Thread(target=anonymous, args=(process.pid, peak))
        watcher.start()
        watcher.join()
    if process.wait() != 0:
        sys.exit(f"failed: {command}")
    return time.perf_counter() - begin


def calibrate(n, peak=None):
    return timed([BIN / "qcalibrate", MODEL, "--tokens", WORK / "tokens.jsonl", "-n", n, "--seqlen", args.seqlen,
                  "-o", WORK / "c.qmap", "--force", "--no-sync", "-q"], peak)


def alternate(ours, other):
    ours(), other()
    pairs = [(ours(), other()) for _ in range(args.runs)]
    ratios = sorted(b / a for a, b in pairs)
    return (statistics.median(a for a, _ in pairs), statistics.median(b for _, b in pairs),
            f"{statistics.median(ratios):.2f} [{ratios[0]:.2f}..{ratios[-1]:.2f}]")


def row(what, ours, other, ratio):
    print(f"| {what} | {TOKENS / ours:.0f} tokens/s | {TOKENS / other:.0f} tokens/s | {ratio} |", flush=True)


make_windows(args.windows)
print(f"{TOKENS} tokens in windows of {args.seqlen}, {os.cpu_count()} processors, load {os.getloadavg()[0]:.1f}\n")
print("| beside | qcalibrate | the other | times as fast |\n| --- | --- | --- | --- |")
if args.python:
    peer = subprocess.Popen([args.python, "-c", TORCH, MODEL, WORK / "tokens.json"], stdin=subprocess.PIPE,
                            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    while peer.stdout.readline().strip() != "ready":
        pass

    def transformers():
        print("go", file=peer.stdin, flush=True)
        return float(peer.stdout.readline())

    row("transformers, PyTorch bf16", *alternate(lambda: calibrate(args.windows), transformers))
    peer.stdin.close()
    peer.wait()
if args.llama_bench:
    def llama():
        out = subprocess.run([args.llama_bench, "-m", args.gguf, "-p", str(args.seqlen), "-n", "0", "-r", "2", "-t",
                              str(os.cpu_count()), "-o", "json"], capture_output=True, text=True, check=True).stdout
        return TOKENS / json.loads(out)[0]["avg_ts"]

    row("llama.cpp, BF16", *alternate(lambda: calibrate(args.windows), llama))


def forward():
    return timed([BIN / "tests/qp_forward", MODEL, WORK / "tokens.json", "bf16", "-"])


row("the same without statistics", *alternate(lambda: calibrate(args.windows), forward))
print()
for n in (8, 128):
    make_windows(n)
    peak = [0]
    calibrate(n, peak)
    print(f"-n {n}: {peak[0] / 1024:.0f} MiB anonymous")
