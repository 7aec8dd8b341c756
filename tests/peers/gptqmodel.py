"""gptqmodel: GPTQ and AWQ checkpoints, written and read on the CPU."""

import os
import sys

import common
from common import MODEL, Peer, linears, main

# Its pool of threads asks for more workers than it grants itself on a machine of two cores.
os.environ.setdefault("GPTQMODEL_CPU_WORKERS", "2")
import torch  # noqa: E402
from gptqmodel import BACKEND, GPTQModel, QuantizeConfig  # noqa: E402
from gptqmodel.quantization import FORMAT, METHOD  # noqa: E402
from transformers import AutoTokenizer  # noqa: E402


def calibration():
    ids = AutoTokenizer.from_pretrained(MODEL)((MODEL / "calib.txt").read_text())["input_ids"]
    return [{"input_ids": ids[i:i + 256], "attention_mask": [1] * 256} for i in range(0, 1024, 256)]


def save(**config):
    def run(out):
        base = {"bits": 4, "group_size": 128, "desc_act": False, "sym": True, "device": "cpu"}
        model = GPTQModel.load(str(MODEL), QuantizeConfig(**{**base, **config}))
        model.quantize(calibration(), batch_size=2)
        model.save(str(out))
    return run


def load(directory):
    model = GPTQModel.load(str(directory), device="cpu", backend=BACKEND.TORCH, dtype=torch.float16)
    found = {}
    for name, m in linears(model.model).items():
        if hasattr(m, "dequantize_weight"):
            found[name] = m.dequantize_weight().T.contiguous()
        elif hasattr(m, "qweight"):
            found[name] = m(torch.eye(m.in_features, dtype=torch.float16)).T.contiguous()
    return found


AWQ = {"quant_method": METHOD.AWQ, "format": FORMAT.GEMM}
SAVE = {
    "gptq4": save(), "gptq4-v2": save(format=FORMAT.GPTQ_V2), "gptq8": save(bits=8),
    "gptq3": save(bits=3), "gptq2": save(bits=2, group_size=32),
    "gptq4-asym": save(sym=False), "gptq4-asym-v2": save(sym=False, format=FORMAT.GPTQ_V2),
    "gptq8-asym": save(bits=8, sym=False), "gptq2-asym": save(bits=2, sym=False),
    "gptq4-desc-act": save(desc_act=True, act_group_aware=False),
    "gptq4-static-groups": save(desc_act=True, static_groups=True, act_group_aware=False),
    "gptq4-g32": save(group_size=32), "gptq4-channel": save(group_size=-1, act_group_aware=False),
    "gptq4-dynamic": save(dynamic={r"-:.*o_proj": {}, r".*down_proj": {"bits": 8, "group_size": 64}}),
    "gptq4-planar": save(format=FORMAT.GPTQ_P), "gptq5-planar": save(bits=5, format=FORMAT.GPTQ_P),
    "awq4": save(**AWQ), "awq4-asym": save(sym=False, **AWQ),
}

if __name__ == "__main__":
    sys.exit(main(Peer(
        title="gptqmodel", about="GPTQ and AWQ of a few calibrated batches on the CPU.",
        packages=("gptqmodel", "torch", "transformers"), save=SAVE, load=load)))
