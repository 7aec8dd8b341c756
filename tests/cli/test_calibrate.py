"""qcalibrate as a program: where text comes from, what is refused, and with which words. The numbers
are tests/interop/test_calibration.py's."""

import gzip
import json
import shutil

from support import TINY, CliTest, main, qmap_manifest, sha256

TEXT = TINY / "heldout.txt"
FEW = ("-n", "4", "--seqlen", "64")


class Text(CliTest):
    def calibration(self, path):
        return qmap_manifest((self.dir / path).read_bytes())["calibration"]

    def test_json_lines_through_a_pipe(self):
        """A c4-like .json.gz of 1,024 documents, from standard input and from a file: one result."""
        words = TEXT.read_text().split()
        with gzip.open(self.dir / "c4.json.gz", "wt") as out:
            for i in range(1024):
                begin = i * 7 % (len(words) - 40)
                out.write(json.dumps({"url": str(i), "text": " ".join(words[begin:begin + 40])}) + "\n")
        self.ok("qload", TINY, "-o", "base.qmap")
        result = self.sh("zcat c4.json.gz | qcalibrate base.qmap --text - --field text -n 8 --seqlen 128 -o a.qmap")
        self.assertEqual(result.code, 0, result)
        self.ok("qcalibrate", "base.qmap", "--text", "c4.json.gz", "--field", "text", "-n", "8", "--seqlen", "128",
                "-o", "b.qmap")
        self.assertEqual(sha256(self.dir / "a.qmap"), sha256(self.dir / "b.qmap"))
        found = self.calibration("a.qmap")
        self.assertEqual((found["windows"], found["tokens"]["count"]), (8, 1024))
        self.ok("qcalibrate", "base.qmap", "--text", "c4.json.gz", "--field", "text", "--per-document", "-n", "0",
                "--seqlen", "32", "-o", "c.qmap")
        self.assertEqual(self.calibration("c.qmap")["windows"], 1024)

    def test_seed_chooses(self):
        for seed, name in ((1, "a"), (1, "b"), (2, "c")):
            self.ok("qcalibrate", TINY, "--text", TEXT, *FEW, "--seed", seed, "-o", f"{name}.qmap")
        hashes = [sha256(self.dir / f"{n}.qmap") for n in "abc"]
        self.assertEqual(hashes[0], hashes[1])
        self.assertNotEqual(hashes[0], hashes[2])

    def test_pipeline(self):
        """Without -o it hands over as every stage does; the quantized result is that of the model."""
        result = self.sh(f"qload {TINY} -o base.qmap && qcalibrate base.qmap --text {TEXT} -n 4 --seqlen 64 | "
                         f"qquantize -s w4a16 | qexport -f compressed-tensors -o a && "
                         f"qquantize base.qmap -s w4a16 | qexport -f compressed-tensors -o b")
        self.assertEqual(result.code, 0, result)
        self.assertEqual(sha256(self.dir / "a/model.safetensors"), sha256(self.dir / "b/model.safetensors"))

    def test_statistics_travel(self):
        self.ok("qcalibrate", TINY, "--text", TEXT, *FEW, "-o", "c.qmap")
        listed = json.loads(self.ok("qcalibrate", "c.qmap", "--list", "--json").out)
        self.ok("qload", "c.qmap", "--pack", "-o", "packed.qmap")
        (self.dir / "c.qmap").unlink()
        again = json.loads(self.ok("qcalibrate", "packed.qmap", "--list", "--json").out)
        for a, b in zip(listed["inputs"], again["inputs"], strict=True):
            self.assertEqual(a["extent"][3], b["extent"][3])  # checksums of the numbers


class Refusals(CliTest):
    def refused(self, code, words, *args):
        result = self.run_("qcalibrate", *args, "-o", "out.qmap")
        self.assertEqual(result.code, code, result)
        self.assertIn(words, result.err)
        self.assertEqual(list(self.dir.glob("out.qmap*")), [])

    def test_text(self):
        (self.dir / "empty.txt").write_text("")
        (self.dir / "short.txt").write_text("A few words.")
        (self.dir / "chat.jsonl").write_text('{"messages": [{"role": "user", "content": "hi"}]}\n')
        (self.dir / "broken.jsonl").write_text('{"text": "fine"}\n{"text": \n')
        (self.dir / "cut.gz").write_bytes(gzip.compress(b"text " * 9999)[:50])
        for name, words in (("empty.txt", "no"), ("short.txt", "window"), ("chat.jsonl", "chat"),
                            ("broken.jsonl", "broken.jsonl"), ("cut.gz", "cut.gz")):
            with self.subTest(name):
                self.refused(3, words, TINY, "--text", name, *FEW)
        self.refused(4, "absent.txt", TINY, "--text", "absent.txt", *FEW)

    def test_bytes_that_are_no_utf8(self):
        """They count as U+FFFD: a defined result, not an error."""
        (self.dir / "latin.txt").write_bytes(b"caf\xe9 \xff\xfe " * 200 + TEXT.read_bytes())
        self.ok("qcalibrate", TINY, "--text", "latin.txt", *FEW, "-o", "a.qmap")

    def test_window_longer_than_the_context(self):
        self.refused(2, "context", TINY, "--text", TEXT, "--seqlen", "100000")

    def test_both_from_standard_input(self):
        self.refused(2, "standard input", "-", "--text", "-")

    def test_no_tokenizer(self):
        shutil.copytree(TINY, self.dir / "bare")
        (self.dir / "bare/tokenizer.json").unlink()
        self.refused(2, "--tokens", self.dir / "bare", "--text", TEXT)

    def test_damaged_tokenizer(self):
        shutil.copytree(TINY, self.dir / "bad")
        data = json.loads((TINY / "tokenizer.json").read_text())
        data["model"]["vocab"].popitem()
        (self.dir / "bad/tokenizer.json").write_text(json.dumps(data)[:-3])
        self.refused(3, "tokenizer.json", self.dir / "bad", "--text", TEXT)

    def test_unknown_architecture(self):
        shutil.copytree(TINY, self.dir / "odd")
        config = json.loads((TINY / "config.json").read_text())
        (self.dir / "odd/config.json").write_text(json.dumps(config | {"architectures": ["OddForCausalLM"]}))
        self.refused(3, "OddForCausalLM", self.dir / "odd", "--text", TEXT)
        self.ok("qquantize", self.dir / "odd", "-s", "int8", "-o", "q.qmap")

    def test_config_and_weights_disagree(self):
        shutil.copytree(TINY, self.dir / "odd")
        config = json.loads((TINY / "config.json").read_text())
        config["intermediate_size"] *= 2
        (self.dir / "odd/config.json").write_text(json.dumps(config))
        self.refused(3, "disagree", self.dir / "odd", "--text", TEXT, *FEW)


if __name__ == "__main__":
    main()
