#!/usr/bin/env python3
"""Speed of the kernels beside PyTorch, plain and as compressed-tensors uses it, on one shape.

    against_torch.py PATH/TO/qp_bench_kernels [THREADS]

One BF16 layer of 4096 x 14336 in memory: observe, scale, quantize, pack. Each side runs in turn,
three times; figures are GB/s of BF16 input by processor time per thread, the median.
"""
import re
import statistics
import subprocess
import sys
import time

import torch
from compressed_tensors.compressors.pack_quantized.helpers import pack_to_int32
from compressed_tensors.quantization import QuantizationArgs
from compressed_tensors.quantization.lifecycle.forward import quantize
from compressed_tensors.quantization.utils import calculate_qparams

ROWS, COLS = 4096, 14336


def integer(w, bits, group):
    strategy = {"strategy": "group", "group_size": group} if group else {"strategy": "channel"}
    args = QuantizationArgs(num_bits=bits, type="int", symmetric=True, **strategy)
    grouped = w.unflatten(-1, (-1, group)) if group else w.unsqueeze(1)
    low, high = torch.aminmax(grouped, dim=-1)
    scale, zero = calculate_qparams(low, high, args)
    q = quantize(w, scale, zero, args, dtype=torch.int8)
    return pack_to_int32(q, bits) if bits == 4 else q


def fp8(w):
    args = QuantizationArgs(num_bits=8, type="float", symmetric=True, strategy="channel")
    low, high = torch.aminmax(w, dim=-1, keepdim=True)
    scale, zero = calculate_qparams(low, high, args)
    return quantize(w, scale, zero, args, dtype=torch.float8_e4m3fn)


# What a careful user writes: the fewest operations, no library around them.
def plain_int4(w):
    groups = w.view(ROWS, COLS // 128, 128)
    scale = groups.abs().amax(-1, keepdim=True) / 7.5
    codes = torch.clamp(torch.round(groups / scale), -8, 7).to(torch.int32) + 8
    words = codes.view(ROWS, COLS // 8, 8) << torch.arange(0, 32, 4, dtype=torch.int32)
    return words.sum(-1, dtype=torch.int32)


def plain_int8(w):
    scale = w.abs().amax(-1, keepdim=True) / 127.5
    return torch.clamp(torch.round(w / scale), -128, 127).to(torch.int8)


def plain_fp8(w):
    scale = w.abs().amax(-1, keepdim=True) / 448
    return torch.clamp(w / scale, -448, 448).to(torch.float8_e4m3fn)


OPERATIONS = {
    "int4 g128": {"plain torch": plain_int4, "compressed-tensors": lambda w: integer(w, 4, 128)},
    "int8 channel": {"plain torch": plain_int8,
                     "compressed-tensors": lambda w: integer(w, 8, None)},
    "fp8 channel": {"plain torch": plain_fp8, "compressed-tensors": fp8},
}


def torch_speed(operation, w, threads):
    start = time.process_time()
    operation(w)
    return ROWS * COLS * 2 * threads / (time.process_time() - start) / 1e9


def kernel_speed(program, name, threads):
    command = [program, "--threads", str(threads), "--only", name, "--repeat", "3"]
    best = {}
    for line in subprocess.check_output(command, text=True).splitlines():
        found = re.match(rf"(\w+) +\d+  {name} +([\d.]+) GB/s", line)
        if found:
            best[found[1]] = float(found[2])
    return best


def main():
    program = sys.argv[1]
    threads = int(sys.argv[2]) if len(sys.argv) > 2 else 2
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    w = (torch.randn(ROWS, COLS) * 0.02).to(torch.bfloat16)
    for name, peers in OPERATIONS.items():
        speeds, ours = {}, {}
        for operation in peers.values():
            operation(w)
        for _ in range(3):
            for peer, operation in peers.items():
                speeds.setdefault(peer, []).append(torch_speed(operation, w, threads))
            for isa, speed in kernel_speed(program, name, threads).items():
                ours.setdefault(isa, []).append(speed)
        for peer, values in speeds.items():
            other = statistics.median(values)
            for isa, own in ours.items():
                median = statistics.median(own)
                print(f"{name:14} {peer:18} {other:6.3f} GB/s   {isa:7} {median:6.2f} GB/s   "
                      f"x{median / other:.1f}", flush=True)


if __name__ == "__main__":
    main()
