"""nvidia-modelopt: mtq.quantize, mto.save and export_hf_checkpoint on the CPU."""

import copy
import json
import sys

from common import MODEL, Peer, compare_bytes, main, pipe, quietly, tensors

import modelopt.torch.opt as mto
import modelopt.torch.quantization as mtq
import torch
from modelopt.torch.export import export_hf_checkpoint
from modelopt.torch.quantization import qtensor
from transformers import AutoModelForCausalLM, AutoTokenizer


def calibrate(model):
    ids = AutoTokenizer.from_pretrained(MODEL)((MODEL / "calib.txt").read_text())["input_ids"]
    with torch.no_grad():
        for i in range(0, 1024, 256):
            model(torch.tensor([ids[i:i + 256]]))


def save(config):
    def run(out):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.bfloat16)
        model = mtq.quantize(model, config, calibrate)
        out.mkdir(parents=True)
        mto.save(model, out / "modelopt_state.pth")
        export_hf_checkpoint(model, export_dir=out)
    return run


def preset(name, kv=None):
    config = copy.deepcopy(getattr(mtq, name))
    if kv:
        config["quant_cfg"] += copy.deepcopy(getattr(mtq, kv)["quant_cfg"])
    return config


def mixed():
    """Attention in FP8, the MLPs in NVFP4, one down_proj left alone."""
    config, fp8 = preset("NVFP4_DEFAULT_CFG"), preset("FP8_DEFAULT_CFG")
    for entry in fp8["quant_cfg"]:
        if entry["quantizer_name"] in ("*weight_quantizer", "*input_quantizer"):
            entry = copy.deepcopy(entry)
            entry["quantizer_name"] = "*self_attn.*_proj." + entry["quantizer_name"][1:]
            config["quant_cfg"].append(entry)
    config["quant_cfg"].append({"quantizer_name": "*layers.1.mlp.down_proj*", "enable": False})
    return config


def unpack_int4(packed):
    q = torch.stack([packed & 15, packed >> 4], 1).reshape(-1, packed.shape[1]).to(torch.int8)
    return torch.where(q > 7, q - 16, q)


def decode(t, m):
    """The weight in the files as the library's own tensor classes dequantize it; INT4, which they
    hold packed another way, and integers and MX by the formulas of the exporter."""
    w, scale = t[f"{m}.weight"], t.get(f"{m}.weight_scale")
    second = t.get(f"{m}.weight_scale_2")
    if scale is None:
        return None
    k = w.shape[1]
    if w.dtype == torch.uint8 and scale.dtype == torch.float8_e4m3fn:
        shape = torch.Size([w.shape[0], k * 2])
        block = shape[1] // scale.shape[1]
        return qtensor.NVFP4QTensor(shape, torch.float32, w).dequantize(
            scale=scale, double_scale=second, block_sizes={-1: block}, fast=False)
    if w.dtype == torch.uint8 and scale.dtype == torch.uint8:
        return qtensor.MXFP4QTensor(torch.Size([w.shape[0], k * 2]), torch.float32, w).dequantize(
            scale=scale, block_sizes={-1: 32}).reshape(w.shape[0], k * 2)
    if w.dtype == torch.uint8:
        return unpack_int4(w).float() * scale.float().repeat_interleave(k // scale.shape[1], 1)
    w = w.float()
    if scale.dtype == torch.uint8:
        return w * torch.exp2(scale.float() - 127).repeat_interleave(32, 1)
    if scale.dim() == 4:
        s = scale.float()[:, 0, :, 0]
        return w * s.repeat_interleave(128, 0)[:w.shape[0]].repeat_interleave(128, 1)[:, :k]
    return w * (scale.float()[:, None] if scale.dim() == 1 else scale.float())


def load(directory):
    """Inputs are multiplied by pre_quant_scale where there is one: the same as scaled columns."""
    t = tensors(directory)
    found = {n[:-7]: decode(t, n[:-7]) for n in t if n.endswith("_proj.weight")}
    return {k: v * t[f"{k}.pre_quant_scale"].float() if f"{k}.pre_quant_scale" in t else v
            for k, v in found.items() if v is not None}


SAVE = {
    "fp8": save(preset("FP8_DEFAULT_CFG")), "fp8-kv": save(preset("FP8_DEFAULT_CFG", "FP8_KV_CFG")),
    "fp8-channel": save(preset("FP8_PER_CHANNEL_PER_TOKEN_CFG")),
    "fp8-block": save(preset("FP8_2D_BLOCKWISE_WEIGHT_ONLY_CFG")),
    "nvfp4": save(preset("NVFP4_DEFAULT_CFG")), "nvfp4-kv": save(preset("NVFP4_DEFAULT_CFG", "FP8_KV_CFG")),
    "nvfp4-nvfp4kv": save(preset("NVFP4_DEFAULT_CFG", "NVFP4_KV_CFG")),
    "w4a16-nvfp4": save(preset("W4A16_NVFP4_CFG")),
    "w4a8-nvfp4-fp8": save(preset("W4A8_NVFP4_FP8_CFG")),
    "int4-awq": save(preset("INT4_AWQ_CFG")), "w4a8-awq": save(preset("W4A8_AWQ_BETA_CFG")),
    "int8-sq": save(preset("INT8_SMOOTHQUANT_CFG")), "int8-wo": save(preset("INT8_WEIGHT_ONLY_CFG")),
    "int8": save(preset("INT8_DEFAULT_CFG")),
    "mxfp4": save(preset("MXFP4_DEFAULT_CFG")), "mxfp8": save(preset("MXFP8_DEFAULT_CFG")),
    "w4a8-mxfp4-fp8": save(preset("W4A8_MXFP4_FP8_CFG")),
    "nvfp4-mlp": save(preset("NVFP4_MLP_ONLY_CFG")),
    "mixed": save(mixed()),
}

NUMERICS = ["--numerics", "modelopt"]
# Ours need no calibration where the library's do not.
DATA_FREE = {"fp8-channel": ["-s", "fp8-dynamic", *NUMERICS], "fp8-block": ["-s", "fp8-block", *NUMERICS],
             "w4a16-nvfp4": ["-s", "nvfp4a16", *NUMERICS], "mxfp4": ["-s", "mxfp4", *NUMERICS],
             "mxfp8": ["-s", "mxfp8", *NUMERICS],
             "int8-wo": ["-s", "w8a16", "--group-size", "channel", *NUMERICS]}
# Activations' ranges come from the library's state. A state of AWQ or SmoothQuant holds weights that
# were scaled; qload refuses it.
MIXED = {"rules": [
    {"match": "re:.*self_attn.*_proj", "scheme": "fp8-static", "options": {"numerics": "modelopt"}},
    {"match": "Linear", "scheme": "nvfp4", "options": {"numerics": "modelopt"}}],
    "ignore": ["model.layers.1.mlp.down_proj"]}
STATE = {"fp8": ["-s", "fp8-static", *NUMERICS], "fp8-kv": ["-s", "fp8-static", "--kv-cache", "fp8", *NUMERICS],
         "nvfp4": ["-s", "nvfp4", *NUMERICS], "nvfp4-kv": ["-s", "nvfp4", "--kv-cache", "fp8", *NUMERICS],
         "nvfp4-mlp": ["-s", "nvfp4", "--ignore", "re:.*self_attn.*", *NUMERICS],
         "int8": ["-s", "int8-static", *NUMERICS], "mixed": MIXED}


def from_state(label):
    """The library's fake-quantized state, exported by us and by it."""
    def run(scratch):
        quietly(SAVE[label], scratch / "theirs")
        state = scratch / "theirs" / "modelopt_state.pth"
        args = STATE[label]
        if isinstance(args, dict):
            (scratch / "recipe.json").write_text(json.dumps(args))
            args = ["--recipe", scratch / "recipe.json"]
        pipe(["qload", MODEL, "--modelopt-state", state], ["qquantize", *args],
             ["qexport", "-f", "modelopt", "-o", scratch / "ours"])
        return compare_bytes(tensors(scratch / "ours"), tensors(scratch / "theirs"))
    return run


if __name__ == "__main__":
    sys.exit(main(Peer(
        title="nvidia-modelopt", about="mtq.quantize on a few batches, export_hf_checkpoint, on the CPU.",
        packages=("nvidia-modelopt", "torch", "transformers"), save=SAVE, load=load, target="modelopt",
        exports=DATA_FREE, stored=DATA_FREE,
        transcodes={"nvfp4 compressed-tensors-to-modelopt": (["-s", "nvfp4a16"], "compressed-tensors"),
                    "fp8 compressed-tensors-to-modelopt": (["-s", "fp8-dynamic"], "compressed-tensors"),
                    "fp8-to-modelopt": (["-s", "fp8-block"], "fp8")},
        more={("state", n): from_state(n) for n in STATE})))
