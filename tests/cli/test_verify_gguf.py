"""qverify on GGUF files: sound ones raise no alarm, and each seeded fault is named by its rule."""

import json
import struct

import gguf_file as g
import moe_models
from support import TINY, CliTest, main, qmap_manifest

NAN = struct.pack("<H", 0x7E00)
INF = struct.pack("<H", 0xFC00)
# Where the F16 scales of a type lie in a block.
SCALES = {"q4_0": [0], "q4_1": [0, 2], "q5_0": [0], "q5_1": [0, 2], "q8_0": [0], "q2_k": [80, 82], "q3_k": [108],
          "q4_k": [0, 2], "q5_k": [0, 2], "q6_k": [208], "iq4_nl": [0], "iq4_xs": [0], "iq3_s": [0],
          "tq1_0": [52], "tq2_0": [64], "q1_0": [0], "q2_0": [0]}
Q = "blk.1.ffn_up.weight"
HF = "model.layers.1.mlp.up_proj.weight"


class VerifyGguf(CliTest):
    def make(self, scheme="q4_k_m", source=TINY, out="x.gguf", *more):
        calibrate = ["|", "qcalibrate", "--text", str(TINY / "heldout.txt"), "-n", "2", "--seqlen", "32"] if "-a" in more else []
        line = ["qload", str(source), *calibrate, "|", "qquantize", "-s", scheme, *more, "|", "qexport", "-f", "gguf",
                "--force", "-o", out]
        self.ok("bash", "-c", "set -o pipefail; " + " ".join(line))
        return g.Gguf(self.dir / out)

    def findings(self, file, *more):
        """(exit code, {(rule, severity)}, findings) of a Gguf or a path."""
        if isinstance(file, g.Gguf):
            file.save(self.dir / "bad.gguf")
            file = "bad.gguf"
        result = self.run_("qverify", file, "--json", *more)
        found = json.loads(result.out)["findings"]
        return result.code, {(f["rule"], f["severity"]) for f in found}, found

    def caught(self, file, rule, *says, severity="error"):
        code, rules, found = self.findings(file, *(["--strict"] if severity == "warning" else []))
        self.assertEqual(code, 1, found)
        self.assertIn((rule, severity), rules, found)
        text = " ".join(f["tensor"] + " " + f["what"] + " " for f in found if f["rule"] == rule)
        for s in says:
            self.assertIn(s, text)

    def test_sound(self):
        for scheme in [*("gguf:" + t for t in SCALES), "q4_k_m", "q3_k_l", "gguf:mxfp4", "gguf:nvfp4"]:
            self.make(scheme)
            self.ok("qverify", "x.gguf", "--strict", "-q")
            self.ok("qverify", "x.gguf", TINY, "-q")
        self.make("iq2_xxs", TINY, "x.gguf", "-a", "imatrix")
        self.ok("qverify", "x.gguf", "--strict", "-q")
        self.ok("qexport", TINY, "-f", "gguf", "-o", "float.gguf")
        self.ok("qverify", "float.gguf", "--against", TINY, "--strict", "-q")

    def test_sound_experts(self):
        for name in ("mixtral", "qwen3_moe"):
            source = self.dir / name
            moe_models.write(name, source)
            config = json.loads((source / "config.json").read_text())
            config |= {"num_experts_per_tok": 1, "max_position_embeddings": 64, "rms_norm_eps": 1e-5, "rope_theta": 1e4,
                       "intermediate_size": 128, "moe_intermediate_size": 128, "head_dim": 64,
                       "norm_topk_prob": True}
            config["num_local_experts" if name == "mixtral" else "num_experts"] = moe_models.E
            (source / "config.json").write_text(json.dumps(config))
            self.make("q8_0", source, name + ".gguf")
            code, _, found = self.findings(name + ".gguf", "--strict")
            # These have neither vocabulary nor norms of heads.
            self.assertEqual(code, 0 if name == "mixtral" else 1, found)
            absent = {f["tensor"] for f in found if f["severity"] == "error"}
            self.assertEqual(absent, set() if name == "mixtral" else
                             {"blk.0.attn_q_norm.weight", "blk.0.attn_k_norm.weight"})
            file = g.Gguf(self.dir / (name + ".gguf"))
            file.tensors["blk.0.ffn_up_exps.weight"][2][-34:-32] = NAN  # the last block of the last expert
            self.caught(file, "nan-scale", f"experts.{moe_models.E - 1}.", "1 block has", "row 127, block 3")

    def test_scales(self):
        """Of every type, a block's scale and minimum: NaN or infinite."""
        for name, places in SCALES.items():
            self.make("gguf:" + name)
            for place in places:
                file = g.Gguf(self.dir / "x.gguf")
                dims, kind, data = file.tensors[Q]
                elements, size = g.BLOCKS[kind]
                per_row = dims[0] // elements
                at = (7 * per_row + per_row - 1) * size + place
                for bad in (NAN, INF):
                    data[at:at + 2] = bad
                    self.caught(file, "nan-scale", HF, "1 block has", f"row 7, block {per_row - 1})")

    def test_scales_of_other_kinds(self):
        file = self.make("gguf:mxfp4")
        self.assertEqual(file.tensors[Q][1], 39)
        for block in (3, 20):
            file.tensors[Q][2][17 * block] = 255
        self.caught(file, "nan-scale", HF, "2 blocks have", "row 0, block 3")
        # iq1_m: a quarter of the scale in each of four words.
        file = self.make("iq1_m", TINY, "x.gguf", "-a", "imatrix")
        name = next(n for n, t in file.tensors.items() if t[1] == 29)
        for i, nibble in enumerate((0, 0, 0xE, 0x7)):
            at = 56 + 48 + 2 * i + 1
            file.tensors[name][2][at] = file.tensors[name][2][at] & 0x0F | nibble << 4
        self.caught(file, "nan-scale", "1 block has")
        # nvfp4: every byte is a number.
        file = self.make("gguf:nvfp4")
        file.tensors[Q][2][0:4] = b"\x7f\xff\x7e\x80"
        self.assertEqual(self.findings(file)[0], 0)

    def test_rotated_rows(self):
        """Rows of q and k lie in llama.cpp's order: the row named is Hugging Face's."""
        file = self.make("q8_0")
        dims, _, data = file.tensors["blk.0.attn_q.weight"]
        row = 34 * dims[0] // 32
        data[row * 65:row * 65 + 2] = NAN  # row 65: of head 1 the first of the second half
        self.caught(file, "nan-scale", "layers.0.self_attn.q_proj", "row 96, block 0")

    def test_zeros_and_floats(self):
        file = self.make("q8_0")
        file.tensors[Q][2][:] = bytes(len(file.tensors[Q][2]))
        self.caught(file, "all-zero", HF, severity="warning")
        file = self.make("q8_0")
        file.tensors["output_norm.weight"][2][4:8] = struct.pack("<f", float("inf"))
        self.caught(file, "nan-weight", "model.norm.weight")
        self.ok("qexport", TINY, "-f", "gguf", "-o", "float.gguf")
        file = g.Gguf(self.dir / "float.gguf")
        file.tensors[Q][2][512:514] = b"\xc0\x7f"
        self.caught(file, "nan-weight", HF, "1 value is")

    def test_qmaps(self):
        """The same scan of blocks in a qmap."""
        self.ok("qquantize", TINY, "-s", "q4_k_m", "-o", "x.qmap")
        self.ok("qverify", "x.qmap", "--strict")
        data = bytearray((self.dir / "x.qmap").read_bytes())
        tensor = next(t for t in qmap_manifest(data)["tensors"] if t["name"] == HF)
        at = tensor["parts"][0]["extent"][1]
        data[at:at + 2] = NAN
        (self.dir / "bad.qmap").write_bytes(data)
        code, rules, found = self.findings("bad.qmap", "--no-check")
        self.assertEqual(code, 1)
        self.assertIn(("nan-scale", "error"), rules, found)

    def test_keys(self):
        sound = self.make()
        for key in ("context_length", "embedding_length", "block_count", "attention.layer_norm_rms_epsilon",
                    "attention.head_count", "feed_forward_length"):
            file = g.Gguf(self.dir / "x.gguf")
            del file.keys["llama." + key]
            self.caught(file, "missing-key", f"'llama.{key}'")
        for key in ("general.architecture", "tokenizer.ggml.model", "tokenizer.ggml.tokens"):
            file = g.Gguf(self.dir / "x.gguf")
            del file.keys[key]
            self.caught(file, "missing-key", f"'{key}'")
        del sound.keys["llama.rope.freq_base"]
        self.caught(sound, "missing-key", "'llama.rope.freq_base'", severity="warning")

    def test_types(self):
        self.make()
        for key, kind, value, says in (
                ("llama.block_count", g.U64, 3, "(expected u32, found u64)"),
                ("llama.context_length", g.I32, 512, "(expected u32, found i32)"),
                ("llama.rope.freq_base", g.F64, 1e4, "(expected f32, found f64)"),
                ("llama.attention.layer_norm_rms_epsilon", g.U32, 0, "(expected f32, found u32)"),
                ("general.file_type", g.U64, 15, "(expected u32, found u64)"),
                ("tokenizer.ggml.bos_token_id", g.I64, 0, "(expected u32, found i64)"),
                ("tokenizer.ggml.add_bos_token", g.U8, 0, "(expected bool, found u8)"),
                ("general.name", g.U32, 0, "(expected string, found u32)")):
            file = g.Gguf(self.dir / "x.gguf")
            file.keys[key] = (kind, value)
            self.caught(file, "key-type", f"'{key}' {says}")

    def test_values(self):
        self.make()
        for key, value, says in (("llama.expert_used_count", (g.U32, 8), "8 of 0 experts"),
                                 ("llama.rope.dimension_count", (g.U32, 32), "is 32 (expected the 64 of a head)"),
                                 ("llama.block_count", (g.U32, 100000), "above 512"),
                                 ("llama.context_length", (g.U32, 0), "is 0"),
                                 ("llama.rope.scaling.type", (g.STRING, b"twisted"), "'twisted'"),
                                 ("llama.feed_forward_length", (g.ARRAY, g.U32, [512, 512]), "2 elements")):
            file = g.Gguf(self.dir / "x.gguf")
            file.keys[key] = value
            self.caught(file, "key-value", f"'{key}'", says)

    def test_file_type(self):
        file = self.make()
        del file.keys["general.file_type"]
        self.caught(file, "file-type", "general.file_type", severity="warning")
        del file.keys["general.quantization_version"]
        self.caught(file, "file-type", "general.quantization_version")

    def test_vocabulary(self):
        self.make()

        def load():
            return g.Gguf(self.dir / "x.gguf")

        for key in ("token_type", "scores"):
            file = load()
            if "tokenizer.ggml." + key not in file.keys:
                continue
            file.keys["tokenizer.ggml." + key][2].pop()
            self.caught(file, "token-list", f"tokenizer.ggml.{key} has 511 elements (expected 512")
        file = load()
        for key in ("tokens", "token_type", "scores"):
            if "tokenizer.ggml." + key in file.keys:
                file.keys["tokenizer.ggml." + key][2].pop()
        self.caught(file, "vocabulary", "token_embd.weight", "has 512 rows (expected 511")
        file = load()
        tokens = file.keys["tokenizer.ggml.tokens"][2]
        tokens[100] = tokens[99]
        self.caught(file, "token-list", "1 of the tokens appear twice")
        file = load()
        file.keys["tokenizer.ggml.eos_token_id"] = (g.U32, 512)
        self.caught(file, "token-id", "tokenizer.ggml.eos_token_id", "512 tokens")
        if load().keys["tokenizer.ggml.model"][1] == b"gpt2":
            file = load()
            file.keys["tokenizer.ggml.merges"][2][5] = b"oneword"
            self.caught(file, "token-list", "1 merges", "number 5")
            del file.keys["tokenizer.ggml.merges"]
            self.caught(file, "missing-key", "tokenizer.ggml.merges")

    def test_tensors(self):
        self.make()

        def load():
            return g.Gguf(self.dir / "x.gguf")

        file = load()
        del file.tensors["blk.2.ffn_norm.weight"]
        self.caught(file, "absent-tensor", "blk.2.ffn_norm.weight")
        file = load()
        file.tensors["blk.0.attn_out.weight"] = file.tensors.pop("blk.0.attn_output.weight")
        self.caught(file, "absent-tensor", "blk.0.attn_output.weight")
        self.caught(file, "unknown-tensor", "blk.0.attn_out.weight")
        file = load()
        for name in [n for n in file.tensors if n.startswith("blk.1.")]:
            del file.tensors[name]
        self.caught(file, "block-count", "1 of the 3 layers", "(1)")
        file = load()
        file.keys["llama.block_count"] = (g.U32, 2)
        self.caught(file, "block-count", "beyond the 2 layers")
        file = load()
        file.keys["llama.feed_forward_length"] = (g.U32, 1024)
        self.caught(file, "tensor-shape", "blk.0.ffn_up.weight", "{256, 512}", "{256, 1024}")
        file = load()
        file.keys["llama.attention.head_count_kv"] = (g.U32, 4)
        self.caught(file, "tensor-shape", "blk.2.attn_k.weight", "{256, 128}", "{256, 256}")
        file = load()
        dims, _, data = file.tensors["output_norm.weight"]
        half = struct.pack(f"<{dims[0]}e", *struct.unpack(f"<{dims[0]}f", data))
        file.tensors["output_norm.weight"] = [dims, 1, half]
        self.caught(file, "tensor-type", "output_norm.weight", "is f16")
        # A factor beside a weight is llama.cpp's own.
        file = load()
        file.tensors["blk.0.ffn_up.scale"] = [[1], 0, struct.pack("<f", 1)]
        self.assertNotIn(("unknown-tensor", "error"), self.findings(file)[1])

    def test_other_files(self):
        """Only what all GGUFs share is checked of what is no model, or a model of another kind."""
        file = self.make()
        file.keys["general.architecture"] = (g.STRING, b"mamba")
        code, rules, found = self.findings(file)
        self.assertEqual((code, {r for r, s in rules if s != "note"}), (0, set()), found)
        self.assertIn(("architecture", "note"), rules)
        file.keys["general.type"] = (g.U32, 1)
        self.caught(file, "key-type", "general.type")

    def test_shards(self):
        self.make()
        self.ok("qexport", TINY, "-f", "gguf", "--shard-size", "500KB", "-o", "s.gguf")
        first = sorted(p.name for p in self.dir.glob("s-00001-of-*.gguf"))
        self.assertEqual(len(first), 1)
        self.ok("qverify", first[0], TINY, "--strict", "-q")
        self.ok("bash", "-c", f"qexport {TINY} -f gguf --shard-size 500KB -o p.gguf | qverify --strict -q")

    def test_evaluation(self):
        self.make("q8_0")
        result = self.run_("qverify", "x.gguf", TINY, "--eval", TINY / "heldout.txt", "--seqlen", "64", "-n", "4",
                           "--min-sqnr", "20", "--max-kl", "0.05", "--json")
        self.assertEqual(result.code, 0, result)
        self.assertLess(json.loads(result.out)["evaluation"]["divergence"]["kl"]["mean"], 0.01)
        self.assertEqual(self.findings("x.gguf", "--against", TINY, "--min-sqnr", "60")[0], 1)

    def test_parts_that_do_not_parse(self):
        file = (self.dir / "x.gguf")
        self.make()
        whole = file.read_bytes()
        for name, data in (("magic", b"GGUG" + whole[4:]), ("cut", whole[:-4096]), ("version", whole[:4] + b"\4" + whole[5:])):
            (self.dir / "bad.gguf").write_bytes(data)
            self.assertIn(self.run_("qverify", "bad.gguf").code, (1, 3), name)


if __name__ == "__main__":
    main()
