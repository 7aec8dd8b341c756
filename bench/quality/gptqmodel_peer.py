"""GPTQ by GPTQModel, on the CPU: MODEL WINDOWS.json OUT BITS GROUP_SIZE."""
import json
import os
import sys
import time

os.environ.setdefault("GPTQMODEL_CPU_WORKERS", "2")  # its pool asks for more workers than it grants itself
from gptqmodel import GPTQModel, QuantizeConfig  # noqa: E402

model, windows, out, bits, group = sys.argv[1:6]
samples = [{"input_ids": w, "attention_mask": [1] * len(w)} for w in json.load(open(windows))]
config = QuantizeConfig(bits=int(bits), group_size=int(group), sym=True, device="cpu")
loaded = GPTQModel.load(model, config)
start = time.perf_counter()
loaded.quantize(samples, batch_size=1)
print("seconds", time.perf_counter() - start)
loaded.save(out)
