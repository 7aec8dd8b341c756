#!/usr/bin/env python3
"""A mixture of 128 experts and 48 layers in a sparse file, quantized in a cgroup of 2 GB, killed at random and
resumed: the bytes equal those of a run that nobody disturbed.

    bench/sparse_moe.py --bin build/release --work DIR [-a gptq] [--layers 48] [--hidden 512] [--inner 256]
        [--memory 2G] [--kills 8] [--seed 1]

Most experts are holes (zeros); attention, routers, norms and every eighth expert are random. Needs a cgroup
(version 1 or 2) that this user may make; says so and exits 77 otherwise.
"""
import argparse
import hashlib
import json
import os
import pathlib
import random
import signal
import struct
import subprocess
import sys
import time

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--bin", required=True, type=lambda p: pathlib.Path(p).resolve())
parser.add_argument("--work", required=True, type=pathlib.Path)
parser.add_argument("-a", "--algorithm", default="gptq")
parser.add_argument("-s", "--scheme", default="w4a16")
for name, default in (("layers", 48), ("hidden", 512), ("inner", 256), ("kills", 8), ("seed", 1)):
    parser.add_argument(f"--{name}", type=int, default=default)
parser.add_argument("--memory", default="2G")
args = parser.parse_args()
H, F, E, VOCAB, HEADS = args.hidden, args.inner, 128, 512, 8
rng = random.Random(args.seed)


def shapes():
    yield "model.embed_tokens.weight", (VOCAB, H), True
    for i in range(args.layers):
        p = f"model.layers.{i}."
        for norm in ("input_layernorm", "post_attention_layernorm"):
            yield f"{p}{norm}.weight", (H,), True
        for name in "qkvo":
            yield f"{p}self_attn.{name}_proj.weight", (H, H), True
        for norm in ("q_norm", "k_norm"):
            yield f"{p}self_attn.{norm}.weight", (H // HEADS,), True
        yield f"{p}mlp.gate.weight", (E, H), True
        for e in range(E):
            for name, shape in (("gate", (F, H)), ("up", (F, H)), ("down", (H, F))):
                yield f"{p}mlp.experts.{e}.{name}_proj.weight", shape, e % 8 == 0
    yield "model.norm.weight", (H,), True
    yield "lm_head.weight", (VOCAB, H), True


def write_model(directory):
    directory.mkdir(parents=True)
    header, at, data = {}, 0, []
    for name, shape, filled in shapes():
        n = 2
        for d in shape:
            n *= d
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [at, at + n]}
        data.append((at, n, name, len(shape), filled))
        at += n
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    # A table of bf16 numbers near 1/sqrt(H), each either sign, to draw from.
    pool = b"".join(struct.pack("<H", (0x8000 if rng.random() < 0.5 else 0) | rng.randrange(0x3C80, 0x3D80))
                    for _ in range(1 << 16))
    with open(directory / "model.safetensors", "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text)
        base = f.tell()
        f.truncate(base + at)
        for offset, n, name, rank, filled in data:
            if not filled:
                continue
            f.seek(base + offset)
            if rank == 1:
                f.write(b"\x80\x3f" * (n // 2))
                continue
            for _ in range(0, n, 1 << 14):
                start = 2 * rng.randrange((1 << 16) - (1 << 13))
                f.write(pool[start:start + min(1 << 14, n)])
    (directory / "config.json").write_text(json.dumps({
        "architectures": ["Qwen3MoeForCausalLM"], "model_type": "qwen3_moe", "torch_dtype": "bfloat16", "hidden_size": H,
        "num_hidden_layers": args.layers, "num_attention_heads": HEADS, "num_key_value_heads": HEADS,
        "head_dim": H // HEADS, "intermediate_size": F, "moe_intermediate_size": F, "num_experts": E,
        "num_experts_per_tok": 8, "norm_topk_prob": True, "vocab_size": VOCAB, "tie_word_embeddings": False,
        "rms_norm_eps": 1e-6, "max_position_embeddings": 512, "hidden_act": "silu"}))


class Group:
    def __init__(self):
        one = pathlib.Path("/sys/fs/cgroup/memory")
        self.v1 = one.is_dir()
        self.path = (one if self.v1 else pathlib.Path("/sys/fs/cgroup")) / f"qpipe-{os.getpid()}"
        size = int(args.memory[:-1]) << {"M": 20, "G": 30}[args.memory[-1]]
        try:
            self.path.mkdir()
            (self.path / ("memory.limit_in_bytes" if self.v1 else "memory.max")).write_text(str(size))
        except OSError as e:
            print(f"no cgroup of our own: {e}")
            sys.exit(77)

    def run(self, *command, kill_after=None):
        """(exit status, seconds, was killed)"""
        start = time.time()
        process = subprocess.Popen([str(c) for c in command], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                                   preexec_fn=lambda: (self.path / "cgroup.procs").write_text(str(os.getpid())))
        try:
            _, err = process.communicate(timeout=kill_after)
            if process.returncode not in (0, -signal.SIGKILL):
                print(err.decode()[-500:])
            return process.returncode, time.time() - start, False
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL if rng.random() < 0.7 else signal.SIGINT)
            process.communicate()
            return process.returncode, time.time() - start, True

    def peak(self):
        return int((self.path / ("memory.max_usage_in_bytes" if self.v1 else "memory.peak")).read_text()) >> 20

    def failures(self):
        if self.v1:
            return int((self.path / "memory.oom_control").read_text().split()[-1])
        return int(dict(l.split() for l in (self.path / "memory.events").read_text().splitlines())["oom_kill"])


def digest(path):
    with open(path, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest() if hasattr(hashlib, "file_digest") else \
            hashlib.sha256(f.read()).hexdigest()


model, group = args.work / "model", Group()
try:
    if not model.exists():
        write_model(model)
    stat = (model / "model.safetensors").stat()
    print(f"{E} experts x {args.layers} layers, {stat.st_size >> 20} MiB, {stat.st_blocks >> 11} MiB on disk")
    (args.work / "w.jsonl").write_text("".join(json.dumps([rng.randrange(VOCAB) for _ in range(256)]) + "\n" for _ in range(16)))
    code, seconds, _ = group.run(args.bin / "qcalibrate", model, "--tokens", args.work / "w.jsonl", "-n", 16, "--seqlen", 256,
                                 "-o", args.work / "c.qmap", "--force", "-q")
    assert code == 0
    print(f"qcalibrate {seconds:.0f} s")
    command = [args.bin / "qquantize", args.work / "c.qmap", "-s", args.scheme, "-a", args.algorithm, "-q"]
    code, whole, _ = group.run(*command, "-o", args.work / "whole.qmap", "--force")
    assert code == 0, code
    print(f"undisturbed: {whole:.0f} s, at most {group.peak()} MiB in the group (page cache included)")
    killed, resume = 0, False
    (args.work / "k.qmap").unlink(missing_ok=True)
    for stale in args.work.glob("k.qmap.*"):
        stale.unlink()
    while killed < args.kills:
        code, seconds, was = group.run(*command, "-o", args.work / "k.qmap", *(["--resume"] if resume else []),
                                       kill_after=rng.uniform(0.05, 0.9) * whole)
        if not was:
            assert code == 0, code
            break
        killed += 1
        resume = (args.work / "k.qmap.partial").exists()
        print(f"killed after {seconds:.0f} s, {'to be resumed' if resume else 'nothing kept'}", flush=True)
    if not (args.work / "k.qmap").exists():
        code, seconds, _ = group.run(*command, "-o", args.work / "k.qmap", *(["--resume"] if resume else []))
        assert code == 0, code
        print(f"finished in {seconds:.0f} s")
    assert digest(args.work / "whole.qmap") == digest(args.work / "k.qmap"), "the bytes differ"
    print(f"bytes equal after {killed} kills; killed for memory: {group.failures()}")
finally:
    for _ in range(50):
        try:
            group.path.rmdir()
            break
        except OSError:
            time.sleep(0.1)
