"""Static scales of activations and of the KV cache: computed here from the statistics that qcalibrate
lists, and refused without them."""

import json
import struct

from support import TINY, CliTest, main, qmap_manifest

MODULE = "model.layers.1.mlp.up_proj"


def round_bf16(x):
    bits = struct.unpack("<I", struct.pack("<f", x))[0]
    bits = (bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF0000
    return struct.unpack("<f", struct.pack("<I", bits))[0]


def f32(x):
    return struct.unpack("<f", struct.pack("<f", x))[0]


class Static(CliTest):
    def calibrated(self):
        self.ok("qcalibrate", TINY, "--text", TINY / "heldout.txt", "-n", "4", "--seqlen", "64", "-o", "c.qmap")
        listed = json.loads(self.ok("qcalibrate", "c.qmap", "--list", "--json").out)
        ranges = {r: s["observed"] for s in listed["inputs"] for r in s["readers"]}
        return ranges[MODULE], listed["caches"]

    def part(self, path, name, role):
        data = (self.dir / path).read_bytes()
        for t in qmap_manifest(data)["tensors"]:
            for p in t["parts"]:
                if (t["name"], p["role"]) == (name, role):
                    at, n = p["extent"][1:3]
                    raw = data[at:at + n]
                    return struct.unpack("<f", raw if n == 4 else b"\0\0" + raw)[0]
        self.fail(f"{name} has no {role}")

    def test_input_scale(self):
        amax, _ = self.calibrated()
        for scheme, divisor in (("fp8-static", 448), ("int8-static", 127.5)):
            self.ok("qquantize", "c.qmap", "-s", scheme, "-o", f"{scheme}.qmap")
            found = self.part(f"{scheme}.qmap", MODULE + ".weight", "input_scale")
            self.assertEqual(found, round_bf16(f32(amax / divisor)), scheme)
        self.ok("qquantize", "c.qmap", "-s", "fp8-static", "--numerics", "modelopt", "-o", "m.qmap")
        self.assertEqual(self.part("m.qmap", MODULE + ".weight", "input_scale"), f32(amax / 448))

    def test_second_stage_of_nvfp4(self):
        amax, _ = self.calibrated()
        self.ok("qquantize", "c.qmap", "-s", "nvfp4", "-o", "n.qmap")
        expected = round_bf16(round_bf16(f32(1 / amax)) * 2688)
        self.assertEqual(self.part("n.qmap", MODULE + ".weight", "input_global_scale"), expected)
        self.ok("qquantize", "c.qmap", "-s", "nvfp4", "--numerics", "modelopt", "-o", "m.qmap")
        self.assertEqual(self.part("m.qmap", MODULE + ".weight", "input_scale"), f32(amax / 2688))

    def test_sides_of_a_saved_checkpoint_change_without_a_pass(self):
        """What is saved after a change is what quantizing so in the first place gives: codes, scales, config."""
        self.calibrated()
        for before, after in (("nvfp4a16", "nvfp4"), ("nvfp4", "nvfp4a16"), ("int8-dynamic", "int8-static"),
                              ("int8-static", "int8-dynamic"), ("w8a16", "w8a16")):
            self.ok("qquantize", "c.qmap", "-s", before, "-a", "gptq", "-o", "before.qmap", "--force")
            self.ok("qquantize", "before.qmap", "-s", after, "--kv-cache", "fp8", "-o", "after.qmap", "--force")
            self.ok("qquantize", "c.qmap", "-s", after, "-a", "gptq", "--kv-cache", "fp8", "-o", "direct.qmap", "--force")
            for name in ("after", "direct"):
                self.ok("qexport", f"{name}.qmap", "-f", "compressed-tensors", "-o", name, "--force")
            for file in ("model.safetensors", "config.json"):
                self.assertEqual((self.dir / "after" / file).read_bytes(), (self.dir / "direct" / file).read_bytes(),
                                 (before, after, file))
        # Scales of the cache alone, and again.
        self.ok("qquantize", "before.qmap", "--kv-cache", "fp8", "-o", "k.qmap")
        self.ok("qquantize", "k.qmap", "--kv-cache", "fp8", "-o", "k2.qmap")
        self.ok("qexport", "k2.qmap", "-f", "compressed-tensors", "-o", "k2")
        self.fails(5, "qquantize", "before.qmap", "-s", "w4a16", "-o", "x.qmap", says="already quantized")
        self.ok("qquantize", TINY, "-s", "nvfp4a16", "-o", "plain.qmap")
        self.fails(2, "qquantize", "plain.qmap", "-s", "nvfp4", "-o", "x.qmap", says=["calibrated", "qcalibrate"])

    def test_kv_cache(self):
        _, caches = self.calibrated()
        self.ok("qquantize", "c.qmap", "-s", "fp8-dynamic", "--kv-cache", "fp8", "-o", "k.qmap")
        manifest = qmap_manifest((self.dir / "k.qmap").read_bytes())
        self.assertEqual((manifest["kv_cache"]["num_bits"], manifest["kv_cache"]["type"]), (8, "float"))
        for cache in caches:
            for kind in "kv":
                found = self.part("k.qmap", f"{cache['block']}.{kind}_scale", "data")
                self.assertEqual(found, round_bf16(f32(cache[kind + "_amax"] / 448)))

    def test_without_statistics(self):
        for args in (("-s", "fp8-static"), ("-s", "nvfp4"), ("-s", "int8", "--kv-cache", "fp8")):
            result = self.run_("qquantize", TINY, *args, "-o", "x.qmap")
            self.assertEqual(result.code, 2, result)
            self.assertIn("qcalibrate MODEL --text", result.err)
            self.assertFalse((self.dir / "x.qmap").exists())

    def test_numerics(self):
        result = self.run_("qquantize", TINY, "-s", "fp8-block", "--numerics", "deepgem", "-o", "x.qmap")
        self.assertEqual(result.code, 2)
        self.assertIn("deepgemm", result.err)
        result = self.run_("qquantize", TINY, "-s", "mxfp4", "--numerics", "deepgemm", "-o", "x.qmap")
        self.assertEqual(result.code, 2)


if __name__ == "__main__":
    main()
