"""Checkpoints that nobody should trust: each is refused with exit 3 and a message that names it."""

import json
import os
import random
import struct

from support import (BadInput, DATA, TINY, Weights, bf16, count, gguf_bytes, header_bytes, main,
                     read_safetensors, sha256, tree, write_llama, write_safetensors)

W = "model.layers.0.mlp.up_proj.weight"


class Safetensors(BadInput):
    def write(self, header, data=b"\0" * 32, raw=None):
        path = self.dir / "model.safetensors"
        path.write_bytes((raw if raw is not None else header_bytes(header)) + data)
        return path

    def entry(self, begin=0, end=32, shape=(4, 4), dtype="BF16"):
        return {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}

    def test_good(self):
        self.ok("qload", self.write({W: self.entry()}), "-o", "c")

    def test_truncated_anywhere(self):
        good = (TINY / "model.safetensors").read_bytes()
        n = 8 + struct.unpack("<Q", good[:8])[0]
        for cut in (0, 1, 7, 8, 9, 100, n - 1, n, n + 1, len(good) // 2, len(good) - 1):
            path = self.dir / "cut.safetensors"
            path.write_bytes(good[:cut])
            self.refused(path, "cut.safetensors: ", "fetch it again", programs=["qload"])

    def test_header_length(self):
        for n in (0, 1, 33, 10**8, 10**8 + 1, 2**31, 2**62, 2**63, 2**64 - 1, 2**64 - 8):
            path = self.write(None, raw=struct.pack("<Q", n))
            self.refused(path, "model.safetensors: ", programs=["qload"])

    def test_entries(self):
        half = self.entry(0, 16, (2, 4))
        for header, says in (
                ({W: self.entry(0, 32), "b": self.entry(0, 32)}, "hole or overlap"),
                ({W: self.entry(0, 32), "b": self.entry(16, 48)}, "hole or overlap"),
                ({W: self.entry(8, 40)}, "hole or overlap"),
                ({W: self.entry(32, 0)}, "hole or overlap"),
                ({W: self.entry(0, 64, (4, 8))}, "past the end of the data (32 bytes)"),
                ({W: self.entry(0, 2**63, (2**62,))}, "overflows"),
                ({W: self.entry(0, 2**64 - 1)}, "expected 32 bytes"),
                ({W: self.entry(0, 32, (2**32, 2**32))}, "overflows"),
                ({W: self.entry(0, 32, (2**63, 2, 2))}, "overflows"),
                ({W: self.entry(0, 32, (5, 4))}, "expected 40 bytes, found 32"),
                ({W: self.entry(-1, 31)}, "negative"),
                ({W: self.entry(0, 32, (-4, -4))}, "negative"),
                ({W: self.entry(0, 32, (1,) * 100)}, "dimensions"),
                ({W: self.entry(0, 1.5)}, "fraction"),
                ({W: self.entry(0, 10**30)}, ""),
                ({W: self.entry(dtype="BF17")}, "unknown dtype 'BF17'"),
                ({W: self.entry(dtype="bf16")}, "unknown dtype"),
                ({W: self.entry(dtype="F32")}, "expected 64 bytes, found 32"),
                ({W: {"dtype": "BF16", "shape": [4, 4]}}, "missing"),
                ({W: {"shape": [4, 4], "data_offsets": [0, 32]}}, "missing"),
                ({W: {**self.entry(), "data_offsets": [0]}}, "fewer than two"),
                ({W: {**self.entry(), "data_offsets": [0, 16, 32]}}, "more than two"),
                ({W: {**self.entry(), "shape": [[4, 4]]}}, ""),
                ({W: {**self.entry(), "dtype": 7}}, ""),
                ({W: [0, 32]}, ""), ({W: None}, "null"), ({W: "x"}, ""), ([], ""), ({"": self.entry()}, "empty name"),
                ({W: half}, "belong to no tensor")):
            result = self.fails(3, "qload", self.write(header), "-o", "c", says=["model.safetensors: ", says])
            if isinstance(header, dict) and W in header and "no tensor" not in says:
                self.assertTrue(W in result.err or "'b'" in result.err, (header, result))
        self.assert_clean("c")

    def raw(self, text, data=b"\0" * 32):
        text += b" " * (-len(text) % 8)
        return self.write(None, data, struct.pack("<Q", len(text)) + text)

    def test_json(self):
        entry = json.dumps(self.entry()).encode()
        name = json.dumps(W).encode()
        self.refused(self.raw(b"{" + name + b":" + entry + b"," + name + b":" + entry + b"}"), W, programs=["qload"])
        for text in (b"{", b"}", b"\xff\xfe{}", b"{}{}", b"nonsense", b"{" + name + b":" + entry + b",}", b"\0" * 64,
                     b"[" * 100000, b'{"a":' * 50000, b"{" + name + b':{"dtype":' * 9):
            self.refused(self.raw(text), "model.safetensors: ", programs=["qload"])

    def test_names(self):
        # A tensor's name is data, however it looks: escaped in messages, never a path.
        for name in ("../../etc/passwd", "a\nb", "\x1b[31mred", "x" * 5000, "ü", "a b"):
            path = self.write({name: self.entry(0, 64, (4, 8), "F32"), "n": self.entry(16, 48)})
            result = self.fails(3, "qload", path, "-o", "c")
            self.assertEqual(result.err.count("\n"), 1)
            self.assertNotIn("\x1b", result.err)
            self.assertLess(len(result.err), 1000)

    def test_nan_and_infinity(self):
        for value, scheme in ((b"\xc0\x7f", "w4a16"), (b"\x80\x7f", "w4a16"), (b"\x80\xff", "fp8-dynamic"),
                              (b"\xc0\xff", "nvfp4a16"), (b"\xc0\x7f", "mxfp4"), (b"\xc0\x7f", "fp8-tensor"),
                              (b"\x80\x7f", "fp8-block"), (b"\xc0\x7f", "w4a16-asym"), (b"\xc0\x7f", "int8")):
            data = bytearray(Weights(3).take(256 * 256))
            data[2 * 300:2 * 300 + 2] = value  # row 1
            path = self.dir / "nan.safetensors"
            write_safetensors(path, {W: ("BF16", (256, 256), bytes(data))})
            self.fails(3, "qquantize", path, "-s", scheme, "-o", "c",
                       says=["nan.safetensors: ", f"tensor '{W}'", "NaN or infinite", "--ignore"])
            self.assert_clean("c")
            status, result = self.pipe(f"qload {path} | qquantize -s {scheme} | qexport -f safetensors -o out")
            self.assertEqual(status[1:], [3, 3], result)
            self.assertIn("nan.safetensors: tensor", result.err)
            self.ok("qquantize", path, "-s", scheme, "--ignore", W, "-q", "-o", "ignored", "--force")

    def test_wrong_dtype_for_quantizing(self):
        path = self.dir / "f64.safetensors"
        write_safetensors(path, {W: ("F64", (16, 128), b"\0" * 8 * 2048)})
        self.fails(2, "qquantize", path, "-s", "w4a16", "-o", "c", says=[W, "F64", "qload --dtype F32"])
        status, result = self.pipe(f"qload {path} --dtype F32 | qquantize -s w4a16 -o c")
        self.assertEqual(status, [0, 0], result)

    def test_placeholders(self):
        path = self.dir / "model.safetensors"
        path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:abc\nsize 5\n")
        self.refused(path, "Git LFS pointer", "git lfs pull")
        path.write_text("<!DOCTYPE html><html>Not Found</html>")
        self.refused(path, "web page", "fetch it again")

    def test_random_damage(self):
        # Whatever single bytes of the header become: an error or a model, never a crash.
        good = bytearray((write_llama(self.dir / "m", 64, 1, 16, 64) / "model.safetensors").read_bytes())
        n = 8 + struct.unpack("<Q", good[:8])[0]
        rng = random.Random(7)
        path = self.dir / "damaged.safetensors"
        for _ in range(150):
            data = bytearray(good)
            for _ in range(rng.choice((1, 1, 1, 3, 20))):
                data[rng.randrange(n)] = rng.choice((rng.randrange(256), ord("9"), ord("-"), ord('"'), ord("}")))
            path.write_bytes(data)
            result = self.run_("qload", path, "--list")
            self.assertIn(result.code, (0, 3), result)


class Index(BadInput):
    def model(self, weight_map=None, text=None):
        write_llama(self.dir / "m", 64, 1, 16, 64)
        os.rename(self.dir / "m" / "model.safetensors", self.dir / "m" / "part.safetensors")
        if text is None:
            text = json.dumps({"metadata": {}, "weight_map": weight_map})
        (self.dir / "m" / "model.safetensors.index.json").write_text(text)
        return self.dir / "m"

    def names(self):
        write_llama(self.dir / "names", 64, 1, 16, 64)
        return {n: "part.safetensors" for n in read_safetensors(self.dir / "names" / "model.safetensors")}

    def test_good(self):
        self.ok("qload", self.model(self.names()), "-o", "c")

    def test_shard_names(self):
        for name in ("../part.safetensors", "/etc/passwd", "..", "sub/part.safetensors", "", "a\0b", "../../../../etc/shadow"):
            self.refused(self.model({W: name}), "index.json: ", f"tensor '{W}'", "leaves the directory", programs=["qload"])

    def test_missing_shard(self):
        self.refused(self.model({W: "absent.safetensors"}), W, "absent.safetensors' is missing", "download is incomplete")

    def test_tensor_not_in_its_shard(self):
        self.refused(self.model({"model.absent.weight": "part.safetensors"}), "part.safetensors: tensor 'model.absent.weight'",
                     "another version of the model")

    def test_shape_of_the_file(self):
        for text in ("", "{", "[]", "{}", '{"weight_map": []}', '{"weight_map": {}}', '{"weight_map": {"a": 5}}', "7", "null",
                     '{"weight_map": {"a": null}}', '{"weight_map": {"a": "part.safetensors", "a": "part.safetensors"}}',
                     '{"a":' * 5000, "[" * 200000, '{"weight_map": {"a": ["part.safetensors"]}}'):
            self.refused(self.model(text=text), "model.safetensors.index.json: ", programs=["qload"])

    def test_tensors_the_index_leaves_out(self):
        names = self.names()
        names.pop(W)
        model = self.model(names)
        out = json.loads(self.ok("qload", model, "--list", "--json").out)
        self.assertIn(W, [d["name"] for d in out["dropped"]])

    def test_same_tensor_in_two_shards_without_an_index(self):
        model = write_llama(self.dir / "m", 64, 1, 16, 64)
        (model / "other.safetensors").write_bytes((model / "model.safetensors").read_bytes())
        self.refused(model, "tensor '", "twice")


class Config(BadInput):
    def model(self, text):
        model = write_llama(self.dir / "m", 64, 1, 16, 64)
        (model / "config.json").write_text(text)
        return model

    def test_malformed(self):
        for text in ("", "{", "[]", "7", "null", '"x"', "{}{}", '{"a": 1, "a": 2}', '{"a":' * 3000, "[" * 100000, "{'a': 1}",
                     '{"a": NaN}', "\x00"):
            self.refused(self.model(text), "config.json", programs=["qload"])

    def test_values_of_wrong_types(self):
        good = {"architectures": ["LlamaForCausalLM"], "model_type": "llama"}
        for key, value in (("architectures", "x"), ("architectures", []), ("architectures", [7]), ("architectures", {}),
                           ("num_hidden_layers", "one"), ("num_hidden_layers", -5), ("num_hidden_layers", 1e300),
                           ("num_hidden_layers", 2**63), ("text_config", 7), ("text_config", {"num_hidden_layers": []}),
                           ("model_type", 7), ("tie_word_embeddings", "yes"), ("torch_dtype", 5),
                           ("quantization_config", None), ("quantization_config", 5)):
            model = self.model(json.dumps({**good, key: value}))
            for command in (["qload", model, "--list"], ["qquantize", model, "-s", "w4a16", "--group-size", "64", "-o", "c"],
                            ["qexport", model, "-f", "compressed-tensors", "-o", "d"]):
                result = self.run_(*command, "-q", *(["--force"] if "-o" in command else []))
                self.assertIn(result.code, (0, 3), (key, value, result))
                if result.code:
                    self.assertIn(str(model), result.err)

    def test_quantization_config_of_wrong_types(self):
        for q in ({"quant_method": 5}, {"quant_method": ["gptq"]}, {"quant_method": "compressed-tensors", "config_groups": 7},
                  {"quant_method": "compressed-tensors", "config_groups": {"group_0": 7}},
                  {"quant_method": "compressed-tensors", "config_groups": {"group_0": {"targets": 7, "weights": 7}}},
                  {"quant_method": "compressed-tensors", "config_groups": {"g": {"targets": ["Linear"], "weights": {"num_bits": "x"}}}},
                  {"quant_method": "compressed-tensors", "config_groups": {"g": {"targets": ["re:("], "weights": {"num_bits": 4}}}},
                  {"quant_method": "compressed-tensors", "format": 9}):
            model = self.model(json.dumps({"quantization_config": q}))
            result = self.run_("qload", model, "-o", "c", "--force")
            self.assertIn(result.code, (0, 3), (q, result))
            if result.code:
                self.assertIn(str(model), result.err, q)

    def test_unreadable_directory_entry(self):
        # A dangling link is no companion; a fifo or device is never opened.
        model = self.model("{}")
        os.symlink("absent", model / "dangling.json")
        os.mkfifo(model / "fifo.json")
        os.symlink("/dev/zero", model / "zero.json")
        self.ok("qexport", model, "-f", "safetensors", "-o", "c", timeout=20)
        self.assertEqual(sorted(tree(self.dir / "c")), ["config.json", "model.safetensors"])


class Gguf(BadInput):
    def write(self, data):
        path = self.dir / "model.gguf"
        path.write_bytes(data)
        return path

    def good(self):
        return (DATA.parent / "fuzz/corpus/gguf/llama-bpe-q4_0.gguf").read_bytes()

    def test_truncated(self):
        good = self.good()
        self.ok("qload", self.write(good), "--list")
        for cut in (4, 8, 12, 20, 24, 30, 100, 1000, len(good) // 2, len(good) - 100, len(good) - 1):
            result = self.run_("qload", self.write(good[:cut]), "-o", "c")
            self.assertEqual(result.code, 3, (cut, result))
            self.assertIn("model.gguf", result.err)
        self.assert_clean("c")

    def test_header(self):
        good = gguf_bytes([("a.weight", (32, 2), 0, b"\0" * 256)], [("general.architecture", "llama")])
        for at, value, fmt in ((4, 99, "I"), (4, 0, "I"), (8, 2**63, "Q"), (8, 2**31, "Q"), (16, 2**64 - 1, "Q"), (16, 2**40, "Q"),
                               (24, 2**63, "Q"), (24, 10**9, "Q")):
            data = bytearray(good)
            struct.pack_into("<" + fmt, data, at, value)
            self.refused(self.write(data), "model.gguf: ", programs=["qload"])

    def test_tensors(self):
        data = b"\0" * 256
        for tensors, says in (([("a", (32, 2), 0, data), ("a", (32, 2), 0, data)], "a"),
                              ([("a", (2**40, 2**40), 0, data)], "a"),
                              ([("a", (2**20, 2**20), 0, data)], "a"),
                              ([("a", (31, 2), 2, data)], "a"),
                              ([("a", (32, 2), 9999, data)], "a"),
                              ([("a", (1,) * 9, 0, data)], "a"),
                              ([("a", (0, 2), 0, data)], ""),
                              ([("", (32, 2), 0, data)], "")):
            result = self.run_("qload", self.write(gguf_bytes(tensors, [("general.architecture", "llama")])), "-o", "c", "--force")
            self.assertIn(result.code, (3,) if says else (0, 3), (tensors[0][:3], result))
            self.assertIn("model.gguf", result.err or "model.gguf")

    def test_random_damage(self):
        good = self.good()
        rng = random.Random(11)
        for _ in range(150):
            data = bytearray(good)
            for _ in range(rng.choice((1, 1, 4, 30))):
                data[rng.randrange(min(len(data), 4000))] = rng.choice((0, 1, 255, rng.randrange(256)))
            result = self.run_("qload", self.write(data), "-q", "-o", "c", "--force")
            self.assertIn(result.code, (0, 3, 5), result)


class Pickle(BadInput):
    def test_fixtures(self):
        # Made by PyTorch or by hand (tests/data/torch/README.md); the bad ones say what is wrong.
        for path in sorted((DATA / "torch").glob("bad_*.pt")):
            self.refused(path, f"{path.name}: ", programs=["qload"])

    def test_no_code_runs(self):
        mark = self.dir / "mark"
        evil = b"\x80\x02cposix\nsystem\nX" + struct.pack("<I", len(f"touch {mark}")) + f"touch {mark}".encode() + b"\x85R."
        for name in ("evil.bin", "evil.pt", "evil.pth"):
            (self.dir / name).write_bytes(evil)
            self.refused(self.dir / name, f"{name}: ")
        self.assertFalse(mark.exists())

    def test_truncated(self):
        good = (DATA / "torch/checkpoint.pt").read_bytes()
        for cut in (1, 4, 30, 100, len(good) // 2, len(good) - 30, len(good) - 1):
            path = self.dir / "cut.bin"
            path.write_bytes(good[:cut])
            self.refused(path, "cut.bin: ", programs=["qload"])

    def test_random_damage(self):
        rng = random.Random(5)
        for name in ("checkpoint.pt", "python2_stream.pt"):
            good = (DATA / "torch" / name).read_bytes()
            for _ in range(60):
                data = bytearray(good)
                for _ in range(rng.choice((1, 3, 30))):
                    data[rng.randrange(len(data))] = rng.randrange(256)
                path = self.dir / "damaged.bin"
                path.write_bytes(data)
                result = self.run_("qload", path, "-q", "--list")
                self.assertIn(result.code, (0, 3), result)


if __name__ == "__main__":
    main()
