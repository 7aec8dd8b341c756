"""torchao through transformers: the weights of its flags, and the bytes of its safetensors."""

import sys

from common import MODEL, Peer, compare_bytes, export, linears, main, tensors

import torch
from torchao import quantization as q
from torchao.quantization import quant_primitives as primitives
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


def signed_nibbles(packed):
    low_first = torch.stack([packed << 4, packed], -1).to(torch.int8) >> 4
    return low_first.reshape(packed.shape[0], -1)


def plain_int4(w):
    """Int4Tensor multiplies on a GPU only and cannot dequantize; the library's formula of the
    unsigned codes 0..15 with a float zero point is this one."""
    return primitives._dequantize_affine_tinygemm(
        signed_nibbles(w.qdata) + 8, w.block_size, w.scale.T.contiguous().float(),
        w.zero_point.T.contiguous().float(), torch.int8, 0, 15)


def load(directory):
    model = AutoModelForCausalLM.from_pretrained(directory, device_map="cpu")
    found = {}
    for name, m in linears(model).items():
        if isinstance(m.weight, q.Int4Tensor):
            found[name] = plain_int4(m.weight)
        elif hasattr(m.weight, "dequantize"):
            found[name] = m.weight.dequantize()
    return found


def int4_function(group):
    """choose_qparams and quantize of the same formula in F32, as Int4Tensor.from_hp has its GPU
    library do; then rounded to the model's dtype."""
    def run(scratch):
        ours = tensors(export(["-s", f"torchao-int4wo-{group}"], "torchao", scratch / "ours"))
        theirs = {}
        for name, w in tensors(MODEL).items():
            if not name.endswith("_proj.weight"):
                continue
            scale, zero = primitives._choose_qparams_affine_tinygemm(
                w.float(), primitives.MappingType.ASYMMETRIC, (1, group), torch.int8, 0, 15, 1e-6 / 15)
            codes = primitives._quantize_affine_tinygemm(w.float(), (1, group), scale, zero, torch.int8, 0, 15) - 8
            parts = {"qdata": (codes[:, 1::2] << 4) | (codes[:, ::2] & 15),
                     "scale": scale.reshape(w.shape[0], -1).to(w.dtype).T,
                     "zero_point": zero.reshape(w.shape[0], -1).to(w.dtype).T}
            theirs.update({f"{name[:-6]}_weight_{k}": v.contiguous() for k, v in parts.items()})
        return compare_bytes({n: t for n, t in ours.items() if "._weight_" in n}, theirs)
    return run


SAVE = {label: save(config) for label, config in configs()}

FLAGS = {n: ["-s", f"torchao-{n}"] for n in
         ("int8wo", "int8dq", "int4wo-32", "int4wo-64", "int4wo-128", "int4wo-256", "fp8wo",
          "fp8dq-per_tensor", "fp8dq-per_row")}
NO_INT4 = "Int4Tensor.from_hp is done by mslk, which is for GPUs; see the function rows"


if __name__ == "__main__":
    sys.exit(main(Peer(
        title="torchao", about="torchao through transformers, data-free, on the CPU.",
        packages=("torchao", "torch", "transformers"), save=SAVE, load=load, target="torchao",
        exports=FLAGS, stored={n: a for n, a in FLAGS.items() if n in SAVE},
        more={("function", f"int4wo-{g}"): int4_function(g) for g in (32, 64, 128, 256)},
        cannot={("bytes", f"int4wo-{g}"): NO_INT4 for g in (32, 64, 128, 256)})))
