#!/usr/bin/env python3
"""GPTQ of one layer beside GPTQModel's class for it, alternately. Run by an environment that has gptqmodel.

    against_gptqmodel.py PATH/TO/qp_bench_gptq [N [THREADS [RUNS]]]

Both sides: 4 bits, symmetric groups of 128, columns as they lie, second moments given. Theirs damps, factors,
quantizes and makes the weight in place, bf16, once a pair; ours is the factor and the walk, errors told in
bf16, the second of two runs. Medians; a ratio is the median over pairs of theirs / ours.
"""
import os
import statistics
import subprocess
import sys
import time

PROGRAM = sys.argv[1]
N, THREADS, RUNS = (int(given or usual) for given, usual in zip((sys.argv[2:] + [0, 0, 0])[:3], (4096, 2, 3)))
os.environ.setdefault("GPTQMODEL_CPU_WORKERS", str(THREADS))

import torch  # noqa: E402
from gptqmodel import QuantizeConfig  # noqa: E402
from gptqmodel.quantization.gptq import GPTQ  # noqa: E402

torch.set_num_threads(THREADS)
torch.manual_seed(0)
X = (torch.randn(2048, N) * torch.rand(N)).to(torch.bfloat16).unsqueeze(0)
W = (torch.randn(N, N) * 0.02).to(torch.bfloat16)


def theirs():
    linear = torch.nn.Linear(N, N, bias=False, dtype=torch.bfloat16)
    linear.weight.data.copy_(W)
    work = GPTQ(linear, QuantizeConfig(bits=4, group_size=128, sym=True, desc_act=False, act_group_aware=False, device="cpu"))
    work.quantizer.configure(perchannel=True)
    work.add_batch(X, torch.empty(1, X.shape[1], N), 0)
    work.finalize_hessian()
    start = time.perf_counter()
    work.quantize()
    return time.perf_counter() - start


def ours():
    words = subprocess.check_output([PROGRAM, str(N), "2", str(THREADS)], text=True).splitlines()[-1].split()
    return float(words[words.index("factor") + 1]) + float(words[words.index("sweep") + 1])


pairs = [(ours(), theirs()) for _ in range(RUNS)]
ratios = sorted(b / a for a, b in pairs)
print(f"{N} x {N}, {THREADS} threads, {RUNS} pairs: qpipe {statistics.median(a for a, _ in pairs):.2f} s, "
      f"GPTQModel {statistics.median(b for _, b in pairs):.2f} s, "
      f"{statistics.median(ratios):.1f} [{ratios[0]:.1f}..{ratios[-1]:.1f}] times")
