"""Mixtures of experts as transformers loads them: its own stacks hold our dequantized values, and its
logits are those of the dequantized model."""

import numpy as np
import pytest
import torch
import transformers as tf
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, CompressedTensorsConfig

from programs import dequantize, export, pipe, read_json, read_tensors, same_bits

BASE = dict(vocab_size=128, hidden_size=128, intermediate_size=256, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2, max_position_embeddings=128, bos_token_id=0, eos_token_id=1,
            tie_word_embeddings=False)
MLA = dict(num_key_value_heads=4, q_lora_rank=128, kv_lora_rank=128, qk_nope_head_dim=64, qk_rope_head_dim=64,
           v_head_dim=128, first_k_dense_replace=1, n_group=2, topk_group=1, n_shared_experts=1)
CASES = {
    "mixtral": (tf.MixtralForCausalLM, tf.MixtralConfig, dict(num_local_experts=4)),
    "qwen3_moe": (tf.Qwen3MoeForCausalLM, tf.Qwen3MoeConfig,
                  dict(num_experts=4, moe_intermediate_size=128, head_dim=32)),
    "deepseek_v3": (tf.DeepseekV3ForCausalLM, tf.DeepseekV3Config,
                    dict(MLA, n_routed_experts=4, moe_intermediate_size=128)),
    "gpt_oss": (tf.GptOssForCausalLM, tf.GptOssConfig,
                dict(num_local_experts=4, intermediate_size=64, head_dim=32)),
}
PARTS = {"w1": 0, "gate_proj": 0, "w3": 1, "up_proj": 1, "w2": 2, "down_proj": 2}
IDS = torch.arange(24).reshape(1, 24) * 5 % 128


def build(name, directory, **changes):
    """A random BF16 model, saved by transformers."""
    kind, config, more = CASES[name]
    torch.manual_seed(11)
    model = kind(config(**dict(BASE, num_experts_per_tok=2) | more | changes)).to(torch.bfloat16)
    with torch.no_grad():
        for p in model.parameters():
            if p.dim() > 1:
                p.copy_(torch.randn(p.shape) * 0.05)
    model.save_pretrained(directory)
    return directory


def load(directory, **kwargs):
    model, info = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.bfloat16,
                                                       output_loading_info=True, **kwargs)
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        assert not info[kind], f"{kind}: {info[kind]}"
    return model.eval()


@torch.no_grad()
def logits(model):
    return model(IDS).logits


def stacks(tensors):
    """{layer: (gate_up_proj, down_proj)} of experts apart, as transformers stacks them."""
    found = {}
    for name, tensor in tensors.items():
        head, _, tail = name.partition(".experts.")
        if tail:
            index, part, _ = tail.split(".")
            found.setdefault(int(head.split(".")[2]), {})[int(index), PARTS[part]] = tensor
    return {layer: (torch.stack([torch.cat([of[e, 0], of[e, 1]]) for e in range(4)]),
                    torch.stack([of[e, 2] for e in range(4)])) for layer, of in found.items()}


@pytest.mark.parametrize("scheme", ["fp8-dynamic", "w4a16"])
@pytest.mark.parametrize("name", ["mixtral", "qwen3_moe", "deepseek_v3"])
def test_compressed_tensors(name, scheme, tmp_path):
    source = build(name, tmp_path / "base")
    ours = export(source, tmp_path / "ct", ["-s", scheme])
    floats = dequantize(ours, tmp_path / "floats")
    values = stacks(read_tensors(floats))
    assert values
    model = load(ours, quantization_config=CompressedTensorsConfig(dequantize=True))
    for layer, (both, down) in values.items():
        experts = model.model.layers[layer].mlp.experts
        assert same_bits(experts.gate_up_proj, both), layer
        assert same_bits(experts.down_proj, down), layer
    assert torch.equal(logits(model), logits(load(floats)))


@pytest.mark.parametrize("args", [["-s", "fp8-static"], ["-s", "w4a16", "-a", "gptq"]], ids=["static", "gptq"])
@pytest.mark.parametrize("name", ["qwen3_moe", "deepseek_v3"])
def test_calibrated_stacks(name, args, tmp_path):
    """Experts in one tensor, as transformers holds them, give the bytes of experts apart."""
    apart = build(name, tmp_path / "apart")
    tensors = read_tensors(apart)
    rest = {n: t for n, t in tensors.items() if ".mlp.experts." not in n}
    for layer, (both, down) in stacks(tensors).items():
        p = f"model.layers.{layer}.mlp.experts."
        rest |= {p + "gate_up_proj": both, p + "down_proj": down}
    whole = tmp_path / "whole"
    whole.mkdir()
    save_file(rest, whole / "model.safetensors")
    (whole / "config.json").write_bytes((apart / "config.json").read_bytes())
    np.save(tmp_path / "ids.npy", (np.arange(256).reshape(8, 32) * 7 % 128).astype(np.int32))
    found = []
    for source in (apart, whole):
        calib, out = tmp_path / f"{source.name}.qmap", tmp_path / f"{source.name}-out"
        pipe(["qcalibrate", source, "--tokens", tmp_path / "ids.npy", "--compute", "f32", "-o", calib, "-q"])
        pipe(["qquantize", calib, *args, "-q"], ["qexport", "-f", "compressed-tensors", "-o", out, "-q"])
        found.append(read_tensors(out))
    assert found[0].keys() == found[1].keys()
    for tensor in found[0]:
        assert same_bits(found[0][tensor], found[1][tensor]), tensor


def test_gpt_oss_in_mxfp4(tmp_path):
    """Blocks and scales, dequantized by transformers on the CPU."""
    source = build("gpt_oss", tmp_path / "base")
    pipe(["qquantize", source, "-s", "mxfp4", "-q"], ["qexport", "-f", "mxfp4", "-o", tmp_path / "mx", "-q"])
    assert read_json(tmp_path / "mx/config.json")["quantization_config"]["quant_method"] == "mxfp4"
    floats = dequantize(tmp_path / "mx", tmp_path / "floats")
    values = read_tensors(floats)
    model = load(tmp_path / "mx", quantization_config=tf.Mxfp4Config(dequantize=True))
    state = model.state_dict()
    assert state.keys() == values.keys()
    for name, tensor in values.items():
        assert same_bits(state[name], tensor), name
    assert torch.equal(logits(model), logits(load(floats)))
    base = read_tensors(source)
    for name, tensor in values.items():
        if not name.endswith("_proj"):
            assert same_bits(tensor, base[name]), name


def test_gpt_oss_apart(tmp_path):
    """Experts apart, [out, in], gate and up no longer alternating: rows of transformers' own stacks."""
    source = build("gpt_oss", tmp_path / "base")
    ours = export(source, tmp_path / "ct", ["-s", "w8a16", "--group-size", "channel"])
    values, base = read_tensors(dequantize(ours, tmp_path / "floats")), read_tensors(source)
    for layer in range(2):
        p = f"model.layers.{layer}.mlp.experts."
        for e in range(4):
            both = base[p + "gate_up_proj"][e].T
            for part, rows in (("gate", both[0::2]), ("up", both[1::2]), ("down", base[p + "down_proj"][e].T)):
                found = values[f"{p}{e}.{part}_proj.weight"]
                step = rows.abs().amax(1, keepdim=True) / 127.5
                assert found.shape == rows.shape
                assert ((found.float() - rows.float()).abs() <= step.float() * 1.1).all(), (e, part)
            assert same_bits(values[f"{p}{e}.up_proj.bias"], base[p + "gate_up_proj_bias"][e, 1::2])
            assert same_bits(values[f"{p}{e}.down_proj.bias"], base[p + "down_proj_bias"][e])
