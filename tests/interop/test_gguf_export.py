"""qexport -f gguf, beside gguf-py, transformers and llama.cpp's converter."""

import subprocess
from pathlib import Path

import gguf
import numpy as np
import pytest
import sentencepiece
import torch
import transformers as tf
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

import families
from programs import TINY_LM, bin_dir, pipe, read_json, read_tensors, same_bits
from tokenizers_made import ALPHABET, TEXT

ARCHS = {"llama": "llama", "llama biases": "llama", "mistral nemo": "llama", "mixtral": "llama",
         "qwen2": "qwen2", "qwen3": "qwen3", "qwen2_moe": "qwen2moe", "qwen3_moe": "qwen3moe",
         "gemma2": "gemma2", "gemma3": "gemma3", "phi3": "phi3", "phi3 longrope": "phi3",
         "olmo2": "olmo2", "smollm3": "smollm3", "gpt2": "gpt2", "gpt_oss": "gpt-oss",
         "deepseek_v2": "deepseek2", "deepseek_v3": "deepseek2", "qwen2_vl": "qwen2vl"}
CHANGES = {"llama biases": dict(base="llama", attention_bias=True, mlp_bias=True),
           "qwen2_moe": dict(decoder_sparse_step=1), "gemma2": dict(query_pre_attn_scalar=20),
           "phi3": dict(sliding_window=None)}
VOCAB = 512


def save_tokenizer(directory):
    t = Tokenizer(models.BPE())
    t.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    t.decoder = decoders.ByteLevel()
    t.train_from_iterator(TEXT, trainers.BpeTrainer(
        vocab_size=VOCAB - 12, show_progress=False, initial_alphabet=ALPHABET,
        special_tokens=["<|endoftext|>", "<|user|>"]))
    tf.PreTrainedTokenizerFast(tokenizer_object=t, bos_token="<|endoftext|>",
                               eos_token="<|endoftext|>").save_pretrained(directory)


def build(case, directory, monkeypatch, dtype=torch.bfloat16):
    change = dict(CHANGES.get(case, {}))
    model, config, fields = families.CASES[change.pop("base", case)]
    fields = dict(fields, **change)
    if "text_config" in fields:
        fields["text_config"] = dict(fields["text_config"], vocab_size=VOCAB)
    else:
        fields["vocab_size"] = VOCAB
    monkeypatch.setitem(families.CASES, "gguf", (model, config, fields))
    families.build("gguf", directory, dtype)
    save_tokenizer(directory)
    return directory


def export(source, out, *more):
    return pipe(["qexport", source, "-f", "gguf", "-o", out, "--pre", "gpt-2", "-q", *more])


def read(path):
    reader = gguf.GGUFReader(path)
    keys = {k: f.contents() for k, f in reader.fields.items() if not k.startswith("GGUF.")}
    return keys, {t.name: t for t in reader.tensors}


@pytest.mark.parametrize("case", list(ARCHS))
def test_there_and_back(case, tmp_path, monkeypatch):
    """Names as gguf-py maps them; read back, transformers computes the same bits."""
    source = build(case, tmp_path / "hf", monkeypatch)
    export(source, tmp_path / "m.gguf")
    pipe(["qverify", tmp_path / "m.gguf", source, "--strict", "-q"])
    keys, tensors = read(tmp_path / "m.gguf")
    assert keys["general.architecture"] == ARCHS[case]
    assert keys["tokenizer.ggml.pre"] == "gpt-2"
    assert len(keys["tokenizer.ggml.tokens"]) == VOCAB
    hf = read_tensors(source)
    arch = next(a for a, n in gguf.MODEL_ARCH_NAMES.items() if n == ARCHS[case])
    names = gguf.get_tensor_name_map(arch, 16)
    for name in hf:
        if "experts." in name or "visual" in name or "kv_b" in name or name.endswith("sinks"):
            continue  # merged, left out, or taken apart
        expected = names.get_name(name.replace("language_model.", "").replace(
            "e_score_correction_bias", "e_score_correction.bias"), (".weight", ".bias"))
        assert expected in tensors, name
    pipe(["qload", tmp_path / "m.gguf", "-q"],
         ["qexport", "-f", "safetensors", "-o", tmp_path / "back", "-q"])
    again, _ = export(tmp_path / "back", tmp_path / "again.gguf")
    _, second = read(tmp_path / "again.gguf")
    assert second.keys() == tensors.keys()
    assert all(np.array_equal(second[n].data, tensors[n].data) for n in tensors)
    if case == "gpt_oss":
        return  # its experts come apart, which transformers does not load
    window = torch.tensor([[5, 9, 33, 7, 100, 250, 17, 3] * 3])
    with torch.no_grad():
        want, got = (families.load(d, torch.float32)(window).logits for d in (source, tmp_path / "back"))
    assert torch.equal(want, got)


@pytest.mark.parametrize("case", ["llama", "gpt2", "mixtral", "gpt_oss", "gemma3"])
def test_blocks_have_the_same_values_in_both_forms(case, tmp_path, monkeypatch):
    """--dequantize of a qmap of ggml's blocks, and of the GGUF made of it; the engine runs both."""
    sizes = {"llama": dict(hidden_size=96), "gpt_oss": dict(hidden_size=64, intermediate_size=64)}
    monkeypatch.setitem(CHANGES, case, dict(CHANGES.get(case, {}), **sizes.get(case, {})))
    source = build(case, tmp_path / "hf", monkeypatch)
    pipe(["qload", source, "-q"], ["qquantize", "-s", "q8_0", "-o", tmp_path / "m.qmap", "-q"])
    export(tmp_path / "m.qmap", tmp_path / "m.gguf")
    text = tmp_path / "text.txt"
    text.write_text("Some words of a text, and more of them. " * 60)
    values, found = [], []
    for form in ("qmap", "gguf"):
        pipe(["qload", tmp_path / f"m.{form}", "--dequantize", "--dtype", "F32", "-q"],
             ["qexport", "-f", "safetensors", "-o", tmp_path / form, "-q"])
        values.append(read_tensors(tmp_path / form))
        report = tmp_path / f"{form}.json"
        pipe(["qverify", tmp_path / f"m.{form}", "--eval", text, "--seqlen", "64", "--compute", "f32",
              "--report", report, "-q"])
        found.append(read_json(report)["evaluation"]["perplexity"]["nll"])
    assert found[0] == pytest.approx(found[1], abs=1e-6)
    plain = read_tensors(source)
    for name, got in values[0].items():
        if name in values[1]:
            assert got.shape == values[1][name].shape and torch.equal(got.float(), values[1][name].float()), name
        elif name in plain:  # stacks come out of a GGUF as experts
            assert torch.allclose(got.float(), plain[name].float(), atol=4e-3), name


# The converter does not know transformers 5's configs of GPT-2 and Phi-3, and asks Gemma for a tokenizer.model.
@pytest.mark.parametrize("case", [c for c in ARCHS if not c.startswith(("gpt2", "phi3", "gemma"))])
def test_as_the_converter(case, converter, tmp_path, monkeypatch):
    """Tensor for tensor and key for key what convert_hf_to_gguf.py writes."""
    source = build(case, tmp_path / "hf", monkeypatch)
    export(source, tmp_path / "ours.gguf")
    converter(source, tmp_path / "theirs.gguf", "--outtype", "bf16", pre="gpt-2")
    (ours, our_tensors), (theirs, their_tensors) = (read(tmp_path / f"{n}.gguf") for n in ("ours", "theirs"))
    extra = {"deepseek2.expert_gating_func"} if case == "deepseek_v3" else set()
    assert {k: v for k, v in ours.items() if k not in extra} == theirs
    assert our_tensors.keys() == their_tensors.keys()
    for name, t in their_tensors.items():
        o = our_tensors[name]
        assert (o.tensor_type, list(o.shape)) == (t.tensor_type, list(t.shape)), name
        assert np.array_equal(o.data, t.data), name


SPM = Path(__file__).parents[1] / "fuzz/corpus/gguf/llama-spm-q8_0.gguf"


@pytest.mark.parametrize("source", [TINY_LM, SPM], ids=["bpe", "spm"])
def test_identity(source, converter, tmp_path):
    """GGUF -> HF -> GGUF: every key and byte; so does the converter, given the HF directory between."""
    pipe(["qload", source, "--dequantize", "-q"],
         ["qexport", "-f", "gguf", "-o", tmp_path / "first.gguf", "--name", "Tiny Model", "--pre", "gpt-2", "-q"])
    pipe(["qload", tmp_path / "first.gguf", "-q"], ["qexport", "-f", "safetensors", "-o", tmp_path / "hf", "-q"])
    export(tmp_path / "hf", tmp_path / "second.gguf")
    converter(tmp_path / "hf", tmp_path / "theirs.gguf", "--outtype", "bf16", pre="gpt-2")
    first, *others = (read(tmp_path / f"{n}.gguf") for n in ("first", "second", "theirs"))
    for keys, tensors in others:
        assert keys == first[0]
        assert tensors.keys() == first[1].keys()
        for name, t in tensors.items():
            assert t.tensor_type == first[1][name].tensor_type and np.array_equal(t.data, first[1][name].data), name


def test_sentencepiece_is_written(tmp_path):
    """tokenizer.model of a GGUF: the SentencePiece library finds the ids that tokenizer.json gives."""
    pipe(["qload", SPM, "--dequantize", "-q"], ["qexport", "-f", "safetensors", "-o", tmp_path / "hf", "-q"])
    keys, _ = read(SPM)
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "hf/tokenizer.model"))
    assert [pieces.id_to_piece(i) for i in range(len(pieces))] == keys["tokenizer.ggml.tokens"]
    assert [pieces.get_score(i) for i in range(len(pieces))] == keys["tokenizer.ggml.scores"]
    fast = Tokenizer.from_file(str(tmp_path / "hf/tokenizer.json"))
    for text in TEXT[:50]:
        assert pieces.encode(text) == fast.encode(text, add_special_tokens=False).ids, text


def test_mxfp4_experts_are_copied(tmp_path, monkeypatch):
    """gpt-oss in MXFP4 has ggml's blocks in another order: gguf-py sees the same numbers."""
    monkeypatch.setitem(CHANGES, "gpt_oss", dict(hidden_size=64, intermediate_size=64))
    source = build("gpt_oss", tmp_path / "hf", monkeypatch)
    pipe(["qload", source, "-q"], ["qquantize", "-s", "mxfp4a16", "-q"],
         ["qexport", "-f", "mxfp4", "-o", tmp_path / "mx", "-q"])
    export(tmp_path / "mx", tmp_path / "m.gguf")
    keys, tensors = read(tmp_path / "m.gguf")
    assert keys["general.file_type"] == gguf.LlamaFileType.MOSTLY_MXFP4_MOE
    pipe(["qload", tmp_path / "mx", "--dequantize", "-q"],
         ["qexport", "-f", "safetensors", "-o", tmp_path / "plain", "-q"])
    hf = read_tensors(tmp_path / "plain")
    for layer in range(3):
        both = hf[f"model.layers.{layer}.mlp.experts.gate_up_proj"].float().numpy()
        down = hf[f"model.layers.{layer}.mlp.experts.down_proj"].float().numpy()
        for name, want in {"gate": both[..., ::2], "up": both[..., 1::2], "down": down}.items():
            t = tensors[f"blk.{layer}.ffn_{name}_exps.weight"]
            assert t.tensor_type == gguf.GGMLQuantizationType.MXFP4
            assert np.array_equal(gguf.quants.dequantize(t.data, t.tensor_type),
                                  want.transpose(0, 2, 1))


def test_one_file_shards_and_a_stream_are_the_same(tmp_path):
    pipe(["qload", TINY_LM, "-q"], ["qexport", "-f", "gguf", "-o", tmp_path / "one.gguf", "-q"])
    with open(tmp_path / "stream.gguf", "wb") as out:
        subprocess.run([bin_dir() / "qexport", TINY_LM, "-f", "gguf", "-q"], stdout=out, check=True)
    one = (tmp_path / "one.gguf").read_bytes()
    assert (tmp_path / "stream.gguf").read_bytes() == one
    assert subprocess.run([bin_dir() / "qexport", TINY_LM, "-f", "gguf", "-q"], check=True,
                          capture_output=True).stdout == one  # a pipe
    pipe(["qexport", TINY_LM, "-f", "gguf", "-o", tmp_path / "s.gguf", "--shard-size", "100KB", "-q"])
    shards = sorted(tmp_path.glob("s-*.gguf"))
    assert len(shards) > 2 and shards[0].name == f"s-00001-of-{len(shards):05}.gguf"
    _, whole = read(tmp_path / "one.gguf")
    parts = {}
    for i, shard in enumerate(shards):
        keys, tensors = read(shard)
        assert keys["split.no"] == i and keys["split.count"] == len(shards)
        assert keys["split.tensors.count"] == len(whole)
        assert ("general.architecture" in keys) == (i == 0)
        parts.update(tensors)
    assert all(np.array_equal(parts[n].data, t.data) for n, t in whole.items())
    for name, source in {"a": tmp_path / "one.gguf", "b": shards[0]}.items():
        pipe(["qload", source, "-q"], ["qexport", "-f", "safetensors", "-o", tmp_path / name, "-q"])
    a, b = read_tensors(tmp_path / "a"), read_tensors(tmp_path / "b")
    assert a.keys() == b.keys() and all(same_bits(a[n], b[n]) for n in a)


def test_files_are_not_replaced(tmp_path):
    out = tmp_path / "x.gguf"
    out.write_text("mine")
    _, text = pipe(["qexport", TINY_LM, "-f", "gguf", "-o", out, "-q"], expect=4)
    assert "exists" in text and out.read_text() == "mine"
    pipe(["qexport", TINY_LM, "-f", "gguf", "-o", out, "--force", "-q"])
    assert out.read_bytes()[:4] == b"GGUF" and [p.name for p in tmp_path.iterdir()] == ["x.gguf"]
    _, text = pipe(["qload", out, "-q"], ["qexport", "-f", "gguf", "-o", out, "--force", "-q"], expect=2)
    assert "replace an input" in text


def test_what_gguf_cannot_hold_is_refused(tmp_path, monkeypatch):
    _, text = pipe(["qload", TINY_LM, "-q"], ["qquantize", "-s", "w4a16", "--group-size", "32", "-q"],
                   ["qexport", "-f", "gguf", "-o", tmp_path / "x.gguf", "-q"], expect=5)
    assert "q4_k_m" in text
    source = build("llama", tmp_path / "hf", monkeypatch)
    tokenizer = source / "tokenizer.json"
    text = tokenizer.read_text()
    tokenizer.write_text(text.replace('"add_prefix_space": false', '"add_prefix_space": true'))
    _, text = pipe(["qexport", source, "-f", "gguf", "-o", tmp_path / "x.gguf", "-q"], expect=5)
    assert "--pre" in text
    for change, needle in [(dict(hidden_act="gelu"), "'silu'"), (dict(architectures=["OPTForCausalLM"]), "no GGUF names")]:
        families.edit_config(source, lambda c: c.update(change))
        _, text = pipe(["qexport", source, "-f", "gguf", "-o", tmp_path / "x.gguf", "-q", "--pre", "gpt-2"], expect=5)
        assert needle in text
    assert not (tmp_path / "x.gguf").exists()


def test_smollm2(smollm2, tmp_path):
    """A published tokenizer: its pre-tokenizer is known by the sample text."""
    pipe(["qexport", smollm2 / "smollm2-bf16", "-f", "gguf", "-o", tmp_path / "m.gguf", "-q"])
    keys, tensors = read(tmp_path / "m.gguf")
    assert keys["tokenizer.ggml.pre"] == "smollm" and keys["general.size_label"] == "135M"
    published, _ = read(smollm2 / "smollm2.gguf")
    for key in ("tokenizer.ggml.tokens", "tokenizer.ggml.merges", "llama.block_count",
                "llama.attention.head_count_kv", "llama.rope.freq_base"):
        assert keys[key] == published[key], key
