#!/usr/bin/env python3
"""qverify --target on the headers of 100,000 tensors: seconds and memory; and the scan of stored numbers beside
reading the same bytes.

    bench/verify.py --bin build/release --work /dev/shm [--runs 3] [--scan DIR ..]

The 100,000 tensors are a mixture of experts in w4a16, one sparse file: a header, and a hole for the data.
DIR: checkpoints, in the page cache; `qverify DIR` and two processes that read(2) its files are timed alternately.
"""
import argparse
import json
import multiprocessing
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "tests/cli"))
import support  # noqa: E402
import target_models  # noqa: E402

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--bin", required=True, type=pathlib.Path)
parser.add_argument("--work", required=True, type=pathlib.Path)
parser.add_argument("--runs", type=int, default=3)
parser.add_argument("--scan", nargs="*", default=[], type=pathlib.Path)
args = parser.parse_args()


def make(directory):
    model = target_models.w4a16(target_models.moe(experts=256, layers=44))
    header, at = {"__metadata__": {"format": "pt"}}, 0
    for name, (dtype, shape) in model.tensors.items():
        n = support.SIZES[dtype] * support.count(shape)
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [at, at + n]}
        at += n
    with open(directory / "model.safetensors", "wb") as out:
        out.write(support.header_bytes(header))
        out.truncate(out.tell() + at)
    (directory / "config.json").write_text(json.dumps(model.config))
    return len(model.tensors)


def read_half(part):
    """Every second MiB of the files, into one buffer."""
    files, first = part
    buffer = bytearray(1 << 20)
    for file in files:
        descriptor = os.open(file, os.O_RDONLY)
        for at in range(first << 20, os.fstat(descriptor).st_size, 2 << 20):
            os.preadv(descriptor, [buffer], at)
        os.close(descriptor)


def timed(action):
    begin = time.perf_counter()
    action()
    return time.perf_counter() - begin


def scan(directory):
    files = sorted(directory.glob("*.safetensors"))
    size = sum(f.stat().st_size for f in files)
    command = [args.bin / "qverify", directory, "-q", "--threads", "2"]
    with multiprocessing.Pool(2) as pool:
        pairs = [(timed(lambda: pool.map(read_half, [(files, 0), (files, 1)], chunksize=1)),
                  timed(lambda: subprocess.run(command, check=True))) for _ in range(args.runs + 1)][1:]
    ratios = sorted(read / ours for read, ours in pairs)
    print(f"{directory.name}: {size / 1e9:.2f} GB, reading {size / 1e9 / statistics.median(r for r, _ in pairs):.2f} GB/s, qverify "
          f"{size / 1e9 / statistics.median(q for _, q in pairs):.2f} GB/s: {statistics.median(ratios):.2f} "
          f"[{ratios[0]:.2f}..{ratios[-1]:.2f}] of reading (aim 0.5)")


for directory in args.scan:
    scan(directory)
folder = pathlib.Path(tempfile.mkdtemp(dir=args.work))
try:
    # In a process of its own: what this one holds would count as the program's peak.
    with multiprocessing.Pool(1) as pool:
        tensors = pool.apply(make, (folder,))
    for engine in ("vllm", "sglang"):
        seconds, memory = [], 0
        for _ in range(args.runs):
            begin = time.perf_counter()
            process = subprocess.Popen([args.bin / "qverify", folder, "--target", engine, "-q"])
            _, status, usage = os.wait4(process.pid, 0)
            seconds.append(time.perf_counter() - begin)
            assert status == 0, "not sound"
            memory = max(memory, usage.ru_maxrss)
        print(f"{engine}: {tensors} tensors, {statistics.median(seconds):.2f} s "
              f"[{min(seconds):.2f}..{max(seconds):.2f}] (aim 2), {memory >> 10} MiB (aim 300)")
finally:
    shutil.rmtree(folder)
