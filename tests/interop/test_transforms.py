"""What is done to a model before its weights are rounded leaves what it computes: every place where
factors can be moved, in every family, and rotations where they can be fused."""

import json
import math
import subprocess

import pytest
import torch

import families
from programs import bin_dir, missing, pipe, read_json
from test_forward import forward, normalized, random_windows  # noqa: F401

# Places per layer that have room for a factor: norms in front of matrices, v in front of o, up in front
# of down (of each expert and the shared one); MLA has two more norms.
FOLDS = {"llama": 4, "llama biases tied": 4, "mistral nemo": 4, "qwen2": 4, "qwen3": 4, "gemma2": 4, "gemma3": 4,
         "phi3": 4, "olmo2": 2, "smollm3": 4, "gpt2": 3, "mixtral": None, "qwen2_moe": None, "qwen3_moe": None,
         "deepseek_v2": None, "deepseek_v3": None, "gpt_oss": 3, "qwen2_vl": 4, "opt": 4}
ROTATED = {"llama", "llama biases tied", "mistral window", "qwen2", "qwen3", "phi3", "smollm3", "mixtral", "qwen2_moe",
           "qwen3_moe", "deepseek_v2", "deepseek_v3", "gpt_oss"}
REFUSED = {"gemma2": "norm after a block", "gemma3": "norm after a block", "olmo2": "norm after a block",
           "gpt2": "more than a table", "opt": "more than a table"}


def same(a, b, tokens_may_reroute):
    d = (normalized(a) - normalized(b)).abs().max(-1).values
    # A token that goes to other experts by a hair differs by far more than rounding does.
    return (d.median() if tokens_may_reroute else d.max()) < 2e-3


@pytest.mark.parametrize("name", FOLDS)
def test_folds(name, forward, tmp_path, log):  # noqa: F811
    tool = bin_dir() / "tests/qp_fold"
    if not tool.exists():
        missing(f"no {tool}")
    model = families.build(name, tmp_path / "model", torch.float32)
    done = subprocess.run([tool, model, tmp_path / "out.qmap"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    folds = [line for line in done.stderr.splitlines() if " -> " in line]
    layers = read_json(model / "config.json")["num_hidden_layers" if name != "gpt2" else "n_layer"] \
        if name != "qwen2_vl" else 3
    log.append(f"{name}: {len(folds)} folds in {layers} layers")
    if FOLDS[name]:
        assert len(folds) == FOLDS[name] * layers, folds
    else:
        assert len(folds) > 4 * layers, folds
    windows = random_windows()
    assert same(forward(tmp_path / "out.qmap", windows), forward(model, windows), "moe" in name or "deepseek" in name)


@pytest.mark.parametrize("name", sorted(ROTATED))
def test_rotation(name, forward, tmp_path):  # noqa: F811
    model = families.build(name, tmp_path / "model", torch.float32)
    pipe(["qquantize", model, "-s", "none", "-a", "rotate", "-o", tmp_path / "out.qmap"])
    windows = random_windows()
    ours, before = forward(tmp_path / "out.qmap", windows), forward(model, windows)
    assert same(ours, before, "moe" in name or "deepseek" in name)
    assert not torch.equal(ours, before)


@pytest.mark.parametrize("name", REFUSED)
def test_no_rotation(name, tmp_path):
    model = families.build(name, tmp_path / "model")
    _, text = pipe(["qquantize", model, "-s", "none", "-a", "rotate", "-o", tmp_path / "out.qmap"], expect=2)
    assert REFUSED[name] in text and "rotate" in text
    assert not (tmp_path / "out.qmap").exists()


def calibrate(model, room):
    """room/c.qmap, of 16 random windows."""
    (room / "w.jsonl").write_text("".join(json.dumps(w) + "\n" for w in random_windows((60,) * 16)))
    pipe(["qcalibrate", model, "--tokens", room / "w.jsonl", "-n", "16", "--seqlen", "60", "-o", room / "c.qmap"])


SEARCHED = ["mixtral", "qwen2_moe", "qwen3_moe", "deepseek_v3", "gpt_oss", "gpt2", "gemma3", "qwen2_vl"]
STEPS = ["awq,rtn", "awq", "smoothquant,awq,gptq"]


def test_searched_scales(forward, tmp_path, log):  # noqa: F811
    """AWQ through experts, their routers, latents, norms times 1 + w, Conv1D, towers: rounding costs less. On
    weights without structure one model proves little, so the mean over the families is compared."""
    windows = random_windows()
    ratios = {step: [] for step in STEPS}
    for name in SEARCHED:
        room = tmp_path / name
        model = families.build(name, room / "model")
        calibrate(model, room)
        before, error = normalized(forward(model, windows)), {}
        for step in ["rtn", *STEPS]:
            pipe(["qquantize", room / "c.qmap", "-s", "w4a16", "--group-size", "channel", "-a", step, "-o", room / step])
            pipe(["qverify", room / step])
            after = normalized(forward(room / step, windows))
            error[step] = (before.exp() * (before - after)).sum(-1).median().item()
        for step in STEPS:
            ratios[step].append(error[step] / error["rtn"])
        log.append(f"{name}: KL " + ", ".join(f"{step} {e:.2e}" for step, e in error.items()))
    means = {step: math.exp(sum(map(math.log, r)) / len(r)) for step, r in ratios.items()}
    log.append("KL beside rtn's: " + ", ".join(f"{step} {m:.2f}" for step, m in means.items()))
    assert means["awq"] < 0.9
    assert means["smoothquant,awq,gptq"] < 0.8


def test_pre_scale(forward, tmp_path):  # noqa: F811
    """Where no fold is, OLMo 2's q, k, v, gate and up: what the engine makes of codes and pre_scale is what torch
    makes of the dequantized weights, and near to the model."""
    windows = random_windows()
    model = families.build("olmo2", tmp_path / "model")
    calibrate(model, tmp_path)
    pipe(["qquantize", tmp_path / "c.qmap", "-s", "w8a16", "--group-size", "channel", "-a", "awq:pre_scale=true,rtn",
          "-o", tmp_path / "q.qmap"])
    _, said = pipe(["qexport", tmp_path / "q.qmap", "-f", "compressed-tensors", "-o", tmp_path / "no"], expect=5)
    assert "pre_quant_scale" in said
    pipe(["qload", tmp_path / "q.qmap", "--dequantize", "-o", tmp_path / "d.qmap"],
         ["qexport", "-f", "safetensors", "-o", tmp_path / "d"])
    ours = normalized(forward(tmp_path / "q.qmap", windows))
    theirs = families.log_probs(families.load(tmp_path / "d", torch.float32), windows)
    assert (ours - normalized(theirs)).abs().max() < 0.05  # q's weights are f32 products, d's are rounded to BF16
    assert (ours - normalized(forward(model, windows))).abs().mean() < 0.05


def divergences(forward, model, room, scheme, algorithms):  # noqa: F811
    """Calibrates, quantizes by each algorithm; their KL from the model, and the lines of their logs, by name."""
    windows = random_windows()
    calibrate(model, room)
    before, kl, logs = normalized(forward(model, windows)), {}, {}
    for algorithm in algorithms:
        out = room / algorithm.split(":")[0]
        log = room / f"{out.name}.log"
        pipe(["qquantize", room / "c.qmap", "-s", scheme, "--group-size", "channel", "-a", algorithm, "--log", log, "-o", out])
        after = normalized(forward(out, windows))
        kl[out.name] = (before.exp() * (before - after)).sum(-1).mean().item()
        logs[out.name] = [json.loads(line) for line in log.read_text().splitlines()]
    return kl, logs


@pytest.mark.parametrize("name", ["gemma3", "qwen2_vl"])
def test_towers(name, forward, tmp_path, log):  # noqa: F811
    """The language towers of VLMs: every matrix is taken, and the model is nearer than with rtn."""
    algorithms = ("gptq", "awq,gptq", "autoround:iters=50")
    kl, logs = divergences(forward, families.build(name, tmp_path / "model"), tmp_path, "w3a16", ("rtn", *algorithms))
    for algorithm in algorithms:
        lines = logs[algorithm.split(":")[0]]
        assert sum("tensor" in line for line in lines) == 7 * sum("layer" in line for line in lines) > 0
    log.append(f"{name}: KL " + ", ".join(f"{a} {k:.2e}" for a, k in kl.items()))
    assert max(kl["gptq"], kl["awq,gptq"], kl["autoround"]) < kl["rtn"]


def test_conv1d(forward, tmp_path, log):  # noqa: F811
    """GPT-2's matrices, stored [in, out]: errors are made up for along their inputs, layer behind layer."""
    kl, logs = divergences(forward, families.build("gpt2", tmp_path / "model"), tmp_path, "w4a16",
                           ("rtn", "clip", "gptq", "autoround:iters=50"))
    for name in ("clip", "gptq", "autoround"):
        assert sum("tensor" in line for line in logs[name]) == 4 * sum("layer" in line for line in logs[name]) > 0
    assert all(line["iterations"] == 50 for line in logs["autoround"] if "tensor" in line)
    log.append("KL " + ", ".join(f"{a} {k:.2e}" for a, k in kl.items()))
    assert max(kl["gptq"], kl["autoround"]) < 0.8 * kl["rtn"]
