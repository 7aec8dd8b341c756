"""Our quantizers of ggml's types beside ggml's own, byte by byte.

    python tests/peers/ggml/ggml_types.py --library LIBGGML_BASE.so [--seed N] [TYPE..]

Every type that we make, for rows of many kinds and widths, without importance and with three kinds of it. Of
some rows ggml itself cannot make codebook types: it ends the process, so that it works in another one. The
library is llama.cpp's libggml-base, built as its own build does, which is without FMA on x86-64
(cmake -DBUILD_SHARED_LIBS=ON -DGGML_NATIVE=OFF). Exits with 1 if a byte differs. $QPIPE_ISA chooses our code.
"""

import argparse
import ctypes
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[3]
TOOL = Path(os.environ.get("QPIPE_BIN", ROOT / "build/release")) / "tests/qp_ggml_quantize"
WIDTHS = (256, 512, 768, 1024, 4096)
CODEBOOKS = ("iq1", "iq2", "iq3")  # slow: fewer widths
FLT_MAX = np.finfo(np.float32).max


def kinds(rng, cols):
    """Names and rows [n, cols]."""
    normal = lambda n=4: rng.standard_normal((n, cols))
    yield "normal", normal(8) * 0.02
    yield "student t, 1", rng.standard_t(1, (4, cols))
    yield "student t, 3", rng.standard_t(3, (4, cols)) * 0.02
    yield "uniform", rng.uniform(-1, 1, (2, cols))
    yield "positive", np.abs(normal()) + rng.choice([0, 5], (4, 1))
    yield "negative", -np.abs(normal()) - rng.choice([0, 5], (4, 1))
    yield "zero", np.zeros((1, cols))
    yield "minus zero", -np.zeros((1, cols))
    yield "constant", np.repeat(rng.choice([1.0, -1.0, 0.3, -7e-9, 1e20], (5, 1)), cols, axis=1)
    yield "two values", rng.choice([-0.5, 0.5], (2, cols))
    yield "small integers", rng.integers(-9, 9, (3, cols))
    yield "sparse", normal() * (rng.random((4, cols)) < 0.05)
    yield "zero groups", normal() * np.repeat(rng.random((4, cols // 16)) < 0.5, 16, axis=1)
    for scale in (1e-5, 1e-8, 1e-12, 1e-15, 4e-15, 1e-20, 1e-30, 1e-37, 1e-39, 1e-42, 1e-45, 1e4, 1e10, 1e18,
                  1e25, 1e35, 1e37, 1e38):
        yield f"normal times {scale:g}", normal(2) * scale
    outlier = normal()
    outlier[np.arange(4), rng.integers(0, cols, 4)] = (100, -100, 1e6, -1e30)
    yield "outlier", outlier
    yield "groups of many sizes", normal() * np.repeat(10.0 ** rng.uniform(-30, 5, (4, cols // 32)), 32, axis=1)
    yield "largest", rng.choice([-FLT_MAX, FLT_MAX, 0.0, 1.0], (3, cols))
    yield "bf16", (normal() * 0.02).astype(np.float32).view(np.uint32) & 0xFFFF0000  # bits
    yield "f16", (normal() * 0.02).astype(np.float16)


def rows_of(rng, cols):
    names, rows = [], []
    for name, x in kinds(rng, cols):
        with np.errstate(over="ignore"):
            x = x.astype(np.uint32).view(np.float32) if name == "bf16" else np.asarray(x, np.float32)
        x = np.nan_to_num(x, nan=0, posinf=FLT_MAX, neginf=-FLT_MAX)
        names += [name] * len(x)
        rows.append(x)
    return names, np.ascontiguousarray(np.concatenate(rows))


def importances(rng, cols):
    yield "squares", (rng.standard_normal(cols) ** 2).astype(np.float32)
    yield "some zero", (rng.random(cols) * (rng.random(cols) < 0.7)).astype(np.float32)
    yield "many sizes", (10.0 ** rng.uniform(-20, 10, cols)).astype(np.float32)


class Ggml:
    def __init__(self, path):
        self.library = ctypes.CDLL(path, mode=os.RTLD_LAZY)
        self.library.ggml_quantize_chunk.restype = ctypes.c_size_t
        self.library.ggml_type_name.restype = ctypes.c_char_p

    def knows(self, name, number):
        # A number beyond the table of an older library ends the process that asks.
        child = os.fork()
        if child == 0:
            found = self.library.ggml_type_name(number)
            os._exit(found is None or found.decode().lower() != name)
        return os.waitpid(child, 0)[1] == 0

    def try_quantize(self, number, x, importance, size):
        """As quantize, in a process that may end; None if it did."""
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            for stream in (1, 2):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
            with open(writer, "wb") as out:
                out.write(self.quantize(number, x, importance, size).tobytes())
            os._exit(0)
        os.close(writer)
        with open(reader, "rb") as made:
            data = made.read()
        os.waitpid(child, 0)
        return np.frombuffer(data, np.uint8) if len(data) == size else None

    def quantize(self, number, x, importance, size):
        out = np.zeros(size, np.uint8)
        pointer = lambda a: None if a is None else a.ctypes.data_as(ctypes.c_void_p)
        self.library.ggml_quantize_chunk(number, pointer(x), pointer(out), ctypes.c_int64(0),
                                         ctypes.c_int64(x.shape[0]), ctypes.c_int64(x.shape[1]), pointer(importance))
        return out


def ours(name, x, importance, folder):
    arguments = [TOOL, name, str(x.shape[1]), folder / "x.f32"]
    x.tofile(folder / "x.f32")
    if importance is not None:
        importance.tofile(folder / "importance.f32")
        arguments.append(folder / "importance.f32")
    return np.frombuffer(subprocess.run(arguments, check=True, capture_output=True).stdout, np.uint8)


def theirs(ggml, kind, names, x, importance):
    """Bytes per row; zero rows where ggml gave up, whose places are returned too."""
    name, number, block, size, _, _ = kind
    row = x.shape[1] // block * size
    if name[:3] not in CODEBOOKS:
        return ggml.quantize(number, x, importance, row * len(x)).reshape(len(x), -1), []
    made, gone = [], []
    for at in range(len(x)):
        out = ggml.try_quantize(number, x[at : at + 1], importance, row)
        gone += [at] if out is None else []
        made.append(np.zeros(row, np.uint8) if out is None else out)
    return np.stack(made), gone


def compare(ggml, kind, names, x, importance, folder):
    """Blocks compared, those that differ by kind of row, and rows that ggml could not make."""
    name, size = kind[0], kind[3]
    a = ours(name, x, importance, folder).reshape(len(x), -1)
    b, gone = theirs(ggml, kind, names, x, importance)
    wrong = {}
    for row, what in enumerate(names):
        count = int((a[row] != b[row]).reshape(-1, size).any(axis=1).sum())
        if count and row not in gone:
            wrong[what] = wrong.get(what, 0) + count
    return (len(x) - len(gone)) * a.shape[1] // size, wrong, [names[row] for row in gone]


def types():
    for line in subprocess.run([TOOL], check=True, capture_output=True, text=True).stdout.splitlines():
        name, *numbers = line.split()
        yield name, *map(int, numbers)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--library", required=True)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("types", nargs="*")
    arguments = parser.parse_args()
    ggml, bad = Ggml(arguments.library), 0
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        for kind in types():
            name, number, _, _, needs, uses = kind
            if arguments.types and name not in arguments.types:
                continue
            if not ggml.knows(name, number):
                print(f"{name:8} not in this ggml")
                continue
            ggml.library.ggml_quantize_init(number)  # seconds, which children then need not spend
            rng = np.random.default_rng(arguments.seed)
            blocks, wrong, given_up = 0, 0, set()
            for cols in WIDTHS[:3:2] if name[:3] in CODEBOOKS else WIDTHS:
                names, x = rows_of(rng, cols)
                asked = [] if needs else [("none", None)]
                for what, importance in asked + (list(importances(rng, cols)) if uses else []):
                    n, differ, gone = compare(ggml, kind, names, x, importance, folder)
                    blocks += n
                    wrong += sum(differ.values())
                    given_up |= set(gone)
                    for row, count in differ.items():
                        print(f"  {name}, {cols} columns, importance {what}, {row}: {count} blocks differ")
            bad += wrong
            gone = f"; ggml gives up on {', '.join(sorted(given_up))}" if given_up else ""
            print(f"{name:8} {blocks:7} blocks, {wrong} differ{gone}", flush=True)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
