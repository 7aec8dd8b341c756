"""What the tests of the programs share: running them, and writing small checkpoints by hand.

Python's standard library only. QPIPE_BIN is the directory of the programs, QP_TEST_DATA that of
tests/data.
"""

import array
import hashlib
import json
import os
import random
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

BIN = Path(os.environ.get("QPIPE_BIN", "/usr/bin"))
DATA = Path(os.environ.get("QP_TEST_DATA", Path(__file__).resolve().parent.parent / "data"))
TINY = DATA / "tiny-lm"
PROGRAMS = ("qload", "qcalibrate", "qquantize", "qexport", "qverify")
TIMEOUT = 120  # far above what any run takes: a hang, not slowness

# ------------------------------------------------------------------------------------ checkpoints

SIZES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1,
         "BOOL": 1, "F8_E4M3": 1}


def bf16(values):
    """Bytes of floats cut to BF16."""
    return b"".join(struct.pack("<f", v)[2:] for v in values)


def from_bf16(data):
    return [struct.unpack("<f", b"\0\0" + data[i:i + 2])[0] for i in range(0, len(data), 2)]


def count(shape):
    n = 1
    for d in shape:
        n *= d
    return n


class Weights:
    """Endless normal BF16 values, the same for the same seed."""

    def __init__(self, seed=1, std=0.02):
        rng = random.Random(seed)
        self.pool = bf16(rng.gauss(0, std) for _ in range(8191))  # odd: rows differ
        self.at = 0

    def take(self, n):
        begin = 2 * self.at
        self.at = (self.at + n) % 8191
        repeats = (begin + 2 * n) // len(self.pool) + 1
        return (self.pool * repeats)[begin:begin + 2 * n]


def header_bytes(header):
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


def write_safetensors(path, tensors, metadata=None):
    """tensors: {name: (dtype, shape, bytes)}."""
    header, at = {"__metadata__": metadata or {"format": "pt"}}, 0
    for name, (dtype, shape, data) in tensors.items():
        assert len(data) == SIZES[dtype] * count(shape), name
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [at, at + len(data)]}
        at += len(data)
    with open(path, "wb") as out:
        out.write(header_bytes(header))
        for _, _, data in tensors.values():
            out.write(data)


def read_safetensors(path):
    """{name: (dtype, shape, bytes)}"""
    data = Path(path).read_bytes()
    n = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8:8 + n])
    header.pop("__metadata__", None)
    return {name: (e["dtype"], tuple(e["shape"]),
                   data[8 + n + e["data_offsets"][0]:8 + n + e["data_offsets"][1]])
            for name, e in header.items()}


def llama_config(hidden, layers, vocab, intermediate, **more):
    return {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "torch_dtype": "bfloat16",
            "hidden_size": hidden, "num_hidden_layers": layers, "vocab_size": vocab,
            "intermediate_size": intermediate, "num_attention_heads": hidden // 64,
            "num_key_value_heads": hidden // 64, "tie_word_embeddings": False, **more}


def llama_shapes(hidden, layers, vocab, intermediate, head=True):
    yield "model.embed_tokens.weight", (vocab, hidden)
    for n in range(layers):
        p = f"model.layers.{n}."
        yield p + "input_layernorm.weight", (hidden,)
        for name in "qkvo":
            yield f"{p}self_attn.{name}_proj.weight", (hidden, hidden)
        yield p + "post_attention_layernorm.weight", (hidden,)
        yield p + "mlp.gate_proj.weight", (intermediate, hidden)
        yield p + "mlp.up_proj.weight", (intermediate, hidden)
        yield p + "mlp.down_proj.weight", (hidden, intermediate)
    yield "model.norm.weight", (hidden,)
    if head:
        yield "lm_head.weight", (vocab, hidden)


def write_model(directory, shapes, config, seed=1):
    """A directory with config.json and model.safetensors of BF16 weights."""
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    weights = Weights(seed)
    write_safetensors(directory / "model.safetensors",
                      {n: ("BF16", s, weights.take(count(s))) for n, s in shapes})
    (directory / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    return directory


# A transformer of Wan's kind, small.
PIPELINE_SHAPES = {
    "scale_shift_table": (1, 2, 128),
    "patch_embedding.weight": (128, 4, 1, 2, 2),
    "condition_embedder.text_embedder.linear_1.weight": (128, 64),
    "blocks.0.attn1.to_q.weight": (128, 128),
    "blocks.0.attn1.to_q.bias": (128,),
    "blocks.0.attn1.norm_q.weight": (128,),
    "blocks.0.ffn.net.0.proj.weight": (256, 128),
    "blocks.0.ffn.net.2.weight": (128, 256),
    "proj_out.weight": (16, 128),
}


def write_component(directory, class_name, shapes, seed):
    """A component of a diffusers pipeline."""
    write_model(directory, shapes.items(), {"_class_name": class_name, "_diffusers_version": "0.42.1"}, seed)
    (directory / "model.safetensors").rename(directory / "diffusion_pytorch_model.safetensors")


def write_pipeline(directory):
    """A diffusers pipeline with two transformers."""
    index = {"_class_name": "WanPipeline", "boundary_ratio": 0.875, "tokenizer": [None, None],
             "scheduler": ["diffusers", "UniPCMultistepScheduler"],
             "transformer": ["diffusers", "WanTransformer3DModel"],
             "transformer_2": ["diffusers", "WanTransformer3DModel"], "vae": ["diffusers", "AutoencoderKLWan"]}
    (directory / "scheduler").mkdir(parents=True)
    (directory / "model_index.json").write_text(json.dumps(index))
    (directory / "scheduler/scheduler_config.json").write_text("{}")
    for seed, folder in enumerate(("transformer", "transformer_2")):
        write_component(directory / folder, "WanTransformer3DModel", PIPELINE_SHAPES, seed + 1)
    write_component(directory / "vae", "AutoencoderKLWan", {"decoder.conv_in.weight": (8, 4, 3, 3)}, 9)


def write_llama(directory, hidden=128, layers=1, vocab=64, intermediate=256, seed=1):
    return write_model(directory, llama_shapes(hidden, layers, vocab, intermediate),
                       llama_config(hidden, layers, vocab, intermediate), seed)


def gguf_bytes(tensors, metadata=(), version=3, alignment=32):
    """tensors: [(name, dims innermost first, ggml type, bytes)]; metadata: [(key, string)]."""
    def text(s):
        s = s.encode()
        return struct.pack("<Q", len(s)) + s

    out = b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(metadata))
    for key, value in metadata:
        out += text(key) + struct.pack("<I", 8) + text(value)
    at = 0
    for name, dims, kind, data in tensors:
        out += text(name) + struct.pack("<I", len(dims)) + struct.pack(f"<{len(dims)}Q", *dims)
        out += struct.pack("<IQ", kind, at)
        at += len(data) + -len(data) % alignment
    out += b"\0" * (-len(out) % alignment)
    for _, _, _, data in tensors:
        out += data + b"\0" * (-len(data) % alignment)
    return out


# ----------------------------------------------------------------------------------------- qmaps

QMAP_HEADER = struct.Struct("<8sIIQQQQQQ")
QMAP_FIELDS = ("magic", "version", "flags", "file_length", "manifest_offset", "manifest_length",
               "hash_low", "hash_high", "trailer_length")


def qmap_header(data):
    return dict(zip(QMAP_FIELDS, QMAP_HEADER.unpack_from(data)))


def qmap_manifest(data):
    h = qmap_header(data)
    return json.loads(data[h["manifest_offset"]:h["manifest_offset"] + h["manifest_length"]])


# ------------------------------------------------------------------------------------------ runs


class Result:
    def __init__(self, code, out, err):
        self.code, self.out, self.err = code, out.decode(errors="replace"), err.decode(errors="replace")

    def __repr__(self):
        return f"exit {self.code}\nstdout: {self.out[-2000:]}\nstderr: {self.err[-2000:]}"


def sha256(path):
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def tree(directory):
    """{relative path: sha256} of every file below."""
    directory = Path(directory)
    return {str(p.relative_to(directory)): sha256(p)
            for p in sorted(directory.rglob("*")) if p.is_file()}


class CliTest(unittest.TestCase):
    maxDiff = None

    def setUp(self):
        self.dir = Path(tempfile.mkdtemp(prefix="qpipe-cli-"))
        self.addCleanup(shutil.rmtree, self.dir, ignore_errors=True)
        self.spills = self.dir / "spills"
        self.spills.mkdir()
        self.env = {**os.environ, "QPIPE_TMPDIR": str(self.spills), "LC_ALL": "C",
                    "PATH": f"{BIN}:{os.environ.get('PATH', '/usr/bin:/bin')}"}
        for name in ("QPIPE_ISA", "NO_COLOR"):
            self.env.pop(name, None)

    def popen(self, *command, **more):
        more.setdefault("stdout", subprocess.PIPE)
        more.setdefault("stderr", subprocess.PIPE)
        more.setdefault("stdin", subprocess.DEVNULL)
        more.setdefault("cwd", self.dir)
        more["env"] = {**self.env, **more.pop("env", {})}
        process = subprocess.Popen([str(c) for c in command], **more)
        self.addCleanup(self.reap, process)
        return process

    @staticmethod
    def reap(process):
        if process.poll() is None:
            process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout, process.stderr):
            if stream:
                stream.close()

    def run_(self, *command, **more):
        timeout = more.pop("timeout", TIMEOUT)
        process = self.popen(*command, **more)
        out, err = process.communicate(timeout=timeout)
        return Result(process.returncode, out or b"", err or b"")

    def sh(self, script, **more):
        """A line of bash; its status is that of the last stage, PIPESTATUS goes to fd 9's file."""
        return self.run_("bash", "-c", script, **more)

    def pipe(self, script, **more):
        """Runs a pipeline; returns (exit statuses of the stages, Result)."""
        status = self.dir / "pipestatus"
        result = self.sh(f"{script}\necho ${{PIPESTATUS[@]}} > {status}", **more)
        return [int(s) for s in status.read_text().split()], result

    def ok(self, *command, **more):
        result = self.run_(*command, **more)
        self.assertEqual(result.code, 0, result)
        return result

    def fails(self, code, *command, says=(), **more):
        """Runs a command that must fail with `code`, one message and nothing of a result."""
        result = self.run_(*command, **more)
        self.assertEqual(result.code, code, result)
        name = Path(str(command[0])).name
        self.assertTrue(result.err.startswith(name + ": "), result)
        self.assertNotIn("unexpected:", result.err)
        for text in [says] if isinstance(says, str) else says:
            self.assertIn(str(text), result.err)
        return result

    def log_of(self, path, what="tensor"):
        """Lines of `qquantize --log` about tensors, layers or inputs."""
        lines = [json.loads(line) for line in (self.dir / path).read_text().splitlines()]
        return [line for line in lines if what in line]

    def assert_clean(self, *outputs):
        """No spill, and none of these outputs or their partial files."""
        self.assertEqual(list(self.spills.iterdir()), [])
        for output in outputs:
            for suffix in ("", ".partial", ".partial.journal"):
                path = Path(str(output) + suffix)
                self.assertFalse(path.exists(), f"{path} is left")


class BadInput(CliTest):
    def refused(self, path, *says, code=3, programs=("qload", "qquantize", "qexport")):
        """Every program refuses it alike, and leaves nothing."""
        for program in programs:
            command = {"qload": ["qload", path, "-o", "c"], "qquantize": ["qquantize", path, "-s", "w4a16", "-o", "c"],
                       "qexport": ["qexport", path, "-f", "safetensors", "-o", "c"]}[program]
            self.fails(code, *command, says=says)
            self.assert_clean("c")



def signal_status(number):
    """What bash reports for a process killed by a signal."""
    return 128 + number


SIGPIPE = signal_status(signal.SIGPIPE)


def main():
    """Exits 77, which ctest reports as a skip, when all that ran passed and something was skipped."""
    result = unittest.main(verbosity=1, exit=False).result
    sys.exit(1 if not result.wasSuccessful() else 77 if result.skipped else 0)
