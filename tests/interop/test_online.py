"""Offline equals online: our stored bytes are what the engines' own functions make of the weights when
they quantize while loading. The functions run on GPUs, so they are written here from what is known
of them (PyTorch on the CPU, step by step in F32)."""

import pytest
import torch

from cases import make_cases, write_checkpoint
from programs import TINY_LM, pipe, read_tensors, same_bits

E4M3 = torch.float8_e4m3fn


def to_e4m3(x):
    return x.clamp(-448, 448).to(E4M3)


def per_block_cast_to_fp8(w):
    """DeepGEMM's and vLLM's, for blocks of 128 x 128: amax at least 1e-4, times the inverse."""
    n, k = w.shape
    x = torch.zeros((n + 127) // 128 * 128, (k + 127) // 128 * 128)
    x[:n, :k] = w.float()
    blocks = x.view(x.shape[0] // 128, 128, x.shape[1] // 128, 128)
    scale = blocks.abs().amax((1, 3), keepdim=True).clamp(1e-4) / 448
    return {"weight": to_e4m3(blocks * (1 / scale)).view(x.shape)[:n, :k],
            "weight_scale_inv": scale.view(x.shape[0] // 128, x.shape[1] // 128)}


def input_to_float8(w):
    """SGLang's, for a whole weight: the ratio 448 / amax, its inverse stored. The ratio is a tensor
    without dimensions, so the product has the dtype of the weight."""
    ratio = 448 / w.abs().amax().float().clamp(1e-12)
    return {"weight": to_e4m3((w * ratio).float()), "weight_scale": (1 / ratio).view(1)}


def per_token_group_quant_fp8(w):
    """SGLang's w8a8_fp8, a row as one group: times the inverse of amax / 448."""
    scale = w.float().abs().amax(1, keepdim=True) / 448
    return {"weight": to_e4m3(w.float() * (1 / scale)), "weight_scale": scale}


def per_token_quant_int8(w):
    """SGLang's int8 of a row: amax at least 1e-10, times 127 / amax, halves away from zero."""
    amax = w.float().abs().amax(1, keepdim=True).clamp(1e-10)
    x = w.float() * (torch.full_like(amax, 127) / amax)  # a kernel's division: rounded once
    return {"weight": (x.sign() * (x.abs() + 0.5).floor()).to(torch.int8), "weight_scale": amax / 127}


# name: arguments of qquantize, format, the engine's function, whether rows of zeros may come
ONLINE = {
    "fp8 block": (["-s", "fp8-block", "--numerics", "deepgemm"], "fp8", per_block_cast_to_fp8, True),
    "fp8 tensor": (["-s", "fp8-tensor", "--numerics", "sglang"], "fp8", input_to_float8, True),
    # Its least amax is 1e-10, the numerics' is DeepGEMM's 1e-4: alike above that.
    "w8a8_fp8": (["-s", "fp8-dynamic", "--numerics", "deepgemm"], "w8a8_fp8", per_token_group_quant_fp8, False),
    "w8a8_int8": (["-s", "int8", "--numerics", "sglang"], "w8a8_int8", per_token_quant_int8, True),
}


def halves():
    """Rows whose amax is a power of two times 127: their quotients are exact halves."""
    g = torch.Generator().manual_seed(3)
    x = torch.randint(-253, 254, (33, 512), generator=g) / 2
    x[:, ::16] = 127
    return (x * 2.0**-7).to(torch.bfloat16)


@pytest.fixture(scope="module")
def awkward(tmp_path_factory):
    """Weights that are awkward to quantize."""
    folder = tmp_path_factory.mktemp("online") / "cases"
    cases = {**make_cases(torch.bfloat16), "halves": halves()}
    write_checkpoint(folder, cases, {}, torch.bfloat16)
    return folder


def check(source, out, args, target, function, zeros):
    pipe(["qload", source, "-q"], ["qquantize", *args, "-q"], ["qexport", "-f", target, "-o", out, "-q"])
    ours, compared = read_tensors(out), 0
    for name, w in read_tensors(source).items():
        if not name.endswith(".weight") or ours[name].dtype == w.dtype:
            continue
        if not zeros and w.float().abs().amax(1).min() < 1e-4:
            continue
        for part, want in function(w).items():
            got = ours[name.removesuffix("weight") + part]
            assert same_bits(got, want.contiguous()), (name, part, got.shape, want.shape,
                                                       (got.float() != want.float()).sum())
        compared += 1
    assert compared >= 5


@pytest.mark.parametrize("name", ONLINE)
def test_tiny_lm(name, tmp_path):
    check(TINY_LM, tmp_path / "out", *ONLINE[name])


@pytest.mark.parametrize("name", ONLINE)
def test_awkward_weights(name, tmp_path, awkward):
    check(awkward, tmp_path / "out", *ONLINE[name])
