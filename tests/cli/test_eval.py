"""qverify --eval, --choices, --generate as a program: exit codes, bounds, reports, bad input. The
numbers are tests/interop/test_eval.py's."""

import json
import shutil
import xml.etree.ElementTree as ElementTree

from support import TINY, CliTest, main

TEXT = TINY / "heldout.txt"
SMALL = ("--seqlen", "64", "-n", "2")


class Eval(CliTest):
    def setUp(self):
        super().setUp()
        self.ok("bash", "-c", f"qload {TINY} | qquantize -s w4a16-g64 -o q.qmap")

    def evaluation(self, *args):
        return json.loads(self.ok("qverify", *args, "--json").out)["evaluation"]

    def copy(self, drop=(), **config):
        model = self.dir / "model"
        shutil.copytree(TINY, model)
        for name in drop:
            (model / name).unlink()
        if config:
            path = model / "config.json"
            path.chmod(0o644)
            path.write_text(json.dumps(json.loads(path.read_text()) | config))
        return model

    def test_summary(self):
        out = self.ok("qverify", "q.qmap", TINY, "--eval", TEXT, *SMALL).out
        for text in ("2 windows of 64 tokens", "perplexity:", "KL:", "top-1:", "hidden states:"):
            self.assertIn(text, out)

    def test_bounds_decide(self):
        args = ("qverify", "q.qmap", TINY, "--eval", TEXT, *SMALL)
        for option, good, bad in (("--max-kl", 10, 1e-9), ("--max-ppl-increase", 1000, -50),
                                  ("--min-top1", 0, 1.1)):
            self.ok(*args, option, good)
            result = self.run_(*args, f"{option}={bad}")
            self.assertEqual(result.code, 1, result)
            self.assertIn(f"error: {option[2:]}: ", result.out)
        report = self.dir / "junit.xml"
        self.run_(*args, "--max-kl", "1e-9", "--report", report)
        suites = {s.get("name"): s for s in ElementTree.parse(report).getroot()}
        cases = {c.get("name"): c.find("failure") is not None for c in suites["evaluation"]}
        self.assertEqual(cases, {"perplexity": False, "kl-divergence": True, "top1": False})

    def test_baseline(self):
        args = ("qverify", "q.qmap", TINY, "--eval", TEXT, *SMALL)
        old = self.dir / "old.json"
        self.ok(*args, "--report", old)
        self.ok(*args, "--baseline", old, "--tolerance", 0)
        report = json.loads(old.read_text())
        report["evaluation"]["divergence"]["kl"]["mean"] /= 1.5
        old.write_text(json.dumps(report))
        result = self.run_(*args, "--baseline", old)
        self.assertEqual(result.code, 1, result)
        self.assertIn("baseline-kl", result.out)
        self.ok(*args, "--baseline", old, "--tolerance", 51)
        self.fails(2, "other tokens", *args, "-n", 1, "--baseline", old)
        old.write_text("{}")
        self.fails(3, "no qverify report", *args, "--baseline", old)

    def test_html_has_charts(self):
        page = self.dir / "report.html"
        self.ok("qverify", "q.qmap", TINY, "--eval", TEXT, *SMALL, "--report", page)
        text = page.read_text()
        for label in ("tokens by their KL divergence", "mean KL divergence by position", "relative error of hidden states"):
            self.assertIn(f'aria-label="{label}', text)

    def test_inputs(self):
        """Plain, compressed, JSON lines and standard input are the same text."""
        first = self.evaluation(TINY, "--eval", TEXT, *SMALL)
        text = TEXT.read_text()
        lines = self.dir / "t.jsonl"
        lines.write_text(json.dumps({"words": text}) + "\n")
        self.ok("bash", "-c", f"gzip -c {TEXT} > t.gz; zstd -q {TEXT} -o t.zst")
        for args in (("t.gz",), ("t.zst",), (lines, "--field", "words")):
            self.assertEqual(self.evaluation(TINY, "--eval", *args, *SMALL)["tokens_hash"], first["tokens_hash"])
        piped = self.ok("bash", "-c", f"qverify {TINY} --eval - --json {' '.join(SMALL)} < {TEXT}")
        self.assertEqual(json.loads(piped.out)["evaluation"]["tokens_hash"], first["tokens_hash"])

    def fails(self, code, words, *args):
        result = self.run_(*args)
        self.assertEqual(result.code, code, result)
        self.assertIn(words, result.err)

    def test_text_that_does_not_do(self):
        empty = self.dir / "empty.txt"
        empty.write_text("")
        short = self.dir / "short.txt"
        short.write_text("Just a few words.")
        self.fails(3, "no text", "qverify", TINY, "--eval", empty)
        self.fails(3, "--seqlen", "qverify", TINY, "--eval", short)
        self.fails(4, "nowhere.txt", "qverify", TINY, "--eval", "nowhere.txt")
        self.fails(2, "--stride", "qverify", TINY, "--eval", TEXT, "--seqlen", 64, "--stride", 65)
        self.fails(2, "too short", "qverify", TINY, "--eval", TEXT, "--seqlen", 1)
        self.fails(2, "standard input", "qverify", "-", "--eval", "-")
        ids = self.dir / "ids.json"
        ids.write_text(json.dumps([10**6] * 64))
        self.fails(3, "1000000", "qverify", TINY, "--tokens", ids, "--seqlen", 64)

    def test_model_that_does_not_do(self):
        model = self.copy(drop=["tokenizer.json"])
        self.fails(3, "--tokens", "qverify", model, "--eval", TEXT, *SMALL)
        shutil.rmtree(model)
        model = self.copy(architectures=["Bert"])
        self.fails(3, "families that run", "qverify", model, "--eval", TEXT, *SMALL)

    def test_arguments(self):
        self.fails(2, "--eval", "qverify", TINY, "--max-kl", 1)
        self.fails(2, "--eval", "qverify", TINY, "--eval", TEXT, "--max-kl", 1)
        self.fails(2, "one of them", "qverify", TINY, "--eval", TEXT, "--tokens", TEXT)
        self.fails(2, "alone", "qverify", TINY, "--generate", "x", "--eval", TEXT)

    def test_choices(self):
        items = self.dir / "items.jsonl"
        items.write_text('{"context": "In the", "choices": ["beginning", "zzzz"], "answer": 0}\n\n')
        out = self.ok("qverify", TINY, TINY, "--choices", items).out
        self.assertIn("acc: ", out)
        self.assertIn("base", out)
        for line, words in (("{}", "context"), ('{"context": "a", "choices": ["b"], "answer": 0}', "two"),
                            ('{"context": "a", "choices": ["b", "c"], "answer": 2}', "answer"), ("[", ":1")):
            items.write_text(line + "\n")
            self.fails(3, words, "qverify", TINY, "--choices", items)

    def test_generate(self):
        args = ("qverify", TINY, "--generate", "In the beginning", "--max-new-tokens", 12)
        first = self.ok(*args).out
        self.assertEqual(first, self.ok(*args, "-j", 1).out)
        self.assertEqual(first, self.ok(*args, "--top-p", 0.5, "--seed", 3).out)  # greedy all the same
        drawn = self.ok(*args, "--temperature", 1.5, "--seed", 3).out
        self.assertEqual(drawn, self.ok(*args, "--temperature", 1.5, "--seed", 3).out)
        self.assertNotEqual(drawn, self.ok(*args, "--temperature", 1.5, "--seed", 4).out)


if __name__ == "__main__":
    main()
