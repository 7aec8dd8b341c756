"""What calibrated quantization does where it cannot do what was asked: inputs that no token reached, dead
channels, weights that are not finite, statistics that are missing or another model's, too little memory."""

import json
import random
import re
import shutil
import struct

import moe_models
from support import TINY, CliTest, main, read_safetensors, write_safetensors

ATTENTION, MLP = "model.layers.1.self_attn.", "model.layers.1.mlp."
MOE = {"rms_norm_eps": 1e-5, "num_local_experts": moe_models.E, "num_experts_per_tok": 1,
       "intermediate_size": moe_models.F, "max_position_embeddings": 64, "rope_theta": 1e4}


class Fallbacks(CliTest):
    def calibrated(self, model=TINY, out="c.qmap", n=8):
        self.ok("qcalibrate", model, "--text", TINY / "calib.txt", "-n", str(n), "--seqlen", "64", "-o", out, "--force")

    def tiny(self, name, edits):
        """tiny-lm with other BF16 values: {tensor: {index: value}}, or {tensor: None} for zeros."""
        shutil.copytree(TINY, self.dir / name)
        tensors = read_safetensors(TINY / "model.safetensors")
        for tensor, values in edits.items():
            dtype, shape, data = tensors[tensor]
            data = bytearray(data if values is not None else len(data))
            for i, value in (values or {}).items():
                data[2 * i:2 * i + 2] = struct.pack("<f", value)[2:]
            tensors[tensor] = (dtype, shape, bytes(data))
        write_safetensors(self.dir / name / "model.safetensors", tensors)

    def moe(self, windows, length):
        """A Mixtral of two experts, a token to each of which some see none."""
        moe_models.write("mixtral", self.dir / "moe")
        config = json.loads((self.dir / "moe/config.json").read_text()) | MOE
        (self.dir / "moe/config.json").write_text(json.dumps(config))
        rng = random.Random(4)
        lines = [json.dumps([rng.randrange(32) for _ in range(length)]) + "\n" for _ in range(windows)]
        (self.dir / "w.jsonl").write_text("".join(lines))
        self.ok("qcalibrate", "moe", "--tokens", "w.jsonl", "-n", str(windows), "--seqlen", str(length), "-o", "m.qmap")

    def quantized(self, *options, source="c.qmap", out="q.qmap"):
        result = self.ok("qquantize", source, *options, "-o", out, "--force")
        self.ok("qverify", out)
        return result

    def test_experts_without_tokens(self):
        self.moe(1, 1)  # one token: one of the two experts sees none
        for scheme in ("w3a16", "int8", "int8-static"):
            for algorithm in ("gptq", "clip", "awq", "autoround:iters=2", "smoothquant"):
                if algorithm == "autoround:iters=2" and scheme == "int8-static":
                    continue
                err = self.quantized("-s", scheme, "-a", algorithm, "--log", "log", source="m.qmap").err
                if algorithm in ("gptq", "clip"):
                    lines = [line for line in self.log_of("log") if "no token" in line.get("note", "")]
                    self.assertEqual(len(lines), 3, (scheme, algorithm))  # w1, w2 and w3 of one expert
                    self.assertTrue(all(line["algorithm"] in ("mse", "rtn") for line in lines))
                    self.assertIn("3: no token came to its input", err)
                if algorithm == "smoothquant":
                    self.assertIn("no token reached", err)

    def test_experts_in_waves(self):
        """Moments of experts come in as many waves as memory allows, and change nothing."""
        self.moe(16, 32)
        want = None
        for options in ((), ("--max-memory", "96MB"), ("--max-memory", "1GB", "-j", "3")):
            self.quantized("-s", "w3a16", "-a", "gptq", *options, source="m.qmap")
            got = (self.dir / "q.qmap").read_bytes()
            want = want or got
            self.assertEqual(got, want, options)

    def test_dead_channels(self):
        dead = {ATTENTION + "v_proj.weight": None, MLP + "up_proj.weight": None,
                "model.layers.1.input_layernorm.weight": {i: 0.0 for i in range(0, 256, 3)}}
        self.tiny("dead", dead)
        self.calibrated("dead")
        for algorithm in ("gptq", "awq,gptq", "autoround:iters=2", "hqq"):
            self.quantized("-s", "w3a16", "-a", algorithm, "--log", "log")
            for line in self.log_of("log"):
                self.assertLessEqual(line["error"], line["error_rtn"], (algorithm, line))
        self.fails(2, "qquantize", "c.qmap", "-s", "fp8-static", "-o", "x.qmap", says=["other than zero", "--ignore"])
        self.fails(2, "qquantize", "c.qmap", "-s", "w4a16", "-a", "rotate", "-o", "x.qmap", says=["input_layernorm", "is 0"])

    def test_hessians_that_need_damping(self):
        self.calibrated(n=1)  # 64 tokens, 256 columns
        for damp in ("0.000001", "1"):
            self.quantized("-s", "w3a16", "-a", f"gptq:damp={damp}", "--log", "log")
            lines = self.log_of("log")
            self.assertIn("gptq", {line["algorithm"] for line in lines})
            self.assertTrue(all(line["damp"] >= float(damp) for line in lines), damp)

    def test_a_scale_that_overflows(self):
        """No finite scale reaches from -3.3e38 to 3.3e38: no zero in its place."""
        self.tiny("huge", {ATTENTION + "o_proj.weight": {0: 3.3e38, 7: -3.3e38}})
        for algorithm in ("rtn", "mse", "hqq"):
            self.fails(5, "qquantize", "huge", "-s", "w4a16-asym", "-a", algorithm, "-o", "x.qmap",
                       says=["overflows BF16", "o_proj"])

    def test_weights_that_are_not_finite(self):
        self.calibrated()
        for bad in ("nan", "inf"):
            for tensor in (ATTENTION + "q_proj.weight", "model.layers.1.input_layernorm.weight"):
                name = f"{bad}-{tensor}"
                self.tiny(name, {tensor: {5: float(bad)}})
                for scheme in ("none", "w4a16"):
                    self.fails(3, "qquantize", name, "-s", scheme, "-a", "rotate", "-o", "x.qmap", says=[tensor, "finite"])

    def test_never_above_rtn(self):
        self.calibrated()
        for scheme in ("mxfp4", "fp8-block", "w2a16"):
            for algorithm in ("autoround:iters=0", "gptq", "clip"):
                self.quantized("-s", scheme, "-a", algorithm, "--log", "log")
                for line in self.log_of("log", "layer"):
                    self.assertLessEqual(line["error"], line["error_rtn"], (scheme, algorithm))

    def test_orders_that_leave_a_g_idx(self):
        self.calibrated()
        for scheme in ("mxfp4", "mxfp8", "mxfp4a16", "nvfp4", "w4a8"):
            self.fails(2, "qquantize", "c.qmap", "-s", scheme, "-a", "gptq:order=desc_act", "-o", "x.qmap",
                       says=["desc_act", scheme])
        self.quantized("-s", "w4a8", "-a", "gptq:order=desc_act:static_groups=true")
        self.quantized("-s", "w3a16", "-a", "gptq:order=desc_act:static_groups=true", "--log", "log")
        for line in self.log_of("log"):
            self.assertLess(line["error"], line["error_rtn"])

    def test_statistics_that_are_missing(self):
        self.calibrated()
        self.quantized("-s", "none", "-a", "rotate", out="r.qmap")
        for source, algorithm in (("r.qmap", "imatrix"), ("c.qmap", "rotate,imatrix"), (TINY, "imatrix")):
            self.fails(2, "qquantize", source, "-s", "q4_0", "-a", algorithm, "-o", "x.qmap", says=["imatrix", "qcalibrate"])
        for scheme, algorithm in (("fp8-static", "rtn"), ("int8-static", "smoothquant"), ("int8", "smoothquant")):
            self.fails(2, "qquantize", TINY, "-s", scheme, "-a", algorithm, "-o", "x.qmap", says="qcalibrate MODEL --text")

    def test_who_needs_no_statistics(self):
        """Of embeddings nobody has any; and what candidates need is known before they are measured."""
        self.calibrated()
        (self.dir / "r.json").write_text('{"rules": [{"match": "Embedding", "scheme": "q6_k", "algorithm": "imatrix"}]}')
        self.quantized("--recipe", "r.json")
        for schemes, algorithm, says in (("w4a16,fp8-static", "rotate", "outlive a rotation"),
                                         ("q4_0,q8_0", "rotate,imatrix", "behind a rotation")):
            self.fails(2, "qquantize", "c.qmap", "-s", schemes, "--target-bpw", "6", "-a", algorithm, "-o", "x.qmap", says=says)

    def test_statistics_of_another_model(self):
        self.calibrated()
        self.tiny("other", {ATTENTION + "q_proj.weight": None})  # of the same shapes
        self.calibrated("other", "o.qmap")
        self.fails(2, "qcalibrate", "--merge", "c.qmap", "o.qmap", "-o", "x.qmap", says=["q_proj", "another"])

    def test_negative_scales_stay_with_weights_alone(self):
        self.calibrated()
        self.quantized("-s", "w4a16", "-a", "gptq", out="n.qmap")
        self.fails(5, "qquantize", "n.qmap", "-s", "w4a8", "-o", "x.qmap", says=["negative scales", "negative_scales=false"])
        self.quantized("-s", "w4a16", "-a", "gptq:negative_scales=false", out="p.qmap")
        self.quantized("-s", "w4a8", source="p.qmap")
        self.quantized("-s", "w4a16", "-a", "gptq:order=desc_act:negative_scales=false", out="g.qmap")
        self.fails(5, "qquantize", "g.qmap", "-s", "w4a8", "-o", "x.qmap", says=["g_idx", "static_groups"])

    def test_smoothing_for_weights_alone(self):
        self.calibrated()
        self.assertIn("awq would serve it better", self.quantized("-s", "w4a16", "-a", "smoothquant").err)
        self.assertEqual(self.quantized("-s", "int8", "-a", "smoothquant").err, "")

    def test_smoothed_is_related(self):
        """Factors that change a few channels beyond all others leave a weight the base's: no error against it."""
        rows = {r * 256 + i: 20.0 * (-1) ** i for r in (5, 300) for i in range(256)}
        self.tiny("loud", {MLP + "up_proj.weight": rows})
        self.calibrated("loud")
        self.quantized("-s", "int8", "-a", "smoothquant:alpha=1")
        result = self.ok("qverify", "q.qmap", "loud")
        self.assertIn("nothing in common", result.out + result.err)

    def test_bits_are_chosen_for_the_edited_model(self):
        self.calibrated(n=32)
        told = {}
        for algorithm in ("rtn", "rotate", "awq,rtn"):
            err = self.quantized("-s", "w2a16,w4a16", "--target-bpw", "3", "-a", algorithm).err
            self.assertIn("more schemes in -s", err)  # 12 groups of two schemes do not reach 3 bits
            told[algorithm] = float(re.search(r"divergence ([0-9.]+)", err)[1])
        self.assertEqual(len(set(told.values())), 3, told)

    def test_the_memory_that_is_named_is_enough(self):
        self.moe(16, 32)
        for algorithm in ("gptq", "clip", "awq", "autoround:iters=2"):
            command = ("qquantize", "m.qmap", "-s", "w3a16", "-a", algorithm, "-o", "q.qmap", "--force", "--max-memory")
            message = self.fails(5, *command, "30MB", says="--max-memory").err
            least = re.search(r"--max-memory ([0-9]+Mi?B)", message)[1]
            self.ok(*command, least)


if __name__ == "__main__":
    main()
