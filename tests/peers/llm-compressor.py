"""llm-compressor's oneshot against ours: the stored bytes of every tensor."""

import sys

from common import MODEL, Peer, main

import torch
from llmcompressor import oneshot
from llmcompressor.modifiers.quantization import QuantizationModifier
from transformers import AutoModelForCausalLM


def save(scheme):
    def run(out):
        model = AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.bfloat16)
        oneshot(model=model, recipe=QuantizationModifier(targets="Linear", scheme=scheme, ignore=["lm_head"]))
        model.save_pretrained(out, save_compressed=True)
    return run


SCHEMES = {"FP8_DYNAMIC": "fp8-dynamic", "W8A8": "int8", "W4A16": "w4a16", "W4A16_ASYM": "w4a16-asym",
           "FP8_BLOCK": "fp8-block", "NVFP4A16": "nvfp4a16"}


if __name__ == "__main__":
    sys.exit(main(Peer(
        title="llm-compressor", about="`oneshot` with `QuantizationModifier` (data-free), saved compressed.",
        packages=("llmcompressor", "compressed-tensors", "torch", "transformers"),
        save={label: save(label) for label in SCHEMES}, load=None, target="compressed-tensors",
        stored={label: ["-s", scheme] for label, scheme in SCHEMES.items()})))
