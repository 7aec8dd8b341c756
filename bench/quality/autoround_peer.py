"""AutoRound by Intel's auto-round, on the CPU: MODEL WINDOWS.json OUT BITS GROUP_SIZE [KEY=VALUE ..].

KEY=VALUE: arguments of AutoRound, such as iters=0 (its opt-rtn) or enable_alg_ext=True. The time is that of
quantizing, without loading the model and writing the checkpoint.
"""
import ast
import json
import sys
import time

import torch
from auto_round import AutoRound
from transformers import AutoModelForCausalLM, AutoTokenizer

model, windows, out, bits, group = sys.argv[1:6]
more = {key: ast.literal_eval(value) for key, value in (word.split("=", 1) for word in sys.argv[6:])}
samples = [torch.tensor([w]) for w in json.load(open(windows))]
loaded = AutoModelForCausalLM.from_pretrained(model, dtype=torch.bfloat16)
tuner = AutoRound(loaded, AutoTokenizer.from_pretrained(model), bits=int(bits), group_size=int(group), sym=True,
                  dataset=samples, seqlen=len(samples[0][0]), nsamples=len(samples), batch_size=8, device_map="cpu",
                  **more)
start = time.perf_counter()
tuner.quantize()
print("seconds", time.perf_counter() - start)
tuner.save_quantized(out, format="auto_round")
