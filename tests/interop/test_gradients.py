"""Gradients of a layer of every family, by its input and by each weight, against autograd."""

import json
import re
import subprocess

import numpy as np
import pytest
import torch

import families
from programs import bin_dir, missing, read_json, read_tensors

WINDOWS = (21, 140)  # more than a block of attention


def decoder_layers(model):
    """The list of layers, whatever the model calls it."""
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.ModuleList) and name.split(".")[-1] in ("layers", "h"):
            if "vision" not in name and "visual" not in name:
                return module
    raise AssertionError("no layers")


def autograd(model, layer, windows, x, dy):
    """(y, dx), and the gradients of parameters in their .grad"""
    state = {}

    def put_in(module, args, kwargs):
        if args:
            return (state["x"], *args[1:]), kwargs
        return args, dict(kwargs, hidden_states=state["x"])

    def take_out(module, args, kwargs, result):
        state["y"] = result[0] if isinstance(result, tuple) else result

    module = decoder_layers(model)[layer]
    hooks = [module.register_forward_pre_hook(put_in, with_kwargs=True),
             module.register_forward_hook(take_out, with_kwargs=True)]
    ys, dxs, at = [], [], 0
    for w in windows:
        state["x"] = x[None, at:at + len(w)].clone().requires_grad_()
        model(torch.tensor([w]))
        state["y"].backward(dy[at:at + len(w)].view_as(state["y"]))
        ys.append(state["y"].detach().view(len(w), -1))
        dxs.append(state["x"].grad[0])
        at += len(w)
    for hook in hooks:
        hook.remove()
    return torch.cat(ys), torch.cat(dxs)


def save_gradients(model, directory):
    """The gradients under the names and in the layout of the checkpoint."""
    with torch.no_grad():
        for p in model.parameters():
            p.data = torch.zeros_like(p) if p.grad is None else p.grad
    model.save_pretrained(directory)
    return read_tensors(directory)


def relative(ours, theirs):
    return ((ours - theirs).norm() / (theirs.norm() + 1e-30)).item()


def read(path, cols):
    return torch.from_numpy(np.fromfile(path, dtype=np.float32)).reshape(-1, cols)


def ours_to_learn(tensor, layer):
    """A tensor of this layer that is neither an expert's bias nor of another tower."""
    of_layer = re.search(rf"(layers|h)\.{layer}\.", tensor)
    return of_layer and not re.search(r"_bias$|visual|vision", tensor)


def latents_apart(tensors, config):
    """Keys and values of DeepSeek's kv_b_proj as llama.cpp has them."""
    out = {}
    for name, t in tensors.items():
        if not name.endswith("kv_b_proj.weight"):
            out[name] = t
            continue
        heads = t.reshape(config.num_attention_heads, -1, t.shape[1])
        keys, values = heads.split([config.qk_nope_head_dim, config.v_head_dim], 1)
        out[name.replace(".weight", ".key.weight")] = keys.transpose(1, 2).contiguous()
        out[name.replace(".weight", ".value.weight")] = values.contiguous()
    return out


@pytest.mark.parametrize("name", [*families.CASES, "deepseek_v3 apart"])
def test_layer(name, tmp_path, log):
    program = bin_dir() / "tests/qp_gradient"
    if not program.exists():
        missing(f"no {program}")
    directory = families.build(name.removesuffix(" apart"), tmp_path / "model", torch.float32)
    model = families.load(directory, torch.float32)
    apart = name.endswith(" apart")
    if apart:
        families.edit_tensors(directory, lambda tensors: latents_apart(tensors, model.config))
    layer = len(decoder_layers(model)) - 1  # has experts, where any has
    generator = torch.Generator().manual_seed(5)
    windows = [torch.randint(2, families.VOCAB - 1, (n,), generator=generator).tolist()
               for n in WINDOWS]
    hidden = model.config.get_text_config().hidden_size
    x = torch.randn(sum(WINDOWS), hidden, generator=generator)
    dy = torch.randn(sum(WINDOWS), hidden, generator=generator)
    (tmp_path / "windows.json").write_text(json.dumps(windows))
    torch.cat([x, dy]).numpy().tofile(tmp_path / "in.f32")
    out = tmp_path / "out"
    out.mkdir()
    done = subprocess.run([program, directory, tmp_path / "windows.json", str(layer),
                           tmp_path / "in.f32", out], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr

    y, dx = autograd(model, layer, windows, x, dy)
    stored = {n: t.shape for n, t in read_tensors(directory).items()}
    gradients = save_gradients(model, tmp_path / "gradients")
    if apart:
        gradients = latents_apart(gradients, model.config)
    errors = {"y": relative(read(out / "y.f32", hidden), y),
              "dx": relative(read(out / "dx.f32", hidden), dx)}
    seen = {}
    for i, use in enumerate(read_json(out / "index.json")):
        rows, cols, first = use["rows"], use["cols"], use["first_row"]
        ours = read(out / f"{i}.f32", cols)
        ours = ours.T if use["transposed"] else ours
        whole = gradients[use["tensor"]].flatten(0, -2)
        part = whole[first:first + ours.shape[0]]
        if part.norm() > 0:
            errors[f"{use['tensor']}[{first}]"] = relative(ours, part)
        else:
            assert ours.norm() == 0
        seen[use["tensor"]] = seen.get(use["tensor"], 0) + rows * cols
    # Every matrix of the layer was there.
    for tensor, shape in stored.items():
        unused = tensor in gradients and not gradients[tensor].any()  # an expert without tokens
        if ours_to_learn(tensor, layer) and len(shape) > 1 and not unused:
            assert seen.get(tensor) == shape.numel(), tensor
    worst = max(errors, key=errors.get)
    log.append(f"gradients of {name}: relative error up to {errors[worst]:.1e} ({worst})")
    assert errors[worst] < 1e-3, errors
