"""torchao through transformers: the weights of its flags, and the bytes of its safetensors."""

import sys

from common import MODEL, Peer, linears, main

import torch
from torchao import quantization as q
from transformers import AutoModelForCausalLM, TorchAoConfig

FP8_ROW, FP8_TENSOR = q.PerRow(), q.PerTensor()
# It asks for a GPU that multiplies FP8 before it quantizes; what it stores does not depend on one.
q.quant_api.is_sm_at_least_89 = lambda: True
q.quant_api._check_hardware_support = lambda granularity: None


def configs():
    yield "int8wo", lambda: q.Int8WeightOnlyConfig(version=2)
    yield "int8dq", lambda: q.Int8DynamicActivationInt8WeightConfig(version=2)
    yield "fp8wo", lambda: q.Float8WeightOnlyConfig()
    yield "fp8dq-per_tensor", lambda: q.Float8DynamicActivationFloat8WeightConfig(granularity=FP8_TENSOR)
    yield "fp8dq-per_row", lambda: q.Float8DynamicActivationFloat8WeightConfig(granularity=FP8_ROW)
    yield "int8-intx", lambda: q.IntxWeightOnlyConfig(weight_dtype=torch.int8)
    yield "int4-intx-32", lambda: q.IntxWeightOnlyConfig(weight_dtype=torch.int4, granularity=q.PerGroup(32))


def save(config):
    def run(out):
        model = AutoModelForCausalLM.from_pretrained(
            MODEL, quantization_config=TorchAoConfig(config()), device_map="cpu", dtype=torch.bfloat16)
        model.save_pretrained(out)
    return run


def load(directory):
    model = AutoModelForCausalLM.from_pretrained(directory, device_map="cpu")
    found = {}
    for name, m in linears(model).items():
        if hasattr(m.weight, "dequantize"):
            found[name] = m.weight.dequantize()
    return found


SAVE = {label: save(config) for label, config in configs()}

FLAGS = {n: ["-s", n, "--numerics", "torchao"] for n in
         ("int8wo", "int8dq", "int4wo-32", "int4wo-64", "int4wo-128", "int4wo-256", "fp8wo",
          "fp8dq-per_tensor", "fp8dq-per_row")}


if __name__ == "__main__":
    sys.exit(main(Peer(
        title="torchao", about="torchao through transformers, data-free, on the CPU.",
        packages=("torchao", "torch", "transformers"), save=SAVE, load=load, target="torchao",
        exports=FLAGS, stored={n: a for n, a in FLAGS.items() if n in SAVE})))
