"""Every family and scheme: what is written and read again has the values of the checkpoint it was
written from, and qverify finds nothing wrong with it. One row per family and scheme."""

from support import TINY, CliTest, main, read_safetensors

# (family, scheme); schemes that need calibration are quantized from a calibrated model.
ROWS = [
    ("gptq", "w2a16"),
    ("gptq", "w3a16"),
    ("gptq", "w4a16"),
    ("gptq", "w4a16-asym"),
    ("gptq", "w4a16-g32"),
    ("gptq", "w8a16"),
    ("awq", "w4a16"),
    ("awq", "w4a16-asym"),
    ("awq", "w4a16-g64"),
    ("awq", "w8a16"),
    ("auto-round", "w2a16"),
    ("auto-round", "w3a16"),
    ("auto-round", "w4a16"),
    ("auto-round", "w4a16-asym"),
    ("auto-round", "w8a16"),
    ("auto-round", "mxfp4"),
    ("auto-round", "mxfp8"),
    ("auto-round", "nvfp4"),
    ("auto-round", "nvfp4a16"),
    ("fp8", "fp8-block"),
    ("fp8", "fp8-tensor"),
    ("fp8", "fp8-static"),
    ("fp8", "mxfp8"),
    ("modelopt", "fp8-static"),
    ("modelopt", "fp8-dynamic"),
    ("modelopt", "fp8-block"),
    ("modelopt", "nvfp4"),
    ("modelopt", "nvfp4a16"),
    ("modelopt", "mxfp4"),
    ("modelopt", "mxfp8"),
    ("modelopt", "w4a16"),
    ("modelopt", "int8-static"),
    ("quark", "fp8-tensor"),
    ("quark", "fp8-dynamic"),
    ("quark", "fp8-static"),
    ("quark", "int8"),
    ("quark", "mxfp4"),
    ("w8a8_fp8", "fp8-dynamic"),
    ("w8a8_fp8", "fp8-tensor"),
    ("w8a8_int8", "int8"),
    ("compressed-tensors", "w4a8"),
    ("compressed-tensors", "w4a4"),
    ("compressed-tensors", "w4afp8"),
    ("compressed-tensors", "fp8-static"),
    ("compressed-tensors", "int8-static"),
    ("compressed-tensors", "nvfp4"),
    ("compressed-tensors", "nvfp4 --numerics modelopt"),
    ("bitsandbytes", "bnb-nf4"),
    ("bitsandbytes", "bnb-nf4-dq"),
    ("bitsandbytes", "bnb-fp4"),
    ("bitsandbytes", "bnb-fp4-dq"),
    ("bitsandbytes", "bnb-int8"),
    ("torchao", "int8wo --numerics torchao"),
    ("torchao", "int8dq --numerics torchao"),
    ("torchao", "int4wo-32 --numerics torchao"),
    ("torchao", "int4wo-256 --numerics torchao"),
    ("torchao", "fp8wo --numerics torchao"),
    ("torchao", "fp8dq-per_row --numerics torchao"),
    ("torchao", "fp8dq-per_tensor --numerics torchao"),
    ("torchao", "w4a16-asym"),
    ("torchao", "w3a16"),
    ("modelslim", "int8"),
    ("modelslim", "int8-static"),
    ("modelslim", "w8a16"),
    ("modelslim", "w4a8 --group-size channel"),
    ("modelslim", "w4a4 --group-size channel"),
    ("modelslim", "w4a4"),
    ("modelslim", "fp8-dynamic"),
    ("modelslim", "mxfp8"),
    ("modelslim", "mxfp4"),
]
CALIBRATED = {"fp8-static", "nvfp4", "int8-static"}


class Formats(CliTest):
    def values(self, source, name):
        self.ok("qload", source, "--dequantize", "-o", f"{name}.qmap", "--force")
        self.ok("qexport", f"{name}.qmap", "-f", "safetensors", "-o", name, "--force")
        return read_safetensors(self.dir / name / "model.safetensors")

    def test_values_survive(self):
        self.ok("qcalibrate", TINY, "--text", TINY / "heldout.txt", "-n", "2", "--seqlen", "32", "-o", "c.qmap")
        for family, scheme in ROWS:
            with self.subTest(family=family, scheme=scheme):
                self.ok("qquantize", "c.qmap" if scheme.split()[0] in CALIBRATED else TINY, "-s", *scheme.split(), "-o", "q.qmap", "--force")
                self.ok("qexport", "q.qmap", "-f", family, "-o", "out", "--force")
                want, found = self.values("q.qmap", "want"), self.values("out", "found")
                self.assertEqual(set(want), set(found))
                for name in want:
                    self.assertEqual(want[name], found[name], name)
                self.ok("qverify", "out", "-q")


if __name__ == "__main__":
    main()
