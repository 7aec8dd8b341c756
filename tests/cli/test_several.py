"""Several -s in one run: each result is, byte for byte, that of a run with its scheme alone; all or none
get their names; a killed run is continued, by all of them or by one."""

import json
import random
import resource
import signal
import struct
import time

import moe_models
from support import TINY, CliTest, main, read_safetensors, write_safetensors

STEPS = (("rtn", ("w4a16", "w3a16", "fp8-tensor", "nvfp4", "q4_k_m")), ("mse", ("w4a16-asym", "w2a16", "int8")),
         ("gptq", ("w4a16", "w3a16", "nvfp4")), ("gptq:alpha=0", ("w2a16", "w3a16")),
         ("autoround:iters=3", ("w2a16", "w4a16")), ("awq", ("w4a16", "w3a16")), ("rotate,gptq", ("w4a16", "none")))


class Several(CliTest):
    def calibrated(self):
        self.ok("qcalibrate", TINY, "--text", TINY / "heldout.txt", "-n", "16", "--seqlen", "64", "-o", "c.qmap")

    def alone(self, source, scheme, *options):
        self.ok("qquantize", source, "-s", scheme, *options, "-o", "alone.qmap", "--force")
        return (self.dir / "alone.qmap").read_bytes()

    def compare(self, source, schemes, *options):
        for scheme in schemes:
            self.assertEqual((self.dir / f"m-{scheme}.qmap").read_bytes(), self.alone(source, scheme, *options),
                             f"{scheme} {options}")

    def test_bytes_are_those_of_single_runs(self):
        self.calibrated()
        for algorithm, schemes in STEPS:
            self.ok("qquantize", "c.qmap", "-s", ",".join(schemes), "-a", algorithm, "-j", "5", "--force",
                    "-o", "m-{scheme}.qmap")
            self.compare("c.qmap", schemes, "-a", algorithm)
            self.compare("c.qmap", schemes[:1], "-a", algorithm, "-j", "1")

    def test_options_apply_to_all(self):
        self.calibrated()
        more = ("--group-size", "64", "--kv-cache", "fp8", "--ignore", "re:.*layers\\.0\\..*")
        self.ok("qquantize", "c.qmap", "-s", "w4a16", "-s", "w8a16", *more, "-o", "m-{scheme}.qmap")
        self.compare("c.qmap", ("w4a16", "w8a16"), *more)
        self.ok("qquantize", "c.qmap", "-s", "w4a16", "-s", "w8a16", "--refer", "-o", "m-{scheme}.qmap", "--force")
        self.compare("c.qmap", ("w4a16", "w8a16"), "--refer")

    def test_one_scheme_is_put_into_the_name_too(self):
        self.ok("qquantize", TINY, "-s", "w4a16", "-o", "{scheme}-m-{scheme}.qmap")
        self.assertEqual((self.dir / "w4a16-m-w4a16.qmap").read_bytes(), self.alone(TINY, "w4a16"))

    def test_stacks_apart_and_whole(self):
        """A scheme that takes the experts of a stack apart beside one that leaves them together."""
        for name in ("llama4", "gpt_oss", "mixtral"):
            moe_models.write(name, self.dir / name)
            schemes = ("none", "fp8-dynamic", "mxfp4", "int8")
            self.ok("qquantize", name, "-s", ",".join(schemes), "-o", "m-{scheme}.qmap", "--force")
            self.compare(name, schemes)

    def test_what_is_printed(self):
        self.calibrated()
        command = ("qquantize", "c.qmap", "-s", "w4a16,w3a16", "-a", "gptq")
        out = self.ok(*command, "--dry-run").out
        self.assertIn("== w4a16\n", out)
        self.assertIn("== w3a16\n", out)
        plans = json.loads(self.ok(*command, "--dry-run", "--json", "-o", "m-{scheme}.qmap").out)
        self.assertEqual([p["output"] for p in plans], ["m-w4a16.qmap", "m-w3a16.qmap"])
        (self.dir / "plan.json").write_text(json.dumps(plans[1]["plan"]))
        self.ok("qquantize", "c.qmap", "--recipe", "plan.json", "--dry-run")
        out = self.ok(*command, "--explain", "model.layers.0.mlp.up_proj").out
        self.assertEqual(out.count("tensor   model.layers.0.mlp.up_proj.weight"), 2)
        out = self.ok(*command, "-q", "-o", "m-{scheme}.qmap", "--log", "log").out
        self.assertEqual([line.split()[0] for line in out.splitlines()], [f"qmap:{self.dir}/m-{s}.qmap" for s in ("w4a16", "w3a16")])
        lines = [json.loads(line) for line in (self.dir / "log").read_text().splitlines()]
        self.assertEqual({line["output"] for line in lines}, {"m-w4a16.qmap", "m-w3a16.qmap"})
        with open(self.dir / "report", "w") as report:
            self.ok(*command, "--force", "--json", "-o", "m-{scheme}.qmap", stdout=report)
        report = json.loads((self.dir / "report").read_text())
        self.assertEqual([(r["scheme"], r["output"]) for r in report], [("w4a16", "m-w4a16.qmap"), ("w3a16", "m-w3a16.qmap")])

    def test_handles(self):
        """A line for each result; a program that takes one does not take the first in silence."""
        quantize = "qquantize %s -s w8a16 -s w4a16 -o 'm-{scheme}.qmap' --force" % TINY
        result = self.sh(quantize + ' | while read -r handle; do echo "$handle" | qverify - > /dev/null || exit 9; echo one; done')
        self.assertEqual((result.code, result.out), (0, "one\none\n"), result)
        status, result = self.pipe(quantize + " | qexport -f compressed-tensors -o out")
        self.assertEqual(status, [0, 2], result)
        self.assertIn("several handles", result.err)

    def test_wrong_use(self):
        q = ("qquantize", TINY, "-s", "w4a16", "-s", "w3a16")
        self.fails(2, *q, "-o", "x.qmap", says=["one file for 2 results", "{scheme}", "--target-bpw"])
        self.fails(2, *q, says=["nothing names them", "{scheme}"])
        self.fails(2, *q, "-s", "w4a16", "-o", "x-{scheme}", says="twice")
        self.fails(2, *q, "-s", "w4a61", "-o", "x-{scheme}", says=["unknown scheme", "w4a16"])
        self.fails(2, *q, "-s", "w8a16,", "-o", "x-{scheme}", says="empty")
        self.fails(2, *q, "--target-bpw", "4", "-o", "x-{scheme}", says="write the file's name out")
        self.fails(2, *q, "-a", "gptq", "-o", "x-{scheme}", says=["token windows", "qcalibrate"])
        self.fails(2, *q, "-s", "fp8-tensor", "-a", "mse", "-o", "x-{scheme}", says=["mse", "fp8-tensor"])
        (self.dir / "x-w3a16").write_text("")
        self.fails(4, *q, "-o", "x-{scheme}", says=["x-w3a16", "exists"])
        self.assert_clean("x.qmap", "x-{scheme}", "x-w4a16")

    def test_a_failing_one_leaves_nothing(self):
        """Whether all fail or one: no name, no partial file, no journal."""
        def small():  # room for the one, not for the other
            resource.setrlimit(resource.RLIMIT_FSIZE, (1100 << 10, 1100 << 10))
        self.fails(4, "qquantize", TINY, "-s", "w3a16,w8a16", "-o", "x-{scheme}", preexec_fn=small)
        self.assert_clean("x-w3a16", "x-w8a16")
        self.calibrated()
        self.fails(5, "qquantize", "c.qmap", "-s", "w3a16,w4a16", "-a", "gptq", "--max-memory", "20MB", "-o", "x-{scheme}",
                   says="--max-memory")
        self.assert_clean("x-w3a16", "x-w4a16")
        tensors = read_safetensors(TINY / "model.safetensors")
        name = "model.layers.2.mlp.up_proj.weight"
        dtype, shape, data = tensors[name]
        tensors[name] = (dtype, shape, data[:-2] + struct.pack("<H", 0x7F80))  # infinite
        bad = self.dir / "bad"
        bad.mkdir()
        write_safetensors(bad / "model.safetensors", tensors)
        (bad / "config.json").write_bytes((TINY / "config.json").read_bytes())
        self.fails(3, "qquantize", bad, "-s", "w3a16,w4a16,mxfp4", "-o", "x-{scheme}", says=name)
        self.assert_clean("x-w3a16", "x-w4a16", "x-mxfp4")

    def test_killed_and_resumed(self):
        self.calibrated()
        schemes = ("w4a16", "w2a16")
        rng = random.Random(5)
        for algorithm in ("gptq", "awq,gptq"):
            command = ["qquantize", "c.qmap", "-s", ",".join(schemes), "-a", algorithm, "-o", "m-{scheme}.qmap"]
            for scheme in schemes:
                (self.dir / f"m-{scheme}.qmap").unlink(missing_ok=True)
            begun, done = False, False
            for _ in range(6):
                process = self.popen(*command, *(["--resume"] if begun else []))
                time.sleep(rng.uniform(0.05, 1.2))
                process.send_signal(signal.SIGKILL if rng.random() < 0.5 else signal.SIGINT)
                process.communicate()
                made = [(self.dir / f"m-{s}.qmap").exists() for s in schemes]
                if any(made):
                    done = True
                    break
                begun = any(self.dir.glob("m-*.partial"))
            if not done:
                self.ok(*command, *(["--resume"] if begun else []))
            elif not all(made):  # killed between two names: the others are continued alone
                for scheme, have in zip(schemes, made):
                    if not have:
                        self.ok("qquantize", "c.qmap", "-s", scheme, "-a", algorithm, "-o", f"m-{scheme}.qmap", "--resume")
            self.compare("c.qmap", schemes, "-a", algorithm)
            for scheme in schemes:
                self.assertEqual(list(self.dir.glob(f"m-{scheme}.qmap.*")), [])


if __name__ == "__main__":
    main()
