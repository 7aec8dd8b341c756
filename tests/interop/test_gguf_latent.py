"""DeepSeek's kv_b_proj in ggml's blocks: attn_k_b and attn_v_b. tests/peers/latents.py has them beside
llama-quantize."""

import gguf
import numpy as np
import pytest

from programs import pipe, read_json, read_tensors
from test_gguf_export import CHANGES, build, export, read

WIDE = dict(hidden_size=256, num_attention_heads=4, num_key_value_heads=4, intermediate_size=256, moe_intermediate_size=256, kv_lora_rank=256,
            qk_nope_head_dim=64, v_head_dim=64, q_lora_rank=256)


@pytest.fixture
def source(request, tmp_path, monkeypatch):
    monkeypatch.setitem(CHANGES, "deepseek_v2", dict(WIDE, **getattr(request, "param", {})))
    return build("deepseek_v2", tmp_path / "hf", monkeypatch)


def quantize(source, out, kind, *more):
    return pipe(["qload", source, "-q"], ["qquantize", "-s", kind, "-q", *more],
                ["qexport", "-f", "gguf", "-o", out, "--pre", "gpt-2", "-q"])


def test_there_and_back(source, tmp_path):
    """Read and written again it is the same file; dequantized, kv_b_proj is one tensor again."""
    quantize(source, tmp_path / "m.gguf", "q8_0")
    pipe(["qload", tmp_path / "m.gguf", "-q"],
         ["qexport", "-f", "gguf", "-o", tmp_path / "again.gguf", "--pre", "gpt-2", "-q"])
    (_, first), (_, second) = read(tmp_path / "m.gguf"), read(tmp_path / "again.gguf")
    assert first.keys() == second.keys()
    assert all(np.array_equal(first[n].data, second[n].data) for n in first)
    pipe(["qload", tmp_path / "m.gguf", "--dequantize", "--dtype", "F32", "-q"],
         ["qexport", "-f", "safetensors", "-o", tmp_path / "plain", "-q"])
    plain, base = read_tensors(tmp_path / "plain"), read_tensors(source)
    keys = {n for n in base if n.endswith("kv_b_proj.weight")}
    assert keys and keys <= plain.keys() and not any("kv_b_proj.key" in n for n in plain)
    for name in keys:
        layer = name.split(".")[2]
        k, v = (gguf.quants.dequantize(first[f"blk.{layer}.attn_{p}_b.weight"].data,
                                       gguf.GGMLQuantizationType.Q8_0) for p in "kv")
        got = plain[name].numpy().reshape(len(k), 128, 256)
        assert np.array_equal(got[:, :64], k.transpose(0, 2, 1)) and np.array_equal(got[:, 64:], v)


@pytest.mark.parametrize("form", ["qmap", "gguf"])
def test_it_runs(source, form, tmp_path):
    """The engine takes both forms: blocks apart, and the one matrix of their values."""
    pipe(["qload", source, "-q"], ["qquantize", "-s", "q8_0", "-o", tmp_path / "m.qmap", "-q"])
    pipe(["qexport", tmp_path / "m.qmap", "-f", "gguf", "-o", tmp_path / "m.gguf", "--pre", "gpt-2", "-q"])
    pipe(["qload", tmp_path / "m.gguf", "--dequantize", "--dtype", "F32", "-q"],
         ["qexport", "-f", "safetensors", "-o", tmp_path / "plain", "-q"])
    text = tmp_path / "text.txt"
    text.write_text("Some words of a text, and more of them. " * 60)
    found = []
    for i, model in enumerate((tmp_path / f"m.{form}", tmp_path / "plain")):
        report = tmp_path / f"{i}.json"
        pipe(["qverify", model, "--eval", text, "--seqlen", "64", "--compute", "f32", "--report", report, "-q"])
        found.append(read_json(report)["evaluation"]["perplexity"]["nll"])
    assert found[0] == pytest.approx(found[1], abs=1e-6)
    report = tmp_path / "both.json"  # beside the base, whose kv_b_proj comes apart as well
    pipe(["qverify", tmp_path / f"m.{form}", tmp_path / "plain", "--eval", text, "--seqlen", "64",
          "--compute", "f32", "--report", report, "-q"])
    assert read_json(report)["evaluation"]["divergence"]["kl"]["mean"] < 1e-9
