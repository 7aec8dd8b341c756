"""ggml's types: file types, recipes, importance matrices; what is refused."""

import json
import shutil
import struct

from support import TINY, CliTest, main, qmap_manifest


class Ggml(CliTest):
    def types(self, path):
        manifest = qmap_manifest((self.dir / path).read_bytes())
        return {t["name"]: t.get("ggml", "") for t in manifest["tensors"]}

    def calibrated(self, out="c.qmap"):
        self.ok("qcalibrate", TINY, "--text", TINY / "heldout.txt", "-n", "4", "--seqlen", "64", "-o", out)

    def kl(self, path):
        report = self.ok("qverify", path, TINY, "--eval", TINY / "heldout.txt", "--seqlen", "64", "--json").out
        return json.loads(report)["evaluation"]["divergence"]["kl"]["mean"]

    def test_file_types(self):
        names = {"q8_0", "q4_0", "Q4_K_M", "GGUF:Q6_K", "iq4_nl", "q5_1"}
        for name in names:
            self.ok("qquantize", TINY, "-s", name, "-o", "q.qmap", "--force")
            self.ok("qverify", "q.qmap")
            types = self.types("q.qmap")
            self.assertTrue(types["model.layers.0.self_attn.q_proj.weight"], name)
            self.assertEqual(types["model.norm.weight"], "", name)
        self.assertLess(self.kl("q.qmap"), 0.2)

    def test_threads_change_nothing(self):
        self.calibrated()
        for name, algorithm in (("q4_k_m", "rtn"), ("q3_k_s", "imatrix")):
            results = set()
            for j in ("1", "2", "7"):
                self.ok("qquantize", "c.qmap", "-s", name, "-a", algorithm, "-j", j, "-o", "q.qmap", "--force")
                results.add((self.dir / "q.qmap").read_bytes())
            self.assertEqual(len(results), 1, name)

    def test_recipes_come_before_the_file_type(self):
        (self.dir / "r.json").write_text(json.dumps({"rules": [
            {"match": "re:.*down_proj", "scheme": "q8_0"}, {"match": "model.embed_tokens", "scheme": "q5_0"}]}))
        self.ok("qquantize", TINY, "--recipe", "r.json", "-s", "q4_0", "-o", "q.qmap")
        types = self.types("q.qmap")
        self.assertEqual(types["model.layers.1.mlp.down_proj.weight"], "q8_0")
        self.assertEqual(types["model.layers.1.mlp.up_proj.weight"], "q4_0")
        self.assertEqual(types["model.embed_tokens.weight"], "q5_0")
        # A plan is a recipe again.
        plan = self.ok("qquantize", TINY, "--recipe", "r.json", "-s", "q4_0", "--dry-run", "--json").out
        (self.dir / "plan.json").write_text(plan)
        self.ok("qquantize", TINY, "--recipe", "plan.json", "-o", "p.qmap")
        self.assertEqual(self.types("p.qmap"), types)
        self.ok("qquantize", TINY, "-s", "q4_0", "--pure", "--token-embedding-type", "Q8_0", "-o", "u.qmap")
        self.assertEqual(self.types("u.qmap")["model.embed_tokens.weight"], "q8_0")

    def test_a_mix_is_read_back_and_reproduced(self):
        self.ok("qquantize", TINY, "-s", "q4_0", "--token-embedding-type", "q8_0", "-o", "q.qmap")
        self.ok("qexport", "q.qmap", "-f", "gguf", "-o", "q.gguf")
        for source in ("q.qmap", "q.gguf"):
            (self.dir / "r.json").write_text(self.ok("qload", source, "--list", "--recipe").out)
            self.ok("qquantize", TINY, "--recipe", "r.json", "-o", "again.qmap", "--force")
            self.assertEqual(self.types("again.qmap"), self.types("q.qmap"), source)
            self.assertEqual(self.values("again.qmap"), self.values("q.qmap"), source)
        self.fails(2, "qload", "q.gguf", "--recipe", says="--list")

    def test_importance(self):
        """Weighed by the inputs' squares, the outputs' errors fall."""
        self.calibrated()
        self.ok("qquantize", "c.qmap", "-s", "q3_k_s", "-o", "plain.qmap")
        self.ok("qquantize", "c.qmap", "-s", "q3_k_s", "-a", "imatrix", "-o", "weighed.qmap")
        self.assertLess(self.kl("weighed.qmap"), self.kl("plain.qmap"))

    def test_importance_files(self):
        """What is saved and read back quantizes to the same bytes, in both forms; twice the sums, too."""
        self.calibrated()
        blocks = {}
        self.ok("qquantize", "c.qmap", "-s", "q4_k_m", "-a", "imatrix", "-o", "own.qmap")
        self.ok("qverify", "own.qmap", "--against", "own.qmap")
        for name, files in (("i.gguf", 1), ("i.dat", 1), ("i.gguf", 2)):
            self.ok("qcalibrate", "c.qmap", "--save-imatrix", name)
            options = [x for _ in range(files) for x in ("--imatrix", name)]
            self.ok("qcalibrate", TINY, *options, "-o", "read.qmap", "--force")
            self.ok("qquantize", "read.qmap", "-s", "q4_k_m", "-a", "imatrix", "-o", "q.qmap", "--force")
            blocks[name, files] = self.values("q.qmap")
        self.assertEqual(blocks["i.gguf", 1], self.values("own.qmap"))
        self.assertEqual(blocks["i.gguf", 2], self.values("own.qmap"))
        self.assertEqual(blocks["i.dat", 1], self.values("own.qmap"))
        self.fails(2, "qquantize", "read.qmap", "-s", "w4a16", "-a", "gptq", "-o", "x.qmap", says=["token windows", "qcalibrate"])
        for scheme, steps in (("w8a8", "smoothquant,rtn"), ("fp8-static", "rtn")):
            self.fails(2, "qquantize", "read.qmap", "-s", scheme, "-a", steps, "-o", "x.qmap", says="importance matrix")

    def test_what_an_importance_matrix_says_of_itself_is_kept(self):
        self.calibrated()
        self.ok("qcalibrate", "c.qmap", "--save-imatrix", "i.dat")
        whole = (self.dir / "i.dat").read_bytes()
        (self.dir / "named.dat").write_bytes(whole[:-4] + struct.pack("<i", 5) + b"a.txt")
        self.ok("qcalibrate", TINY, "--imatrix", "named.dat", "-o", "read.qmap")
        self.ok("qcalibrate", "read.qmap", "--save-imatrix", "again.dat")
        again = (self.dir / "again.dat").read_bytes()
        self.assertEqual(again[-13:], struct.pack("<ii", 4, 5) + b"a.txt")

    def values(self, path):
        data = (self.dir / path).read_bytes()
        parts = {}
        for t in qmap_manifest(data)["tensors"]:
            for p in t["parts"]:
                at, n = p["extent"][1:3]
                parts[t["name"]] = data[at:at + n]
        return parts

    def test_damaged_importance_files(self):
        self.calibrated()
        self.ok("qcalibrate", "c.qmap", "--save-imatrix", "i.dat")
        whole = (self.dir / "i.dat").read_bytes()
        bad = {"empty": b"", "cut": whole[:1000], "count": struct.pack("<i", -1) + whole[4:],
               "many": struct.pack("<i", 2**31 - 1) + whole[4:], "text": b"hello, world"}
        at = whole.index(b"weight") + 6 + 8
        bad["nan"] = whole[:at] + struct.pack("<f", float("nan")) + whole[at + 4:]
        for name, data in bad.items():
            (self.dir / "bad.dat").write_bytes(data)
            self.fails(3, "qcalibrate", TINY, "--imatrix", "bad.dat", "-o", "x.qmap", says="bad.dat")
        self.assert_clean("x.qmap")

    def test_wrong_use(self):
        self.calibrated()
        self.fails(2, "qquantize", TINY, "-s", "iq2_xxs", "-o", "x.qmap", says=["importance", "qcalibrate", "-a imatrix"])
        self.fails(2, "qquantize", TINY, "-s", "q4_0", "-a", "imatrix", "-o", "x.qmap", says=["statistics", "qcalibrate"])
        self.fails(2, "qquantize", "c.qmap", "-s", "q4_0", "-a", "gptq", "-o", "x.qmap", says=["gptq", "imatrix"])
        self.fails(2, "qquantize", "c.qmap", "-s", "w4a16", "-a", "imatrix", "-o", "x.qmap", says="imatrix")
        self.fails(2, "qquantize", TINY, "-s", "w4a16", "--pure", "-o", "x.qmap", says="--pure")
        self.fails(2, "qquantize", "c.qmap", "-s", "q4_0,q8_0", "--target-bpw", "6", "--pure", "-o", "x.qmap", says="--pure")
        self.fails(2, "qquantize", TINY, "-s", "q4_0", "--output-tensor-type", "q9", "-o", "x.qmap", says="q9")
        self.fails(2, "qquantize", TINY, "-s", "q4_k_q", "-o", "x.qmap", says="q4_k_q")
        self.ok("qquantize", TINY, "-s", "q4_0", "-o", "q.qmap")
        self.fails(5, "qquantize", "q.qmap", "-s", "q8_0", "-o", "x.qmap", says="--dequantize")
        self.fails(2, "qcalibrate", TINY, "--save-imatrix", "i.gguf", says="statistics")
        shutil.copytree(TINY, self.dir / "other")
        config = json.loads((self.dir / "other/config.json").read_text())
        config["architectures"] = ["NobodyForCausalLM"]
        (self.dir / "other/config.json").write_text(json.dumps(config))
        self.fails(5, "qquantize", "other", "-s", "q4_0", "-o", "x.qmap", says="NobodyForCausalLM")
        self.assert_clean("x.qmap")


if __name__ == "__main__":
    main()
