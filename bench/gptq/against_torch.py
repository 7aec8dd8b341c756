#!/usr/bin/env python3
"""GPTQ of one layer beside PyTorch, alternately.

    against_torch.py PATH/TO/qp_bench_gptq [N [THREADS [RUNS]]]

Both sides: second moments of 2048 rows, the factor of the inverse (PyTorch by Cholesky, inverse,
Cholesky), the walk over the columns in blocks of 128, int4 in symmetric groups of 128 with scales from
the range. Medians; a ratio is the median over pairs of theirs / ours.
"""
import statistics
import subprocess
import sys
import time

import torch

PROGRAM = sys.argv[1]
N, THREADS, RUNS = (int(given or usual) for given, usual in zip((sys.argv[2:] + [0, 0, 0])[:3], (4096, 2, 3)))
torch.set_num_threads(THREADS)
torch.set_grad_enabled(False)
torch.manual_seed(0)
X = torch.randn(2048, N) * torch.rand(N)
W = torch.randn(N, N) * 0.02
XB = X.to(torch.bfloat16)


def timed(step):
    start = time.perf_counter()
    result = step()
    return time.perf_counter() - start, result


def factor(h):
    h = h + 0.01 * h.diagonal().mean() * torch.eye(N)
    return torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(h)), upper=True)


def walk(u):
    w, q, block, group = W.clone(), torch.zeros_like(W), 128, 128
    for first in range(0, N, block):
        part = w[:, first:first + block].clone()
        errors, inner = torch.zeros_like(part), u[first:first + block, first:first + block]
        for i in range(block):
            if (first + i) % group == 0:
                scale = part[:, i:i + group].abs().amax(1) / 7.5
            column = part[:, i]
            q[:, first + i] = torch.clamp(torch.round(column / scale), -8, 7) * scale
            e = (column - q[:, first + i]) / inner[i, i]
            part[:, i:] -= e.unsqueeze(1) * inner[i, i:].unsqueeze(0)
            errors[:, i] = e
        w[:, first + block:] -= errors @ u[first:first + block, first + block:]
    return q


def theirs():
    bf16, _ = timed(lambda: XB.T @ XB)
    f32, h = timed(lambda: X.T @ X)
    one, u = timed(lambda: factor(h))
    two, _ = timed(lambda: walk(u))
    return {"hessian_bf16": bf16, "hessian_f32": f32, "factor": one, "sweep": two}


def ours():
    words = subprocess.check_output([PROGRAM, str(N), "2", str(THREADS)], text=True).splitlines()[-1].split()
    return {words[i]: float(words[i + 1]) for i in range(0, len(words), 2)}


def line(name, a, b, aim):
    ratios = sorted(y / x for x, y in zip(a, b))
    print(f"| {name} | {statistics.median(a):.3f} s | {statistics.median(b):.3f} s | "
          f"{statistics.median(ratios):.1f} [{ratios[0]:.1f}..{ratios[-1]:.1f}] | {aim} |", flush=True)


pairs = [(ours(), theirs()) for _ in range(RUNS)]
print(f"{N} x {N}, {THREADS} threads, PyTorch {torch.__version__}, {RUNS} pairs\n")
print("| step | qpipe | PyTorch | ratio | aim |\n| --- | --- | --- | --- | --- |")
for key, aim in (("hessian_bf16", "1.5 (AMX)"), ("hessian_f32", "-"), ("factor", "2"), ("sweep", "-")):
    line(key, [a[key] for a, _ in pairs], [b[key] for _, b in pairs], aim)
line("hessian, ours in bf16, theirs in f32", [a["hessian_bf16"] for a, _ in pairs], [b["hessian_f32"] for _, b in pairs], "8 (AMX)")
line("factor and sweep", [a["factor"] + a["sweep"] for a, _ in pairs], [b["factor"] + b["sweep"] for _, b in pairs], "8")
