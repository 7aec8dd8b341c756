"""Every family and scheme: what is written and read again has the values of the checkpoint it was
written from, and qverify finds nothing wrong with it. One row per family and scheme."""

from support import TINY, CliTest, main, read_safetensors

# (family, scheme); schemes that need calibration are quantized from a calibrated model.
ROWS = [
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
                self.ok("qquantize", "c.qmap" if scheme in CALIBRATED else TINY, "-s", scheme, "-o", "q.qmap", "--force")
                self.ok("qexport", "q.qmap", "-f", family, "-o", "out", "--force")
                want, found = self.values("q.qmap", "want"), self.values("out", "found")
                self.assertEqual(set(want), set(found))
                for name in want:
                    self.assertEqual(want[name], found[name], name)
                self.ok("qverify", "out", "-q")


if __name__ == "__main__":
    main()
