"""qexport --target: what is written passes the engine's rules, or nothing is written."""

import json
import random
import struct

import target_models as t
from support import TINY, CliTest, Weights, main, read_safetensors


class ExportTarget(CliTest):
    def setUp(self):
        super().setUp()
        self.ok("qquantize", TINY, "-s", "w4a16", "-o", "q.qmap")  # groups of 128; o_proj has 256 columns

    def test_groups_that_ranks_would_cut(self):
        self.ok("qexport", "q.qmap", "-f", "gptq", "-o", "plain")
        self.ok("qverify", "plain", "--target", "vllm", "--tp", "2")
        refused = self.run_("qverify", "plain", "--target", "vllm", "--tp", "4")
        self.assertEqual(refused.code, 1, refused)
        self.assertIn("not divisible by 128, the group size", refused.out)
        for engine in ("vllm", "sglang"):
            said = self.ok("qexport", "q.qmap", "-f", "gptq", "--target", engine, "--tp", "4", "-o", "fits", "--force").err
            self.assertIn("groups of 64", said)
            self.ok("qverify", "fits", "--target", engine, "--tp", "4")
            config = json.loads((self.dir / "fits/config.json").read_text())
            self.assertEqual(config["quantization_config"]["group_size"], 64)
        self.ok("qload", "fits", "--dequantize", "-o", "a.qmap")
        self.ok("qverify", "a.qmap", "q.qmap", "--min-sqnr", "60")  # F16 scales, nothing else
        # With groups that fit there is nothing to say.
        said = self.ok("qexport", "q.qmap", "-f", "gptq", "--target", "vllm", "--tp", "2", "-o", "two").err
        self.assertNotIn("groups of", said)

    def test_any_family_with_groups(self):
        said = self.ok("qexport", "q.qmap", "-f", "compressed-tensors", "--target", "vllm", "--tp", "4", "-o", "fits").err
        self.assertIn("groups of 64", said)
        self.ok("qverify", "fits", "--target", "vllm", "--tp", "4")
        self.ok("qverify", "fits", "q.qmap", "--min-sqnr", "200")

    def model(self, m):
        weights = Weights(3)
        m.write(self.dir / "m", lambda dtype, n: weights.take(n) if dtype == "BF16" else b"\x38" * n if dtype == "F8_E4M3"
                else struct.pack("<f", 1) * n if dtype == "F32" else bytes(t.SIZES[dtype] * n))
        return m

    def values(self, checkpoint):
        self.ok("qload", checkpoint, "--dequantize", "-o", "plain.qmap", "--force")
        self.ok("qexport", "plain.qmap", "-f", "safetensors", "-o", "plain", "--force")
        return read_safetensors(self.dir / "plain/model.safetensors")

    def assert_padded(self, sound, padded, inner, size):
        """All tensors of `padded` are those of `sound`, with zeros behind gate, up and down of `inner`."""
        a, b = self.values(sound), self.values(padded)
        self.assertEqual(set(a), set(b))
        grown = 0
        for name, (_, shape, data) in a.items():
            _, larger, more = b[name]
            if tuple(shape) == tuple(larger):
                self.assertEqual(data, more, name)
                continue
            grown += 1
            self.assertEqual([y for x, y in zip(shape, larger) if x != y], [size], name)
            row, wide = 2 * shape[1], 2 * larger[1]
            for r in range(larger[0]):
                expected = data[r * row:(r + 1) * row] if r < shape[0] else b""
                self.assertEqual(more[r * wide:(r + 1) * wide], expected.ljust(wide, b"\0"), name)
        self.assertEqual(grown, inner)

    def test_experts_padded_to_blocks(self):
        """384 inner columns are 192 on each of two ranks; blocks have 128."""
        self.model(t.qwen3_moe(inner=384))
        self.ok("qquantize", "m", "-s", "fp8-block", "-o", "b.qmap")
        self.ok("qexport", "b.qmap", "-f", "fp8", "-o", "sound")
        self.assertEqual(self.run_("qverify", "sound", "--target", "vllm", "--tp", "2").code, 1)
        for engine in ("vllm", "sglang"):
            said = self.ok("qexport", "b.qmap", "-f", "fp8", "--target", engine, "--tp", "2", "--ledger", "l.json", "-o", "fits",
                           "--force").err
            self.assertIn("moe_intermediate_size is 512", said)
            self.ok("qverify", "fits", "--target", engine, "--tp", "2")
            self.assertEqual(json.loads((self.dir / "fits/config.json").read_text())["moe_intermediate_size"], 512)
            fates = [e for e in json.loads((self.dir / "l.json").read_text()) if e["fate"] == "padded"]
            self.assertEqual(len(fates), 2 * 4 * 3 + 1, fates)
            self.assert_padded("sound", "fits", 24, 512)
            report = json.loads(self.ok("qverify", "fits", "--against", "m", "--json").out)  # as its base, padded
            self.assertIn("moe_intermediate_size 384 to 512", str(report["findings"]))
            whole = json.loads(self.ok("qverify", "sound", "--against", "m", "--json").out)
            self.assertEqual([t["max_abs"] for t in report["tensors"]], [t["max_abs"] for t in whole["tensors"]])

    def test_experts_and_shared_ones(self):
        for scheme, family, inner in (("fp8-block", "fp8", 384), ("w4a16-asym", "compressed-tensors", 352), ("mxfp4a16", "compressed-tensors", 352),
                                      ("nvfp4a16", "modelopt", 176)):
            with self.subTest(scheme=scheme):
                self.model(t.deepseek_v3(inner=inner))
                self.ok("qquantize", "m", "-s", scheme, *(["--group-size", "32"] if scheme[0] == "w" else []), "-o", "d.qmap", "--force")
                self.ok("qexport", "d.qmap", "-f", family, "-o", "sound", "--force")
                self.assertEqual(self.run_("qverify", "sound", "--target", "vllm", "--tp", "2").code, 1)
                said = self.ok("qexport", "d.qmap", "-f", family, "--target", "vllm", "--tp", "2", "-o", "fits", "--force").err
                self.assertIn("padded", said)
                self.ok("qverify", "fits", "--target", "vllm", "--tp", "2")
                size = json.loads((self.dir / "fits/config.json").read_text())["moe_intermediate_size"]
                self.assert_padded("sound", "fits", 4 * 3 + 3, size)

    def test_not_padded(self):
        """Where something else may depend on the size, or an MLP would grow by more than half."""
        for m, tp in ((t.qwen3_moe(inner=384, moe_shared_expert_intermediate_size=384), "2"), (t.qwen3_moe(inner=144), "2")):
            self.model(m)
            self.ok("qquantize", "m", "-s", "fp8-block", "-o", "n.qmap", "--force")
            self.fails(5, "qexport", "n.qmap", "-f", "fp8", "--target", "vllm", "--tp", tp, "-o", "n", says="experts")
        self.assert_clean("n")

    def test_global_scales(self):
        """Where an engine would take one member's scale for all, they are written unquantized."""
        m = t.modelopt(t.llama())
        for name, (dtype, shape) in m.tensors.items():
            if name.endswith("weight_scale_2"):
                m.values[name] = struct.pack("<f", 0.25 if name.endswith("q_proj.weight_scale_2") else 0.5)
        self.model(m)
        self.assertEqual(self.run_("qverify", "m", "--target", "vllm").code, 1)
        said = self.ok("qexport", "m", "-f", "modelopt", "--target", "vllm", "-o", "n").err
        self.assertIn("left out, so unquantized: model.layers.0.self_attn.k_proj, model.layers.0.self_attn.q_proj", said)
        self.ok("qverify", "n", "--target", "vllm")
        for name in m.values:  # gate and up, too: more than a quarter of the model
            m.values[name] = struct.pack("<f", 0.25 if "gate_proj" in name or "q_proj" in name else 0.5)
        self.model(m)
        self.fails(5, "qexport", "m", "-f", "modelopt", "--target", "vllm", "-o", "n", "--force", says=["weight_scale_2", "0.25"])
        for name in m.values:
            m.values[name] = struct.pack("<f", 0.5)
        self.model(m)
        self.assertNotIn("left out", self.ok("qexport", "m", "-f", "modelopt", "--target", "vllm", "-o", "n", "--force").err)

    def test_left_out(self):
        """Engines build routers unquantized."""
        m = t.moe()
        m.linear("model.layers.0.mlp.gate", (4, t.H))
        weights, codes = Weights(3, 1.0), random.Random(1)
        t.w4a16(m).write(self.dir / "m", lambda dtype, n: weights.take(n) if dtype == "BF16" else codes.randbytes(t.SIZES[dtype] * n))
        self.assertEqual(self.run_("qverify", "m", "--target", "sglang").code, 1)
        said = self.ok("qexport", "m", "-f", "compressed-tensors", "--target", "sglang", "-o", "fits").err
        self.assertIn("left out, so unquantized: model.layers.0.mlp.gate", said)
        self.ok("qverify", "fits", "--target", "sglang")
        name = "model.layers.0.mlp.gate.weight"
        self.assertEqual(self.values("m")[name], read_safetensors(self.dir / "fits/model.safetensors")[name])

    def test_what_cannot_pass(self):
        for arguments, says in ((("-f", "gptq", "--target", "vllm", "--tp", "8"), "heads"),
                                (("-f", "gptq", "--target", "llama.cpp"), "-f gguf")):
            self.fails(5, "qexport", "q.qmap", *arguments, "-o", "x", says=says)
        self.fails(5, "qexport", TINY, "-f", "gguf", "--target", "vllm", "-o", "x", says="llama.cpp")
        self.ok("qexport", TINY, "-f", "gguf", "--target", "llama.cpp", "-o", "m.gguf")
        self.assert_clean("x")

    def test_wrong_use(self):
        for arguments, says in ((("--target", "nobody"), "vllm"), (("--tp", "2"), "--target"),
                                (("--target", "vllm", "--tp", "0"), "--tp"),
                                (("--target", "vllm", "--hw", "sm10"), "sm80")):
            self.fails(2, "qexport", "q.qmap", "-f", "gptq", *arguments, "-o", "x", says=says)
        self.assert_clean("x")

    def test_before_the_work(self):
        """qquantize --target: what comes out is known before it is made."""
        said = self.ok("qquantize", TINY, "-s", "w4a16", "--target", "vllm", "-o", "a.qmap").err
        self.assertIn("vllm loads this as compressed-tensors, gptq", said)
        said = self.ok("qquantize", TINY, "-s", "w4a16", "--target", "vllm", "--tp", "4", "--dry-run").err
        self.assertIn("compressed-tensors (scales are repeated to groups of 64", said)
        self.fails(5, "qquantize", TINY, "-s", "w4a16", "--target", "vllm", "--tp", "8", "-o", "b.qmap", says="heads")
        self.fails(5, "qquantize", TINY, "-s", "bnb-nf4", "--target", "sglang", "--tp", "2", "-o", "b.qmap", says="sglang")
        self.fails(5, "qquantize", TINY, "-s", "q4_k_m", "--target", "vllm", "-o", "b.qmap", says="GGUF")
        self.fails(5, "qquantize", TINY, "-s", "w4a16", "--target", "llama.cpp", "-o", "b.qmap", says="q4_k_m")
        self.assertIn("gguf", self.ok("qquantize", TINY, "-s", "q4_0", "--target", "llama.cpp", "--dry-run").err)
        self.assertIn("safetensors", self.ok("qquantize", TINY, "-s", "none", "--target", "vllm", "--dry-run").err)
        self.fails(2, "qquantize", TINY, "-s", "w4a16", "--tp", "2", "--dry-run", says="--target")
        self.assert_clean("b.qmap")

    def test_every_scheme_before_and_after(self):
        """The verdict before the work is that on what was written."""
        for scheme in ("fp8-dynamic", "fp8-tensor", "fp8-block", "int8", "w8a16", "w4a16-asym", "nvfp4a16", "mxfp4", "w4afp8", "w2a16",
                       "bnb-nf4", "torchao-int8wo", "none"):
            for engine in ("vllm", "sglang", "transformers"):
                planned = self.run_("qquantize", TINY, "-s", scheme, "--target", engine, "-o", "s.qmap", "--force")
                if planned.code == 5:
                    continue
                self.assertEqual(planned.code, 0, planned)
                families = planned.err.split("loads this as ")[1].splitlines()[0].split(" (")[0].split(", ")
                for family in families:
                    with self.subTest(scheme=scheme, engine=engine, family=family):
                        self.ok("qexport", "s.qmap", "-f", family, "-o", "s", "--force")
                        self.ok("qverify", "s", "--target", engine)


if __name__ == "__main__":
    main()
