"""Seeded faults: sound checkpoints of our own making, and what is broken in copies of them.

bench/faults.py runs all of it and prints detection rates, test_faults.py a small part.
"""

import json
import random
import shutil
import struct
import subprocess
from pathlib import Path

from support import BIN, SIZES, TINY, header_bytes

SIZES = {**SIZES, "F8_E8M0": 1, "F8_E5M2": 1, "U16": 2, "U32": 4, "U64": 8}
SCALES = ("weight_scale", "weight_scale_inv", "scales", "scale", "SCB", "absmax", "weight.absmax",
          "weight_scale_2", "weight_global_scale")
GLOBALS = ("weight_global_scale", "weight_scale_2", "input_scale", "input_global_scale")
CODES = ("weight", "weight_packed", "qweight", "qdata", "int_data", "data")
FLOATS = ("BF16", "F16", "F32")


def program(name, *args):
    return subprocess.run([str(BIN / name), *map(str, args)], capture_output=True, text=True)


def quantize(model, scheme, out):
    """A qmap of the model; False where the scheme needs more than the weights."""
    return program("qquantize", model, "-s", scheme, "-o", out, "-q").returncode == 0


def export(qmap, family, out):
    shutil.rmtree(out, ignore_errors=True)
    return program("qexport", qmap, "-f", family, "-o", out, "-q").returncode == 0


def verify(checkpoint, base=None):
    """(whether it is sound, rules of errors, rules of warnings)"""
    args = [checkpoint, *([base] if base else []), "--json"]
    result = program("qverify", *args)
    if result.returncode not in (0, 1):
        raise AssertionError(f"qverify {args}: {result.returncode} {result.stderr}")
    found = json.loads(result.stdout)["findings"]
    pick = lambda severity: sorted({f["rule"] for f in found if f["severity"] == severity})
    return result.returncode == 0, pick("error"), pick("warning")


class Shard:
    """A safetensors file whose bytes are changed in place."""

    def __init__(self, path):
        self.path = path
        self.data = bytearray(path.read_bytes())
        self.size = struct.unpack_from("<Q", self.data)[0]
        self.header = json.loads(self.data[8:8 + self.size])

    def tensors(self):
        return {n: e for n, e in self.header.items() if n != "__metadata__"}

    def span(self, name):
        begin, end = self.header[name]["data_offsets"]
        return 8 + self.size + begin, 8 + self.size + end

    def bytes_of(self, name):
        begin, end = self.span(name)
        return bytes(self.data[begin:end])

    def put(self, name, data, at=0):
        begin, end = self.span(name)
        assert begin + at + len(data) <= end
        self.data[begin + at:begin + at + len(data)] = data

    def save(self):
        self.path.write_bytes(self.data)

    def drop(self, name):
        """Without a tensor: the others move up."""
        entries, out, at = {"__metadata__": self.header.get("__metadata__", {"format": "pt"})}, b"", 0
        for n, e in self.tensors().items():
            if n == name:
                continue
            data = self.bytes_of(n)
            entries[n] = {**e, "data_offsets": [at, at + len(data)]}
            out, at = out + data, at + len(data)
        self.path.write_bytes(header_bytes(entries) + out)


def suffix(name):
    return name.rsplit(".", 1)[-1]


def scale_tensors(shard):
    return sorted(n for n in shard.tensors() if any(n.endswith("." + s) for s in SCALES))


def quantized_modules(shard):
    """Names before the last dot that have a scale."""
    return sorted({n.rsplit(".", 1)[0].removesuffix(".weight") for n in scale_tensors(shard)})


def code_tensors(shard):
    modules = tuple(m + "." for m in quantized_modules(shard))
    return sorted(n for n, e in shard.tensors().items()
                  if n.startswith(modules) and suffix(n) in CODES and e["dtype"] not in FLOATS)


def shard_of(directory):
    return Shard(sorted(Path(directory).glob("*.safetensors"))[0])


# Each fault changes a copy; None: it does not apply there. ------------------------------------


def set_scale(value):
    def change(directory, rng):
        shard = shard_of(directory)
        special = {"F8_E4M3": {"zero": b"\0", "nan": b"\x7f", "inf": b"\xff"},
                   "F8_E8M0": {"nan": b"\xff"}, "U8": {"nan": b"\xff"}}
        wide = {"zero": 0.0, "nan": float("nan"), "inf": float("inf")}
        names = []
        for n in scale_tensors(shard):
            dtype = shard.header[n]["dtype"]
            absmax_codes = n.endswith("absmax") and dtype == "U8"  # indexes into a codebook
            if not absmax_codes and (dtype in FLOATS or value in special.get(dtype, {})):
                names.append(n)
        if not names:
            return None
        name = rng.choice(names)
        dtype = shard.header[name]["dtype"]
        if dtype in FLOATS:
            f = struct.pack("<f", wide[value])
            data = f[2:] if dtype == "BF16" else f if dtype == "F32" else struct.pack("<e", wide[value])
        else:
            data = special[dtype][value]
        count = len(shard.bytes_of(name)) // len(data)
        shard.put(name, data, rng.randrange(count) * len(data))
        shard.save()
        return name
    return change


def negative_global(directory, rng):
    shard = shard_of(directory)
    names = [n for n in shard.tensors() if suffix(n) in GLOBALS and shard.header[n]["dtype"] == "F32"]
    if not names:
        return None
    name = rng.choice(sorted(names))
    data = bytearray(shard.bytes_of(name))
    data[3] |= 0x80
    shard.put(name, data)
    shard.save()
    return name


def swap_experts(directory, rng):
    shard = shard_of(directory)
    pairs = []
    for n in shard.tensors():
        other = n.replace("experts.0.", "experts.1.")
        if other != n and other in shard.header:
            pairs.append((n, other))
    if not pairs:
        return None
    for n, other in pairs:
        a, b = shard.bytes_of(n), shard.bytes_of(other)
        if len(a) != len(b):
            return None
        shard.put(n, b)
        shard.put(other, a)
    shard.save()
    return pairs[0][0]


def flip_codes(directory, rng):
    """One bit in 0.1 % of the bytes of one tensor's codes."""
    shard = shard_of(directory)
    names = code_tensors(shard)
    if not names:
        return None
    name = rng.choice(names)
    data = bytearray(shard.bytes_of(name))
    for at in rng.sample(range(len(data)), max(1, len(data) // 1000)):
        data[at] ^= 1 << rng.randrange(8)
    shard.put(name, data)
    shard.save()
    return name


def walk(node, key, change):
    """Applies a change to every value of a key; how many there were."""
    n = 0
    if isinstance(node, dict):
        for k, v in list(node.items()):
            if k in key and not isinstance(v, (dict, bool)) and v is not None:
                node[k] = change(v)
                n += node[k] != v
            elif "activations" not in k:
                n += walk(v, key, change)
    elif isinstance(node, list):
        n = sum(walk(v, key, change) for v in node)
    return n


QUANT_FILES = ("config.json", "hf_quant_config.json", "quantize_config.json")


def lie(key, change):
    """In every file that says it, so that no two contradict each other."""
    def apply(directory, rng):
        n = 0
        for file in QUANT_FILES:
            path = Path(directory) / file
            if not path.exists():
                continue
            config = json.loads(path.read_text())
            node = config.get("quantization_config") if file == "config.json" else config
            n += walk(node, key, change)
            path.write_text(json.dumps(config))
        return "+".join(key) if n else None
    return apply


def other_bits(v):
    return {2: 4, 3: 4, 4: 8, 8: 4}.get(v, v)


def other_group(v):
    return v // 2 if isinstance(v, int) and v > 1 else v


def ignore_more(directory, rng):
    """The list of what is left unquantized gets a module that is quantized."""
    shard = shard_of(directory)
    modules = [m for m in quantized_modules(shard) if "layers." in m]
    if not modules:
        return None
    module, n = rng.choice(modules), 0
    for file in QUANT_FILES:
        path = Path(directory) / file
        if not path.exists():
            continue
        config = json.loads(path.read_text())
        node = config.get("quantization_config") if file == "config.json" else config
        n += walk(node, ("ignore", "modules_to_not_convert", "exclude_modules", "ignored_layers", "exclude"),
                  lambda v: v + [module] if isinstance(v, list) else v)
        path.write_text(json.dumps(config))
    return module if n else None


def ignore_less(directory, rng):
    """The list of what is left unquantized is emptied."""
    keys = ("ignore", "modules_to_not_convert", "exclude_modules", "ignored_layers", "exclude")
    shard = shard_of(directory)
    quantized = set(quantized_modules(shard))
    # A list that names nothing that is stored may as well be empty, and so may one of routers.
    if not any(n.endswith("_proj.weight") and n.removesuffix(".weight") not in quantized for n in shard.tensors()):
        return None
    return lie(keys, lambda v: [] if isinstance(v, list) else v)(directory, rng)


OTHER_METHOD = {"compressed-tensors": "fp8", "gptq": "awq", "awq": "gptq"}


def other_method(directory, rng):
    path = Path(directory) / "config.json"
    config = json.loads(path.read_text())
    quant = config.get("quantization_config", {})
    if "quant_method" not in quant:
        return None
    quant["quant_method"] = OTHER_METHOD.get(quant["quant_method"], "compressed-tensors")
    path.write_text(json.dumps(config))
    return quant["quant_method"]


def no_method(directory, rng):
    path = Path(directory) / "config.json"
    config = json.loads(path.read_text())
    if (Path(directory) / "hf_quant_config.json").exists():
        return None  # says it, too
    if config.pop("quantization_config", None) is None:
        return None
    path.write_text(json.dumps(config))
    return "quantization_config"


def missing_tensor(directory, rng):
    shard = shard_of(directory)
    name = rng.choice(sorted(n for n in shard.tensors() if "layers." in n))
    shard.drop(name)
    return name


def truncated(directory, rng):
    shard = shard_of(directory)
    cut = rng.randrange(1, len(shard.data) - 8 - shard.size)
    shard.path.write_bytes(shard.data[:-cut])
    return f"{cut} bytes"


def wrong_index(directory, rng):
    """An index that puts one tensor into a file of another name."""
    shard = shard_of(directory)
    names = sorted(shard.tensors())
    weight_map = {n: shard.path.name for n in names}
    victim = rng.choice(names)
    weight_map[victim] = "model-00002-of-00002.safetensors"
    total = sum(b - a for a, b in (e["data_offsets"] for e in shard.tensors().values()))
    text = json.dumps({"metadata": {"total_size": total}, "weight_map": weight_map})
    (Path(directory) / "model.safetensors.index.json").write_text(text)
    return victim


# name: (what breaks it, whether a base is given)
FAULTS = {
    "one scale zero": (set_scale("zero"), False),
    "one scale NaN": (set_scale("nan"), False),
    "one scale infinite": (set_scale("inf"), False),
    "global scale negative": (negative_global, False),
    "two experts swapped": (swap_experts, True),
    "0.1 % of codes flipped": (flip_codes, True),
    "config: other num_bits": (lie(("num_bits", "bits", "w_bit", "wbits"), other_bits), False),
    "config: other group_size": (lie(("group_size", "q_group_size"), other_group), False),
    "config: ignores a quantized module": (ignore_more, False),
    "config: ignores nothing": (ignore_less, False),
    "config: other quant_method": (other_method, False),
    "config: no quantization_config": (no_method, False),
    "missing tensor": (missing_tensor, False),
    "truncated shard": (truncated, False),
    "index names another file": (wrong_index, False),
}


# GGUF: a file, of which only blocks and the end are changed. -----------------------------------


def gguf_truncated(path, rng):
    data = path.read_bytes()
    path.write_bytes(data[:-rng.randrange(64, len(data) // 2)])
    return "cut"


def gguf_flipped(path, rng):
    data = bytearray(path.read_bytes())
    begin = len(data) // 2  # blocks of layers: metadata is in front
    for _ in range(max(1, (len(data) - begin) // 1000)):
        data[rng.randrange(begin, len(data))] ^= 1 << rng.randrange(8)
    path.write_bytes(data)
    return "second half"


GGUF_FAULTS = {"GGUF: truncated": (gguf_truncated, False), "GGUF: 0.1 % of bytes flipped": (gguf_flipped, True)}


def broken(checkpoint, fault, work, seed):
    """A copy with the fault; None where it does not apply."""
    copy = work / ("broken" + checkpoint.suffix)
    shutil.rmtree(copy, ignore_errors=True)
    if checkpoint.is_dir():
        shutil.copytree(checkpoint, copy)
    else:
        shutil.copy(checkpoint, copy)
    what = fault(copy, random.Random(seed))
    return (copy, what) if what is not None else (None, None)


__all__ = ["FAULTS", "GGUF_FAULTS", "TINY", "broken", "export", "quantize", "verify"]
