#!/usr/bin/env python3
"""Bit allocation beside a peer's: the peer chooses bits for each layer (NAME_auto_peer.py, run by its
environment's PYTHON), we choose ours for exactly the bytes that its choice takes, and both choices are
rounded by the same qquantize and judged by `qverify --eval`: only the allocation differs.

    bench/quality/auto.py --bin build/release --model DIR --calib TEXT --test TEXT --target 3.125
        [--peer NAME=PYTHON] [--choices FILE.json] [--bits 2,3,4,8] [--group-size 128] [--windows 32]
        [--algorithm rtn]

--target: bits per weight, scales counted, as for qquantize; a peer that counts the codes alone gets as
much less. --choices: what a peer chose in an earlier run, {module: bits}.
"""
import argparse
import json
import pathlib
import random
import shutil
import subprocess
import sys
import tempfile
import time

from tokenizers import Tokenizer

HERE = pathlib.Path(__file__).resolve().parent
CODES_ALONE = {"modelopt"}

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
for name in ("bin", "model", "calib", "test"):
    parser.add_argument(f"--{name}", required=True, type=lambda p: pathlib.Path(p).resolve())
parser.add_argument("--target", type=float, required=True)
parser.add_argument("--peer")
parser.add_argument("--choices", type=pathlib.Path)
parser.add_argument("--bits", default="2,3,4,8")
parser.add_argument("--group-size", default="128")
parser.add_argument("--windows", type=int, default=32)
parser.add_argument("--algorithm", default="rtn")
args = parser.parse_args()
WORK = pathlib.Path(tempfile.mkdtemp(prefix="qpipe-auto-"))
SCHEMES = ",".join(f"w{b}a16" for b in args.bits.split(","))


def run(*command):
    start = time.perf_counter()
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, cwd=WORK)
    if done.returncode != 0:
        sys.exit(f"failed: {command}\n{done.stdout[-1000:]}\n{done.stderr[-3000:]}")
    return time.perf_counter() - start, done.stdout


def windows():
    ids = Tokenizer.from_file(str(args.model / "tokenizer.json")).encode(args.calib.read_text()).ids
    rng = random.Random(0)
    found = [ids[i:i + 512] for i in (rng.randrange(len(ids) - 512) for _ in range(args.windows))]
    (WORK / "windows.json").write_text(json.dumps(found))
    (WORK / "windows.jsonl").write_text("".join(json.dumps(w) + "\n" for w in found))
    run(args.bin / "qcalibrate", args.model, "--tokens", WORK / "windows.jsonl", "--seqlen", "512", "-n", args.windows,
        "-o", WORK / "c.qmap", "--no-sync")


def peers_choice():
    if args.choices:
        return json.loads(args.choices.read_text())
    name, python = args.peer.split("=", 1)
    target = args.target - 16 / int(args.group_size) if name in CODES_ALONE else args.target
    seconds, _ = run(python, HERE / f"{name}_auto_peer.py", args.model, WORK / "windows.json", WORK / "chosen.json",
                     args.bits, args.group_size, target)
    print(f"{name} took {seconds:.0f} s")
    return json.loads((WORK / "chosen.json").read_text())


def judge(recipe, label):
    plan = json.loads(run(args.bin / "qquantize", WORK / "c.qmap", "--recipe", recipe, "--dry-run", "--json")[1])
    run(args.bin / "qquantize", WORK / "c.qmap", "--recipe", recipe, "-o", WORK / "q.qmap", "--force", "--no-sync")
    e = json.loads(run(args.bin / "qverify", WORK / "q.qmap", args.model, "--eval", args.test, "--seqlen", "512",
                       "--json")[1])["evaluation"]
    kl = e["divergence"]["kl"]
    print(f"| {label} | {plan['output_bytes']} | {kl['mean']:.5f} | {kl['error']:.5f} | {e['perplexity']['value']:.3f} |",
          flush=True)
    return plan["output_bytes"]


try:
    windows()
    print("| by | bytes | KL | +- | perplexity |\n| --- | --- | --- | --- | --- |", flush=True)
    size = ["--target-bpw", args.target]
    schemes = SCHEMES
    if args.peer or args.choices:
        chosen = peers_choice()
        rules = [{"match": m, "scheme": None if b == 16 else f"w{b}a16", "options": {"group_size": int(args.group_size)},
                  "algorithm": args.algorithm} for m, b in chosen.items()]
        schemes += ",none" if 16 in chosen.values() else ""
        (WORK / "peer.json").write_text(json.dumps({"rules": rules}))
        size = ["--target-size", judge(WORK / "peer.json", args.peer.split("=")[0] if args.peer else args.choices)]
    took, _ = run(args.bin / "qquantize", WORK / "c.qmap", "-s", schemes, "--group-size", args.group_size, *size, "-a",
                  args.algorithm, "--save-recipe", WORK / "ours.json", "--dry-run")
    judge(WORK / "ours.json", f"qpipe ({took:.0f} s)")
finally:
    shutil.rmtree(WORK, ignore_errors=True)
