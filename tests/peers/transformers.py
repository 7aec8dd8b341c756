"""transformers' own formats on the CPU: block FP8, and MXFP4 experts as gpt-oss has them."""

import json
import sys

from common import MODEL, Peer, compare_values, dequantize, export, main, quietly, tensors

import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, FineGrainedFP8Config, GptOssConfig, GptOssForCausalLM
from transformers.integrations.finegrained_fp8 import Fp8Quantize


class Quantizer:
    def __init__(self, config):
        self.quantization_config = config


def save_fp8(**config):
    """from_pretrained wants a GPU to quantize; the operation that it would run does not."""
    def run(out):
        config_ = FineGrainedFP8Config(**config)
        op, stored = Fp8Quantize(Quantizer(config_)), {}
        for name, value in tensors(MODEL).items():
            stored.update(op.convert({name: value}) if name.endswith("_proj.weight") else {name: value})
        out.mkdir(parents=True)
        save_file(stored, out / "model.safetensors", metadata={"format": "pt"})
        text = json.loads((MODEL / "config.json").read_text())
        text["quantization_config"] = {**config_.to_dict(), "modules_to_not_convert": ["lm_head"]}
        (out / "config.json").write_text(json.dumps(text, indent=2))
    return run


def save_gpt_oss(out):
    """A random gpt-oss whose experts are random MXFP4 blocks; quantizing them takes a GPU's kernels."""
    torch.manual_seed(0)
    config = GptOssConfig(
        num_hidden_layers=2, num_local_experts=4, vocab_size=512, hidden_size=128, intermediate_size=64,
        head_dim=32, num_attention_heads=4, num_key_value_heads=2, sliding_window=32,
        max_position_embeddings=512, num_experts_per_tok=2)
    model = GptOssForCausalLM(config).to(torch.bfloat16)
    model.save_pretrained(out)
    stored = tensors(out)
    for name in [n for n in stored if n.endswith("_proj") and ".experts." in n]:
        e, k, n = stored.pop(name).shape
        stored[f"{name}_blocks"] = torch.randint(0, 256, (e, n, k // 32, 16), dtype=torch.uint8)
        stored[f"{name}_scales"] = torch.randint(110, 125, (e, n, k // 32), dtype=torch.uint8)
    for file in out.glob("*.safetensors*"):
        file.unlink()
    save_file(stored, out / "model.safetensors", metadata={"format": "pt"})
    text = json.loads((out / "config.json").read_text())
    text["quantization_config"] = {"quant_method": "mxfp4", "modules_to_not_convert": [
        "model.layers.*.self_attn", "model.layers.*.mlp.router", "model.embed_tokens", "lm_head"]}
    (out / "config.json").write_text(json.dumps(text, indent=2))


def load(directory):
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.bfloat16)
    return {n.removesuffix(".weight"): p.detach() for n, p in model.named_parameters()
            if n.endswith(("_proj.weight", "experts.gate_up_proj", "experts.down_proj"))}


def gpt_oss_again(scratch):
    """Read and written again by us: the library sees what we see in what it saved."""
    quietly(save_gpt_oss, scratch / "theirs")
    export(None, "mxfp4", scratch / "ours", scratch / "theirs")
    return compare_values(dequantize(scratch / "theirs", scratch / "plain"), quietly(load, scratch / "ours"))


SAVE = {"fp8": save_fp8(weight_block_size=(128, 128)), "fp8-64": save_fp8(weight_block_size=(64, 64)),
        "fp8-ue8m0": save_fp8(weight_block_size=(128, 128), scale_fmt="ue8m0"),
        "fp8-tensor": save_fp8(weight_block_size=None), "gpt-oss": save_gpt_oss}

# Its reader knows only weight_scale_inv, not the weight_scale of engines' per-tensor FP8.
EXPORTS = {"fp8": ["-s", "fp8-block"]}


if __name__ == "__main__":
    sys.exit(main(Peer(
        title="transformers", about="FP8 by its own operation, gpt-oss of random blocks; both dequantized.",
        packages=("torch", "transformers"), save=SAVE, load=load, target="fp8",
        exports=EXPORTS, stored={"fp8": ["-s", "fp8-block", "--numerics", "transformers"]},
        transcodes={"compressed-tensors-to-fp8": (["-s", "fp8-block"], "compressed-tensors"),
                    "modelopt-to-fp8": (["-s", "fp8-block"], "modelopt")},
        more={("read", "gpt-oss"): gpt_oss_again},
        cannot={("read", "fp8-tensor"): "its FP8 linear has weight_scale_inv of blocks only, not the "
                                        "weight_scale of engines' per-tensor FP8"})))
