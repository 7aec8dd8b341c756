"""llama.cpp's convert_hf_to_gguf.py.

One process imports PyTorch and the converter, and makes a copy of itself for each conversion."""

import json
import subprocess
import sys
from pathlib import Path

from packages import llama_cpp

WORKER = """
import json, os, runpy, sys
checkout = sys.argv[1]
sys.path[:0] = [checkout, checkout + "/gguf-py"]
import torch, transformers
from conversion.base import TextModel
for line in sys.stdin:
    pid = os.fork()
    if pid == 0:
        job = json.loads(line)
        log = os.open(job["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(log, 1)
        os.dup2(log, 2)
        torch.set_num_threads(1)  # threads do not survive fork
        if job["pre"]:  # tokenizers made by tests have no known hash
            TextModel.get_vocab_base_pre = lambda self, tokenizer: job["pre"]
        sys.argv = [checkout + "/convert_hf_to_gguf.py", *job["arguments"]]
        try:
            runpy.run_path(sys.argv[0], run_name="__main__")
            status = 0
        except SystemExit as e:
            status = e.code if isinstance(e.code, int) else e.code is not None
        except BaseException:
            import traceback
            traceback.print_exc()
            status = 1
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""


class Converter:
    def __init__(self):
        self.process = subprocess.Popen([sys.executable, "-c", WORKER, llama_cpp()], stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, text=True)

    def __call__(self, source, out, *arguments, pre=None):
        log = f"{out}.log"
        job = {"pre": pre, "log": log, "arguments": [str(source), "--outfile", str(out), *arguments]}
        print(json.dumps(job), file=self.process.stdin, flush=True)
        status = self.process.stdout.readline().strip()
        assert status == "0", Path(log).read_text()
        return out

    def close(self):
        self.process.stdin.close()
        self.process.wait()
