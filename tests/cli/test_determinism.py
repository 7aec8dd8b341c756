"""Equal inputs give equal bytes: whatever the threads, the instruction set, the memory and the way
between the programs."""

import json
from pathlib import Path

from support import TINY, CliTest, main, sha256, tree

SCHEMES = ("fp8-dynamic", "fp8-tensor", "fp8-block", "int8", "w4a16", "w4a16-asym", "w3a16", "w2a16", "nvfp4a16", "mxfp4", "mxfp8")


class Determinism(CliTest):
    @classmethod
    def isas(cls):
        flags = Path("/proc/cpuinfo").read_text()
        return ["scalar"] + [i for i, needs in (("avx2", "avx2"), ("avx512", "avx512bw")) if f" {needs} " in flags]

    def export(self, qmap, out, *more, **kw):
        self.ok("qexport", qmap, "-f", "compressed-tensors", "-o", out, *more, **kw)
        return tree(self.dir / out)

    def run_scheme(self, scheme, out, *more, env=None, model=TINY):
        qmap = f"{out}.qmap"
        self.ok("qquantize", model, "-s", scheme, "-o", qmap, *more, env=env or {})
        return sha256(self.dir / qmap), self.export(qmap, out, env=env or {})

    def test_threads_isa_memory(self):
        variants = [(["-j", j], {}) for j in ("1", "2", "3")]
        variants += [(["-j", "2"], {"QPIPE_ISA": isa}) for isa in self.isas()]
        variants += [(["--max-memory", m], {}) for m in ("80%", "60MB", "1G")]
        for scheme in SCHEMES:
            want = None
            for n, (options, env) in enumerate(variants):
                got = self.run_scheme(scheme, f"{scheme}-{n}", *options, env=env)
                want = want or got
                self.assertEqual(got, want, (scheme, options, env))

    def test_what_runs_the_model_in_f32(self):
        """--compute f32: sums have one order, and one rounding per product wherever there is fused multiply-add."""
        wants = {}
        for isa in ["", *self.isas()[1:]]:  # "": the best there is; scalar has no fused multiply-add
            env, f32 = {"QPIPE_ISA": isa}, ("--compute", "f32", "--force")
            self.ok("qcalibrate", TINY, "--text", TINY / "calib.txt", "-n", "8", "--seqlen", "64", *f32, "-o", "c.qmap", env=env)
            for scheme, algorithm in (("w3a16", "gptq"), ("w3a16", "awq,clip"), ("w3a16", "autoround:iters=4"),
                                      ("w3a16", "rotate,gptq"), ("int8-static", "smoothquant")):
                self.ok("qquantize", "c.qmap", "-s", scheme, "-a", algorithm, *f32, "-o", "q.qmap", env=env)
                want = wants.setdefault(algorithm, sha256(self.dir / "q.qmap"))
                self.assertEqual(sha256(self.dir / "q.qmap"), want, (algorithm, isa))

    def test_every_way_between_the_programs(self):
        # The checkpoint is the same. The qmap is, too, wherever its source was read from.
        want = None
        for n, script in enumerate((
                f"qload {TINY} | qquantize -s w4a16 | qexport -f compressed-tensors -o OUT",
                f"qload {TINY} -o OUT.a | qquantize -s w4a16 -o OUT.b | qexport -f compressed-tensors -o OUT",
                f"qload {TINY} --pack --stream | qquantize -s w4a16 --stream | qexport -f compressed-tensors -o OUT",
                f"qload {TINY} --pack -o OUT.a; qquantize OUT.a -s w4a16 -o OUT.b; qexport OUT.b -f compressed-tensors -o OUT",
                f"qload {TINY} --pack --zstd -o OUT.a; qquantize OUT.a -s w4a16 | qexport -f compressed-tensors -o OUT",
                f"qquantize {TINY} -s w4a16 --refer -o OUT.b; qexport OUT.b -f compressed-tensors -o OUT",
                f"qquantize {TINY}/ -s W4A16 | qexport -f compressed-tensors --no-sync --no-verify -o OUT",
                f"cd /; qquantize {TINY}/../tiny-lm -s w4a16 | qexport -f compressed-tensors -o OUT")):
            status, result = self.pipe(script.replace("OUT", f"{self.dir}/out{n}"))
            self.assertEqual(set(status), {0}, (script, result))
            got = tree(self.dir / f"out{n}")
            want = want or got
            self.assertEqual(got, want, script)

    def test_run_twice(self):
        first, second = self.run_scheme("w4a16", "a"), self.run_scheme("w4a16", "b")
        self.assertEqual(first, second)
        self.ok("qload", TINY, "-o", "x"), self.ok("qload", TINY, "-o", "y")
        self.assertEqual(sha256(self.dir / "x"), sha256(self.dir / "y"))

    def test_place_does_not_matter(self):
        # No absolute path, no clock: the same model elsewhere gives the same quantized qmap.
        first = self.run_scheme("w4a16", "a")
        self.ok("cp", "-r", TINY, "elsewhere")
        self.assertEqual(self.run_scheme("w4a16", "b", model="elsewhere"), first)
        data = (self.dir / "a.qmap").read_bytes()
        self.assertNotIn(str(self.dir).encode(), data)
        self.assertNotIn(str(TINY.parent).encode(), data)

    def test_shards_do_not_matter(self):
        self.ok("qexport", TINY, "-f", "safetensors", "--shard-size", "600kB", "-o", "shards")
        self.assertGreater(len(list((self.dir / "shards").glob("*.safetensors"))), 3)
        a, b = self.run_scheme("w4a16", "a")[1], self.run_scheme("w4a16", "b", model="shards")[1]
        self.assertEqual(a["model.safetensors"], b["model.safetensors"])
        self.assertEqual(a["config.json"], b["config.json"])

    def test_plan_reused(self):
        # --dry-run --json is a recipe that gives the same bytes.
        for scheme in ("w4a16", "fp8-block", "nvfp4a16"):
            plan = self.ok("qquantize", TINY, "-s", scheme, "--ignore", "re:.*layers\\.1\\.", "--dry-run", "--json").out
            json.loads(plan)
            (self.dir / "plan.json").write_text(plan)
            want = self.run_scheme(scheme, f"{scheme}-a", "--ignore", "re:.*layers\\.1\\.")[1]
            self.ok("qquantize", TINY, "--recipe", "plan.json", "-o", f"{scheme}-b.qmap")
            got = self.export(f"{scheme}-b.qmap", f"{scheme}-b")
            self.assertEqual(got, want)

    def test_plan_does_not_depend_on_the_machine(self):
        plans = {self.ok("qquantize", TINY, "-s", "w4a16", "--dry-run", "--json", "-j", "2", env={"QPIPE_ISA": isa}).out
                 for isa in self.isas()}
        self.assertEqual(len(plans), 1)


if __name__ == "__main__":
    main()
