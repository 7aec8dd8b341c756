"""qexport --target: what is written passes the engine's rules, or nothing is written."""

import json

from support import TINY, CliTest, main


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

    def test_what_cannot_pass(self):
        for arguments, says in ((("-f", "compressed-tensors", "--target", "vllm", "--tp", "4"), ["vllm refuses", "o_proj", "--group-size"]),
                                (("-f", "gptq", "--target", "vllm", "--tp", "8"), "heads"),
                                (("-f", "gptq", "--group-size", "128", "--target", "vllm", "--tp", "4"), "o_proj"),
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


if __name__ == "__main__":
    main()
