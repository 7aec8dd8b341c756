"""AutoRound: errors fall, and threads, memory, parts of a batch and kills change nothing; experts and
mixed plans."""

import json
import random
import signal
import time

import moe_models
from support import TINY, CliTest, main

FAST = "autoround:iters=12:batch_size=4"


class AutoRound(CliTest):
    def calibrated(self, n=16, seqlen=64):
        self.ok("qcalibrate", TINY, "--text", TINY / "heldout.txt", "-n", str(n), "--seqlen", str(seqlen), "-o", "c.qmap")

    def quantized(self, out, *options, scheme="w3a16", source="c.qmap"):
        self.ok("qquantize", source, "-s", scheme, *options, "-o", out)
        return (self.dir / out).read_bytes()

    def log(self, scheme, algorithm, source="c.qmap"):
        self.ok("qquantize", source, "-s", scheme, "-a", algorithm, "--log", "log", "-o", "q.qmap", "--force")
        self.ok("qverify", "q.qmap")
        return self.log_of("log")

    def divergence(self, path):
        report = json.loads(self.ok("qverify", path, TINY, "--eval", TINY / "heldout.txt", "--json").out)
        return report["evaluation"]["divergence"]["kl"]["mean"]

    def test_error_of_the_output_falls(self):
        self.calibrated()
        for scheme in ("w2a16", "w3a16 --symmetric false", "w4a16 --group-size channel", "nvfp4", "mxfp4", "fp8-dynamic",
                       "fp8-block", "int8"):
            log = self.log(scheme.split()[0], FAST) if " " not in scheme else None
            if log is None:
                self.ok("qquantize", "c.qmap", "-s", *scheme.split(), "-a", FAST, "--log", "log", "-o", "q.qmap", "--force")
                self.ok("qverify", "q.qmap")
                log = self.log_of("log")
            self.assertEqual(len(log), 21, scheme)  # 7 linears of 3 layers
            for line in log:
                self.assertLessEqual(line["error"], line["error_rtn"], (scheme, line))
                self.assertEqual((line["tokens"], line["iterations"]), (16 * 64, 12))
            self.assertLess(sum(line["error"] for line in log), sum(line["error_rtn"] for line in log), scheme)

    def test_divergence_falls(self):
        self.calibrated(n=32)
        for scheme in ("w4a16", "w2a16"):
            self.ok("qquantize", TINY, "-s", scheme, "-o", f"{scheme}.rtn")
            self.quantized(f"{scheme}.ar", "-a", "autoround:iters=40", scheme=scheme)
            self.assertLess(self.divergence(f"{scheme}.ar"), 0.8 * self.divergence(f"{scheme}.rtn"), scheme)

    def test_without_steps_ranges_are_searched(self):
        self.calibrated()
        log = self.log("w2a16", "autoround:iters=0")
        self.assertEqual({(line["algorithm"], line["iterations"], line["best_iteration"]) for line in log},
                         {("autoround", 0, 0)})
        self.ok("qquantize", TINY, "-s", "w2a16", "-o", "rtn.qmap")
        self.assertLess(self.divergence("q.qmap"), self.divergence("rtn.qmap"))

    def test_threads_and_memory_change_nothing(self):
        self.calibrated()
        first = self.quantized("1.qmap", "-a", FAST, "-j", "1")
        self.assertEqual(first, self.quantized("2.qmap", "-a", FAST, "-j", "2"))
        self.assertEqual(first, self.quantized("7.qmap", "-a", FAST, "-j", "7"))
        self.assertEqual(first, self.quantized("m.qmap", "-a", FAST, "--max-memory", "150MB"))
        self.assertNotEqual(first, self.quantized("s.qmap", "-a", FAST + ":seed=7"))

    def test_a_batch_in_parts(self):
        self.calibrated(n=40, seqlen=128)  # 5120 tokens, of which 4096 go through the layer together
        log = self.log("w3a16", "autoround:iters=8:batch_size=40")
        for line in log:
            self.assertLess(line["error"], line["error_rtn"])
        first = (self.dir / "q.qmap").read_bytes()
        self.assertEqual(first, self.quantized("1.qmap", "-a", "autoround:iters=8:batch_size=40", "-j", "1"))

    def test_killed_and_resumed(self):
        self.calibrated()
        whole = self.quantized("whole.qmap", "-a", FAST)
        command = ["qquantize", "c.qmap", "-s", "w3a16", "-a", FAST, "-o", "k.qmap"]
        rng, resumed = random.Random(5), 0
        for _ in range(8):
            process = self.popen(*command, *(["--resume"] if resumed else []))
            time.sleep(rng.uniform(0.1, 1.5))
            process.send_signal(signal.SIGKILL if rng.random() < 0.5 else signal.SIGINT)
            process.communicate()
            if (self.dir / "k.qmap").exists():
                break
            resumed = (self.dir / "k.qmap.partial").exists()
        if not (self.dir / "k.qmap").exists():
            self.ok(*command, *(["--resume"] if resumed else []))
        self.assertEqual(whole, (self.dir / "k.qmap").read_bytes())

    def test_beside_other_algorithms(self):
        self.calibrated()
        (self.dir / "r.json").write_text(json.dumps({"rules": [
            {"match": "re:.*layers.0.*", "scheme": "w3a16", "algorithm": "gptq"},
            {"match": "re:.*mlp.*", "scheme": "w3a16", "algorithm": FAST},
            {"match": "Linear", "scheme": "w4a16", "algorithm": "gptq"}]}))
        self.ok("qquantize", "c.qmap", "--recipe", "r.json", "--log", "log", "-o", "q.qmap")
        self.ok("qverify", "q.qmap")
        log = self.log_of("log")
        learned = [line["tensor"] for line in log if line["algorithm"] == "autoround"]
        self.assertEqual(len(log), 21)
        self.assertEqual(len(learned), 6)
        for name in learned:
            self.assertIn("mlp", name)

    def test_experts(self):
        rng = random.Random(2)
        moe_models.write("mixtral", self.dir / "moe")
        config = json.loads((self.dir / "moe/config.json").read_text())
        config |= {"rms_norm_eps": 1e-5, "num_local_experts": moe_models.E,
                   "num_experts_per_tok": 1, "intermediate_size": moe_models.F,
                   "max_position_embeddings": 64, "rope_theta": 1e4}
        (self.dir / "moe/config.json").write_text(json.dumps(config))
        lines = [json.dumps([rng.randrange(32) for _ in range(32)]) + "\n" for _ in range(16)]
        (self.dir / "w.jsonl").write_text("".join(lines))
        self.ok("qcalibrate", "moe", "--tokens", "w.jsonl", "-n", "16", "--seqlen", "32", "-o", "m.qmap")
        log = self.log("w3a16", FAST, source="m.qmap")
        self.assertEqual(len(log), 4 + 2 * 3)
        for line in log:
            self.assertEqual(line["algorithm"], "autoround")
            self.assertLess(line["error"], line["error_rtn"])

    def test_wrong_use(self):
        self.calibrated()
        for option, says in (("iters=x", "iters"), ("iters=-1", "iters"), ("batch_size=0", "batch_size"),
                             ("lr=2", "lr"), ("minmax=maybe", "minmax"), ("best=1", "best"), ("foo=1", "foo")):
            self.fails(2, "qquantize", "c.qmap", "-s", "w4a16", "-a", f"autoround:{option}", "-o", "x.qmap",
                       says=["autoround", says])
        self.fails(2, "qquantize", TINY, "-s", "w4a16", "-a", "autoround", "-o", "x.qmap", says=["token windows", "qcalibrate"])
        self.fails(2, "qquantize", "c.qmap", "-s", "bnb-nf4", "-a", "autoround", "-o", "x.qmap", says="bitsandbytes")
        self.fails(5, "qquantize", "c.qmap", "-s", "w4a16", "-a", "autoround", "--max-memory", "20MB", "-o", "x.qmap",
                   says=["--max-memory", "layers.0"])


if __name__ == "__main__":
    main()
