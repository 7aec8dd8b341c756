"""awq:pre_scale=true: matrices whose input no weight before them can scale keep the factors as a
pre_quant_scale: OLMo 2's q, k, v, gate and up read the hidden states, with no norm between."""

import json
import shutil

from support import TINY, CliTest, bf16, count, from_bf16, main, read_safetensors, write_safetensors

READERS = {"self_attn": ("q_proj", "k_proj", "v_proj"), "mlp": ("gate_proj", "up_proj")}
LOUD = range(3, 256, 31)  # channels with large values


def olmo2(directory):
    """tiny-lm's matrices as an OLMo 2: another model, but one whose q, k and v see loud channels."""
    directory.mkdir()
    for file in TINY.iterdir():
        if file.is_file() and file.name.startswith(("tokenizer", "special")):
            shutil.copy(file, directory)
    config = json.loads((TINY / "config.json").read_text())
    config.update(architectures=["Olmo2ForCausalLM"], model_type="olmo2")
    (directory / "config.json").write_text(json.dumps(config))
    hidden = config["hidden_size"]
    head = config.get("head_dim") or hidden // config["num_attention_heads"]
    tensors = {}
    for name, (dtype, shape, data) in read_safetensors(TINY / "model.safetensors").items():
        if name == "model.embed_tokens.weight":
            values = from_bf16(data)
            for at in range(0, len(values), hidden):
                for c in LOUD:
                    values[at + c] *= 30
            data = bf16(values)
        if name.endswith("input_layernorm.weight"):
            name = name.replace("input_layernorm", "post_feedforward_layernorm")
        tensors[name] = (dtype, shape, data)
    for layer in range(config["num_hidden_layers"]):
        for norm, heads in (("q_norm", config["num_attention_heads"]), ("k_norm", config["num_key_value_heads"])):
            shape = (heads * head,)
            tensors[f"model.layers.{layer}.self_attn.{norm}.weight"] = ("BF16", shape, bf16([1.0] * count(shape)))
    write_safetensors(directory / "model.safetensors", tensors)


class PreScale(CliTest):
    def setUp(self):
        super().setUp()
        olmo2(self.dir / "m")
        self.ok("qcalibrate", "m", "--text", TINY / "calib.txt", "-n", "32", "--seqlen", "64", "-o", "c.qmap")

    def kl(self, path):
        report = json.loads(self.ok("qverify", path, "m", "--eval", TINY / "heldout.txt", "--seqlen", "64", "--json").out)
        return report["evaluation"]["divergence"]["kl"]["mean"]

    def quantized(self, algorithm, *more, scheme="w4a16", out="q.qmap"):
        self.ok("qquantize", "c.qmap", "-s", scheme, "-a", algorithm, *more, "-o", out, "--force")
        return (self.dir / out).read_bytes()

    def test_rounding_costs_less(self):
        for last in ("rtn", "gptq", "clip"):
            kl = {}
            for option in ("false", "true"):
                self.quantized(f"awq:pre_scale={option},{last}", "--log", "log", scheme="w3a16")
                self.ok("qverify", "q.qmap")
                kl[option] = self.kl("q.qmap")
                for line in self.log_of("log"):
                    self.assertLessEqual(line["error"], line["error_rtn"], line)
            if last == "rtn":  # the others weigh columns by their inputs themselves
                self.assertLess(kl["true"], 0.8 * kl["false"])

    def test_where_it_is(self):
        self.quantized("awq:pre_scale=true,rtn")
        self.ok("qexport", "q.qmap", "-f", "modelopt", "-o", "out")
        tensors = read_safetensors(self.dir / "out/model.safetensors")
        scales = {n for n in tensors if n.endswith(".pre_quant_scale")}
        self.assertEqual(len(scales), 3 * 5)
        for n in range(3):
            for block, names in READERS.items():  # one for those that engines fuse
                one = {tensors[f"model.layers.{n}.{block}.{m}.pre_quant_scale"][2] for m in names}
                self.assertEqual(len(one), 1)
        dtype, _, data = tensors["model.layers.0.self_attn.q_proj.pre_quant_scale"]
        values = from_bf16(data)
        self.assertEqual((dtype, len(values)), ("BF16", 256))
        self.assertLess(max(values[c] for c in LOUD), sorted(values)[128])  # loud channels: larger weights

    def test_through_modelopt_and_back(self):
        for scheme, numerics in (("w4a16", "compressed-tensors"), ("nvfp4", "modelopt")):
            self.quantized("awq:pre_scale=true,gptq", "--numerics", numerics, scheme=scheme)
            self.ok("qexport", "q.qmap", "-f", "modelopt", "-o", scheme)
            self.ok("qverify", scheme, "q.qmap", "--min-sqnr", "200")
            self.ok("qload", scheme, "-o", "back.qmap", "--force")
            self.ok("qexport", "back.qmap", "-f", "modelopt", "-o", "again", "--force")
            self.assertEqual((self.dir / scheme / "model.safetensors").read_bytes(),
                             (self.dir / "again/model.safetensors").read_bytes())
            self.assertLess(abs(self.kl(scheme) - self.kl("q.qmap")), 1e-6)

    def test_formats_without_a_place_refuse(self):
        self.quantized("awq:pre_scale=true,rtn")
        for family in ("compressed-tensors", "gptq", "awq", "auto-round"):
            self.fails(5, "qexport", "q.qmap", "-f", family, "-o", "x", says=["model.layers.0.", "pre_"])
            self.assert_clean("x")

    def test_deterministic(self):
        first = self.quantized("awq:pre_scale=true,gptq", "-j", "1")
        self.assertEqual(first, self.quantized("awq:pre_scale=true,gptq", "-j", "5", "--max-memory", "300MB"))
        self.ok("qquantize", "c.qmap", "-s", "w4a16,w3a16", "-a", "awq:pre_scale=true,gptq", "-o", "m-{scheme}")
        self.assertEqual(first, (self.dir / "m-w4a16").read_bytes())

    def test_nothing_to_do(self):
        """Where every input has a fold it changes nothing but the name of the algorithm."""
        self.ok("qcalibrate", TINY, "--text", TINY / "calib.txt", "-n", "8", "--seqlen", "64", "-o", "t.qmap")
        for option in ("false", "true"):
            self.ok("qquantize", "t.qmap", "-s", "w4a16", "-a", f"awq:pre_scale={option},rtn", "-o", f"{option}.qmap")
        self.ok("qverify", "true.qmap", "false.qmap", "--min-sqnr", "200")

    def test_wrong_use(self):
        q = ("qquantize", "c.qmap", "-o", "x.qmap", "-s", "w4a16")
        self.fails(2, *q, "-a", "awq:pre_scale=true,autoround", says=["pre_scale", "autoround"])
        self.fails(2, *q, "-a", "awq:pre_scale=maybe", says=["pre_scale", "false or true"])
        self.assert_clean("x.qmap")


if __name__ == "__main__":
    main()
