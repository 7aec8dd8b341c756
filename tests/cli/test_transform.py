"""Steps before rounding (rotate, smoothquant, awq): what they need, refuse and leave, alone and together;
threads, memory and kills change nothing."""

import json
import random
import shutil
import signal
import time

import moe_models
from support import TINY, CliTest, main

STEPS = ("smoothquant", "awq", "rotate", "rotate,gptq", "smoothquant,awq,gptq", "rotate,awq")


class Transforms(CliTest):
    def calibrated(self, model=TINY, out="c.qmap"):
        self.ok("qcalibrate", model, "--text", TINY / "heldout.txt", "-n", "8", "--seqlen", "64", "-o", out)

    def quantized(self, out, algorithm, *options, scheme="w3a16", source="c.qmap"):
        self.ok("qquantize", source, "-s", scheme, "-a", algorithm, *options, "-o", out)
        return (self.dir / out).read_bytes()

    def kl(self, path, base=TINY):
        report = self.ok("qverify", path, base, "--eval", TINY / "heldout.txt", "--seqlen", "64", "--json").out
        return json.loads(report)["evaluation"]["divergence"]["kl"]["mean"]

    def test_edits_alone_leave_the_model_as_it_was(self):
        self.calibrated()
        for step in ("smoothquant", "smoothquant:alpha=0.8", "rotate", "rotate:values=false:seed=3"):
            self.quantized("e.qmap", step, "--force", scheme="none")
            self.assertLess(self.kl("e.qmap"), 2e-3, step)
            self.ok("qexport", "e.qmap", "-f", "safetensors", "-o", "out", "--force")
            self.assertLess(self.kl("out"), 2e-3, step)

    def test_every_step_quantizes(self):
        self.calibrated()
        for step in STEPS:
            for scheme in ("w4a16", "int8-dynamic", "nvfp4a16"):
                self.ok("qquantize", "c.qmap", "-s", scheme, "-a", step, "--log", "log", "-o", "q.qmap", "--force")
                self.ok("qverify", "q.qmap")
                for line in (self.dir / "log").read_text().splitlines():
                    entry = json.loads(line)
                    self.assertLessEqual(entry["error"], entry["error_rtn"], line)

    def test_search_helps(self):
        self.calibrated()
        self.quantized("rtn.qmap", "rtn")
        self.quantized("awq.qmap", "awq")
        self.assertLess(self.kl("awq.qmap"), 0.9 * self.kl("rtn.qmap"))

    def test_threads_and_memory_change_nothing(self):
        self.calibrated()
        for step in ("awq", "smoothquant,gptq", "rotate,gptq"):
            first = self.quantized("1.qmap", step, "-j", "1", "--force")
            self.assertEqual(first, self.quantized("7.qmap", step, "-j", "7", "--force"), step)
            self.assertEqual(first, self.quantized("m.qmap", step, "--max-memory", "200MB", "--force"), step)

    def test_killed_and_resumed(self):
        self.calibrated()
        whole = self.quantized("whole.qmap", "awq,gptq")
        command = ["qquantize", "c.qmap", "-s", "w3a16", "-a", "awq,gptq", "-o", "k.qmap"]
        rng, resume = random.Random(5), False
        for _ in range(12):
            process = self.popen(*command, *(["--resume"] if resume else []))
            time.sleep(rng.uniform(0.1, 1.5))
            process.send_signal(signal.SIGKILL if rng.random() < 0.5 else signal.SIGINT)
            process.communicate()
            if (self.dir / "k.qmap").exists():
                break
            resume = (self.dir / "k.qmap.partial").exists()
        if not (self.dir / "k.qmap").exists():
            self.ok(*command, *(["--resume"] if resume else []))
        self.assertEqual(whole, (self.dir / "k.qmap").read_bytes())
        self.assertFalse((self.dir / "k.qmap.partial.scales").exists())

    def interrupted(self, *command):
        """Runs until the search has found the factors of a layer, then interrupts."""
        scales = self.dir / "k.qmap.partial.scales"
        process = self.popen(*command)
        while process.poll() is None and (not scales.exists() or scales.read_bytes().count(b"\n") < 2):
            time.sleep(0.005)
        process.send_signal(signal.SIGINT)
        process.communicate()
        self.assertTrue(scales.exists(), "it was done before the signal came")
        return scales

    def test_an_error_while_resuming_loses_nothing(self):
        self.calibrated()
        command = ["qquantize", "c.qmap", "-s", "w3a16", "-a", "awq:ratios=200", "-o", "k.qmap"]
        scales = self.interrupted(*command)
        found = scales.read_bytes()
        self.fails(5, *command, "--resume", "--max-memory", "20MB", says="--max-memory")
        self.assertTrue((self.dir / "k.qmap.partial").exists())
        self.assertEqual(scales.read_bytes(), found)

    def test_a_damaged_journal_is_searched_anew(self):
        self.calibrated()
        whole = self.quantized("whole.qmap", "awq")
        command = ["qquantize", "c.qmap", "-s", "w3a16", "-a", "awq", "-o", "k.qmap"]
        for damage in ('{"layer": 0, "factors": [[1.0]]}', '{"layer": "x", "factors": 3}',
                       '{"layer": 0, "factors": [[], [], [], [-1.0]]}', "no JSON"):
            scales = self.interrupted(*command)
            run = scales.read_text().splitlines()[0]
            scales.write_text(f"{run}\n{damage}\n")
            self.ok(*command, "--resume")
            self.assertEqual((self.dir / "k.qmap").read_bytes(), whole, damage)
            (self.dir / "k.qmap").unlink()

    def test_windows_longer_than_a_sample(self):
        """A window is never cut, however few tokens are asked for."""
        shutil.copytree(TINY, self.dir / "long")
        config = json.loads((self.dir / "long/config.json").read_text())
        (self.dir / "long/config.json").write_text(json.dumps(config | {"max_position_embeddings": 4096}))
        self.ok("qcalibrate", "long", "--text", TINY / "heldout.txt", "-n", "2", "--seqlen", "3000", "-o", "c.qmap")
        self.quantized("q.qmap", "awq:tokens=16:ratios=2")

    def test_cache_scales_do_not_follow(self):
        """Steps divide what the cache holds: its ranges are measured anew, or there are no scales."""
        self.calibrated()
        for step in ("smoothquant", "awq", "rotate"):
            self.fails(2, "qquantize", "c.qmap", "-s", "fp8-dynamic", "-a", step, "--kv-cache", "fp8", "-o", "x.qmap",
                       says=["--kv-cache", "qcalibrate"])
            self.quantized("s.qmap", step, "--force", scheme="int8-dynamic")
            self.fails(2, "qquantize", "s.qmap", "--kv-cache", "fp8", "-o", "x.qmap", says=["keys and values", "qcalibrate"])
        self.assert_clean("x.qmap")

    def test_static_scales_follow_smoothing_but_no_rotation(self):
        self.calibrated()
        self.quantized("s.qmap", "smoothquant", scheme="int8-static")
        self.ok("qverify", "s.qmap")
        self.fails(2, "qquantize", "c.qmap", "-s", "int8-static", "-a", "rotate", "-o", "x.qmap", says=["statistics", "qcalibrate"])
        self.ok("qcalibrate", TINY, "--text", TINY / "heldout.txt", "-n", "4", "--seqlen", "64", "--observer", "percentile",
                "-o", "p.qmap")
        self.fails(2, "qquantize", "p.qmap", "-s", "int8-static", "-a", "smoothquant", "-o", "x.qmap", says=["statistics", "qcalibrate"])
        # The way that the message names.
        self.quantized("r.qmap", "rotate", scheme="none")
        self.calibrated("r.qmap", "r2.qmap")
        self.quantized("q.qmap", "rtn", scheme="int8-static", source="r2.qmap")
        self.assert_clean("x.qmap")

    def test_wrong_use(self):
        self.calibrated()
        bad = {"awq:ratio=3": ["ratio=3", "ratios"], "awq,awq": "twice", "gptq,awq": "nothing can follow", "awq,rotate,gptq": "rotate is taken before awq",
               "rotate,smoothquant": ["none outlive a rotation", "-s none -a rotate"],
               "smoothquant:alpha=2": ["alpha", "0 to 1"], "rotate:seed=-1": "seed", "awq,": "unknown algorithm"}
        for step, says in bad.items():
            self.fails(2, "qquantize", "c.qmap", "-s", "w4a16", "-a", step, "-o", "x.qmap", says=says)
        self.fails(2, "qquantize", TINY, "-s", "w4a16", "-a", "awq", "-o", "x.qmap", says=["awq needs token windows", "qcalibrate"])
        self.fails(2, "qquantize", TINY, "-s", "w4a16", "-a", "smoothquant", "-o", "x.qmap", says=["statistics", "qcalibrate"])
        self.fails(2, "qquantize", "c.qmap", "-s", "none", "-a", "awq", "-o", "x.qmap", says=["awq", "scheme"])
        self.fails(5, "qquantize", "c.qmap", "-s", "w4a16", "-a", "awq", "--max-memory", "20MB", "-o", "x.qmap", says="--max-memory")
        moe_models.write("qwen2_vl", self.dir / "vl")
        self.fails(2, "qquantize", "vl", "-s", "w4a16", "-a", "rotate", "-o", "x.qmap", says=["rotate", "visual"])
        moe_models.write("llama4", self.dir / "llama4")
        self.fails(3, "qquantize", "llama4", "-s", "w4a16", "-a", "rotate", "-o", "x.qmap", says="Llama4ForCausalLM")
        self.assert_clean("x.qmap")


if __name__ == "__main__":
    main()
