"""Weights that are awkward to quantize, the same on every run."""

import json

import torch
from safetensors.torch import save_file

COLS = 512
INT = {torch.bfloat16: torch.int16, torch.float16: torch.int16, torch.float32: torch.int32}
MANTISSA = {torch.bfloat16: 7, torch.float16: 10, torch.float32: 23}


def finite(x, dtype):
    # Above half the largest number some scales overflow: make_top is for those.
    top = torch.finfo(dtype).max / 2
    return x.nan_to_num(0.0).clamp(-top, top).to(dtype)


def random_bits(generator, shape, dtype):
    """Every exponent alike, subnormals and -0.0 included; no NaN, no infinity."""
    width = torch.finfo(dtype).bits
    x = torch.randint(-(1 << (width - 1)), (1 << (width - 1)) - 1, shape, generator=generator)
    x = x.to(INT[dtype]).view(dtype)
    return torch.where(x.abs() <= torch.finfo(dtype).max / 2, x, torch.zeros_like(x))


def subnormals(generator, shape, dtype):
    top = 1 << MANTISSA[dtype]
    x = torch.randint(0, top, shape, generator=generator).to(INT[dtype]).view(dtype)
    return torch.where(torch.rand(shape, generator=generator) < 0.5, x, -x)


def make_cases(dtype):
    """{name: weight [rows, 512]}; rows are odd, so that packed zero points end inside a word."""
    g = torch.Generator().manual_seed(20)
    info = torch.finfo(dtype)

    def normal(rows=37, scale=0.02):
        return finite(torch.randn(rows, COLS, generator=g, dtype=torch.float64) * scale, dtype)

    cases = {"normal": normal(61), "wide": normal(33, 1.0)}
    u = torch.rand(37, COLS, generator=g, dtype=torch.float64)
    cases["heavy tails"] = finite(torch.tan(3.14159 * (u - 0.5)) * 0.01, dtype)
    cases["tiny"] = normal(scale=info.tiny * 16)
    cases["smallest"] = normal(scale=info.tiny / 2)
    cases["huge"] = normal(scale=info.max / 6)
    cases["constant"] = torch.full((35, COLS), 0.1, dtype=dtype)
    cases["negative constant"] = torch.full((35, COLS), -3.296875, dtype=dtype)
    cases["zero"] = torch.zeros(35, COLS, dtype=dtype)
    rows = normal(39)
    rows[::3] = 0
    rows[1, :256] = 0
    cases["zero rows"] = rows
    spikes = normal(41)
    spikes[torch.rand(41, COLS, generator=g) < 1 / 128] *= 50
    cases["outliers"] = spikes
    # Quotients at halves of every code: absmax 7.5, 127.5, .. give scales that are powers of two.
    halves = torch.randint(-15, 16, (37, COLS), generator=g) / 2
    halves[:, ::16] = 7.5
    cases["ties of 4 bits"] = finite(halves * 2.0**-6, dtype)
    halves = torch.randint(-255, 256, (37, COLS), generator=g) / 2
    halves[:, ::16] = -127.5
    cases["ties of 8 bits"] = finite(halves * 2.0**-9, dtype)
    grid = torch.tensor([0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0, 6.0, 0.0, 0.5, 3.0])
    pick = torch.randint(0, len(grid), (37, COLS), generator=g)
    sign = torch.randint(0, 2, (37, COLS), generator=g) * 2 - 1
    cases["ties of E2M1"] = finite(grid[pick] * sign * 0.125, dtype)
    negative = normal()
    negative[torch.rand(37, COLS, generator=g) < 0.3] = -0.0
    negative[3] = -0.0
    cases["negative zeros"] = negative
    cases["underflow to zero"] = finite(
        torch.randn(37, COLS, generator=g, dtype=torch.float64) ** 9 * 1e-3, dtype)
    cases["subnormals"] = subnormals(g, (37, COLS), dtype)
    cases["all bit patterns"] = random_bits(g, (129, COLS), dtype)
    cases["positive"] = normal().abs()
    cases["negative"] = -normal().abs()
    # Every mantissa (256 of them at most) as the absmax of its row.
    count = min(256, 1 << MANTISSA[dtype])
    steps = torch.arange(count, dtype=torch.float64) / count
    mantissas = torch.rand(count, COLS, generator=g, dtype=torch.float64) * 2 - 1
    mantissas = mantissas * (1 + steps[:, None])
    mantissas[:, ::16] = 1 + steps[:, None]
    cases["mantissas"] = finite(mantissas * 2.0**-5, dtype)
    cases["one row"] = normal(1)
    return cases


def make_ragged(dtype):
    """Shapes that only schemes per tensor, per channel and per block take."""
    g = torch.Generator().manual_seed(21)
    shapes = [(1, 1), (3, 5), (130, 200), (257, 129), (128, 384), (127, 640), (300, 127)]
    return {f"{n} x {k}": finite(torch.randn(n, k, generator=g) * 0.02, dtype) for n, k in shapes}


def make_top(dtype):
    """Weights at the dtype's largest number, of both signs."""
    top = torch.full((5, COLS), torch.finfo(dtype).max, dtype=dtype)
    top[:, 1::2] *= -1
    top[1, 128:] = 1
    return {"largest": top}


def make_fused(dtype):
    """q/k/v and gate/up with unlike ranges: they share NVFP4's global scale."""
    g = torch.Generator().manual_seed(22)
    members = {"self_attn.q_proj": (64, 0.02), "self_attn.k_proj": (32, 0.3),
               "self_attn.v_proj": (32, 0.001), "mlp.gate_proj": (96, 0.05),
               "mlp.up_proj": (96, 0.01)}
    return {name: finite(torch.randn(n, COLS, generator=g) * s, dtype)
            for name, (n, s) in members.items()}


def write_checkpoint(directory, cases, fused, dtype):
    """A Llama-shaped checkpoint: case i is layer i's down_proj; the last layer has `fused`.
    Returns {module: weight}."""
    directory.mkdir()
    modules = {f"model.layers.{i}.mlp.down_proj": w for i, w in enumerate(cases.values())}
    modules |= {f"model.layers.{len(cases)}.{name}": w for name, w in fused.items()}
    save_file({f"{m}.weight": w.contiguous() for m, w in modules.items()},
              directory / "model.safetensors", metadata={"format": "pt"})
    config = {"architectures": ["LlamaForCausalLM"], "model_type": "llama",
              "num_hidden_layers": len(cases) + 1, "dtype": str(dtype).removeprefix("torch.")}
    (directory / "config.json").write_text(json.dumps(config))
    return modules
