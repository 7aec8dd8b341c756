"""The engine's logits, family by family, against transformers; and the same bits however the work
is cut."""

import json
import subprocess

import numpy as np
import pytest
import torch

import families
from families import CASES, edit_config, edit_tensors
from programs import bin_dir, missing, read_json

LENGTHS = (1, 17, 60, 150)  # longer than every sliding window, and than a block of attention
MOE = ("mixtral", "qwen2_moe", "qwen3_moe", "deepseek_v2", "deepseek_v3")


@pytest.fixture(scope="session")
def forward(tmp_path_factory):
    """forward(model, windows, precision, *more) -> logits [tokens, vocabulary]"""
    program = bin_dir() / "tests/qp_forward"
    if not program.exists():
        missing(f"no {program}")
    room = tmp_path_factory.mktemp("forward")

    def run(model, windows, precision="f32", *more, expect=0):
        (room / "windows.json").write_text(json.dumps(windows))
        argv = [program, model, room / "windows.json", precision, room / "out.f32", *more]
        done = subprocess.run(list(map(str, argv)), capture_output=True, text=True)
        assert done.returncode == expect, done.stderr
        if expect:
            return done.stderr
        logits = np.fromfile(room / "out.f32", dtype=np.float32)
        return torch.from_numpy(logits).reshape(sum(map(len, windows)), -1)

    return run


def random_windows(lengths=LENGTHS):
    generator = torch.Generator().manual_seed(3)
    return [torch.randint(2, families.VOCAB - 1, (n,), generator=generator).tolist()
            for n in lengths]


def normalized(logits):
    return torch.log_softmax(logits.double(), -1)


def same_bits(a, b):
    return torch.equal(a.view(torch.int32), b.view(torch.int32))


@pytest.mark.parametrize("name", CASES)
def test_family(name, forward, tmp_path, log):
    model = families.build(name, tmp_path)
    windows = random_windows()
    expected = families.log_probs(families.load(model, torch.float32), windows)
    ours = forward(model, windows)
    worst = (normalized(ours) - expected).abs().max().item()
    # bf16: not worse than transformers in bf16. Medians, as a token that goes to other experts by a
    # hair differs by far more than rounding does.
    theirs = families.log_probs(families.load(model, torch.bfloat16), windows)
    half = normalized(forward(model, windows, "bf16"))
    error, bound = ((x - expected).abs().median().item() for x in (half, theirs))
    log.append(f"{name}: log-probabilities differ by {worst:.1e} in f32; in bf16 by {error:.1e} "
               f"(median; transformers in bf16: {bound:.1e})")
    assert worst < 1e-3
    assert error < 1.2 * bound
    for precision, whole in (("f32", ours), ("bf16", forward(model, windows, "bf16"))):
        least = forward(model, windows, precision, "least")
        assert same_bits(least, whole), "layers in waves"
        for threads in (1, 2, 7):
            assert same_bits(forward(model, windows, precision, 1 << 32, threads), whole), threads
        assert same_bits(forward(model, windows, precision, 1 << 32, 2, 1), whole), "one by one"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("name", ["gemma2", "qwen3_moe", "gpt_oss"])
def test_stored_dtype(name, dtype, forward, tmp_path):
    model = families.build(name, tmp_path, dtype)
    windows = random_windows((40,))
    expected = families.log_probs(families.load(model, torch.float32), windows)
    assert (normalized(forward(model, windows)) - expected).abs().max() < 1e-4


def classic(config):
    """As transformers 4 wrote config.json."""
    for part in (config, config.get("text_config", {})):
        if "dtype" in part:
            part["torch_dtype"] = part.pop("dtype")
        if "layer_types" in part and part["model_type"] != "ministral":
            del part["layer_types"]
        rope = part.pop("rope_parameters", None)
        if rope is None:
            continue
        if "full_attention" in rope:
            part["rope_local_base_freq"] = rope["sliding_attention"]["rope_theta"]
            part["sliding_window_pattern"] = 2
            rope = rope["full_attention"]
        part["rope_theta"] = rope.pop("rope_theta")
        if "partial_rotary_factor" in rope:
            part["partial_rotary_factor"] = rope.pop("partial_rotary_factor")
        kind = rope.pop("rope_type")
        part["rope_scaling"] = None if kind == "default" and not rope else dict(rope, type=kind)


OLD = ["llama", "llama llama3", "llama linear", "llama dynamic", "llama yarn", "phi3 longrope",
       "phi3 partial", "mistral window", "qwen2 sliding", "gemma2", "gemma3 scaled",
       "gemma3 multimodal", "smollm3", "qwen2_vl", "qwen2_moe normed", "qwen3_moe", "deepseek_v3",
       "gpt_oss"]


@pytest.mark.parametrize("name", OLD)
def test_config_of_transformers_4(name, forward, tmp_path):
    model = families.build(name, tmp_path)
    windows = random_windows((1, 90))
    whole = forward(model, windows)
    before = read_json(model / "config.json")
    edit_config(model, classic)
    assert read_json(model / "config.json") != before
    assert same_bits(forward(model, windows), whole)


def test_flat_config_of_a_wrapper(forward, tmp_path):
    """Qwen2-VL's first files have no text_config, and `model.` before the language model."""
    model = families.build("qwen2_vl", tmp_path)
    windows = random_windows((50,))
    whole = forward(model, windows)
    edit_config(model, lambda c: c.update(
        {k: v for k, v in c.pop("text_config").items() if k not in ("model_type", "dtype")}))
    for old, new in (("model.language_model.", "model."), ("model.", "language_model.model.")):
        edit_tensors(model, lambda ts: {rename(n, old, new): t for n, t in ts.items()})
        assert same_bits(forward(model, windows), whole)


def rename(name, old, new):
    return new + name.removeprefix(old) if name.startswith(old) and "visual" not in name else name


def test_gpt2_without_prefix(forward, tmp_path):
    model = families.build("gpt2", tmp_path)
    windows = random_windows((50,))
    whole = forward(model, windows)
    edit_tensors(model, lambda ts: {n.removeprefix("transformer."): t for n, t in ts.items()}
                 | {"h.0.attn.bias": torch.ones(1, 1, 200, 200)})
    assert same_bits(forward(model, windows), whole)


def stack(tensors):
    """Experts of a layer in two tensors, as transformers 5 holds them."""
    parts = {"gate_proj": 0, "up_proj": 1, "down_proj": 2, "w1": 0, "w3": 1, "w2": 2}
    rest, experts = {}, {}
    for name, tensor in tensors.items():
        head, _, tail = name.partition(".experts.")
        if not tail:
            rest[name.replace("block_sparse_moe", "mlp")] = tensor
            continue
        index, part, _ = tail.split(".")
        experts.setdefault(head.replace("block_sparse_moe", "mlp"), {})[int(index), parts[part]] = tensor
    for head, all_of in experts.items():
        n = len(all_of) // 3
        both = [torch.cat([all_of[e, 0], all_of[e, 1]]) for e in range(n)]
        rest[head + ".experts.gate_up_proj"] = torch.stack(both)
        rest[head + ".experts.down_proj"] = torch.stack([all_of[e, 2] for e in range(n)])
    return rest


@pytest.mark.parametrize("name", MOE)
def test_stacked_experts(name, forward, tmp_path):
    model = families.build(name, tmp_path)
    windows = random_windows((50,))
    whole = forward(model, windows)
    edit_tensors(model, stack)
    assert same_bits(forward(model, windows), whole)
    assert same_bits(forward(model, windows, "f32", "least"), whole)


def test_layer_that_predicts_more_tokens(forward, tmp_path):
    model = families.build("deepseek_v3", tmp_path)
    windows = random_windows((50,))
    whole = forward(model, windows)
    edit_tensors(model, lambda ts: ts | {"model.layers.3.eh_proj.weight": torch.ones(72, 144),
                                         "model.layers.3.enorm.weight": torch.ones(72)})
    assert same_bits(forward(model, windows), whole)


def test_mxfp4_experts(forward, tmp_path):
    model = families.build("gpt_oss", tmp_path)
    name = "model.layers.0.mlp.experts.gate_up_proj"
    edit_tensors(model, lambda ts: {n: t for n, t in ts.items() if n != name}
                 | {name + "_blocks": torch.zeros(6, 176, 3, 16, dtype=torch.uint8)})
    text = forward(model, random_windows((5,)), expect=3)
    assert "MXFP4" in text and name in text


@pytest.mark.parametrize("name, tensor", [
    ("llama", "model.layers.1.self_attn.k_proj.weight"),
    ("qwen2", "model.layers.0.self_attn.q_proj.bias"),
    ("qwen3_moe", "model.layers.2.mlp.experts.3.up_proj.weight"),
    ("deepseek_v3", "model.layers.1.mlp.gate.e_score_correction_bias"),
    ("gpt_oss", "model.layers.1.self_attn.sinks"),
    ("phi3", "lm_head.weight"),
])
def test_weights_that_disagree(name, tensor, forward, tmp_path):
    model = families.build(name, tmp_path)

    def grow(tensors):
        return tensors | {tensor: torch.cat([tensors[tensor], tensors[tensor][:1]])}

    def drop(tensors):
        return {n: t for n, t in tensors.items() if n != tensor}

    windows = random_windows((5,))
    if tensor != "lm_head.weight":  # more rows than the vocabulary are padding
        edit_tensors(model, grow)
        text = forward(model, windows, expect=3)
        assert f"'{tensor}'" in text and "has shape" in text
    edit_tensors(model, drop)
    text = forward(model, windows, expect=3)
    assert f"'{tensor}'" in text and "is missing" in text


@pytest.mark.parametrize("precision", ["f32", "bf16"])
def test_smollm2(precision, smollm2, forward, log):
    model = smollm2 / "smollm2-bf16"
    generator = torch.Generator().manual_seed(1)
    windows = [torch.randint(0, 49152, (n,), generator=generator).tolist() for n in (9, 130)]
    expected = families.log_probs(families.load(model, torch.float32), windows)
    ours = (normalized(forward(model, windows, precision)) - expected).abs()
    log.append(f"SmolLM2-135M: log-probabilities differ by {ours.max():.1e} in {precision}")
    if precision == "f32":
        assert ours.max() < 1e-3
    else:
        theirs = (families.log_probs(families.load(model, torch.bfloat16), windows) - expected).abs()
        assert ours.median() < 1.2 * theirs.median()
