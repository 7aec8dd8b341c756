#!/usr/bin/env python3
"""ggml's types: qquantize beside llama-quantize, whole processes, two threads each, taken by turns.

    bench/ggml.py --bin build/release --gguf BF16.gguf --llama-quantize PATH [--runs 3] [--work DIR] [TYPE ..]
    bench/ggml.py --bin build/release --model DIR --text FILE --llama-quantize PATH .. TYPE:im ..

TYPE is a file type (q4_k_m); with :im an importance matrix is used, which --model and --text make (the
same one for both). "to qmap" is qquantize alone, "to GGUF" the pipe qquantize | qexport -f gguf, which also
reads back what it wrote. The data of both GGUFs is compared. Ratios: median [least..most] of the pairs.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--bin", required=True, type=Path)
parser.add_argument("--llama-quantize", required=True)
parser.add_argument("--gguf", help="the input of both, BF16")
parser.add_argument("--model", help="or a directory, calibrated with --text and exported")
parser.add_argument("--text")
parser.add_argument("--runs", type=int, default=3)
parser.add_argument("--work", help="on a file system in memory, best")
parser.add_argument("types", nargs="*", metavar="TYPE")
args = parser.parse_args()

AIMS = {"q8_0": 8, "q4_0": 8, "q4_k_m": 10, "q5_k_m": 10}
scratch = tempfile.TemporaryDirectory(dir=args.work)
WORK = Path(scratch.name)
os.environ["QPIPE_TMPDIR"] = str(WORK)


def sh(command):
    start = time.perf_counter()
    done = subprocess.run(command, shell=True, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{command}\n{done.stderr}")
    return time.perf_counter() - start


if args.model:
    sh(f"{args.bin}/qcalibrate {args.model} --text {args.text} -n 4 --seqlen 256 -o {WORK}/base.qmap")
    sh(f"{args.bin}/qcalibrate {WORK}/base.qmap --save-imatrix {WORK}/imatrix.gguf")
    sh(f"{args.bin}/qexport {WORK}/base.qmap -f gguf -o {WORK}/base.gguf")
    source, base = WORK / "base.qmap", WORK / "base.gguf"
else:
    source = base = Path(args.gguf)


def data_equal(a, b):
    """Metadata differ in the name; data come last, so ends are compared."""
    size = min(a.stat().st_size, b.stat().st_size) - (4 << 20)
    with open(a, "rb") as x, open(b, "rb") as y:
        x.seek(-size, 2)
        y.seek(-size, 2)
        while chunk := x.read(1 << 22):
            if chunk != y.read(1 << 22):
                return False
    return True


def ratio(theirs, ours):
    r = [b / a for a, b in zip(ours, theirs)]
    return f"{statistics.median(r):.1f} [{min(r):.1f}..{max(r):.1f}]"


print("| type | qquantize, s | llama-quantize, s | to qmap | to GGUF | aim | bytes |")
print("| --- | --- | --- | --- | --- | --- | --- |", flush=True)
for name in args.types or ["q8_0", "q4_0", "q4_k_m", "q5_k_m", "q2_k", "q3_k_m", "q6_k", "iq4_nl", "iq4_xs", "tq1_0", "tq2_0"]:
    kind, _, weighed = name.partition(":")
    a, b = ("-a imatrix", f"--imatrix {WORK}/imatrix.gguf") if weighed else ("", "")
    quantize = f"{args.bin}/qquantize {source} -s {kind} {a} -j 2 -q"
    qmap, gguf, theirs = [], [], []
    for _ in range(args.runs):
        qmap.append(sh(f"{quantize} -o {WORK}/ours.qmap --force"))
        theirs.append(sh(f"{args.llama_quantize} {b} {base} {WORK}/theirs.gguf {kind} 2"))
        gguf.append(sh(f"{quantize} | {args.bin}/qexport -f gguf -o {WORK}/ours.gguf --force -j 2 -q"))
    same = "equal" if data_equal(WORK / "ours.gguf", WORK / "theirs.gguf") else "DIFFER"
    print(f"| {name} | {statistics.median(qmap):.2f} | {statistics.median(theirs):.2f} | {ratio(theirs, qmap)} | "
          f"{ratio(theirs, gguf)} | {AIMS.get(kind, 6)} | {same} |", flush=True)
