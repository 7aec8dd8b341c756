"""Arguments: help, lists, and mistakes, with the exit codes and words they get."""

import json
import os
import re
import subprocess

from support import BIN, PROGRAMS, TINY, CliTest, main, sha256, tree, write_llama


def built(program):
    """False for a program that is still a stub."""
    return subprocess.run([BIN / program, "--version"], capture_output=True).returncode == 0


class Help(CliTest):
    def test_help_and_version(self):
        for program in filter(built, PROGRAMS):
            out = self.ok(program, "--help")
            self.assertEqual(out.err, "")
            for word in ("Usage", "--threads", "--max-memory", "--json", "--strict", "Examples:", "Exit status:",
                         f"man {program}"):
                self.assertIn(word, out.out)
            version = self.ok(program, "--version")
            self.assertRegex(version.out, rf"^{program} \(qpipe\) \d+\.\d+\.\d+\n$")

    def test_same_option_same_meaning(self):
        # One name, one letter, one meaning in every program.
        seen = {}
        for program in filter(built, PROGRAMS):
            for short, long_ in re.findall(r"(-\w),(--[\w-]+)", self.ok(program, "--help").out):
                self.assertEqual(seen.setdefault(short, long_), long_, program)
        for short, long_ in (("-o", "--output"), ("-s", "--scheme"), ("-f", "--format"), ("-j", "--threads"),
                             ("-q", "--quiet"), ("-v", "--verbose"), ("-a", "--algorithm")):
            self.assertEqual(seen[short], long_)

    def test_help_into_a_closed_pipe(self):
        self.assertIn(self.sh("qload --help | head -1 > /dev/null; exit ${PIPESTATUS[0]}").code, (0, 141))

    def test_result_that_cannot_be_written(self):
        result = self.sh("qload --list-inputs > /dev/full")
        self.assertEqual(result.code, 4, result)
        self.assertIn("cannot write to standard output", result.err)

    def test_generated_texts(self):
        for program in filter(built, PROGRAMS):
            for kind, mark in (("man", ".Sh EXIT STATUS"), ("bash", "complete "), ("zsh", "#compdef"), ("fish", "complete -c")):
                self.assertIn(mark, self.ok(program, "--print-page", kind).out)
            self.assertEqual(self.run_(program, "--print-page", "html").code, 2)


class Lists(CliTest):
    SCHEMES = {"fp8-dynamic", "fp8-tensor", "fp8-block", "int8", "w8a16", "w4a16", "w4a16-asym", "w3a16", "w2a16",
               "nvfp4a16", "mxfp4", "mxfp4a16", "mxfp8", "mxfp8a16"}

    def test_schemes(self):
        names = self.ok("qquantize", "--list-schemes", "--quiet").out.split()
        self.assertLessEqual(self.SCHEMES, set(names))
        table = self.ok("qquantize", "--list-schemes").out
        for name in names:
            self.assertRegex(table, rf"(?m)^{re.escape(name)} +\S")
        rows = json.loads(self.ok("qquantize", "--list-schemes", "--json").out)
        self.assertEqual([r["name"] for r in rows], names)
        for row in rows:
            self.assertTrue(row["summary"])
            self.assertEqual("scheme" in row, "mix" not in row)

    def test_every_scheme_and_alias_is_taken(self):
        model = write_llama(self.dir / "m", hidden=256)
        for row in json.loads(self.ok("qquantize", "--list-schemes", "--json").out):
            for name in [row["name"], *row["aliases"]]:
                result = self.run_("qquantize", model, "-s", name, "--dry-run")
                calibrated = "needs calibrated activations" in result.err
                weighed = "with an importance matrix only" in result.err
                self.assertEqual(result.code, 2 if calibrated or weighed else 0, (name, result))
                if calibrated:
                    self.assertIsNot(row["scheme"]["input_activations"].get("dynamic"), True)
                if weighed:
                    self.assertRegex(row["mix"], "^(iq[123]|q2_k_s)")

    def test_scheme_names_fold(self):
        for name in ("W4A16", "w4a16", "W4A16_ASYM", "w4a16_asym", "FP8-DYNAMIC", "Fp8_Dynamic"):
            self.ok("qquantize", TINY, "-s", name, "--dry-run")

    def test_formats(self):
        names = self.ok("qexport", "--list-formats", "--quiet").out.split()
        self.assertLessEqual({"compressed-tensors", "safetensors"}, set(names))
        self.assertLessEqual(set(names), {r["name"] for r in json.loads(self.ok("qexport", "--list-formats", "--json").out)})

    def test_inputs(self):
        rows = json.loads(self.ok("qload", "--list-inputs", "--json").out)
        self.assertGreaterEqual(len({r["kind"] for r in rows}), 25)
        self.assertEqual({r["verdict"] for r in rows}, {"read", "refused", "named"})
        self.assertGreaterEqual(sum(r["verdict"] == "read" for r in rows), 12)
        table = self.ok("qload", "--list-inputs").out
        for row in rows:
            self.assertIn(row["kind"], table)

    def test_json_of_a_model(self):
        out = json.loads(self.ok("qload", TINY, "--list", "--json").out)
        self.assertEqual(out["architecture"], "LlamaForCausalLM")
        self.assertEqual(out["parameters"], 1902336)  # of tests/data/tiny-lm/README.md
        kinds = {t["name"]: t["kind"] for t in out["tensors"]}
        self.assertEqual(kinds["model.embed_tokens.weight"], "Embedding")
        self.assertEqual(kinds["model.norm.weight"], "Norm")
        self.assertEqual(kinds["model.layers.0.mlp.up_proj.weight"], "Linear")
        self.assertIn("tokenizer.json", [c["name"] for c in out["companions"]])

    def test_json_of_results(self):
        out = self.to_file("qquantize", TINY, "-s", "w4a16", "-o", "a.qmap", "--json")
        self.assertEqual(out["output"], "a.qmap")
        self.assertEqual(out["quantized"], 21)  # seven linears in each of three layers
        out = json.loads(self.ok("qexport", "a.qmap", "-f", "compressed-tensors", "-o", "out", "--json").out)
        self.assertEqual((out["output"], out["shards"]), ("out", 1))
        fates = {e["source"]: e["fate"] for e in out["ledger"]}
        self.assertEqual(fates["model.layers.0.mlp.up_proj.weight"], "quantized")
        self.assertEqual(fates["model.norm.weight"], "kept")
        self.assertEqual(fates["tokenizer.json"], "kept")
        self.assertEqual(fates["config.json"], "rewritten")
        plan = json.loads(self.ok("qquantize", TINY, "-s", "w4a16", "--dry-run", "--json").out)
        self.assertLessEqual({r["match"] for r in plan["rules"]}, set(fates))
        self.assertEqual(sum(r["scheme"] is not None for r in plan["rules"]), 21)
        dry = json.loads(self.ok("qexport", "a.qmap", "-f", "compressed-tensors", "--dry-run", "--json").out)
        self.assertIn("model.layers.0.mlp.up_proj.weight_packed", [t["name"] for t in dry["tensors"]])

    def to_file(self, *command):
        with open(self.dir / "json", "w+b") as file:
            self.ok(*command, stdout=file)
            file.seek(0)
            return json.loads(file.read())

    def test_quiet_and_verbose(self):
        self.assertEqual(self.ok("qquantize", TINY, "-s", "w4a16", "-o", "a").err, "")
        self.assertRegex(self.ok("qquantize", TINY, "-s", "w4a16", "-v", "-o", "b").err, r"21 of \d+ tensors quantized")
        self.assertEqual(self.ok("qquantize", TINY, "-s", "w4a16", "--ignore", "nothing", "-q", "-o", "c").err, "")

    def test_explain(self):
        out = self.ok("qquantize", TINY, "-s", "w4a16", "--explain", "model.layers.0.mlp.up_proj").out
        for word in ("up_proj", "w4a16", "rtn", "Linear", "gate_up"):
            self.assertIn(word, out)
        self.assertIn("embeddings stay unquantized", self.ok("qquantize", TINY, "-s", "w4a16", "--explain",
                                                             "model.embed_tokens.weight").out)
        self.fails(2, "qquantize", TINY, "-s", "w4a16", "--explain", "model.layers.0.mlp.up_prj.weight",
                   says="did you mean 'model.layers.0.mlp.up_proj.weight'?")


class Mistakes(CliTest):
    def test_unknown_options(self):
        for command, mean in ((["qload", "--lst"], "--list"), (["qload", TINY, "--outptu", "x"], "--output"),
                              (["qquantize", TINY, "--shceme", "w4a16"], "--scheme"),
                              (["qquantize", TINY, "--ignroe", "x"], "--ignore"),
                              (["qexport", TINY, "--fromat", "safetensors"], "--format"),
                              (["qexport", TINY, "--shard-sise", "1G"], "--shard-size"),
                              (["qload", TINY, "--theads", "2"], "--threads")):
            self.fails(2, *command, says=[f"unknown option '{command[-1] if len(command) == 2 else command[2]}'",
                                          f"did you mean '{mean}'?"])

    def test_unknown_option_without_a_neighbour(self):
        self.fails(2, "qload", "--frobnicate-it", says=["unknown option '--frobnicate-it'", "see qload --help"])

    def test_values(self):
        for command, says in ((["qload", TINY, "-j", "0", "-o", "a"], "--threads"),
                              (["qload", TINY, "-j", "many", "-o", "a"], "--threads"),
                              (["qload", TINY, "--max-memory", "lots", "-o", "a"], "--max-memory 'lots' is no size"),
                              (["qload", TINY, "--max-memory", "-1G", "-o", "a"], "--max-memory"),
                              (["qload", TINY, "--max-memory", "101%", "-o", "a"], "--max-memory"),
                              (["qload", TINY, "--dtype", "I8", "-o", "a"], "expected F32, F16 or BF16"),
                              (["qload", TINY, "--include", "(", "-o", "a"], "("),
                              (["qquantize", TINY, "-s", "w4a16", "--num-bits", "9", "-o", "a"], "expected 2 to 8, found 9"),
                              (["qquantize", TINY, "-s", "w4a16", "--group-size", "100", "-o", "a"], "found '100'"),
                              (["qquantize", TINY, "-s", "w4a16", "--symmetric", "maybe", "-o", "a"], "--symmetric"),
                              (["qquantize", TINY, "-s", "w4a16", "--ignore", "re:(", "-o", "a"], "regular expression '(' is wrong"),
                              (["qquantize", TINY, "-s", "w4a16", "-a", "gptqq", "-o", "a"], "unknown algorithm 'gptqq'"),
                              (["qexport", TINY, "-f", "safetensors", "--shard-size", "5X", "-o", "a"], "--shard-size"),
                              (["qexport", TINY, "-f", "safetensors", "--target", "vlm", "-o", "a"], "known: vllm, sglang"),
                              (["qload", TINY, "more", "-o", "a"], "unexpected argument 'more'"),
                              (["qload", TINY, "-o"], "--output")):
            self.fails(2, *command, says=says)
        self.assert_clean("a")

    def test_schemes(self):
        for name, says in (("fp8-dynamc", "did you mean 'fp8-dynamic'?"), ("w4a61", "did you mean 'w4a16'?"),
                           ("W4A16_ASM", "did you mean"), ("xyzzy-plugh", "--list-schemes")):
            self.fails(2, "qquantize", TINY, "-s", name, "-o", "a", says=[f"'{name}'", says])
        self.fails(2, "qquantize", TINY, "-o", "a", says="give -s SCHEME (see --list-schemes) or --recipe FILE")
        self.assert_clean("a")

    def test_formats(self):
        self.fails(2, "qexport", TINY, "-f", "compressed-tensor", "-o", "a", says="did you mean 'compressed-tensors'?")
        self.fails(2, "qexport", TINY, "-f", "zip", "-o", "a", says="--list-formats shows all")
        self.fails(2, "qexport", TINY, "-o", "a", says="give -f NAME")
        self.assert_clean("a")

    def test_contradictions(self):
        for command, says in ((["qload", TINY, "--zstd", "-o", "a"], "add --pack"),
                              (["qquantize", TINY, "-s", "fp8-dynamic", "--group-size", "64", "-o", "a"], "fixed layout"),
                              (["qquantize", TINY, "-s", "nvfp4a16", "--num-bits", "3", "-o", "a"], "fixed layout"),
                              (["qquantize", TINY, "-s", "int8", "--symmetric", "false", "-o", "a"], "symmetric"),
                              (["qquantize", TINY, "-s", "int8", "--group-size", "64", "-o", "a"], "per channel"),
                              (["qquantize", TINY, "-s", "w4a16", "--symmetric", "false", "--group-size", "tensor", "-o", "a"],
                               "--group-size channel"),
                              (["qquantize", TINY, "-s", "w4a16", "--resume", "--stream"], "--resume needs -o FILE"),
                              (["qload", TINY, "--include", "nothing-has-this", "-o", "a"], "leave no tensor")):
            self.fails(2, *command, says=says)
        self.assert_clean("a")

    def test_mistakes_come_before_the_input(self):
        # A mistyped scheme must not cost the opening of 140 GB first: the input is not looked at.
        self.fails(2, "qquantize", "/nonexistent", "-s", "w4a61", "-o", "a", says="unknown scheme")
        self.fails(2, "qexport", "/nonexistent", "-f", "zip", "-o", "a", says="unknown format")

    def test_unknown_instruction_set(self):
        self.fails(2, "qquantize", TINY, "-s", "w4a16", "-o", "a", env={"QPIPE_ISA": "mmx"}, says="QPIPE_ISA")
        self.assert_clean("a")


    def test_repeatable_options_take_one_value_each(self):
        # The input may follow them: nothing is swallowed.
        for command in (["qquantize", "-s", "w4a16", "--ignore", "re:.*layers.0", "--ignore", "Head", TINY, "--dry-run"],
                        ["qload", "--list", "--include", "layers.0", "--include", "layers.1", TINY],
                        ["qload", "--list", "--exclude", "layers.0", TINY]):
            self.ok(*command)

    def test_of_a_repeated_option_the_last_counts(self):
        self.assertIn("fp8-dynamic", self.ok("qquantize", TINY, "-s", "fp8-dynamic", "-a", "nonsense", "-a", "rtn", "-j", "1", "-j", "2",
                                             "--dry-run").out)


class Outputs(CliTest):
    def test_existing_files_are_refused(self):
        for command in (["qload", TINY], ["qquantize", TINY, "-s", "w4a16"]):
            (self.dir / "a.qmap").write_text("precious")
            self.fails(4, *command, "-o", "a.qmap", says=["a.qmap: exists", "use --force to replace it"])
            self.assertEqual((self.dir / "a.qmap").read_text(), "precious")
            self.ok(*command, "-o", "a.qmap", "--force")
            self.assertEqual((self.dir / "a.qmap").read_bytes()[:5], b"\x89QMAP")

    def test_existing_directories_are_refused(self):
        (self.dir / "out").mkdir()
        (self.dir / "out" / "notes").write_text("precious")
        export = ["qexport", TINY, "-f", "safetensors", "-o", "out"]
        self.fails(4, *export, says=["out: exists", "use --force to replace it"])
        self.assertEqual((self.dir / "out" / "notes").read_text(), "precious")
        self.ok(*export, "--force")
        self.assertFalse((self.dir / "out" / "notes").exists())
        self.assertTrue((self.dir / "out" / "config.json").exists())

    def test_empty_directory_is_taken(self):
        (self.dir / "out").mkdir()
        self.ok("qexport", TINY, "-f", "safetensors", "-o", "out/")
        self.assertTrue((self.dir / "out" / "config.json").exists())

    def test_somebody_elses_partial_directory(self):
        (self.dir / "out.partial").mkdir()
        (self.dir / "out.partial" / "notes").write_text("precious")
        self.fails(4, "qexport", TINY, "-f", "safetensors", "-o", "out", says="was not made by qexport")
        self.assertEqual((self.dir / "out.partial" / "notes").read_text(), "precious")

    def test_replaced_output_that_a_kill_left(self):
        # What SIGKILL leaves between the exchange of names under --force and the clean-up.
        export = ["qexport", TINY, "-f", "safetensors", "-o", "out"]
        left, out = self.dir / "out.partial", self.dir / "out"
        self.ok(*export)
        self.assertEqual([p.name for p in out.glob(".*")], [])
        for marker, ours in (("{0.st_dev} {0.st_ino}\n", True), ("{0.st_dev} {0.st_ino}1\n", False), ("", False), (None, False)):
            if marker is not None:
                marker = marker.format(out.stat())  # of what is there now: --force makes another
            left.mkdir()
            (left / "notes").write_text("precious")
            if marker is not None:
                (left / ".qpipe-replaced").write_text(marker)
            if ours:
                self.ok(*export, "--force")
                self.assertFalse(left.exists())
                self.assertEqual([p.name for p in out.glob(".*")], [])
                continue
            self.fails(4, *export, "--force", says="was not made by qexport")
            self.assertEqual((left / "notes").read_text(), "precious")
            self.ok("rm", "-r", left)
        # The same marker counts for nothing once its replacement is gone.
        left.mkdir()
        (left / ".qpipe-replaced").write_text("{0.st_dev} {0.st_ino}\n".format(out.stat()))
        self.ok("mv", "out", "elsewhere")
        self.fails(4, *export, says="was not made by qexport")

    def test_output_over_an_input(self):
        self.ok("bash", "-c", f"cp -r {TINY} model")
        before = tree(self.dir / "model")
        self.ok("qload", "model", "-o", "a.qmap")
        qmap = sha256(self.dir / "a.qmap")
        for command in (["qload", "model", "-o", "model/model.safetensors"], ["qload", "a.qmap", "-o", "a.qmap"],
                        ["qload", "a.qmap", "-o", "model/config.json"],
                        ["qquantize", "model", "-s", "w4a16", "-o", "model/model.safetensors"],
                        ["qquantize", "a.qmap", "-s", "w4a16", "-o", "./a.qmap"],
                        ["qexport", "model", "-f", "safetensors", "-o", "model"],
                        ["qexport", "a.qmap", "-f", "safetensors", "-o", "model"],
                        ["qexport", "a.qmap", "-f", "safetensors", "-o", "."]):
            self.fails(2, *command, "--force", says="input")
        os.symlink("model", self.dir / "link")
        self.fails(2, "qexport", "model", "-f", "safetensors", "-o", "link", "--force", says="input")
        self.assertEqual(tree(self.dir / "model"), before)
        self.assertEqual(sha256(self.dir / "a.qmap"), qmap)

    def test_wrong_places(self):
        (self.dir / "file").write_text("x")
        self.fails(4, "qload", TINY, "-o", "absent/a.qmap", says="cannot create: No such file")
        self.fails(4, "qload", TINY, "-o", "file/a.qmap", says="Not a directory")
        self.fails(2, "qload", TINY, "-o", ".", says="name a file")
        self.fails(2, "qload", TINY, "-o", "/dev/null", says="name a file")
        self.fails(2, "qexport", TINY, "-f", "safetensors", "-o", "file", says="name a directory")
        self.assertEqual((self.dir / "file").read_text(), "x")

    def test_umask(self):
        for mask, file_mode, dir_mode in ((0o022, 0o644, 0o755), (0o077, 0o600, 0o700), (0o002, 0o664, 0o775)):
            self.ok("qquantize", TINY, "-s", "w4a16", "-o", "a.qmap", "--force", umask=mask)
            self.ok("qexport", "a.qmap", "-f", "compressed-tensors", "-o", "out", "--force", umask=mask)
            self.assertEqual((self.dir / "a.qmap").stat().st_mode & 0o777, file_mode)
            self.assertEqual((self.dir / "out").stat().st_mode & 0o777, dir_mode)
            for path in (self.dir / "out").iterdir():
                self.assertEqual(path.stat().st_mode & 0o777, file_mode)

    def test_two_writers_of_one_output(self):
        # The second is told; the first is not disturbed.
        model = write_llama(self.dir / "m", hidden=512, layers=4, vocab=512, intermediate=1024)
        first = self.popen("qquantize", model, "-s", "w4a16", "-j", "1", "-o", "a", env={"QPIPE_ISA": "scalar"})
        while not (self.dir / "a.partial").exists() and first.poll() is None:
            pass
        second = self.run_("qquantize", model, "-s", "w4a16", "-o", "a", "--force")
        self.assertEqual(first.wait(60), 0, first.stderr.read())
        self.assertIn(second.code, (0, 4), second)
        if second.code == 4:
            self.assertIn("another program is writing it", second.err)
        self.ok("qload", "a", "--list")


class Strict(CliTest):
    def test_a_pattern_that_matches_nothing(self):
        command = ["qquantize", TINY, "-s", "w4a16", "--ignore", "re:model.layer.0", "-o", "a"]
        result = self.fails(2, *command, "--strict", says=["--ignore 're:model.layer.0' matches no tensor"])
        self.assertIn("with --strict", result.err)
        self.assert_clean("a")
        self.assertIn("warning: --ignore 're:model.layer.0' matches no tensor", self.ok(*command).err)

    def test_nothing_quantized(self):
        command = ["qquantize", TINY, "-s", "w4a16", "--ignore", "Linear", "-o", "a"]
        self.assertIn("nothing is quantized", self.ok(*command).err)
        self.fails(2, *command, "--strict", "--force")

    def test_without_warnings_strict_changes_nothing(self):
        self.ok("qquantize", TINY, "-s", "w4a16", "--strict", "-o", "a")


class Limits(CliTest):
    def test_memory(self):
        result = self.fails(5, "qquantize", TINY, "-s", "w4a16", "--max-memory", "1MB", "-o", "a",
                            says=["tensor '", "--max-memory allows 1.00 MB", "use --max-memory "])
        size = re.search(r"use --max-memory (\S+)", result.err)[1]
        self.ok("qquantize", TINY, "-s", "w4a16", "--max-memory", size, "-o", "a")

    def test_quantizing_twice(self):
        self.ok("qquantize", TINY, "-s", "w4a16", "-o", "a")
        self.fails(5, "qquantize", "a", "-s", "fp8-dynamic", "-o", "b",
                   says=["is already quantized (w4a16)", "tensor '", "--dequantize"])
        self.assert_clean("b")


if __name__ == "__main__":
    main()
