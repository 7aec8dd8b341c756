"""amd-quark: the templates' schemes for Llama, exported and imported on the CPU."""

import sys

from common import MODEL, Peer, bytes_row, main

import torch
from quark.torch import LLMTemplate, ModelQuantizer, export_safetensors, import_model_from_safetensors
from torch.utils.data import DataLoader
from transformers import AutoModelForCausalLM, AutoTokenizer


def save(scheme, **more):
    def run(out):
        model = AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.bfloat16)
        ids = AutoTokenizer.from_pretrained(MODEL)((MODEL / "calib.txt").read_text())["input_ids"]
        batches = DataLoader([torch.tensor(ids[i:i + 128]) for i in range(0, 512, 128)], batch_size=1)
        config = LLMTemplate.get("llama").get_config(scheme=scheme, exclude_layers=["lm_head"], **more)
        quantizer = ModelQuantizer(config)
        model = quantizer.freeze(quantizer.quantize_model(model, batches))
        with torch.no_grad():
            export_safetensors(model, str(out))
    return run


def load(directory):
    model = AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.bfloat16)
    model = import_model_from_safetensors(model, str(directory))
    found = {}
    for name, m in model.named_modules():
        if not name.endswith("_proj"):
            continue
        quantizer = getattr(m, "weight_quantizer", None)
        if quantizer is not None:
            found[name] = m.get_quant_weight(m.weight) if hasattr(m, "get_quant_weight") else quantizer(m.weight)
    return found


SCHEMES = {"fp8": "fp8", "ptpc-fp8": "ptpc_fp8", "mxfp4": "mxfp4", "mxfp4-wo": "mxfp4_weight_only",
           "mxfp4-fp8": "mxfp4_fp8", "int4-fp8": "int4_fp8", "int4-wo-128": "int4_wo_128",
           "int4-wo-channel": "int4_wo_per_channel", "uint4-wo-128": "uint4_wo_128", "int8": "int8"}
SAVE = {label: save(scheme) for label, scheme in SCHEMES.items()}
SAVE["fp8-kv"] = save("fp8", kv_cache_scheme="fp8")

NUMERICS = ["--numerics", "quark"]
EXPORTS = {label: ["-s", *words.split(), *NUMERICS] for label, words in {
    "fp8": "fp8-tensor", "ptpc-fp8": "fp8-dynamic", "mxfp4": "mxfp4", "mxfp4-wo": "mxfp4a16",
    "int4-wo-128": "w4a16", "int4-wo-channel": "w4a16 --group-size channel", "uint4-wo-128": "w4a16-asym",
    "int8": "int8 --group-size tensor", "int4-fp8": "w4afp8 --group-size channel"}.items()}
DATA_FREE = ("ptpc-fp8", "mxfp4", "mxfp4-wo", "int4-wo-128", "int4-wo-channel")


def weights_row(label):
    """Without the scales of activations, which the library calibrated."""
    return lambda scratch: bytes_row(PEER, SAVE[label], EXPORTS[label], scratch, lambda n: ".input_" not in n)


PEER = Peer(
    title="amd-quark", about="amd-quark's Llama template on the CPU.",
    packages=("amd-quark", "torch", "transformers"), save=SAVE, load=load, target="quark",
    exports=EXPORTS, stored={n: EXPORTS[n] for n in DATA_FREE},
    transcodes={"compressed-tensors-to-quark": (["-s", "fp8-dynamic"], "compressed-tensors"),
                "awq-to-quark": (["-s", "w4a16-asym"], "awq")},
    more={("weights", n): weights_row(n) for n in ("fp8", "int8")})


if __name__ == "__main__":
    sys.exit(main(PEER))
