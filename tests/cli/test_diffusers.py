"""Diffusers pipelines through the programs: folders in, the same folders out, every scheme that
-f diffusers knows; values survive, and what is no transformer is carried byte for byte."""

import json

from support import PIPELINE_SHAPES, TINY, CliTest, main, read_safetensors, write_component, write_pipeline

LINEARS = ["blocks.0.attn1.to_q", "blocks.0.ffn.net.0.proj", "blocks.0.ffn.net.2"]
# Scheme, and the family that -f diffusers writes it in.
ROWS = [
    ("fp8-tensor", "fp8"),
    ("fp8-block", "fp8"),
    ("int8", "modelslim"),
    ("w4a4 --group-size channel", "modelslim"),
    ("mxfp8", "modelslim"),
    ("nvfp4a16", "modelopt"),
    ("int8wo --numerics torchao", "torchao"),
    ("fp8wo --numerics torchao", "torchao"),
    ("bnb-nf4", "bitsandbytes"),
]
PARTS = ("transformer", "transformer_2")


class Diffusers(CliTest):
    def setUp(self):
        super().setUp()
        write_pipeline(self.dir / "wan")

    def files(self, directory):
        return {p.relative_to(self.dir / directory).as_posix(): p.read_bytes()
                for p in (self.dir / directory).rglob("*") if p.is_file()}

    def values(self, source, name):
        self.ok("qload", source, "--dequantize", "-o", f"{name}.qmap", "--force")
        self.ok("qexport", f"{name}.qmap", "-f", "safetensors", "-o", name, "--force")
        return {f"{folder}/{tensor}": value for folder in PARTS for tensor, value in
                read_safetensors(self.dir / name / folder / "diffusion_pytorch_model.safetensors").items()}

    def carried(self, directory):
        return {n: data for n, data in self.files(directory).items() if not n.startswith("transformer")}

    def test_unquantized(self):
        self.pipe("qload wan | qexport -f diffusers -o out")
        self.assertEqual(set(self.files("wan")), set(self.files("out")))
        self.assertEqual(self.carried("wan"), self.carried("out"))
        for folder in PARTS:
            name = f"{folder}/diffusion_pytorch_model.safetensors"
            self.assertEqual(read_safetensors(self.dir / "wan" / name), read_safetensors(self.dir / "out" / name))
        self.pipe("qload out | qexport -f diffusers -o again")
        self.assertEqual(self.files("out"), self.files("again"))
        self.ok("qverify", "out", "--against", "wan", "-q")

    def test_values_survive(self):
        for scheme, family in ROWS:
            with self.subTest(scheme=scheme):
                self.ok("qquantize", "wan", "-s", *scheme.split(), "-o", "q.qmap", "--force")
                self.ok("qexport", "q.qmap", "-f", "diffusers", "-o", "out", "--force", "--shard-size", "60k")
                listed = json.loads(self.ok("qload", "out", "--list", "--json").out)
                quantized = {t["name"] for t in listed["tensors"] if "scheme" in t}
                self.assertEqual(quantized, {f"{p}/{n}.weight" for p in PARTS for n in LINEARS})
                self.assertEqual(self.carried("out"), self.carried("wan"))
                self.assertEqual(self.values("q.qmap", "want"), self.values("out", "found"))
                self.ok("qverify", "out", "--against", "wan", "-q")
                self.ok("qexport", "q.qmap", "-f", family, "-o", "same", "--force", "--shard-size", "60k")
                self.assertEqual(self.files("out"), self.files("same"))

    def test_pipe_and_ledger(self):
        with open(self.dir / "wan/vae/big.bin", "wb") as big:  # companions of this size are referred to
            big.truncate(70 << 20)
            big.seek(69 << 20)
            big.write(b"the end")
        self.pipe("qload wan | qquantize -s int8 | qexport -f diffusers -o out --ledger l.json")
        ledger = {e["source"]: e["fate"] for e in json.loads((self.dir / "l.json").read_text())}
        self.assertEqual(ledger["transformer_2/blocks.0.ffn.net.2.weight"], "quantized")
        self.assertEqual(ledger["vae/diffusion_pytorch_model.safetensors"], "kept")
        self.assertEqual(ledger["transformer/config.json"], "rewritten")
        self.assertEqual(self.carried("wan"), self.carried("out"))

    def test_one_of_two(self):
        self.ok("qquantize", "wan", "-s", "fp8-tensor", "--ignore", "re:transformer_2/.*", "-o", "q.qmap")
        self.ok("qexport", "q.qmap", "-f", "diffusers", "-o", "out")
        self.assertIn("quantization_config", json.loads((self.dir / "out/transformer/config.json").read_text()))
        self.assertNotIn("quantization_config", json.loads((self.dir / "out/transformer_2/config.json").read_text()))
        self.ok("qverify", "out", "--against", "wan", "-q")

    def test_plan_says_why(self):
        out = self.ok("qquantize", "wan", "-s", "int8", "--explain", "transformer/proj_out.weight").out
        self.assertIn("unquantized", out)

    def test_another_model(self):
        self.fails(2, "qexport", TINY, "-f", "diffusers", "-o", "out", says=["no diffusers pipeline"])

    def test_no_family_holds_it(self):
        self.ok("qquantize", "wan", "-s", "fp8-tensor", "-o", "q.qmap")
        self.fails(5, "qexport", "q.qmap", "-f", "gptq", "-o", "out", says=["transformer/blocks.0."])
        self.assert_clean("out")

    def test_namesakes(self):
        """A Flux has proj_out and single_transformer_blocks.0.proj_out: engines read lists by parts of names."""
        write_component(self.dir / "wan/transformer", "X", {**PIPELINE_SHAPES, "single_transformer_blocks.0.proj_out.weight": (128, 128)}, 3)
        self.pipe("qload wan | qquantize -s fp8-tensor | qexport -f fp8 -o out")
        config = json.loads((self.dir / "out/transformer/config.json").read_text())
        self.assertEqual(config["quantization_config"]["modules_to_not_convert"],
                         ["condition_embedder.text_embedder.linear_1"])
        self.ok("qquantize", "wan", "-s", "bnb-nf4", "-o", "q.qmap")
        self.fails(5, "qexport", "q.qmap", "-f", "diffusers", "-o", "no", says=["proj_out.weight", "--ignore"])
        self.ok("qquantize", "wan", "-s", "bnb-nf4", "--ignore", "re:.*proj_out.weight", "-o", "q.qmap", "--force")
        self.ok("qexport", "q.qmap", "-f", "diffusers", "-o", "yes")

    def test_damaged(self):
        self.ok("qexport", "wan", "-f", "diffusers", "-o", "bad")
        (self.dir / "bad/transformer_2/diffusion_pytorch_model.safetensors").unlink()
        self.fails(3, "qload", "bad", "-o", "c", says=["transformer_2"])
        found = self.run_("qverify", "bad")
        self.assertEqual(found.code, 1, found)
        self.assertIn("transformer_2: there are no safetensors", found.out)


if __name__ == "__main__":
    main()
