"""auto-round's AutoScheme, on the CPU: MODEL WINDOWS.json OUT.json BITS GROUP_SIZE TARGET.

BITS: "2,3,4,8". TARGET: average bits, scales counted as it counts them. OUT: {module: bits}, 16 where
it leaves a module as it is.
"""
import json
import pathlib
import sys
import tempfile
import time

from auto_round import AutoRound
from auto_round.auto_scheme.gen_auto_scheme import AutoScheme
from auto_round.schemes import QuantizationScheme
from transformers import AutoModelForCausalLM, AutoTokenizer

model, windows, out, bits, group, target = sys.argv[1:7]
tokenizer = AutoTokenizer.from_pretrained(model)
loaded = AutoModelForCausalLM.from_pretrained(model, dtype="auto")
texts = [tokenizer.decode(w + w[:32]) for w in json.load(open(windows))]  # a little over a window's tokens
with tempfile.TemporaryDirectory() as work:
    path = pathlib.Path(work) / "text.json"
    path.write_text(json.dumps([{"text": t} for t in texts]))
    options = [QuantizationScheme(bits=int(b), group_size=int(group), sym=True, act_bits=16, data_type="int")
               for b in bits.split(",")]
    shared = [["q_proj", "k_proj", "v_proj"], ["gate_proj", "up_proj"]]
    scheme = AutoScheme(avg_bits=float(target), options=options, shared_layers=shared, nsamples=len(texts), seqlen=512,
                        dataset=str(path), enable_torch_compile=False)
    start = time.perf_counter()
    rounder = AutoRound(loaded, tokenizer, scheme=scheme, iters=0, nsamples=4, seqlen=512, dataset=str(path),
                        disable_opt_rtn=True, device_map="cpu", enable_torch_compile=False)
    rounder.quantize()
    print("seconds", time.perf_counter() - start)
    chosen = {name: int(c["bits"]) for name, c in rounder.layer_config.items() if "layers." in name}
pathlib.Path(out).write_text(json.dumps(chosen))
