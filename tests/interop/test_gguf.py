"""GGUF straight to compressed-tensors: what test_gguf_reader.py checks of the reader, end to end."""

import torch
from transformers import AutoModelForCausalLM

from programs import pipe, read_json, read_tensors, same_bits

W4 = ["qquantize", "-s", "w4a16", "--group-size", "64", "-q"]


def test_quantize_from_gguf(smollm2, tmp_path):
    """The linears get the bytes that the Hugging Face directory of the same model gets."""
    stages = {"gguf": ["qload", smollm2 / "smollm2.gguf", "--dequantize", "-q"],
              "hf": ["qload", smollm2 / "smollm2-bf16", "-q"]}
    for name, first in stages.items():
        pipe(first, W4, ["qexport", "-f", "compressed-tensors", "-o", tmp_path / name, "-q"])
    ours, hf = read_tensors(tmp_path / "gguf"), read_tensors(tmp_path / "hf")
    packed = {n for n in hf if n.endswith("weight_packed")}
    assert len(packed) == 30 * 7
    assert ours.keys() == hf.keys()
    # GGUF keeps norms in F32, and so do we; the directory has them rounded to BF16.
    norms = {n for n in hf if n.endswith("norm.weight")}
    assert all(ours[n].dtype == torch.float32 for n in norms)
    wrong = [n for n in hf
             if not same_bits(ours[n].to(torch.bfloat16) if n in norms else ours[n], hf[n])]
    assert not wrong, wrong[:10]
    configs = [read_json(tmp_path / d / "config.json")["quantization_config"] for d in stages]
    assert configs[0] == configs[1]
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "gguf", dtype=torch.bfloat16)
    with torch.no_grad():
        assert model(torch.arange(8)[None]).logits.isfinite().all()


def test_gguf_is_not_quantized_twice(smollm2, tmp_path):
    """Without --dequantize the loss of a second rounding is refused."""
    _, text = pipe(["qload", smollm2 / "smollm2.gguf", "-q"],
                   [*W4, "-o", tmp_path / "out.qmap"], expect=5)
    assert "--dequantize" in text
