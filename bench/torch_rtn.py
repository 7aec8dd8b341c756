"""Round-to-nearest in plain PyTorch, to be timed beside the kernels: what a careful user writes.

Prints GB/s of bf16 input, the best of --runs, one line per operation. Tensors are [4096, 14336].
"""
import argparse
import time

import torch

parser = argparse.ArgumentParser()
parser.add_argument("--threads", type=int, default=2)
parser.add_argument("--runs", type=int, default=5)
args = parser.parse_args()
torch.set_num_threads(args.threads)
torch.manual_seed(0)
ROWS, COLS, GROUP = 4096, 14336, 128
weight = torch.randn(ROWS, COLS, dtype=torch.bfloat16) * 0.02


def int4_g128_pack():
    groups = weight.view(ROWS, COLS // GROUP, GROUP)
    scale = groups.abs().amax(-1, keepdim=True) / 7.5
    codes = torch.clamp(torch.round(groups / scale), -8, 7).to(torch.int32).view(ROWS, COLS) + 8
    words = codes.view(ROWS, COLS // 8, 8)
    shifts = torch.arange(0, 32, 4, dtype=torch.int32)
    return (words << shifts).sum(-1, dtype=torch.int32), scale


def int8_channel():
    scale = weight.abs().amax(-1, keepdim=True) / 127.5
    return torch.clamp(torch.round(weight / scale), -128, 127).to(torch.int8), scale


def fp8_channel():
    scale = weight.abs().amax(-1, keepdim=True) / 448
    return torch.clamp(weight / scale, -448, 448).to(torch.float8_e4m3fn), scale


def nvfp4():
    groups = weight.view(ROWS, COLS // 16, 16)
    amax = groups.abs().amax(-1, keepdim=True)
    overall = 2688.0 / amax.amax().float()
    local = torch.clamp(overall * (amax / 6).float(), -448, 448).to(torch.float8_e4m3fn)
    t = torch.clamp(groups.float() / (local.float() / overall), -6, 6)
    a = t.abs()
    code = torch.zeros_like(t, dtype=torch.uint8)
    for value, (edge, closed) in enumerate([(0.25, 0), (0.75, 1), (1.25, 0), (1.75, 1), (2.5, 0), (3.5, 1), (5.0, 0)]):
        code[(a >= edge) if closed else (a > edge)] = value + 1
    code = (code | ((t < 0).to(torch.uint8) << 3)).view(ROWS, COLS // 2, 2)
    return code[..., 0] | (code[..., 1] << 4), local


for function in (int4_g128_pack, int8_channel, fp8_channel, nvfp4):
    function()
    best = 1e9
    for _ in range(args.runs):
        start = time.perf_counter()
        function()
        best = min(best, time.perf_counter() - start)
    print(f"{function.__name__} {weight.numel() * 2 / best / 1e9:.3f}", flush=True)
