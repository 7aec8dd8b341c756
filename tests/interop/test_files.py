"""Files as such: the safetensors library opens them, shards and indexes load, and PyTorch's own
containers quantize to the same bytes."""

import json
import struct

import pytest
import torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM

from programs import (TINY_LM, export, pipe, read_json, read_tensors, same_bits)

SCHEME = ["-s", "w4a16"]
COMPANIONS = ["generation_config.json", "special_tokens_map.json", "tokenizer.json",
              "tokenizer_config.json"]


def check_file(path):
    """The header as the format asks for it: padded, sorted by offset without holes, aligned."""
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    assert length % 8 == 0
    header = json.loads(data[8 : 8 + length])
    assert header.pop("__metadata__")["format"] == "pt"
    end = 0
    sizes = {"I64": 8, "F32": 4, "I32": 4, "BF16": 2, "F16": 2, "F8_E4M3": 1, "U8": 1, "I8": 1}
    for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
        begin, stop = entry["data_offsets"]
        assert begin == end, name
        assert begin % sizes[entry["dtype"]] == 0, name
        end = stop
    assert 8 + length + end == len(data)
    with safe_open(path, framework="pt") as f:
        assert f.metadata() == {"format": "pt"}
        assert set(f.keys()) == set(header)
    return header


def test_single_file(label, schemes, tmp_path):
    out = export(TINY_LM, tmp_path / "out", schemes[label][0])
    check_file(out / "model.safetensors")
    for name in COMPANIONS:
        assert (out / name).read_bytes() == (TINY_LM / name).read_bytes()


def test_shards(tmp_path):
    whole = read_tensors(export(TINY_LM, tmp_path / "whole", SCHEME))
    out = export(TINY_LM, tmp_path / "shards", SCHEME, more=["--shard-size", "300KB"])
    index = read_json(out / "model.safetensors.index.json")
    files = sorted(p.name for p in out.glob("*.safetensors"))
    count = len(files)
    assert count > 2
    assert files == [f"model-{i + 1:05}-of-{count:05}.safetensors" for i in range(count)]
    held = {name: f for f in files for name in check_file(out / f)}
    assert index["weight_map"] == held
    sizes = sum(t.numel() * t.element_size() for t in whole.values())
    assert index["metadata"]["total_size"] == sizes
    shards = read_tensors(out)
    assert shards.keys() == whole.keys()
    assert all(same_bits(shards[n], whole[n]) for n in whole)
    models = [AutoModelForCausalLM.from_pretrained(d, dtype=torch.bfloat16)
              for d in (tmp_path / "whole", out)]
    ids = torch.arange(16)[None]
    with torch.no_grad():
        assert torch.equal(models[0](ids).logits, models[1](ids).logits)


def torch_source(directory, layout):
    """tiny-lm as torch.save writes it."""
    directory.mkdir()
    for name in ["config.json", *COMPANIONS]:
        (directory / name).write_bytes((TINY_LM / name).read_bytes())
    tensors = read_tensors(TINY_LM)
    if layout == "pytorch_model.bin":
        torch.save(tensors, directory / layout)
    elif layout == "model.pth":
        torch.save({"model": tensors, "step": 5}, directory / layout)
    elif layout == "legacy pytorch_model.bin":
        torch.save(tensors, directory / "pytorch_model.bin", _use_new_zipfile_serialization=False)
    else:
        names, half = list(tensors), len(tensors) // 2
        weight_map = {}
        for i, part in enumerate((names[:half], names[half:])):
            file = f"pytorch_model-{i + 1:05}-of-00002.bin"
            torch.save({n: tensors[n] for n in part}, directory / file)
            weight_map |= dict.fromkeys(part, file)
        size = sum(t.numel() * t.element_size() for t in tensors.values())
        index = {"metadata": {"total_size": size}, "weight_map": weight_map}
        (directory / "pytorch_model.bin.index.json").write_text(json.dumps(index))


@pytest.mark.parametrize("layout", ["pytorch_model.bin", "legacy pytorch_model.bin", "shards",
                                    "model.pth"])
def test_torch(layout, tmp_path):
    torch_source(tmp_path / "source", layout)
    source = tmp_path / "source" / layout if layout == "model.pth" else tmp_path / "source"
    ours = read_tensors(export(source, tmp_path / "torch", SCHEME))
    expected = read_tensors(export(TINY_LM, tmp_path / "safetensors", SCHEME))
    assert ours.keys() == expected.keys()
    assert all(same_bits(ours[n], expected[n]) for n in expected)


def test_directory_is_never_half_written(tmp_path):
    out = export(TINY_LM, tmp_path / "out", SCHEME)
    before = {p.name: p.read_bytes() for p in out.iterdir()}
    _, text = pipe(["qload", TINY_LM, "-q"], ["qquantize", "-s", "int8", "-q"],
                   ["qexport", "-f", "compressed-tensors", "-o", out, "-q"], expect=4)
    assert "--force" in text
    assert {p.name: p.read_bytes() for p in out.iterdir()} == before
