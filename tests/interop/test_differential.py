"""Our bytes are compressed-tensors' bytes: every scheme, on weights made to disagree about."""

import re

import compressed_tensors
import pytest
import torch
from compressed_tensors.quantization import QuantizationConfig, QuantizationStatus
from compressed_tensors.quantization.quant_scheme import PRESET_SCHEMES

import reference
from cases import make_cases, make_fused, make_ragged, make_top, write_checkpoint
from programs import (TINY_LM, bits, dequantize, export, list_schemes, pipe, read_json, read_tensors,
                      same_bits)

DTYPES = {"bf16": torch.bfloat16, "f16": torch.float16, "f32": torch.float32}
KINDS = {"cases": make_cases, "ragged": make_ragged, "top": make_top}
# Strategies whose scales do not need whole groups of columns.
ANY_SHAPE = ("tensor", "channel", "block")


class Exports:
    """Checkpoints made of the cases, and what qpipe makes of them; each made once."""

    def __init__(self, root, schemes):
        self.root, self.schemes, self.sources, self.made = root, schemes, {}, {}

    def source(self, dtype, kind="cases"):
        key = (dtype, kind)
        if key not in self.sources:
            directory = self.root / f"{kind}-{dtype}"
            cases = KINDS[kind](DTYPES[dtype])
            fused = make_fused(DTYPES[dtype]) if kind == "cases" else {}
            modules = write_checkpoint(directory, cases, fused, DTYPES[dtype])
            names = dict(zip(modules, [*cases, *fused]))
            self.sources[key] = directory, modules, names
        return self.sources[key]

    def export(self, label, dtype, kind="cases"):
        key = (label, dtype, kind)
        if key not in self.made:
            out = self.root / f"{label}-{kind}-{dtype}"
            self.made[key] = export(self.source(dtype, kind)[0], out, self.schemes[label][0])
        return self.made[key]


@pytest.fixture(scope="session")
def exports(tmp_path_factory, schemes):
    return Exports(tmp_path_factory.mktemp("differential"), schemes)


def kinds_of(scheme):
    return ("cases", "ragged") if scheme.weights.strategy in ANY_SHAPE else ("cases",)


def fused_with(module, modules):
    """The weights of the tensors that share a global scale with this one."""
    prefix, leaf = module.rsplit(".", 1)
    for group in (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj")):
        if leaf in group and f"{prefix}.{group[1]}" in modules:
            return [modules[f"{prefix}.{member}"] for member in group]
    return [modules[module]]


def parts_of(tensors, module):
    prefix = module + "."
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


def describe(name, suffix, ours, theirs):
    if ours.dtype != theirs.dtype or ours.shape != theirs.shape:
        return (f"{name}: {suffix} is {ours.dtype} {list(ours.shape)}, "
                f"theirs {theirs.dtype} {list(theirs.shape)}")
    a, b = bits(ours), bits(theirs)
    at = (a != b).nonzero().reshape(-1)
    first = int(at[0])
    return (f"{name}: {suffix}: {len(at)} of {len(a)} bytes differ, first at {first} of row length "
            f"{len(a) // max(1, ours.shape[0])}: {a[first]:#04x}, theirs {b[first]:#04x}")


def compare(exports, label, dtype, kind, scheme):
    """What differs, one line a tensor."""
    _, modules, names = exports.source(dtype, kind)
    ours = read_tensors(exports.export(label, dtype, kind))
    wrong = []
    for module, weight in modules.items():
        theirs = reference.compress(weight, scheme, fused_with(module, modules))
        stored = parts_of(ours, module)
        assert stored.keys() == theirs.keys(), f"{names[module]}: {module}"
        for suffix, tensor in theirs.items():
            if not same_bits(stored[suffix], tensor):
                wrong.append(describe(names[module], suffix, stored[suffix], tensor))
    return wrong


@pytest.mark.parametrize("dtype", DTYPES)
def test_bytes(label, dtype, exports, schemes):
    scheme = schemes[label][1]
    wrong = [w for kind in kinds_of(scheme) for w in compare(exports, label, dtype, kind, scheme)]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("dtype", DTYPES)
def test_largest(label, dtype, exports, schemes, tmp_path):
    """Weights at the top of the dtype: the same bytes, or, where the reference stores an infinite
    scale, a refusal that says so."""
    args, scheme = schemes[label]
    overflows = not scheme.weights.symmetric or scheme.weights.scale_dtype == torch.uint8
    if not overflows:
        assert not compare(exports, label, dtype, "top", scheme)
        return
    _, text = pipe(["qload", exports.source(dtype, "top")[0], "-q"],
                   ["qquantize", *args, "-o", tmp_path / "out.qmap", "-q"], expect=5)
    assert "overflows" in text and "model.layers.0.mlp.down_proj.weight" in text


def test_decompress(label, exports, schemes, tmp_path):
    """qload --dequantize reads our files as the library does, to the bit."""
    scheme = schemes[label][1]
    for kind in kinds_of(scheme):
        made = exports.export(label, "bf16", kind)
        ours = read_tensors(dequantize(made, tmp_path / kind))
        stored = read_tensors(made)
        _, modules, names = exports.source("bf16", kind)
        for module, weight in modules.items():
            if not scheme.weights.symmetric and weight.shape[0] <= 8:
                continue  # compressed-tensors 0.20.0 cannot unpack zero points of a single word
            theirs = reference.decompress(parts_of(stored, module), scheme, weight.shape,
                                          torch.bfloat16)
            assert same_bits(ours[module + ".weight"], theirs), names[module]


def test_config(label, exports, schemes):
    """quantization_config is what the library would have written for the preset, key by key."""
    ours = read_json(exports.export(label, "bf16") / "config.json")["quantization_config"]
    QuantizationConfig.model_validate(ours)
    scheme = schemes[label][1]
    config = QuantizationConfig(config_groups={"group_0": scheme}, format=scheme.format.value,
                                quantization_status=QuantizationStatus.COMPRESSED,
                                ignore=["lm_head"])
    # As ModelCompressor.update_config does it.
    theirs = {"version": compressed_tensors.__version__, "quant_method": "compressed-tensors",
              "sparsity_config": {}, "transform_config": {},
              **config.model_dump(mode="json", exclude=["quant_method"])}
    assert ours == theirs


def test_isa(exports, schemes, tmp_path):
    """Every instruction set that this processor has gives the same files."""
    _, text = pipe(["qquantize", TINY_LM, "-s", "int8", "-o", tmp_path / "x"],
                   expect=2, env={"QPIPE_ISA": "none"})
    isas = re.search(r"expected one of: ([\w, ]+)\)", text)[1].split(", ")
    assert isas[0] == "scalar"
    for isa in isas:
        for label, (args, _) in schemes.items():
            for dtype in ("bf16", "f16"):
                out = export(exports.source(dtype)[0], tmp_path / f"{isa}-{label}-{dtype}", args,
                             {"QPIPE_ISA": isa})
                file = "model.safetensors"
                theirs = exports.export(label, dtype) / file
                assert (out / file).read_bytes() == theirs.read_bytes(), f"{isa} {label} {dtype}"


def test_presets_are_covered(schemes):
    """Every preset that needs no calibration is a scheme here, or listed with the reason."""
    free = {name for name in PRESET_SCHEMES if reference.is_data_free(name)}
    aliases = {a.upper() for row in list_schemes() if "refusal" not in row for a in row["aliases"]}
    assert free - aliases - set(reference.COMPOSED) == set(reference.NOT_OFFERED)


def test_presets_that_need_calibration_are_refused():
    for name in set(PRESET_SCHEMES) - {n for n in PRESET_SCHEMES if reference.is_data_free(n)}:
        if name == "FP8":
            continue  # here a name of fp8-dynamic, as vLLM has it
        _, text = pipe(["qquantize", "-s", name, "--dry-run", TINY_LM], expect=2)
        assert "calibrat" in text
