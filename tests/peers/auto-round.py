"""auto-round: RTN on the CPU, saved in its own packings, and the transformers reader of them."""

import json
import os
import shutil
import sys
import tempfile

from common import MODEL, Peer, by_identity, main, tensors

# It puts logs where it is imported.
sys.argv[1:] = [os.path.abspath(a) if "/" in a else a for a in sys.argv[1:]]
os.chdir(tempfile.mkdtemp())

import torch  # noqa: E402
from auto_round import AutoRound  # noqa: E402
from auto_round.export.export_to_awq.utils import dequantize_gemm  # noqa: E402
from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: E402


def batches(tokenizer):
    ids = tokenizer((MODEL / "calib.txt").read_text())["input_ids"]
    return [torch.tensor([ids[i:i + 128]]) for i in range(0, 512, 128)]


def save(scheme, format="auto_round", **more):
    def run(out):
        model = AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.bfloat16)
        tokenizer = AutoTokenizer.from_pretrained(MODEL)
        quantizer = AutoRound(model, tokenizer=tokenizer, scheme=scheme, iters=0, nsamples=4, seqlen=128,
                              disable_opt_rtn=True, device_map="cpu", enable_torch_compile=False,
                              dataset=batches(tokenizer), **more)
        quantizer.quantize_and_save(str(out), format=format)
        for inner in [d for d in out.iterdir() if d.is_dir()]:  # named by it after the model
            shutil.copytree(inner, out, dirs_exist_ok=True)
            shutil.rmtree(inner)
    return run


def load(directory):
    config = json.loads((directory / "config.json").read_text())["quantization_config"]
    if "awq" in config.get("packing_format", config["quant_method"]):  # no kernel of its own on a CPU
        t = tensors(directory)
        return {n[:-8]: dequantize_gemm(t[n], t[n[:-7] + "qzeros"], t[n[:-7] + "scales"].float(), config["bits"],
                                        config["group_size"]).T for n in t if n.endswith(".qweight")}
    # In F32 its products are exact; in BF16 it would round the scales first.
    model = AutoModelForCausalLM.from_pretrained(directory, device_map="cpu", dtype=torch.float32)
    online = {n: m.dequant_weight_online().detach() for n, m in model.named_modules()
              if hasattr(m, "dequant_weight_online")}
    return online or by_identity(model)


MIXED = {"model.layers.0.mlp.down_proj": {"bits": 8}, "model.layers.1.self_attn.o_proj": {"bits": 16}}
SAVE = {
    "w4": save("W4A16"), "w4-asym": save("W4A16", sym=False), "w2": save("W2A16", group_size=32),
    "w3": save("W3A16"), "w8": save("W8A16"), "w4-mixed": save("W4A16", layer_config=MIXED),
    "w4-gptq": save("W4A16", "auto_round:auto_gptq"), "w4-awq": save("W4A16", "auto_round:auto_awq"),
    "w4-autoawq": save("W4A16", "auto_awq", sym=False),
    "mxfp4": save("MXFP4"), "mxfp8": save("MXFP8"), "nvfp4": save("NVFP4"),
    "fp8-static": save("FP8_STATIC"),
}

EXPORTS = {name: ["-s", name] for name in ("w4a16", "w4a16-asym", "w4a16-g32", "w8a16", "w3a16", "w2a16",
                                           "mxfp4", "mxfp8")}


if __name__ == "__main__":
    sys.exit(main(Peer(
        title="auto-round", about="RTN (iters=0) by auto-round on the CPU.",
        packages=("auto-round", "torch", "transformers"), save=SAVE, load=load, target="auto-round",
        exports=EXPORTS,
        transcodes={f"{first}-to-auto-round": (["-s", "w4a16"], first)
                    for first in ("gptq", "awq", "compressed-tensors")},
        notes=("nvfp4: the library multiplies codes by 1 / global_scale and then by the scale, we divide the scale",
               "first, as compressed-tensors does with the same tensors. In F32 the last bit differs, and values of",
               "one weight that lie halfway between two BF16 numbers go to the other one."))))
