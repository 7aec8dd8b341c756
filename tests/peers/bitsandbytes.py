"""bitsandbytes through transformers: NF4, FP4, double quantization and int8 on the CPU."""

import sys

from common import MODEL, Peer, linears, main

import bitsandbytes as bnb
import torch
from bitsandbytes.functional import dequantize_4bit, int8_vectorwise_dequant
from transformers import AutoModelForCausalLM, BitsAndBytesConfig


def save(**config):
    def run(out):
        model = AutoModelForCausalLM.from_pretrained(
            MODEL, quantization_config=BitsAndBytesConfig(**config), device_map="cpu", dtype=torch.bfloat16)
        model.save_pretrained(out)
    return run


def load(directory):
    model = AutoModelForCausalLM.from_pretrained(directory, device_map="cpu")
    found = {}
    for name, m in linears(model).items():
        if isinstance(m, bnb.nn.Linear4bit):
            found[name] = dequantize_4bit(m.weight.data, m.weight.quant_state)
        elif isinstance(m, bnb.nn.Linear8bitLt):
            found[name] = int8_vectorwise_dequant(m.weight.CB if m.weight.CB is not None else m.weight.data,
                                                  m.weight.SCB if m.weight.SCB is not None else m.state.SCB)
    return found


def four(kind, **more):
    return save(load_in_4bit=True, bnb_4bit_quant_type=kind,
                bnb_4bit_compute_dtype=torch.bfloat16, **more)


SAVE = {
    "nf4": four("nf4"), "fp4": four("fp4"),
    "nf4-double": four("nf4", bnb_4bit_use_double_quant=True),
    "fp4-double": four("fp4", bnb_4bit_use_double_quant=True),
    "int8": save(load_in_8bit=True),
    "nf4-skip": four("nf4", llm_int8_skip_modules=["lm_head", "model.layers.1.mlp.down_proj", "o_proj"]),
}

SCHEMES = {"nf4": ["-s", "bnb-nf4"], "fp4": ["-s", "bnb-fp4"], "nf4-double": ["-s", "bnb-nf4-dq"],
           "fp4-double": ["-s", "bnb-fp4-dq"], "int8": ["-s", "bnb-int8"]}


if __name__ == "__main__":
    sys.exit(main(Peer(
        title="bitsandbytes", about="bitsandbytes through transformers, data-free, on the CPU.",
        packages=("bitsandbytes", "torch", "transformers"), save=SAVE, load=load, target="bitsandbytes",
        exports=SCHEMES, stored=SCHEMES)))
