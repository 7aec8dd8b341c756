"""AWQ's search beside the published one, written out in PyTorch: the same ratio for every group."""

import json

import numpy as np
import pytest
import torch
import transformers as tf

import families
from programs import pipe

GROUP, RATIOS = 32, 20
FIELDS = dict(vocab_size=101, hidden_size=128, intermediate_size=192, num_hidden_layers=3, num_attention_heads=4,
              num_key_value_heads=4, max_position_embeddings=256)


def rounded(w, bits):
    """With zero points, as compressed-tensors rounds. (Without, the largest weight of each group is half a
    step from two codes, and the last bit of a scale decides.)"""
    g = w.reshape(w.shape[0], -1, GROUP)
    lo, hi = g.amin(-1, keepdim=True).clamp(max=0), g.amax(-1, keepdim=True).clamp(min=0)
    least, scale = -(2 ** (bits - 1)), (hi - lo) / (2**bits - 1)
    zero = torch.clamp(torch.round(least - lo / scale), least, -least - 1)
    q = torch.clamp(torch.round(g / scale + zero), least, -least - 1)
    return ((q - zero) * scale).reshape(w.shape)


def search(inspected, run, linears, x, bits):
    """Errors by ratio: reference/int4-formats.md 2.5, duo scaling."""
    w = torch.cat([m.weight for m in linears])
    g = w.reshape(w.shape[0], -1, GROUP)
    share = (g.abs() / (g.abs().amax(-1, keepdim=True) + 1e-6)).reshape(w.shape).mean(0)
    mean = x.abs().reshape(-1, x.shape[-1]).mean(0)
    base, kept = run(inspected), [m.weight.data.clone() for m in linears]
    errors = []
    for i in range(RATIOS):
        r = i / RATIOS
        s = (mean**r / (share ** (1 - r) + 1e-4)).clamp(min=1e-4)
        s = s / (s.max() * s.min()).sqrt()
        for m, old in zip(linears, kept):
            m.weight.data = rounded(old * s, bits) / s
        errors.append((run(inspected) - base).double().pow(2).mean().item())
        for m, old in zip(linears, kept):
            m.weight.data = old.clone()
    return errors


@torch.no_grad()
def reference(model, windows, bits):
    seen = {}

    def keep(name):
        def hook(module, args, kwargs, output):
            seen[name] = (args, kwargs)
        return hook

    found = {}
    for i, layer in enumerate(model.model.layers):
        groups = {"self_attn.q_proj": (layer.self_attn, [layer.self_attn.q_proj, layer.self_attn.k_proj, layer.self_attn.v_proj]),
                  "self_attn.o_proj": (layer.self_attn.o_proj, [layer.self_attn.o_proj]),
                  "mlp.gate_proj": (layer.mlp, [layer.mlp.gate_proj, layer.mlp.up_proj]),
                  "mlp.down_proj": (layer.mlp.down_proj, [layer.mlp.down_proj])}
        for name, (inspected, linears) in groups.items():
            handle = inspected.register_forward_hook(keep(name), with_kwargs=True)
            model(torch.tensor(windows), use_cache=False)
            handle.remove()
            args, kwargs = seen[name]
            x = kwargs.get("hidden_states", args[0] if args else None)

            def run(module):
                out = module(*args, **kwargs)
                return out[0] if isinstance(out, tuple) else out

            found[f"model.layers.{i}.{name}"] = search(inspected, run, linears, x, bits)
    return found


@pytest.mark.parametrize("bits", [3, 4])
def test_ratios(bits, tmp_path, log):
    model = tf.LlamaForCausalLM(tf.LlamaConfig(**FIELDS))
    families.randomize(model, 5)
    generator = torch.Generator().manual_seed(1)
    for layer in model.model.layers:  # channels that differ, as those of trained models do
        for norm in (layer.input_layernorm, layer.post_attention_layernorm):
            norm.weight.data = torch.exp(torch.randn(128, generator=generator))
    model = model.float().eval()
    model.save_pretrained(tmp_path / "model")
    windows = torch.randint(2, 100, (8, 64), generator=generator).tolist()
    (tmp_path / "windows.jsonl").write_text("".join(json.dumps(w) + "\n" for w in windows))
    pipe(["qcalibrate", tmp_path / "model", "--tokens", tmp_path / "windows.jsonl", "-n", "8", "--seqlen", "64",
          "-o", tmp_path / "c.qmap"])
    pipe(["qquantize", tmp_path / "c.qmap", "-s", f"w{bits}a16", "--group-size", str(GROUP),
          "--symmetric", "false", "-a", "awq,rtn", "--compute", "f32",
          "--log", tmp_path / "log", "-o", tmp_path / "q.qmap"])
    ours = {line["input"]: line for line in map(json.loads, (tmp_path / "log").read_text().splitlines())}
    theirs = reference(model, windows, bits)
    assert ours.keys() == theirs.keys()
    for name, errors in theirs.items():
        chosen = round(ours[name]["ratio"] * RATIOS)
        # Two ratios whose errors agree to single precision are one.
        assert errors[chosen] <= 1.0001 * min(errors), (name, chosen, int(np.argmin(errors)), errors)
    log.append(f"AWQ W{bits}: {len(theirs)} ratios are the reference's")
