#!/usr/bin/env python3
"""Measures whole programs as ratios, alternately (A B A B ..), and prints a Markdown table.

    bench/run.py --bin build --model DIR [--work DIR] [--runs 5] [--llama-quantize PATH]

DIR is a bf16 model of at least 2 GB (tests/data/make_random_model.py writes one). Everything runs
on files in the page cache. A ratio is the median over pairs of (other / ours) in time; absolute
figures belong to the machine at hand and only orient. Durability is equal on both sides: without
fsync unless --sync.
"""
import argparse
import json
import os
import pathlib
import shutil
import statistics
import struct
import subprocess
import sys
import tempfile
import time

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--bin", required=True)
parser.add_argument("--model", required=True)
parser.add_argument("--work")
parser.add_argument("--runs", type=int, default=5)
parser.add_argument("--sync", action="store_true")
parser.add_argument("--llama-quantize", help="llama-quantize, and --gguf its bf16 input of the same tensors")
parser.add_argument("--gguf")
parser.add_argument("--only", help="one part: load, quantize, export, formats, llama or memory")
args = parser.parse_args()
BIN = pathlib.Path(args.bin).resolve()
WORK = pathlib.Path(tempfile.mkdtemp(dir=args.work, prefix="qpipe-bench-"))
MODEL = pathlib.Path(args.model).resolve()
SYNC = [] if args.sync else ["--no-sync"]
BYTES = sum(f.stat().st_size for f in MODEL.glob("*.safetensors"))
rows = []


def run(command):
    """Seconds, and peak resident MiB, of a command (nan without GNU time).

    A child's own peak would count this Python, which it was forked from; GNU time's does not.
    """
    command = [str(c) for c in command]
    peak = WORK / "peak"
    if shutil.which("/usr/bin/time"):
        command = ["/usr/bin/time", "-f", "%M", "-o", str(peak), *command]
    start = time.perf_counter()
    done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    if done.returncode != 0:
        sys.exit(f"failed: {command}\n{done.stderr[-2000:]}")
    seconds = time.perf_counter() - start
    return seconds, int(peak.read_text()) / 1024 if peak.exists() else float("nan")


def alternate(ours, other):
    """Medians of both and of the ratio other/ours, pair by pair, after one warm-up of each."""
    ours(), other()
    pairs = [(ours(), other()) for _ in range(args.runs)]
    ratios = [b / a for a, b in pairs]
    return (statistics.median(a for a, _ in pairs), statistics.median(b for _, b in pairs),
            statistics.median(ratios), min(ratios), max(ratios))


def row(what, ours, against, ratio, target):
    rows.append((what, ours, against, ratio, target))
    print("|", " | ".join(rows[-1]), "|", flush=True)


def copy_file(source, target, sync):
    """copy_file_range of a whole file, or sendfile between file systems: the kernel's own copy."""
    size = os.path.getsize(source)
    with open(source, "rb") as a, open(target, "wb") as b:
        done, between = 0, os.fstat(a.fileno()).st_dev != os.fstat(b.fileno()).st_dev
        while done < size:
            if between:
                done += os.sendfile(b.fileno(), a.fileno(), done, size - done)
            else:
                done += os.copy_file_range(a.fileno(), b.fileno(), size - done, done, done)
        if sync:
            os.fsync(b.fileno())


def timed(function, *arguments):
    start = time.perf_counter()
    function(*arguments)
    return time.perf_counter() - start


def headers(count, directory):
    """A checkpoint of `count` tensors whose data is a hole."""
    directory.mkdir()
    entries, at = {}, 0
    for i in range(count):
        name = f"model.layers.{i // 768}.mlp.experts.{i // 3 % 256}.{('gate', 'up', 'down')[i % 3]}_proj.weight"
        entries[name] = {"dtype": "BF16", "shape": [256, 512], "data_offsets": [at, at + 262144]}
        at += 262144
    text = json.dumps(entries, separators=(",", ":")).encode()
    with open(directory / "model.safetensors", "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text)
        f.truncate(8 + len(text) + at)
    (directory / "config.json").write_text('{"architectures": ["MixtralForCausalLM"]}')


def bench_load():
    for count, target in ((290, "about 10 ms"), (92000, "about 200 ms, < 64 MiB")):
        directory = WORK / f"headers{count}"
        headers(count, directory)
        times = [run([BIN / "qload", directory, "-o", WORK / "h.qmap", "--force"]) for _ in range(args.runs)]
        seconds = statistics.median(t for t, _ in times)
        row(f"qload, headers of {count:,} tensors", f"{seconds * 1000:.0f} ms, {max(m for _, m in times):.0f} MiB", "-", "-", target)


def quantize(scheme):
    source, out = WORK / "m.qmap", WORK / "out.qmap"
    return run([BIN / "qquantize", source, "-s", scheme, "-o", out, "--force", *SYNC])[0]


def bench_quantize():
    run([BIN / "qload", MODEL, "-o", WORK / "m.qmap", "--force"])
    source = max(MODEL.glob("*.safetensors"), key=lambda f: f.stat().st_size)
    size = source.stat().st_size
    copy = lambda: timed(copy_file, source, WORK / "copy.bin", args.sync)
    for scheme in ("w4a16", "int8", "fp8-dynamic", "fp8-block", "nvfp4a16", "mxfp4"):
        a, b, ratio, low, high = alternate(lambda s=scheme: quantize(s), copy)
        # Bytes per second of source on both sides.
        speed = BYTES / size
        row(f"qquantize -s {scheme}, file to file", f"{BYTES / a / 1e9:.2f} GB/s", f"copy {size / b / 1e9:.2f} GB/s",
            f"{ratio * speed:.2f} [{low * speed:.2f}..{high * speed:.2f}]", "w4a16 4.5, FP8 4 GB/s" if scheme in ("w4a16", "fp8-dynamic") else "-")
    (WORK / "copy.bin").unlink()


def export():
    shutil.rmtree(WORK / "out", ignore_errors=True)
    text = subprocess.run([BIN / "qexport", WORK / "out.qmap", "-f", "compressed-tensors", "-o", WORK / "out", "--json", *SYNC],
                          check=True, capture_output=True, text=True).stdout
    return json.loads(text)


def bench_export():
    quantize("w4a16")
    last = {}

    def ours():
        last.update(export())
        return last["write_seconds"]
    export()
    produced = WORK / "produced.safetensors"
    shutil.move(WORK / "out" / "model.safetensors", produced)
    a, b, ratio, low, high = alternate(ours, lambda: timed(copy_file, produced, WORK / "copy.bin", args.sync))
    size = produced.stat().st_size
    row("qexport w4a16, writing", f"{size / a / 1e9:.2f} GB/s", f"copy {size / b / 1e9:.2f} GB/s", f"{ratio:.2f} [{low:.2f}..{high:.2f}]", ">= 0.8")
    row("qexport w4a16, self-check", f"{size / last['verify_seconds'] / 1e9:.2f} GB/s", "-", "-", "counted apart")


def bench_formats():
    """Export and transcoding without self-check, in bytes written, beside the kernel's copy of the result."""
    def sh(command):
        return run(["sh", "-c", command])[0]
    made = f"--force --no-verify {' '.join(SYNC)}"
    for scheme, family in (("w4a16", "gptq"), ("fp8-block", "fp8")):
        sh(f"{BIN}/qquantize {WORK}/m.qmap -s {scheme} -o {WORK}/{family}.qmap {made.replace('--no-verify', '')}")
        sh(f"{BIN}/qexport {WORK}/{family}.qmap -f {family} -o {WORK}/{family} {made}")
    cases = (("qexport -f gptq", f"{BIN}/qexport {WORK}/gptq.qmap -f gptq"),
             ("qexport -f awq", f"{BIN}/qexport {WORK}/gptq.qmap -f awq"),
             ("gptq -> awq", f"{BIN}/qload {WORK}/gptq | {BIN}/qexport -f awq"),
             ("gptq -> compressed-tensors", f"{BIN}/qload {WORK}/gptq | {BIN}/qexport -f compressed-tensors"),
             ("fp8 blocks -> bf16", f"{BIN}/qload {WORK}/fp8 --dequantize | {BIN}/qexport -f safetensors"))
    for name, command in cases:
        sh(f"{command} -o {WORK}/to {made}")
        produced = WORK / "produced.safetensors"
        shutil.move(WORK / "to" / "model.safetensors", produced)
        a, b, ratio, low, high = alternate(lambda c=command: sh(f"{c} -o {WORK}/to {made}"),
                                           lambda: timed(copy_file, produced, WORK / "copy.bin", args.sync))
        size = produced.stat().st_size
        row(name, f"{size / a / 1e9:.2f} GB/s", f"copy {size / b / 1e9:.2f} GB/s", f"{ratio:.2f} [{low:.2f}..{high:.2f}]", ">= 0.5")


def bench_llama():
    if not args.llama_quantize:
        return
    ours = lambda: sum(run(["sh", "-c", f"{BIN}/qload {MODEL} | {BIN}/qquantize -s w4a16 -o {WORK}/out.qmap --force {' '.join(SYNC)}"])[:1])
    other = lambda: run([args.llama_quantize, args.gguf, WORK / "out.gguf", "Q4_0", "2"])[0]
    a, b, ratio, low, high = alternate(ours, other)
    row("qload | qquantize -s w4a16 -o", f"{BYTES / a / 1e9:.2f} GB/s", f"llama-quantize Q4_0 {os.path.getsize(args.gguf) / b / 1e9:.2f} GB/s", f"{ratio:.1f} [{low:.1f}..{high:.1f}]", ">= 12")


def bench_memory():
    for scheme in ("w4a16", "fp8-block"):
        script = (f"'{BIN}/qquantize' '{WORK}/m.qmap' -s {scheme} -o '{WORK}/out.qmap' --force --no-sync & p=$!; m=0; "
                  "while kill -0 $p 2>/dev/null; do a=$(awk '/RssAnon/{print $2}' /proc/$p/status 2>/dev/null); "
                  "[ \"${a:-0}\" -gt $m ] && m=$a; done; echo $m")
        peak = int(subprocess.run(["sh", "-c", script], check=True, capture_output=True, text=True).stdout.split()[-1])
        row(f"qquantize -s {scheme}, peak anonymous memory", f"{peak / 1024:.0f} MiB", "-", "-", "< 512 MiB")


print(f"{os.cpu_count()} processors, model {BYTES / 1e9:.2f} GB, {args.runs} pairs, {'with' if args.sync else 'without'} fsync\n")
print("| what | qpipe | against | ratio | target |\n| --- | --- | --- | --- | --- |", flush=True)
try:
    if args.only not in (None, "load"):
        run([BIN / "qload", MODEL, "-o", WORK / "m.qmap", "--force"])
    for name, part in (("load", bench_load), ("quantize", bench_quantize), ("export", bench_export), ("formats", bench_formats),
                       ("llama", bench_llama), ("memory", bench_memory)):
        if args.only in (None, name):
            part()
finally:
    shutil.rmtree(WORK, ignore_errors=True)
