"""qexport -f mmproj, beside gguf-py and llama.cpp's converter with --mmproj."""

import json

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import families
from programs import pipe, read_tensors
from test_gguf_export import read, save_tokenizer

VISION = dict(depth=3, num_heads=2, patch_size=4, in_channels=3, spatial_merge_size=2, temporal_patch_size=2)
CASES = {
    "qwen2_vl": dict(vision_config=dict(VISION, embed_dim=64, hidden_size=72, mlp_ratio=2)),
    "qwen2_5_vl": dict(vision_config=dict(VISION, depth=4, hidden_size=64, intermediate_size=96, out_hidden_size=72,
                                          fullatt_block_indexes=[1, 3], window_size=16)),
    "gemma3 multimodal": dict(vision_config=dict(hidden_size=64, intermediate_size=96, num_hidden_layers=2,
                                                 num_attention_heads=2, image_size=32, patch_size=4)),
}
IMAGES = dict(image_mean=[0.48145466, 0.4578275, 0.40821073], image_std=[0.26862954, 0.26130258, 0.27577711])


def build(case, directory, monkeypatch, dtype, published=True, **images):
    model, config, fields = families.CASES[case]
    monkeypatch.setitem(families.CASES, "vision", (model, config, dict(fields, **CASES[case])))
    families.build("vision", directory, dtype)
    save_tokenizer(directory)
    if case.startswith("gemma") and published:  # transformers 5 leaves out a level of the names
        path = directory / "model.safetensors"
        save_file({n.replace("vision_tower.", "vision_tower.vision_model."): t for n, t in load_file(path).items()},
                  path, {"format": "pt"})
    (directory / "preprocessor_config.json").write_text(json.dumps(dict(IMAGES, **images)))
    return directory


def export(source, out, *more):
    return pipe(["qexport", source, "-f", "mmproj", "-o", out, "-q", *more])


@pytest.mark.parametrize("dtype", ["bf16", "f16", "f32"])
@pytest.mark.parametrize("case", CASES)
def test_as_the_converter(case, dtype, converter, tmp_path, monkeypatch):
    torch_dtype = {"bf16": torch.bfloat16, "f16": torch.float16, "f32": torch.float32}[dtype]
    images = dict(image_seq_length=4) if case.startswith("gemma") else {}
    source = build(case, tmp_path / "hf", monkeypatch, torch_dtype, **images)
    export(source, tmp_path / "ours.gguf")
    converter(source, tmp_path / "theirs.gguf", "--mmproj", "--outtype", dtype)
    (ours, our_tensors), (theirs, their_tensors) = (read(tmp_path / f"{n}.gguf") for n in ("ours", "theirs"))
    assert ours == theirs
    assert our_tensors.keys() == their_tensors.keys()
    for name, t in their_tensors.items():
        o = our_tensors[name]
        assert (o.tensor_type, list(o.shape)) == (t.tensor_type, list(t.shape)), name
        data = o.data
        if dtype == "f16" and name == "mm.soft_emb_norm.weight":
            data = data.astype(np.float16)  # the converter adds its 1 in F16, and rounds
        assert np.array_equal(data, t.data), name


@pytest.mark.parametrize("published", [True, False])
@pytest.mark.parametrize("case", CASES)
def test_names_and_values(case, published, tmp_path, monkeypatch):
    """Every tensor of the tower is there under gguf-py's name, with its values."""
    source = build(case, tmp_path / "hf", monkeypatch, torch.float32, published)
    export(source, tmp_path / "m.gguf")
    keys, tensors = read(tmp_path / "m.gguf")
    assert keys["general.architecture"] == "clip" and keys["general.type"] == "mmproj"
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.MMPROJ, 8)
    value = {n: np.frombuffer(t.data.tobytes(), np.float16 if t.tensor_type == 1 else np.float32)
             for n, t in tensors.items()}
    seen = set()
    for name, t in read_tensors(source).items():
        name = name.removeprefix("model.").replace("_weight", ".weight")
        if "vision_model." not in name:
            name = name.replace("vision_tower.", "vision_tower.vision_model.")
        if ".head." in name:
            continue  # of SigLIP alone: no part of Gemma
        if not name.startswith(("visual.", "vision_tower.", "multi_modal_projector.")):
            continue
        parts, made = [t], [name]
        if ".qkv." in name:
            parts, made = t.chunk(3), [name.replace("qkv", p) for p in "qkv"]
        made = [names.get_name(n, (".weight", ".bias")) for n in made]
        if t.dim() == 5:
            parts, made = [t[:, :, 0], t[:, :, 1]], [made[0], made[0] + ".1"]
        for part, gguf_name in zip(parts, made, strict=True):
            want = part.contiguous().numpy().ravel() + np.float32("soft_emb_norm" in name)
            assert np.array_equal(value[gguf_name], want.astype(value[gguf_name].dtype)), name
            seen.add(gguf_name)
    assert seen == tensors.keys()


def test_what_it_refuses(tmp_path, monkeypatch):
    source = build("qwen2_vl", tmp_path / "hf", monkeypatch, torch.float32)
    (source / "preprocessor_config.json").unlink()
    _, text = pipe(["qexport", source, "-f", "mmproj", "-o", tmp_path / "x.gguf", "-q"], expect=3)
    assert "image_mean" in text
    families.edit_config(source, lambda c: c.update(architectures=["LlamaForCausalLM"]))
    _, text = pipe(["qexport", source, "-f", "mmproj", "-o", tmp_path / "x.gguf", "-q"], expect=5)
    assert "vision" in text and not (tmp_path / "x.gguf").exists()
