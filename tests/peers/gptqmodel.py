"""gptqmodel: GPTQ and AWQ checkpoints, written and read on the CPU."""

import dataclasses
import functools
import os
import sys
import tempfile

from common import MODEL, Peer, linears, main, read_row, transcode_row

# Its pool of threads asks for more workers than it grants itself on a machine of two cores.
os.environ.setdefault("GPTQMODEL_CPU_WORKERS", "2")
# It puts logs where it runs.
sys.argv[1:] = [os.path.abspath(a) if "/" in a else a for a in sys.argv[1:]]
os.chdir(tempfile.mkdtemp())
import torch  # noqa: E402
from gptqmodel import BACKEND, GPTQModel, QuantizeConfig  # noqa: E402
from gptqmodel.quantization import FORMAT, METHOD  # noqa: E402
from gptqmodel.quantization.awq.utils.packing_utils import dequantize_gemm  # noqa: E402
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
        if hasattr(m, "scales"):  # in F16 the product would be rounded, and then again
            m.scales = m.scales.float()
        if hasattr(m, "dequantize_weight"):
            found[name] = m.dequantize_weight().T.contiguous()
        elif hasattr(m, "qweight"):
            found[name] = dequantize_gemm(m.qweight, m.qzeros, m.scales, m.bits, m.group_size).T.contiguous()
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

GPTQ = {"gptq-w4": ["-s", "w4a16"], "gptq-w4-asym": ["-s", "w4a16-asym"], "gptq-w4-g32": ["-s", "w4a16-g32"],
        "gptq-w8": ["-s", "w8a16"], "gptq-w3": ["-s", "w3a16"], "gptq-w2": ["-s", "w2a16"]}
AWQ_EXPORTS = {"awq-w4": ["-s", "w4a16"], "awq-w4-asym": ["-s", "w4a16-asym"]}


def more():
    """AWQ, the second format of this library: exports and transcodes into it."""
    awq = dataclasses.replace(PEER, target="awq")
    rows = {("read", label): functools.partial(read_row, awq, args) for label, args in AWQ_EXPORTS.items()}
    for first in ("gptq", "auto-round", "compressed-tensors"):
        rows["transcode", f"{first}-to-awq"] = functools.partial(transcode_row, awq, ["-s", "w4a16-asym"], first)
    return rows


PEER = Peer(
    title="gptqmodel", about="GPTQ and AWQ of a few calibrated batches on the CPU.",
    packages=("gptqmodel", "torch", "transformers"), save=SAVE, load=load, target="gptq", exports=GPTQ,
    transcodes={f"{first}-to-gptq": (["-s", "w4a16-asym"], first)
                for first in ("awq", "auto-round", "compressed-tensors")})
PEER.more = more()


if __name__ == "__main__":
    sys.exit(main(PEER))
