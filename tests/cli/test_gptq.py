"""Algorithms beside rounding: what they promise about errors, and that threads, memory and kills change
nothing."""

import json
import random
import signal
import time

from support import TINY, CliTest, main


class Algorithms(CliTest):
    def calibrated(self):
        self.ok("qcalibrate", TINY, "--text", TINY / "heldout.txt", "-n", "16", "--seqlen", "64", "-o", "c.qmap")

    def quantized(self, out, *options, scheme="w3a16"):
        self.ok("qquantize", "c.qmap", "-s", scheme, *options, "-o", out)
        return (self.dir / out).read_bytes()

    def mse_of(self, path):
        report = json.loads(self.ok("qverify", path, TINY, "--json").out)
        return {t["name"]: t["mse"] for t in report["tensors"] if t.get("mse")}

    def test_searches_do_not_lose_to_rounding(self):
        for scheme in ("w4a16", "w2a16", "w4a16-asym", "fp8-block", "int8"):
            self.ok("qquantize", TINY, "-s", scheme, "-o", f"{scheme}.rtn")
            self.ok("qquantize", TINY, "-s", scheme, "-a", "mse", "-o", f"{scheme}.mse")
            rtn, mse = self.mse_of(f"{scheme}.rtn"), self.mse_of(f"{scheme}.mse")
            self.assertEqual(rtn.keys(), mse.keys())
            self.assertLess(sum(mse.values()), sum(rtn.values()), scheme)
        for scheme, symmetric in (("w2a16", "false"), ("w4a16", "false"), ("w3a16", "true")):
            total = {}
            for algorithm in ("rtn", "hqq"):
                self.ok("qquantize", TINY, "-s", scheme, "--symmetric", symmetric, "-a", algorithm, "-o", "h.qmap", "--force")
                self.ok("qverify", "h.qmap")
                total[algorithm] = sum(self.mse_of("h.qmap").values())
            self.assertLess(total["hqq"], total["rtn"], (scheme, symmetric))

    def test_negative_scales(self):
        """A range of -2 .. 1 is used whole where the largest weight gets the -2, whatever its sign."""
        for scheme, gain in (("w4a16", 0.97), ("w2a16", 0.95)):
            for algorithm in ("mse", "hqq"):
                self.ok("qquantize", TINY, "-s", scheme, "-a", algorithm, "-o", "either.qmap", "--force")
                self.ok("qquantize", TINY, "-s", scheme, "-a", f"{algorithm}:negative_scales=false", "-o", "positive.qmap", "--force")
                either, positive = self.mse_of("either.qmap"), self.mse_of("positive.qmap")
                self.assertLess(sum(either.values()), gain * sum(positive.values()), (scheme, algorithm))
                self.ok("qverify", "either.qmap", TINY, "--strict")
        self.ok("qquantize", TINY, "-s", "w4a16", "-a", "mse", "-o", "either.qmap", "--force")
        for family in ("compressed-tensors", "gptq", "auto-round"):  # the self-check compares every scale
            self.ok("qexport", "either.qmap", "-f", family, "-o", family)
            self.ok("qverify", family, "--strict")
            self.assertEqual(sum(self.mse_of(family).values()), sum(self.mse_of("either.qmap").values()), family)

    def test_error_of_the_output_falls(self):
        self.calibrated()
        for scheme, options in (("w3a16", "gptq"), ("w4a16-asym", "gptq:order=none:clip=false"), ("nvfp4", "gptq"),
                                ("mxfp4", "gptq"), ("fp8-dynamic", "gptq"), ("int8", "gptq"),
                                ("w4a16", "gptq:order=desc_act")):
            self.ok("qquantize", "c.qmap", "-s", scheme, "-a", options, "--log", "log", "-o", "q.qmap", "--force")
            log = self.log_of("log")
            self.assertEqual(len(log), 21, scheme)  # 7 linears of 3 layers
            for line in log:
                self.assertLessEqual(line["error"], line["error_rtn"], line)
                self.assertEqual(line["tokens"], 16 * 64)
            by_gptq = [line for line in log if line["algorithm"] == "gptq"]
            self.assertGreater(len(by_gptq), 18, log)
            self.assertLess(sum(line["error"] for line in by_gptq), 0.8 * sum(line["error_rtn"] for line in by_gptq))
            self.ok("qverify", "q.qmap")

    def test_sweeps_lower_the_error(self):
        self.calibrated()
        for scheme, more in (("w4a16", ""), ("w2a16", ""), ("w4a16-asym", ""), ("nvfp4", ""), ("mxfp4", ""),
                             ("fp8-block", ""), ("int8", ""), ("w4a16", ":order=desc_act"),
                             ("w4a16", ":order=desc_act:static_groups=true")):
            total = {}
            for sweeps in (0, 4):
                self.quantized("q.qmap", "-a", f"gptq:alpha=0:sweeps={sweeps}{more}", "--log", "log", "--force", scheme=scheme)
                self.ok("qverify", "q.qmap")
                total[sweeps] = sum(line["error"] for line in self.log_of("log"))
            self.assertLess(total[4], total[0], scheme + more)

    def test_log_of_layers(self):
        """A line behind those of a layer's tensors: sums of their errors, and how often the layer ran."""
        self.calibrated()
        few, many = 2 + 1, 2 + 3  # looks: rounding, the search; all steps, and of 50 or more half and three quarters
        step = 8 / 16  # 8 of 16 windows
        for algorithm, passes in (("gptq:alpha=0", 1), ("gptq", 2), ("autoround:iters=4", 1 + few + 4 * step + 1),
                                  ("autoround:iters=50", 1 + many + 50 * step + 1), ("awq", 1)):
            self.quantized("q.qmap", "-a", algorithm, "--log", "log", "--force")
            layers, tensors = self.log_of("log", "layer"), self.log_of("log")
            self.assertEqual([line["layer"] for line in layers], [f"model.layers.{n}" for n in range(3)])
            for line in layers:
                of = [t for t in tensors if t["tensor"].startswith(line["layer"] + ".")]
                self.assertEqual((line["tensors"], line["forward_passes"]), (7, passes), algorithm)
                self.assertGreaterEqual(line["seconds"], max(t["seconds"] for t in of))
                for error in ("error", "error_rtn"):
                    want = of[0][error] if "autoround" in algorithm else sum(t[error] for t in of)
                    self.assertAlmostEqual(line[error], want, delta=1e-9 * want)
        searches = self.log_of("log", "input")
        # The full outputs, without factors, and with 20 candidates.
        self.assertEqual({line["forward_passes"] for line in searches}, {22})
        self.assertGreater(min(line["seconds"] for line in searches), 0)

    def test_desc_act_round_trips_through_gptq(self):
        self.calibrated()
        self.quantized("q.qmap", "-a", "gptq:order=desc_act", scheme="w4a16")
        self.ok("qexport", "q.qmap", "-f", "gptq", "-o", "out")
        self.ok("qverify", "out", "q.qmap", "--min-sqnr", "200")
        config = json.loads((self.dir / "out/config.json").read_text())["quantization_config"]
        self.assertTrue(config["desc_act"])

    def test_threads_and_memory_change_nothing(self):
        self.calibrated()
        first = self.quantized("1.qmap", "-a", "gptq", "-j", "1")
        self.assertEqual(first, self.quantized("2.qmap", "-a", "gptq", "-j", "2"))
        self.assertEqual(first, self.quantized("7.qmap", "-a", "gptq", "-j", "7"))
        self.assertEqual(first, self.quantized("m.qmap", "-a", "gptq", "--max-memory", "100MB"))

    def test_asymmetric_calibration(self):
        """Weights that make up for drifted inputs: the output of the model is nearer; as deterministic as without."""
        self.ok("qcalibrate", TINY, "--text", TINY / "calib.txt", "-n", "64", "--seqlen", "64", "-o", "c.qmap")
        self.quantized("plain.qmap", "-a", "gptq:alpha=0")
        first = self.quantized("1.qmap", "-a", "gptq", "-j", "1")
        self.assertEqual(first, self.quantized("7.qmap", "-a", "gptq", "-j", "7"))
        self.assertEqual(first, self.quantized("m.qmap", "-a", "gptq", "--max-memory", "150MB"))
        kl = {}
        for name in ("plain", "1"):
            report = self.ok("qverify", f"{name}.qmap", TINY, "--eval", TINY / "heldout.txt", "--seqlen", "64", "--json").out
            kl[name] = json.loads(report)["evaluation"]["divergence"]["kl"]["mean"]
        self.assertLess(kl["1"], 0.95 * kl["plain"])

    def test_killed_and_resumed(self):
        self.calibrated()
        whole = self.quantized("whole.qmap", "-a", "gptq")
        command = ["qquantize", "c.qmap", "-s", "w3a16", "-a", "gptq", "-o", "k.qmap"]
        rng, resumed = random.Random(3), 0
        for _ in range(12):
            process = self.popen(*command, *(["--resume"] if resumed else []))
            time.sleep(rng.uniform(0.02, 0.6))
            process.send_signal(signal.SIGKILL if rng.random() < 0.5 else signal.SIGINT)
            process.communicate()
            if (self.dir / "k.qmap").exists():
                break
            resumed = (self.dir / "k.qmap.partial").exists()
            if not resumed:  # killed before anything was kept
                continue
        if not (self.dir / "k.qmap").exists():
            self.ok(*command, *(["--resume"] if resumed else []))
        self.assertEqual(whole, (self.dir / "k.qmap").read_bytes())

    def test_wrong_use(self):
        self.calibrated()
        self.fails(2, "qquantize", TINY, "-s", "w4a16", "-a", "gptq", "-o", "x.qmap", says=["token windows", "qcalibrate"])
        self.fails(2, "qquantize", "c.qmap", "-s", "w4a16", "-a", "gtpq", "-o", "x.qmap", says=["unknown algorithm", "gptq"])
        self.fails(2, "qquantize", "c.qmap", "-s", "w4a16", "-a", "gptq:dam=1", "-o", "x.qmap", says=["dam=1", "damp"])
        self.fails(2, "qquantize", "c.qmap", "-s", "w4a16", "-a", "gptq:damp=x", "-o", "x.qmap", says=["damp", "number"])
        self.fails(2, "qquantize", "c.qmap", "-s", "w4a16", "-a", "rtn,gptq", "-o", "x.qmap", says="nothing can follow")
        self.fails(2, "qquantize", "c.qmap", "-s", "nvfp4", "-a", "gptq:order=desc_act", "-o", "x.qmap", says="desc_act")
        self.fails(2, "qquantize", "c.qmap", "-s", "fp8-dynamic", "-a", "hqq", "-o", "x.qmap", says=["hqq", "integers"])
        self.fails(2, "qquantize", "c.qmap", "-s", "fp8-tensor", "-a", "mse", "-o", "x.qmap", says="mse")
        self.fails(2, "qquantize", "c.qmap", "-s", "bnb-nf4", "-a", "gptq", "-o", "x.qmap", says="bitsandbytes")
        self.fails(5, "qquantize", "c.qmap", "-s", "w4a16", "-a", "gptq", "--max-memory", "20MB", "-o", "x.qmap", says="--max-memory")

    def test_list(self):
        names = self.ok("qquantize", "--list-algorithms", "-q").out.split()
        self.assertEqual(names, ["rtn", "mse", "hqq", "imatrix", "clip", "gptq", "autoround", "rotate", "smoothquant", "awq"])
        self.ok("qquantize", "--list-algorithms")
        listed = json.loads(self.ok("qquantize", "--list-algorithms", "--json").out)
        self.assertEqual([a["name"] for a in listed], names)


if __name__ == "__main__":
    main()
