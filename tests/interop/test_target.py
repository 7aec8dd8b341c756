"""qverify --target transformers says what from_pretrained really does: of good checkpoints, broken ones, and of
what we export."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM

import programs
import test_moe

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "cli"))
import target_models as t  # noqa: E402

Q, DOWN = "model.layers.0.self_attn.q_proj", "model.layers.1.mlp.down_proj"

KV = {"num_bits": 8, "type": "float", "symmetric": True, "strategy": "tensor", "dynamic": False}


def scale_beside(m):
    return m.put(Q + ".weight_scale", "F32", 1)


def codes_in_plain(m):
    m.config.pop("quantization_config")
    return m


CASES = {
    "plain": lambda: t.llama(),
    "plain, a weight missing": lambda: t.llama().drop(DOWN + ".weight"),
    "plain, a scale too many": lambda: scale_beside(t.llama()),
    "plain, wrong shape": lambda: t.llama().put(DOWN + ".weight", "BF16", t.H, t.I // 2),
    "plain, experts": lambda: t.moe(mixtral=True),
    "w4a16": lambda: t.w4a16(t.llama()),
    "w4a16, no codes": lambda: t.w4a16(t.llama()).drop(DOWN + ".weight_packed"),
    "w4a16, no scale": lambda: t.w4a16(t.llama()).drop(DOWN + ".weight_scale"),
    "w4a16, wrong shape": lambda: t.w4a16(t.llama()).put(DOWN + ".weight_packed", "I32", t.H, 8),
    "w4a16, codes of an ignored layer": lambda: t.w4a16(t.llama()).ignore(DOWN),
    "w4a16, unknown key": lambda: t.w4a16(t.llama()).weights_args(colour="red"),
    "w4a16, invalid arguments": lambda: t.w4a16(t.llama()).weights_args(strategy="channel"),
    "w4a16, no config": lambda: codes_in_plain(t.w4a16(t.llama())),
    "w4a16, no method": lambda: t.w4a16(t.llama()).quant(quant_method=None),
    "fp8 dynamic": lambda: t.fp8_dynamic(t.llama()),
    "fp8 dynamic, no scale": lambda: t.fp8_dynamic(t.llama()).drop(DOWN + ".weight_scale"),
    "fp8 block": lambda: t.ct_block(t.llama()),
    "int8": lambda: t.int8(t.llama()),
    "nvfp4": lambda: t.nvfp4(t.llama()),
    "mxfp4": lambda: t.mxfp4(t.llama()),
    "w4a16, zero points": lambda: t.w4a16_asym(t.llama()),
    "w4a16, a layer left out": lambda: t.w4a16(t.llama(), which=lambda n: n != DOWN, ignore=[DOWN]),
    "w4a16, a float layer targeted": lambda: t.w4a16(t.llama(), which=lambda n: n != DOWN),
    "tied": lambda: t.llama(tie_word_embeddings=True).drop("lm_head.weight"),
    "tied, with a head": lambda: t.llama(tie_word_embeddings=True),
    "no head": lambda: t.llama().drop("lm_head.weight"),
    "fp8 dynamic, a float layer targeted": lambda: t.fp8_dynamic(t.llama(), which=lambda n: n != DOWN),
    "static kv scales": lambda: t.kv_scales(t.fp8_dynamic(t.llama()).quant(kv_cache_scheme=KV)),
    "w4a16, experts": lambda: t.w4a16(t.moe(mixtral=True)),
    "fp8 block, DeepSeek's config": lambda: t.fp8_block(t.llama()),
    "unknown method": lambda: t.modelopt(t.llama(), "FP8"),
}


def really(directory):
    """What happens, in the words of qverify."""
    try:
        _, info = AutoModelForCausalLM.from_pretrained(directory, output_loading_info=True)
    except Exception as error:  # noqa: BLE001: whatever stops it
        return "refuses", repr(error)[:300]
    keys = {k: sorted(v)[:3] for k, v in info.items() if v and k != "error_msgs"}
    return ("loads but lies" if keys else "loads and uses everything"), keys


def agree(directory):
    run = subprocess.run([programs.bin_dir() / "qverify", directory, "--target", "transformers", "--json"],
                         capture_output=True, text=True, check=False)
    said = json.loads(run.stdout)
    happened, why = really(directory)
    assert said["target"]["verdict"] == happened, (why, said["findings"][:3])


@pytest.mark.parametrize("name", CASES)
def test_verdict(name, tmp_path):
    agree(CASES[name]().write(tmp_path / "m"))


# Two blocks of 128 and more in each matrix of an expert.
EXPERTS = {"mixtral": {}, "qwen3_moe": {"moe_intermediate_size": 256}, "deepseek_v3": {"moe_intermediate_size": 256}}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    return {"tiny-lm": programs.TINY_LM, **{name: test_moe.build(name, folder / name, **more)
                                            for name, more in EXPERTS.items()}}


EXPORTS = [("compressed-tensors", scheme) for scheme in
           ("w4a16", "w4a16-asym", "w8a16", "w3a16", "w2a16", "fp8-dynamic", "fp8-tensor", "fp8-block", "int8", "nvfp4a16",
            "mxfp4", "mxfp4a16", "mxfp8", "mxfp8a16", "w4a8", "w4afp8", "w4a4")]
EXPORTS += [("fp8", "fp8-block"), ("fp8", "fp8-tensor"), ("safetensors", "none")]


def test_mixed_export(tmp_path):
    """Names that transformers has no module for, of linears that other engines join, do it no harm."""
    (tmp_path / "r.json").write_text(json.dumps({"ignore": ["re:.*layers[.]0[.].*"], "rules": [
        {"match": "re:.*down_proj", "scheme": "fp8-dynamic"}, {"match": "Linear", "scheme": "w4a16"}]}))
    programs.pipe(["qquantize", "-q", programs.TINY_LM, "--recipe", tmp_path / "r.json"],
                  ["qexport", "-q", "-f", "compressed-tensors", "-o", tmp_path / "m"])
    assert "gate_up_proj" in (tmp_path / "m/config.json").read_text()
    agree(tmp_path / "m")


@pytest.mark.parametrize("family, scheme", EXPORTS)
@pytest.mark.parametrize("name", ["tiny-lm", "mixtral", "qwen3_moe", "deepseek_v3"])
def test_exports(name, family, scheme, models, tmp_path):
    quantize = [] if scheme == "none" else [["qquantize", "-q", "-s", scheme]]
    programs.pipe(["qload", "-q", models[name]], *quantize, ["qexport", "-q", "-f", family, "-o", tmp_path / "m"])
    agree(tmp_path / "m")
