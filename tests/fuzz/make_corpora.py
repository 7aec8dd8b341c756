#!/usr/bin/env python3
"""Writes corpus/safetensors, config, text, tokenizer and qmap: what the fuzzers start from.

The qmaps come from the programs ($QPIPE_BIN); the rest is written by hand here.
"""

import gzip
import json
import os
import shutil
import struct
import subprocess
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
BIN = Path(os.environ.get("QPIPE_BIN", HERE.parents[1] / "build/release"))


def put(corpus, name, data):
    path = HERE / "corpus" / corpus / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data if isinstance(data, bytes) else data.encode())


def container(header, data):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def entry(dtype, shape, begin, end):
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def safetensors():
    two = {"__metadata__": {"format": "pt"}, "a": entry("BF16", [2, 3], 0, 12),
           "b": entry("F32", [], 12, 16)}
    put("safetensors", "two", container(two, bytes(16)))
    put("safetensors", "empty", container({}, b""))
    put("safetensors", "small-types", container(
        {"q": entry("F8_E4M3", [4], 0, 4), "i": entry("I64", [1], 4, 12),
         "z": entry("U8", [0, 7], 12, 12)}, bytes(12)))
    put("safetensors", "overlap", container(
        {"a": entry("U8", [4], 0, 4), "b": entry("U8", [4], 2, 6)}, bytes(6)))
    put("safetensors", "hole", container({"a": entry("U8", [4], 2, 6)}, bytes(6)))
    put("safetensors", "overflow", container(
        {"a": entry("F32", [1 << 62, 1 << 62], 0, 4)}, bytes(4)))
    put("safetensors", "twice", container(
        b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},'
        b'"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}', bytes(1)))
    put("safetensors", "long-header", struct.pack("<Q", 1 << 60) + b"{}")


def weights(bits, kind, strategy, **more):
    return {"num_bits": bits, "type": kind, "strategy": strategy, "symmetric": True,
            "dynamic": False, "group_size": None, "block_structure": None, **more}


def config_of(groups, form, **more):
    return json.dumps({
        "architectures": ["LlamaForCausalLM"], "hidden_size": 128, "num_attention_heads": 4,
        "torch_dtype": "bfloat16", "quantization_config": {
            "quant_method": "compressed-tensors", "format": form,
            "quantization_status": "compressed", "config_groups": groups, **more}}, indent=1)


def config():
    int4 = weights(4, "int", "group", group_size=128)
    fp8 = weights(8, "float", "channel")
    int8 = weights(8, "int", "channel")
    nvfp4 = weights(4, "float", "tensor_group", group_size=16)

    def group(form, args, target):
        return {"weights": args, "input_activations": None, "targets": [target], "format": form}

    put("config", "int4", config_of({"group_0": group("pack-quantized", int4, "Linear")},
                                    "pack-quantized", ignore=["lm_head"]))
    put("config", "mixed", config_of({
        "group_0": group("pack-quantized", dict(int4, symmetric=False), "re:.*up_proj"),
        "group_1": group("naive-quantized", fp8, "re:.*down_proj"),
        "group_2": group("naive-quantized", int8, "model.layers.0.self_attn.q_proj"),
        "group_3": group("nvfp4-pack-quantized", nvfp4, "re:.*k_proj")}, "mixed-precision",
        ignore=["re:.*o_proj", "Embedding"]))
    put("config", "mxfp4", config_of({"group_0": group(
        "mxfp4-pack-quantized", weights(4, "float", "group", group_size=32,
                                        scale_dtype="torch.uint8"), "Linear")},
        "mxfp4-pack-quantized"))
    put("config", "plain", json.dumps({"architectures": ["LlamaForCausalLM"],
                                       "num_hidden_layers": 1}))
    put("config", "other-method", json.dumps({"quantization_config": {
        "quant_method": "gptq", "bits": 4, "group_size": 128, "desc_act": False}}))
    put("config", "recipe", """{
  // rules in order, the first that matches decides
  "rules": [
    {"match": ["re:.*down_proj"], "scheme": "fp8-dynamic"},
    {"match": "Linear", "scheme": {"weights": {"num_bits": 4, "type": "int",
      "strategy": "group", "group_size": 64, "symmetric": false}}}
  ],
  "ignore": ["model.layers.0.self_attn.o_proj", "Head"]
}
""")
    put("config", "recipe-keep", '{"rules": [{"match": ["Expert", "Linear"], "scheme": null}]}\n')


def qmap():
    """A model of two tensors and a companion, in every state the programs write."""
    with tempfile.TemporaryDirectory() as scratch:
        top = Path(scratch)
        model = top / "model"
        model.mkdir()
        data = b"".join(struct.pack("<H", 0x3C00 + (i * 37) % 512) for i in range(2 * 2 * 128))
        (model / "model.safetensors").write_bytes(container({
            "model.layers.0.mlp.up_proj.weight": entry("BF16", [2, 128], 0, 512),
            "model.layers.0.mlp.down_proj.weight": entry("BF16", [2, 128], 512, 1024)}, data))
        (model / "config.json").write_text('{"architectures": ["LlamaForCausalLM"]}')
        runs = {"refer": ["qload", model], "pack": ["qload", model, "--pack"],
                "zstd": ["qload", model, "--pack", "--zstd"],
                "cast": ["qload", model, "--dtype", "F32"]}
        runs |= {s: ["qquantize", model, "-s", s]
                 for s in ("int8", "w4a16-asym", "w3a16", "nvfp4a16", "mxfp4", "fp8-block")}
        for name, command in runs.items():
            subprocess.run([BIN / command[0], *command[1:], "-o", top / f"{name}.qmap"], check=True)
            put("qmap", name, (top / f"{name}.qmap").read_bytes())
        # Quantized parts that are decoded when read.
        subprocess.run([BIN / "qload", top / "int8.qmap", "--dequantize", "-o", top / "late.qmap",
                        "--pack"], check=True)
        put("qmap", "dequantized", (top / "late.qmap").read_bytes())


def text():
    """The first byte is the kind of file: tests/fuzz/text_fuzz.cc."""
    def npy(descr, shape, data):
        head = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}".encode()
        head += b" " * (-(len(head) + 11) % 64) + b"\n"
        return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head)) + head + data

    put("text", "plain", b"\x00some words\nand more \xff bytes\n")
    put("text", "lines", b'\x01{"text": "one"}\n\n{"text": "two \\u00e9", "n": 1}\n')
    put("text", "array", b'\x02[{"text": "one"}, {"text": "two"}]')
    put("text", "ids-lines", b'\x01[1, 2, 3, 4, 5]\n{"input_ids": [6, 7, 8, 9]}\n')
    put("text", "npy-2d", b"\x03" + npy("<i8", "(2, 4)", struct.pack("<8q", *range(8))))
    put("text", "npy-1d", b"\x03" + npy("<u2", "(9,)", struct.pack("<9H", *range(9))))
    put("text", "raw", b"\x04" + struct.pack("<9i", *range(9)))
    put("text", "gzip", b"\x05" + gzip.compress(b"some words\n" * 20, mtime=0))


def tokenizer():
    """A tokenizer.json, NUL, a text."""
    letters = {c: i for i, c in enumerate("abcdefgh\u0120\u2581")}
    bpe = {"model": {"type": "BPE", "vocab": {**letters, "ab": 10, "abc": 11}, "merges": ["a b", "ab c"]},
           "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False}, "decoder": {"type": "ByteLevel"}}
    spaces = {"model": {"type": "BPE", "vocab": {**letters, "<unk>": 10, "\u2581a": 11}, "unk_token": "<unk>",
                        "merges": [["\u2581", "a"]]},
              "normalizer": {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "\u2581"}, {
                  "type": "Replace", "pattern": {"String": " "}, "content": "\u2581"}]},
              "added_tokens": [{"id": 12, "content": "<s>", "special": True}],
              "post_processor": {"type": "TemplateProcessing", "single": [
                  {"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
                  "special_tokens": {"<s>": {"id": "<s>", "ids": [12], "tokens": ["<s>"]}}}}
    unigram = {"model": {"type": "Unigram", "unk_id": 0, "vocab": [["<unk>", 0], ["\u2581", -2], ["a", -1.5], ["ab", -1]]},
               "pre_tokenizer": {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "always"}}
    split = {**bpe, "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
        {"type": "Split", "pattern": {"Regex": "(?i:'s|'t)|\\p{L}+|\\s+(?!\\S)|\\s+"}, "behavior": "Isolated", "invert": False},
        {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False}]}}
    for name, value in (("bpe", bpe), ("metaspace", spaces), ("unigram", unigram), ("split", split)):
        put("tokenizer", name, json.dumps(value).encode() + b"\0abc <s> ab\xc3\xa9 h's")


def formats():
    """One checkpoint of each row of families in formats_fuzz.cc, whole and with a tensor changed."""
    def seed(name, family, quantization, change=(255, 0, 0), fill=0x77):
        text = json.dumps({"torch_dtype": "bfloat16", "quantization_config": quantization})
        put("formats", name, bytes([family, *change, fill]) + text.encode())

    gptq = {"quant_method": "gptq", "bits": 4, "group_size": 32, "sym": True, "desc_act": False,
            "checkpoint_format": "gptq"}
    seed("gptq", 0, dict(gptq, group_size=-1, desc_act=True), fill=0)
    seed("gptq-dynamic", 0, dict(gptq, bits=8, dynamic={"-:.*down": {}, "+:.*up": {"bits": 4, "sym": False}}), fill=0)
    seed("gptq-by-words", 0, dict(gptq, sym=False, meta={"quantizer": ["gptqmodel:7.7.0"]}), fill=0)
    seed("gptq-planar", 0, dict(gptq, checkpoint_format="gptq_p", sym=False), fill=0)
    seed("gptq-g-idx-too-large", 0, gptq)
    seed("gptq-short-zeros", 0, dict(gptq, sym=False), change=(1, 0, 0), fill=0)
    seed("marlin", 1, dict(gptq, group_size=-1, is_marlin_format=True))
    awq = {"quant_method": "awq", "bits": 4, "group_size": 32, "zero_point": True, "version": "gemm"}
    seed("awq", 2, awq)
    seed("awq-eight-bits", 2, dict(awq, bits=8))
    seed("awq-float-codes", 2, awq, change=(0, 32, 1))
    seed("gemv", 3, dict(awq, version="gemv"))
    seed("gemv-fast", 4, dict(awq, version="gemv_fast", group_size=64), fill=0)
    auto = {"quant_method": "auto-round", "data_type": "mx_fp", "bits": 4, "group_size": 32,
            "packing_format": "auto_round:llm_compressor", "act_bits": 4}
    seed("auto-round-mxfp4", 5, auto)
    seed("auto-round-nvfp4", 5, dict(auto, data_type="nv_fp", group_size=16), change=(1, 8, 7))
    seed("auto-round-int", 0, {"quant_method": "auto-round", "packing_format": "auto_round", "bits": 4,
                              "group_size": 32, "sym": False, "extra_config": {".*up.*": {"bits": 4}}}, fill=0)
    def compressed(weights, inputs=None, form="pack-quantized", **more):
        group = {"targets": ["Linear"], "weights": weights, "input_activations": inputs, "format": form}
        return dict({"quant_method": "compressed-tensors", "format": form, "config_groups": {"group_0": group}}, **more)
    four = {"num_bits": 4, "type": "int", "strategy": "group", "group_size": 16, "symmetric": False}
    tensor = {"num_bits": 8, "type": "int", "strategy": "tensor", "symmetric": False}
    channel = {"num_bits": 8, "type": "int", "strategy": "channel"}
    seed("ct-packed", 6, compressed(four), fill=0)
    seed("ct-g-idx-too-large", 6, compressed(four))
    seed("ct-other-shape", 6, compressed(four), change=(3, 2, 3), fill=0)
    seed("ct-static", 7, compressed(channel, tensor, "int-quantized"))
    seed("ct-kv-cache", 7, compressed(channel, tensor, "int-quantized", kv_cache_scheme=tensor))
    bnb = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    seed("bnb-four", 8, bnb)
    seed("bnb-no-json", 8, bnb, change=(3, 9, 4))
    seed("bnb-eight", 9, {"quant_method": "bitsandbytes", "load_in_8bit": True}, fill=0)
    torchao = {"quant_method": "torchao", "quant_type": {"default": {"_type": "Int8WeightOnlyConfig", "_version": 2}}}
    seed("torchao", 10, torchao, fill=0)
    seed("torchao-intx", 11, torchao, fill=1)
    for name, family, label, fill in (("modelslim", 12, "W8A8_DYNAMIC", 0), ("modelslim-pairs", 12, "W4A8_DYNAMIC", 0),
                                      ("modelslim-static", 13, "W8A8", 0x3f)):
        text = json.dumps({"torch_dtype": "bfloat16", "model.layers.0.mlp.up_proj.weight": label})
        put("formats", name, bytes([family, 255, 0, 0, fill]) + text.encode())
    transformer = ["diffusers", "FluxTransformer2DModel"]
    for name, index in (("diffusers", {"_class_name": "WanPipeline", "transformer": transformer,
                                       "transformer_2": transformer, "vae": ["diffusers", "AutoencoderKL"]}),
                        ("diffusers-outside", {"transformer/../..": transformer}),
                        ("diffusers-missing", {"transformer_3": transformer})):
        put("formats", name, bytes([14, 255, 0, 0, 0x38]) + json.dumps(index).encode())
    fp8 = {"quant_method": "fp8", "activation_scheme": "dynamic"}
    seed("fp8-block", 15, dict(fp8, weight_block_size=[128, 128]), fill=0x38)
    seed("fp8-static", 16, dict(fp8, activation_scheme="static"), fill=0x38)
    seed("auto-round-fp8", 16, {"quant_method": "auto-round", "packing_format": "auto_round:fp8_static",
                                "data_type": "fp", "bits": 8, "act_bits": 8, "group_size": -1}, fill=0x38)
    for name, family, algorithm, group in (("nvfp4", 17, "NVFP4", 16), ("int4", 18, "INT4_AWQ", 32)):
        seed("modelopt-" + name, family, {"quant_method": "modelopt", "quant_algo": algorithm, "ignore": [],
                                          "group_size": group, "producer": {"name": "modelopt"}}, fill=0x38)
    seed("mxfp4", 19, {"quant_method": "mxfp4", "modules_to_not_convert": ["lm_head"]})
    def quark(**weight):
        return {"quant_method": "quark", "export": {"kv_cache_group": [], "pack_method": "reorder"},
                "global_quant_config": {"weight": weight, "input_tensors": None}}
    seed("quark-mxfp4", 20, quark(dtype="fp4", qscheme="per_group", group_size=32))
    seed("quark-int4", 21, quark(dtype="uint4", qscheme="per_group", group_size=16, symmetric=False), fill=0x38)
    seed("quark-int4-signed", 21, quark(dtype="int4", qscheme="per_group", group_size=16), fill=0)
    seed("w8a8", 22, {"quant_method": "w8a8_int8", "is_dynamic": True})


def llama_files():
    """Importance matrices (0) in both forms, tokenizer.model (1)."""
    def text(s):
        return struct.pack("<i", len(s)) + s
    old = struct.pack("<i", 2)
    for name, n in ((b"blk.0.attn_q.weight", 4), (b"blk.0.ffn_down.weight", 3)):
        old += text(name) + struct.pack(f"<ii{n}f", 2, n, *range(n))
    put("llama_files", "old", b"\x00" + old + struct.pack("<i", 5) + text(b"calib.txt"))
    put("llama_files", "old-short", b"\x00" + old[:30])
    put("llama_files", "old-empty", b"\x00" + struct.pack("<i", 1) + text(b"a") + struct.pack("<ii", 2, 0))
    strings = lambda s: struct.pack("<Q", len(s)) + s
    info, data = b"", b""
    for name, n in ((b"blk.0.attn_q.weight.in_sum2", 4), (b"blk.0.attn_q.weight.counts", 1)):
        info += strings(name) + struct.pack("<IQQIQ", 2, n, 1, 0, len(data))
        data += struct.pack(f"<{n}f", *range(1, n + 1)).ljust(32, b"\0")
    gguf = b"GGUF" + struct.pack("<IQQ", 3, 2, 2)
    gguf += strings(b"general.type") + struct.pack("<I", 8) + strings(b"imatrix")
    gguf += strings(b"imatrix.chunk_count") + struct.pack("<II", 4, 5) + info
    put("llama_files", "gguf", b"\x00" + gguf + bytes(-len(gguf) % 32) + data)
    pieces = b""
    for piece, kind in ((b"<unk>", 2), (b"<s>", 3), (b"<0x41>", 6), ("\u2581a".encode(), 1)):
        message = b"\x0a" + bytes([len(piece)]) + piece + b"\x15" + struct.pack("<f", -1.5) + b"\x18" + bytes([kind])
        pieces += b"\x0a" + bytes([len(message)]) + message
    put("llama_files", "pieces", b"\x01" + pieces + b"\x12\x02\x08\x01")


def target():
    """An index (0), a manifest (1), configs with the ranks in the second byte (2)."""
    put("target", "index", b"\0\0" + json.dumps({"metadata": {"total_size": 8}, "weight_map": {"a": "x.safetensors"}}).encode())
    put("target", "sums", b"\1\0" + b"%s  config.json\n\\%s *a\\nb\nSHA256 (c) = %s\n" % ((b"0" * 64,) * 3))
    base = {"architectures": ["LlamaForCausalLM"], "hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4,
            "num_key_value_heads": 2, "num_hidden_layers": 1, "vocab_size": 100, "num_experts": 1}
    args = weights(4, "int", "group", group_size=32)
    methods = {"ct": (1, {"quant_method": "compressed-tensors", "format": "pack-quantized", "ignore": ["re:.*gate"],
                          "config_groups": {"group_0": {"targets": ["Linear"], "weights": args}}}),
               "gptq": (2, {"quant_method": "gptq", "bits": 4, "group_size": 32, "desc_act": False, "sym": True,
                            "dynamic": {"-:.*down.*": {}, "+:.*q_proj": {"bits": 8}}}),
               "awq": (2, {"quant_method": "awq", "bits": 4, "group_size": 32, "zero_point": True, "version": "gemm"}),
               "fp8": (0, {"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": [32, 32]}),
               "modelopt": (0, {"quant_method": "modelopt", "quant_algo": "FP8", "exclude_modules": ["lm_head*"]}),
               "auto-round": (2, {"quant_method": "auto-round", "packing_format": "auto_round:auto_gptq", "bits": 4,
                                  "group_size": 32, "block_name_to_quantize": "model.layers"})}
    for name, (kind, config) in methods.items():
        put("target", name, bytes([2, kind]) + json.dumps({**base, "quantization_config": config}).encode())


def modelopt_state():
    """The saved state that the unit tests read, and one that is cut off."""
    state = (HERE.parent / "data" / "torch" / "modelopt_state.pt").read_bytes()
    put("modelopt_state", "state", state)
    put("modelopt_state", "short", state[:len(state) // 2])


def main():
    for make in (safetensors, config, formats, llama_files, modelopt_state, target, text, tokenizer, qmap):
        shutil.rmtree(HERE / "corpus" / make.__name__, ignore_errors=True)
        make()


if __name__ == "__main__":
    main()
