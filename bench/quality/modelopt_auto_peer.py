"""ModelOpt's AutoQuantize, on the CPU: MODEL WINDOWS.json OUT.json BITS GROUP_SIZE TARGET [METHOD].

BITS: "2,3,4,8". TARGET: bits of the codes of the layers' linears; the output
head, which it counts at 16 bits, comes on top. METHOD: gradient or kl_div.
OUT: {module: bits}, 16 where it leaves a module as it is.
"""
import json
import pathlib
import re
import sys
import time

import modelopt.torch.quantization as mtq
import torch
from transformers import AutoModelForCausalLM

model, windows, out, bits, group, target = sys.argv[1:7]
method = sys.argv[7] if len(sys.argv) > 7 else "gradient"
loaded = AutoModelForCausalLM.from_pretrained(model, dtype="auto")
data = [{"input_ids": torch.tensor([w]), "labels": torch.tensor([w])} for w in json.load(open(windows))]


def config(n):
    return {"quant_cfg": [{"quantizer_name": "*", "enable": False},
                          {"quantizer_name": "*weight_quantizer", "enable": True,
                           "cfg": {"num_bits": n, "block_sizes": {-1: int(group)}}}],
            "algorithm": "max"}


head = loaded.lm_head.weight.numel()
linears = sum(m.weight.numel() for n, m in loaded.named_modules() if "layers." in n and isinstance(m, torch.nn.Linear))
effective = (float(target) * linears + 16 * head) / (linears + head)
start = time.perf_counter()
more = {"loss_func": lambda output, batch: output.loss} if method == "gradient" else {}
forward = (lambda m, batch: m(**batch)) if method == "gradient" else (lambda m, batch: m(**batch).logits)
_, state = mtq.auto_quantize(
    loaded, constraints={"effective_bits": effective}, quantization_formats=[config(int(b)) for b in bits.split(",")],
    data_loader=data, forward_step=forward, disabled_layers=["*lm_head*"], num_calib_steps=1,
    num_score_steps=len(data), method=method, **more)
print("seconds", time.perf_counter() - start)
chosen = {}
for name, module in loaded.named_modules():
    if "layers." in name and hasattr(module, "weight_quantizer"):
        q = module.weight_quantizer
        chosen[name] = int(q.num_bits) if q.is_enabled else 16
pathlib.Path(out).write_text(json.dumps(chosen))
print(re.sub(r"\s+", " ", str(state["best"]))[:300])
