"""Models as people have them, through the programs: what is quantized, what is kept, and that the
result says so."""

import json
import shutil
import struct

from support import (TINY, CliTest, bf16, from_bf16, llama_config, llama_shapes, main,
                     read_safetensors, sha256, tree, write_llama, write_model, write_safetensors)

EXPORT = ["qexport", "-f", "compressed-tensors"]


class Models(CliTest):
    def quantize(self, model, *options, out="out", export=()):
        self.ok("qquantize", model, *options, "-o", f"{out}.qmap", "--force")
        self.ok(*EXPORT, f"{out}.qmap", "-o", out, "--force", *export)
        return self.tensors(out), json.loads((self.dir / out / "config.json").read_text())

    def tensors(self, directory):
        found = {}
        for path in sorted((self.dir / directory).glob("*.safetensors")):
            found.update(read_safetensors(path))
        return found

    # ---- values

    def test_int8_codes_by_hand(self):
        # One row per channel: scale = max|w| / 127.5 in BF16, code = round(w / scale).
        rows = [[1.0] + [0.5] * 63 + [-0.25] * 64, [-2.0] + [0.015625] * 127]
        model = self.dir / "m"
        model.mkdir()
        write_safetensors(model / "model.safetensors", {"model.layers.0.mlp.down_proj.weight":
                                                        ("BF16", (2, 128), bf16(rows[0] + rows[1]))})
        (model / "config.json").write_text("{}")
        tensors, _ = self.quantize(model, "-s", "int8")
        scales = from_bf16(tensors["model.layers.0.mlp.down_proj.weight_scale"][2])
        codes = struct.unpack("256b", tensors["model.layers.0.mlp.down_proj.weight"][2])
        for r, row in enumerate(rows):
            self.assertAlmostEqual(scales[r], max(map(abs, row)) / 127.5, delta=scales[r] / 128)
            for c, w in enumerate(row):
                self.assertLessEqual(abs(codes[r * 128 + c] * scales[r] - w), scales[r] * 1.001, (r, c))

    def test_w4a16_error_bound_on_the_trained_model(self):
        # Every weight within half a step of its group's scale, read back with --dequantize.
        tensors, config = self.quantize(TINY, "-s", "w4a16")
        source = read_safetensors(TINY / "model.safetensors")
        self.ok("qload", "out", "--dequantize", "--pack", "-o", "back.qmap")
        self.ok("qexport", "back.qmap", "-f", "safetensors", "-o", "back")
        back = self.tensors("back")
        self.assertEqual(set(back), set(source))
        for name in ("model.layers.0.mlp.up_proj.weight", "model.layers.2.self_attn.o_proj.weight"):
            want, got = from_bf16(source[name][2]), from_bf16(back[name][2])
            scales = from_bf16(tensors[name.replace(".weight", ".weight_scale")][2])
            worst = max(abs(a - b) / scales[i // 128] for i, (a, b) in enumerate(zip(want, got)))
            self.assertLess(worst, 0.6)  # half a step, the two roundings to BF16 aside
        for name, entry in source.items():
            if name + "_packed" not in tensors:
                self.assertEqual(back[name], entry, name)  # kept: bit for bit

    def test_dequantize_marks_and_quantizes_again(self):
        self.quantize(TINY, "-s", "fp8-dynamic")
        self.fails(5, "qquantize", "out", "-s", "w4a16", "-o", "x", says=["already quantized", "--dequantize"])
        status, result = self.pipe("qload out --dequantize | qquantize -s w4a16 | qexport -f compressed-tensors -o again")
        self.assertEqual(status, [0, 0, 0], result)
        self.assertIn("model.layers.0.mlp.up_proj.weight_packed", self.tensors("again"))
        again = json.loads((self.dir / "again" / "config.json").read_text())
        self.assertEqual(again["quantization_config"]["config_groups"]["group_0"]["weights"]["num_bits"], 4)

    def test_own_exports_come_back_unchanged(self):
        # Export, load, export: the same files, for every scheme.
        for scheme in ("fp8-dynamic", "fp8-tensor", "fp8-block", "int8", "w8a16", "w4a16", "w4a16-asym", "nvfp4a16", "mxfp4", "mxfp8"):
            self.quantize(TINY, "-s", scheme, out=scheme)
            self.ok(*EXPORT, scheme, "-o", "again", "--force")
            got, want = tree(self.dir / "again"), tree(self.dir / scheme)
            got.pop("model.safetensors"), want.pop("model.safetensors")  # tensors may lie in another order
            self.assertEqual(got, want, scheme)
            self.assertEqual(self.tensors("again"), self.tensors(scheme), scheme)

    # ---- qload's options

    def test_packed_needs_no_base(self):
        self.ok("cp", "-r", TINY, "base")
        self.ok("qload", "base", "--pack", "-o", "a.qmap")
        self.ok("qquantize", "base", "-s", "w4a16", "-o", "b.qmap")
        want = self.quantize(TINY, "-s", "w4a16")[0]
        shutil.rmtree(self.dir / "base")
        self.ok(*EXPORT, "b.qmap", "-o", "from-b")
        self.assertEqual(self.tensors("from-b"), want)
        self.assertEqual(self.quantize("a.qmap", "-s", "w4a16", out="from-a")[0], want)
        self.ok("qexport", "a.qmap", "-f", "safetensors", "-o", "same")
        self.assertEqual(self.tensors("same"), read_safetensors(TINY / "model.safetensors"))
        self.assertEqual(sha256(self.dir / "same" / "tokenizer.json"), sha256(TINY / "tokenizer.json"))

    def test_zstd(self):
        model = self.dir / "m"
        write_model(model, llama_shapes(128, 1, 64, 128), llama_config(128, 1, 64, 128))
        data = bytearray((model / "model.safetensors").read_bytes())
        data[-20000:] = b"\0" * 20000  # something to compress
        (model / "model.safetensors").write_bytes(data)
        self.ok("qload", model, "--pack", "-o", "plain.qmap")
        self.ok("qload", model, "--pack", "--zstd", "-o", "small.qmap")
        self.assertLess((self.dir / "small.qmap").stat().st_size, (self.dir / "plain.qmap").stat().st_size)
        for name in ("plain", "small"):
            self.ok("qexport", f"{name}.qmap", "-f", "safetensors", "-o", name)
        self.assertEqual(tree(self.dir / "small"), tree(self.dir / "plain"))
        self.assertEqual(self.quantize("small.qmap", "-s", "w4a16", out="a")[0], self.quantize("plain.qmap", "-s", "w4a16", out="b")[0])

    def test_hash_finds_what_size_and_time_do_not(self):
        self.ok("qload", TINY, "--hash", "-o", "a.qmap")
        self.ok("qload", TINY, "-o", "b.qmap")
        self.assertGreater((self.dir / "a.qmap").stat().st_size, (self.dir / "b.qmap").stat().st_size)
        self.assertEqual(self.quantize("a.qmap", "-s", "w4a16", out="x")[0], self.quantize("b.qmap", "-s", "w4a16", out="y")[0])

    def test_include_and_exclude(self):
        def names(*options):
            return {t["name"] for t in json.loads(self.ok("qload", TINY, "--list", "--json", *options).out)["tensors"]}
        everything = names()
        self.assertEqual(names("--exclude", "layers\\.0\\."), {n for n in everything if "layers.0." not in n})
        self.assertEqual(names("--include", "layers\\.0\\."), {n for n in everything if "layers.0." in n})
        self.assertEqual(names("--include", "layers", "--exclude", "mlp", "--exclude", "norm"),
                         {n for n in everything if "layers" in n and "mlp" not in n and "norm" not in n})
        self.ok("qload", TINY, "--exclude", "layers\\.2\\.", "-o", "a.qmap")
        self.ok("qexport", "a.qmap", "-f", "safetensors", "-o", "out", "--ledger", "ledger.json")
        self.assertEqual(set(self.tensors("out")), {n for n in everything if "layers.2." not in n})
        ledger = {e["source"]: e for e in json.loads((self.dir / "ledger.json").read_text())}
        self.assertEqual(ledger["model.layers.2.mlp.up_proj.weight"]["fate"], "dropped")
        self.assertIn("--exclude", ledger["model.layers.2.mlp.up_proj.weight"]["detail"])

    def test_export_of_an_export(self):
        # The order of tensors does not depend on where they come from.
        for scheme in ("w4a16", "fp8-block", "nvfp4a16"):
            self.ok("qquantize", TINY, "-s", scheme, "-o", "a.qmap", "--force")
            self.ok("qexport", "a.qmap", "-f", "compressed-tensors", "-o", "one", "--shard-size", "300K", "--force")
            self.ok("qexport", "one", "-f", "compressed-tensors", "-o", "two", "--shard-size", "300K", "--force")
            first, second = tree(self.dir / "one"), tree(self.dir / "two")
            self.assertGreater(sum(n.endswith(".safetensors") for n in first), 1)
            self.assertEqual(first, second)

    def test_ledger_is_there_before_the_output(self):
        self.fails(4, "qexport", TINY, "-f", "safetensors", "-o", "out", "--ledger", "no/such/place.json", says="place.json")
        self.assert_clean("out")
        # One inside the output gets its name with it.
        self.ok("qexport", TINY, "-f", "safetensors", "-o", "out", "--ledger", "out/ledger.json")
        self.assertTrue(json.loads((self.dir / "out/ledger.json").read_text()))

    def test_dtype(self):
        source = read_safetensors(TINY / "model.safetensors")
        for dtype in ("F32", "F16", "BF16", "float32"):
            self.ok("qload", TINY, "--dtype", dtype, "--pack", "-o", "a.qmap", "--force")
            self.ok("qexport", "a.qmap", "-f", "safetensors", "-o", "out", "--force")
            name = "model.layers.0.input_layernorm.weight"
            want = from_bf16(source[name][2])
            kind, _, data = self.tensors("out")[name]
            if kind == "F32":
                self.assertEqual(list(struct.unpack(f"<{len(want)}f", data)), want)
            elif kind == "F16":
                for a, b in zip(struct.unpack(f"<{len(want)}e", data), want):
                    self.assertAlmostEqual(a, b, delta=abs(b) / 1024 + 1e-7)
            else:
                self.assertEqual(data, source[name][2])
            config = json.loads((self.dir / "out" / "config.json").read_text())
            self.assertIn({"F32": "float32", "F16": "float16", "BF16": "bfloat16"}[kind],
                          (config.get("torch_dtype"), config.get("dtype")))

    # ---- qexport's options

    def test_shards(self):
        whole, config = self.quantize(TINY, "-s", "w4a16")
        parts, same = self.quantize(TINY, "-s", "w4a16", out="parts", export=["--shard-size", "200kB"])
        self.assertEqual((parts, same), (whole, config))
        index = json.loads((self.dir / "parts" / "model.safetensors.index.json").read_text())
        files = sorted(p.name for p in (self.dir / "parts").glob("*.safetensors"))
        self.assertGreater(len(files), 3)
        self.assertEqual(files, [f"model-{n + 1:05d}-of-{len(files):05d}.safetensors" for n in range(len(files))])
        self.assertEqual(set(index["weight_map"]), set(whole))
        self.assertEqual(index["metadata"]["total_size"], sum(len(d) for _, _, d in whole.values()))
        for name, file in index["weight_map"].items():
            self.assertIn(name, read_safetensors(self.dir / "parts" / file))
        listed = [sorted(t["name"] for t in json.loads(self.ok("qload", d, "--list", "--json").out)["tensors"])
                  for d in ("parts", "out")]
        self.assertEqual(*listed)

    def test_companions_are_copied_byte_for_byte(self):
        self.ok("cp", "-r", TINY, "m")
        (self.dir / "m" / "sub").mkdir()
        (self.dir / "m" / "sub" / "modeling.py").write_bytes(b"# code\r\n\xff\0")
        (self.dir / "m" / "empty.txt").write_bytes(b"")
        (self.dir / "m" / "chat_template.jinja").write_text("{{ x }}")
        (self.dir / "m" / ".hidden").write_text("x")
        (self.dir / "m" / "hf_quant_note.txt").write_text("x")
        self.quantize("m", "-s", "w4a16")
        want = tree(self.dir / "m")
        got = tree(self.dir / "out")
        for name in set(want) - {"config.json", "model.safetensors", ".hidden"}:
            self.assertEqual(got.get(name), want[name], name)
        self.assertNotIn(".hidden", got)

    def test_safetensors_format_is_the_identity(self):
        self.ok("qexport", TINY, "-f", "safetensors", "-o", "out")
        self.assertEqual(self.tensors("out"), read_safetensors(TINY / "model.safetensors"))
        self.assertEqual(json.loads((self.dir / "out" / "config.json").read_text()), json.loads((TINY / "config.json").read_text()))

    # ---- kinds of models

    def test_tied_embeddings(self):
        self.assertTrue(json.loads((TINY / "config.json").read_text())["tie_word_embeddings"])
        tensors, config = self.quantize(TINY, "-s", "w4a16")
        self.assertNotIn("lm_head.weight", tensors)
        self.assertIn("lm_head", config["quantization_config"]["ignore"])
        # A stored head of a tied model cannot be quantized: engines would load the embedding.
        shapes = list(llama_shapes(128, 1, 64, 128))
        model = write_model(self.dir / "m", shapes, {**llama_config(128, 1, 64, 128), "tie_word_embeddings": True})
        (self.dir / "r.json").write_text('{"rules": [{"match": ["Linear", "Head"], "scheme": "w4a16"}]}')
        self.ok("qquantize", model, "--recipe", "r.json", "-o", "tied.qmap")
        self.fails(5, *EXPORT, "tied.qmap", "-o", "tied", says=["tensor 'lm_head.weight'", "tied", "--ignore lm_head"])

    def test_mtp_layers_are_kept(self):
        shapes = list(llama_shapes(128, 2, 64, 128))
        shapes += [(f"model.layers.2.{n}", s) for n, s in (("eh_proj.weight", (128, 256)), ("enorm.weight", (128,)),
                                                            ("mlp.up_proj.weight", (128, 128)), ("self_attn.q_proj.weight", (128, 128)))]
        model = write_model(self.dir / "m", shapes, llama_config(128, 2, 64, 128))
        source = read_safetensors(model / "model.safetensors")
        tensors, config = self.quantize(model, "-s", "w4a16")
        for name, _ in shapes[-4:]:
            self.assertEqual(tensors[name], source[name])
        self.assertIn("model.layers.1.mlp.up_proj.weight_packed", tensors)
        ignore = config["quantization_config"]["ignore"]
        self.assertIn("model.layers.2.mlp.up_proj", ignore)
        self.assertIn("MTP", self.ok("qload", model, "--list").out)

    def moe(self, router, experts, gate, names, extra=()):
        hidden, width = 128, 256
        shapes = [("model.embed_tokens.weight", (64, hidden)), ("lm_head.weight", (64, hidden)), ("model.norm.weight", (hidden,))]
        p = "model.layers.0."
        shapes += [(f"{p}self_attn.{n}_proj.weight", (hidden, hidden)) for n in "qkvo"]
        shapes.append((p + router, (4, hidden)))
        for e in range(4):
            for name in names:
                down = name in ("w2", "down_proj")
                shapes.append((f"{p}{experts}.{e}.{name}.weight", (hidden, width) if down else (width, hidden)))
        return shapes + [(p + n, s) for n, s in extra]

    def check_moe(self, shapes, config, router, expert, more_ignored=()):
        model = write_model(self.dir / "m", shapes, config)
        source = read_safetensors(model / "model.safetensors")
        for scheme, suffix in (("w4a16", "weight_packed"), ("fp8-dynamic", "weight"), ("nvfp4a16", "weight_packed")):
            tensors, out = self.quantize(model, "-s", scheme)
            ignore = out["quantization_config"]["ignore"]
            for e in range(4):
                self.assertIn(f"{expert.format(e)}.{suffix}", tensors)
                self.assertIn(f"{expert.format(e)}.weight_scale", tensors)
                self.assertNotIn(expert.format(e), ignore)
            for kept in (router, "lm_head", *more_ignored):
                self.assertEqual(tensors[kept + ".weight"], source[kept + ".weight"], kept)
                self.assertIn(kept, ignore)
            # What is ignored and what is quantized are exactly the matrices that are there.
            quantized = {n[:-len(".weight_scale")] for n in tensors if n.endswith(".weight_scale")}
            matrices = {n[:-len(".weight")] for n, s in shapes if len(s) == 2 and "embed" not in n}
            self.assertEqual(quantized | set(ignore), matrices)

    def test_mixtral(self):
        shapes = self.moe("block_sparse_moe.gate.weight", "block_sparse_moe.experts", "gate", ("w1", "w2", "w3"))
        self.check_moe(shapes, {"architectures": ["MixtralForCausalLM"], "model_type": "mixtral", "num_hidden_layers": 1,
                                "num_local_experts": 4}, "model.layers.0.block_sparse_moe.gate",
                       "model.layers.0.block_sparse_moe.experts.{}.w1")

    def test_qwen_moe(self):
        extra = [(f"mlp.shared_expert.{n}_proj.weight", (128, 256) if n == "down" else (256, 128)) for n in ("gate", "up", "down")]
        extra += [("mlp.shared_expert_gate.weight", (1, 128)), ("self_attn.q_proj.bias", (128,))]
        shapes = self.moe("mlp.gate.weight", "mlp.experts", "gate", ("gate_proj", "up_proj", "down_proj"), extra)
        self.check_moe(shapes, {"architectures": ["Qwen2MoeForCausalLM"], "model_type": "qwen2_moe", "num_hidden_layers": 1,
                                "num_experts": 4}, "model.layers.0.mlp.gate", "model.layers.0.mlp.experts.{}.up_proj",
                       ["model.layers.0.mlp.shared_expert_gate"])

    def test_experts_must_agree(self):
        shapes = self.moe("mlp.gate.weight", "mlp.experts", "gate", ("gate_proj", "up_proj", "down_proj"))
        model = write_model(self.dir / "m", shapes, {"num_hidden_layers": 1})
        self.fails(2, "qquantize", model, "-s", "w4a16", "--ignore", "re:.*experts\\.2\\.up_proj", "-o", "c",
                   says=["experts.2", "engines fuse it with", "ignored by", "give the whole group one rule"])

    def test_rows_that_no_group_divides(self):
        # Hidden size 576, as SmolLM's: 576 mod 128 = 64.
        model = write_llama(self.dir / "m", hidden=576, layers=1, vocab=64, intermediate=1536)
        self.fails(2, "qquantize", model, "-s", "w4a16", "-o", "c",
                   says=["tensor 'model.layers.0.", "rows of 576 cannot be split into groups of 128", "use --group-size 64", "more tensors"])
        tensors, config = self.quantize(model, "-s", "w4a16", "--group-size", "64")
        self.assertEqual(tensors["model.layers.0.self_attn.q_proj.weight_scale"][1], (576, 9))
        self.assertEqual(config["quantization_config"]["config_groups"]["group_0"]["weights"]["group_size"], 64)
        odd = write_llama(self.dir / "odd", hidden=64, layers=1, vocab=64, intermediate=100)
        self.fails(2, "qquantize", odd, "-s", "nvfp4a16", "-o", "c", says=["rows of 100", "--ignore"])

    def test_stacked_experts_and_other_shapes_are_kept(self):
        shapes = list(llama_shapes(128, 1, 64, 128)) + [("model.layers.0.mlp.experts.gate_up_proj", (4, 128, 256)),
                                                       ("model.layers.0.mlp.experts.down_proj", (4, 128, 96)),  # fits no layout
                                                       ("model.layers.0.conv1d.weight", (128, 1, 4)),
                                                       ("vision_tower.layers.0.fc1.weight", (128, 128)), ("scalar", ())]
        model = write_model(self.dir / "m", shapes, llama_config(128, 1, 64, 128))
        source = read_safetensors(model / "model.safetensors")
        tensors, config = self.quantize(model, "-s", "w4a16")
        for name, _ in shapes[-5:]:
            self.assertEqual(tensors[name], source[name], name)
        self.assertIn("vision_tower.layers.0.fc1", config["quantization_config"]["ignore"])

    def test_empty_tensors(self):
        shapes = list(llama_shapes(128, 1, 64, 128)) + [("empty", (0, 4)), ("empty.weight", (4, 0))]
        model = write_model(self.dir / "m", shapes, llama_config(128, 1, 64, 128))
        self.fails(2, "qquantize", model, "-s", "w4a16", "-o", "c", says=["tensor 'empty.weight'", "--ignore"])
        tensors, _ = self.quantize(model, "-s", "w4a16", "--ignore", "empty")
        self.assertEqual(tensors["empty"][1], (0, 4))


class Recipes(CliTest):
    def recipe(self, text):
        (self.dir / "r.json").write_text(text)
        return self.run_("qquantize", TINY, "--recipe", "r.json", "-o", "out.qmap", "--force")

    def wrong(self, text, *says):
        result = self.recipe(text)
        self.assertEqual(result.code, 2, result)
        for s in ("r.json: ", *says):
            self.assertIn(s, result.err)
        self.assert_clean("out.qmap")

    def schemes(self):
        out = json.loads(self.ok("qload", "out.qmap", "--list", "--json").out)
        return {t["name"]: t.get("scheme") for t in out["tensors"]}

    def test_rules_in_order_with_comments(self):
        result = self.recipe('''{
          // attention in FP8, the rest in four bits
          "rules": [
            {"match": "re:.*self_attn", "scheme": "fp8-dynamic"},
            {"match": "model.layers.1.mlp.down_proj", "scheme": null},
            {"match": ["Linear"], "scheme": "w4a16", "options": {"group_size": 64}} /* last */
          ],
          "ignore": ["re:model.layers.2.*"]
        }''')
        self.assertEqual(result.code, 0, result)
        schemes = self.schemes()
        self.assertEqual(schemes["model.layers.0.self_attn.q_proj.weight"], "fp8-dynamic")
        self.assertEqual(schemes["model.layers.0.mlp.up_proj.weight"], "w4a16")
        self.assertIsNone(schemes["model.layers.1.mlp.down_proj.weight"])
        self.assertIsNone(schemes["model.layers.2.mlp.up_proj.weight"])
        self.ok(*EXPORT, "out.qmap", "-o", "out")
        groups = json.loads((self.dir / "out" / "config.json").read_text())["quantization_config"]["config_groups"]
        self.assertEqual(len(groups), 2)
        self.assertEqual({g["weights"]["num_bits"] for g in groups.values()}, {4, 8})

    def test_mistakes(self):
        self.wrong("", "JSON")
        self.wrong("[]", "no JSON object")
        self.wrong("{", "JSON")
        self.wrong('{"ruels": []}', "unknown key 'ruels'", "did you mean 'rules'?")
        self.wrong('{"rules": {}}', "'rules' is no list")
        self.wrong('{"rules": [7]}', "rule 1")
        self.wrong('{"rules": [{"match": "Linear"}]}', "rule 1 has no 'scheme'")
        self.wrong('{"rules": [{"scheme": "w4a16"}]}', "rule 1 has no 'match'")
        self.wrong('{"rules": [{"match": "Linear", "shceme": "w4a16"}]}', "unknown key 'shceme'", "did you mean 'scheme'?")
        self.wrong('{"rules": [{"match": "Linear", "scheme": "w4a61"}]}', "unknown scheme 'w4a61'", "did you mean 'w4a16'?")
        self.wrong('{"rules": [{"match": "Linear", "scheme": 7}]}', "'scheme'")
        self.wrong('{"rules": [{"match": 7, "scheme": "w4a16"}]}', "match")
        self.wrong('{"rules": [{"match": "re:(", "scheme": "w4a16"}]}', "regular expression")
        self.wrong('{"rules": [{"match": "Linear", "scheme": "w4a16", "options": {"gruop_size": 64}}]}', "did you mean 'group_size'?")
        self.wrong('{"rules": [{"match": "Linear", "scheme": "w4a16", "options": {"num_bits": "four"}}]}', "num_bits")
        self.wrong('{"rules": [{"match": "Linear", "scheme": {"weights": {"num_bits": 99}}}]}', "num_bits")
        self.wrong('{"rules": [{"match": "Linear", "match": "Linear", "scheme": "w4a16"}]}', "twice")
        self.wrong('{"rules": ' + "[" * 3000, "deep")
        self.wrong('{"ignore": [7]}')
        self.fails(4, "qquantize", TINY, "--recipe", "absent.json", "-o", "c", says="absent.json: cannot open")
        self.fails(2, "qquantize", TINY, "--recipe", "r.json", "-o", "c")

    def test_a_rule_that_matches_nothing(self):
        (self.dir / "r.json").write_text('{"rules": [{"match": "Linear", "scheme": "w4a16"}, {"match": "absent", "scheme": "int8"}]}')
        command = ["qquantize", TINY, "--recipe", "r.json", "-o", "out.qmap"]
        self.fails(2, *command, "--strict", says="rule 2 matches no tensor")
        self.assertIn("rule 2 matches no tensor", self.ok(*command).err)

    def test_fused_groups_must_agree(self):
        self.wrong_group('[{"match": "re:.*q_proj", "scheme": "fp8-dynamic"}, {"match": "Linear", "scheme": "w4a16"}]',
                         "qkv", "fp8-dynamic by rule 1", "w4a16 by rule 2")
        self.wrong_group('[{"match": "re:.*up_proj", "scheme": null}, {"match": "Linear", "scheme": "w4a16"}]',
                         "gate_up", "unquantized by rule 1", "w4a16 by rule 2")

    def wrong_group(self, rules, *says):
        result = self.recipe('{"rules": ' + rules + '}')
        self.assertEqual(result.code, 2, result)
        for s in ("tensor 'model.layers.0.", "engines fuse it with", "give the whole group one rule", *says):
            self.assertIn(s, result.err)
        self.assert_clean("out.qmap")

    def test_recipe_and_scheme_together(self):
        # The recipe's rules first, the scheme for the rest.
        (self.dir / "r.json").write_text('{"rules": [{"match": "re:.*self_attn", "scheme": "fp8-dynamic"}]}')
        self.ok("qquantize", TINY, "--recipe", "r.json", "-s", "w4a16", "-o", "out.qmap")
        schemes = self.schemes()
        self.assertEqual(schemes["model.layers.0.self_attn.q_proj.weight"], "fp8-dynamic")
        self.assertEqual(schemes["model.layers.0.mlp.up_proj.weight"], "w4a16")


if __name__ == "__main__":
    main()
