"""Models with a vision tower, saved by transformers: the tower is carried byte for byte through every
family, the language part is quantized, and transformers loads it."""

import pytest
import torch
import transformers as tf
from transformers import AutoModelForImageTextToText, CompressedTensorsConfig

from programs import dequantize, pipe, read_json, read_tensors, same_bits

TEXT = dict(vocab_size=128, hidden_size=128, intermediate_size=256, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2, max_position_embeddings=128, bos_token_id=0, eos_token_id=1, pad_token_id=2)
FAMILIES = [("compressed-tensors", "w4a16"), ("compressed-tensors", "fp8-dynamic"), ("gptq", "w4a16"), ("awq", "w4a16-asym"),
            ("auto-round", "w4a16"), ("fp8", "fp8-block"), ("modelopt", "nvfp4a16"), ("quark", "fp8-dynamic"),
            ("modelslim", "int8"), ("w8a8_int8", "int8"), ("w8a8_fp8", "fp8-dynamic"), ("bitsandbytes", "bnb-nf4")]


def qwen2_vl():
    vision = dict(depth=2, embed_dim=64, hidden_size=128, num_heads=2, mlp_ratio=2, patch_size=4, in_channels=3,
                  spatial_merge_size=2, temporal_patch_size=2)
    rope = dict(rope_type="default", rope_theta=10000.0, mrope_section=[4, 6, 6])
    config = tf.Qwen2VLConfig(text_config=dict(TEXT, rope_parameters=rope), vision_config=vision, image_token_id=120, video_token_id=121,
                              vision_start_token_id=122, vision_end_token_id=123)
    return tf.Qwen2VLForConditionalGeneration(config)


def gemma3():
    vision = dict(hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=2, image_size=16,
                  patch_size=4)
    config = tf.Gemma3Config(text_config=dict(TEXT, head_dim=32), vision_config=vision, mm_tokens_per_image=4,
                             image_token_index=120, boi_token_index=121, eoi_token_index=122)
    return tf.Gemma3ForConditionalGeneration(config)


@pytest.fixture(scope="module", params=[qwen2_vl, gemma3], ids=lambda make: make.__name__)
def source(request, tmp_path_factory):
    torch.manual_seed(5)
    model = request.param().to(torch.bfloat16)
    with torch.no_grad():
        for p in model.parameters():
            if p.dim() > 1:
                p.copy_(torch.randn(p.shape) * 0.05)
    directory = tmp_path_factory.mktemp("vision")
    model.save_pretrained(directory)
    (directory / "preprocessor_config.json").write_text('{"patch_size": 4}\n')
    return directory


def is_vision(name):
    return "visual" in name or "vision" in name or "multi_modal" in name


@pytest.mark.parametrize("family,scheme", FAMILIES, ids=lambda v: v)
def test_tower_is_carried(source, family, scheme, tmp_path):
    pipe(["qquantize", source, "-s", scheme, "-q"], ["qexport", "-f", family, "-o", tmp_path / "out", "-q"])
    base, found = read_tensors(source), read_tensors(tmp_path / "out")
    assert any(is_vision(n) for n in base)
    for name, tensor in base.items():
        if is_vision(name):
            assert same_bits(found[name], tensor), name
    language = [n for n in base if "layers.0.mlp.up_proj" in n and not is_vision(n)]
    assert language and not same_bits(found.get(language[0], torch.zeros(1)), base[language[0]])
    assert (tmp_path / "out/preprocessor_config.json").read_bytes() == (source / "preprocessor_config.json").read_bytes()
    assert read_json(tmp_path / "out/config.json")["vision_config"] == read_json(source / "config.json")["vision_config"]


@torch.no_grad()
def test_transformers_loads_it(source, tmp_path):
    pipe(["qquantize", source, "-s", "w4a16", "-q"], ["qexport", "-f", "compressed-tensors", "-o", tmp_path / "out", "-q"])
    floats = dequantize(tmp_path / "out", tmp_path / "floats")
    models = []
    for directory, more in ((tmp_path / "out", dict(quantization_config=CompressedTensorsConfig(dequantize=True))),
                            (floats, {})):
        model, info = AutoModelForImageTextToText.from_pretrained(directory, dtype=torch.bfloat16,
                                                                  output_loading_info=True, **more)
        assert not info["missing_keys"] and not info["unexpected_keys"], info
        models.append(model.eval())
    ids = torch.arange(3, 27).reshape(1, 24)
    assert torch.equal(models[0](input_ids=ids).logits, models[1](input_ids=ids).logits)
