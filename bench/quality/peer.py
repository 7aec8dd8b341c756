"""What the peers' scripts share: NAME_peer.py MODEL WINDOWS.json OUT METHOD GROUP_SIZE.

A script takes exactly the windows of WINDOWS.json, one at a time and unpadded, and writes a checkpoint
to OUT. It prints one line `made {"seconds": .., "versions": .., "options": ..}`, and all else as it likes.
"""
import importlib.metadata
import json
import os
import pathlib
import shutil
import sys
import time

# Folders on the import path hide packages of their name (this one's, or the caller's).
sys.path[:] = [p for p in sys.path if pathlib.Path(p or ".").resolve() != pathlib.Path(__file__).resolve().parent]
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TQDM_DISABLE", "1")

MODEL, WINDOWS_FILE, OUT, METHOD = sys.argv[1:5]
GROUP = int(sys.argv[5]) if len(sys.argv) > 5 else None
WINDOWS = json.loads(pathlib.Path(WINDOWS_FILE).read_text())


class Made:
    """`with Made(packages, options):` around the quantization; prints the line, copies the tokenizer."""

    def __init__(self, packages, **options):
        self.packages, self.options = packages, options

    def __enter__(self):
        self.start = time.perf_counter()
        return self

    def __exit__(self, error, *_):
        if error is None:
            self.seconds = time.perf_counter() - self.start

    def report(self):
        for file in pathlib.Path(MODEL).glob("*token*"):
            shutil.copy(file, OUT)
        versions = {p: importlib.metadata.version(p) for p in (*self.packages, "torch")}
        print("made", json.dumps({"seconds": self.seconds, "versions": versions, "options": self.options}))


def bf16_model():
    import torch
    from transformers import AutoModelForCausalLM
    return AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.bfloat16)
