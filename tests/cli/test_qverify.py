"""qverify as a program: exit codes, reports, what it reads from a pipe, damaged checkpoints."""

import json
import math
import random
import shutil
import struct
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser

from support import TINY, CliTest, from_bf16, main, read_safetensors, write_safetensors


class Page(HTMLParser):
    """Tags nest; counts them; collects what would be fetched."""

    VOID = {"meta", "link", "img", "br"}

    def __init__(self, text):
        super().__init__()
        self.open, self.seen, self.fetched = [], {}, []
        self.feed(text)
        assert not self.open, self.open

    def handle_starttag(self, tag, attrs):
        self.seen[tag] = self.seen.get(tag, 0) + 1
        self.fetched += [v for k, v in attrs if k in ("src", "href", "srcset", "data")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.seen[tag] = self.seen.get(tag, 0) + 1

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, (tag, self.getpos())


class Verify(CliTest):
    def setUp(self):
        super().setUp()
        self.out = self.dir / "out"
        self.ok("bash", "-c", f"qload {TINY} | qquantize -s w8a8 -o q.qmap")
        self.ok("qexport", "q.qmap", "-f", "compressed-tensors", "-o", self.out)

    def json(self, *args, code=0):
        result = self.run_("qverify", *args, "--json")
        self.assertEqual(result.code, code, result)
        return json.loads(result.out)

    def rules(self, *args, code=1):
        return {f["rule"] for f in self.json(*args, code=code)["findings"] if f["severity"] == "error"}

    def change(self, name, data):
        """Replaces a tensor's bytes in the exported shard."""
        path = self.out / "model.safetensors"
        tensors = read_safetensors(path)
        dtype, shape, _ = tensors[name]
        tensors[name] = (dtype, shape, data)
        write_safetensors(path, tensors)

    def test_sound(self):
        self.assertEqual(self.ok("qverify", self.out).err, "")
        self.assertEqual(self.ok("qverify", TINY).err, "")
        self.assertEqual(self.ok("qverify", "q.qmap", "--strict", "-q").out, "")

    def test_bounds_decide(self):
        for option, good, bad in (("--min-sqnr", 20, 60), ("--min-cosine", 0.99, 0.9999999),
                                  ("--max-mse", 1, 1e-12), ("--max-abs", 1, 1e-7)):
            self.ok("qverify", self.out, TINY, option, good)
            self.ok("qverify", self.out, "--against", TINY, option, bad, "--ignore", "Linear")
            result = self.run_("qverify", self.out, "--against", TINY, option, bad)
            self.assertEqual(result.code, 1, result)
            self.assertIn(f"error: {option[2:]}: model.layers.", result.out)

    def test_numbers_are_those_of_python(self):
        report = self.json(self.out, TINY)
        base, mine = read_safetensors(TINY / "model.safetensors"), read_safetensors(self.out / "model.safetensors")
        name = "model.layers.0.self_attn.k_proj.weight"
        _, (rows, cols), codes = mine[name]
        scales = from_bf16(mine[name + "_scale"][2])
        b = from_bf16(base[name][2])
        a = []
        for i, q in enumerate(struct.unpack(f"{rows * cols}b", codes)):
            word = struct.unpack("<I", struct.pack("<f", q * scales[i // cols]))[0]  # to BF16, nearest even
            a.append(struct.unpack("<f", struct.pack("<I", ((word + 0x7fff + (word >> 16 & 1)) >> 16) << 16))[0])
        noise = math.fsum((x - y) ** 2 for x, y in zip(a, b))
        signal = math.fsum(y * y for y in b)
        found = next(t for t in report["tensors"] if t["name"] == name)
        self.assertAlmostEqual(found["sqnr_db"], 10 * math.log10(signal / noise), places=9)
        self.assertAlmostEqual(found["mse"] * len(b) / noise, 1, places=12)
        self.assertEqual(found["max_abs"], max(abs(x - y) for x, y in zip(a, b)))

    def test_worst_come_first(self):
        rows = [t["sqnr_db"] for t in self.json(self.out, TINY)["tensors"]]
        known = [r for r in rows if r is not None]
        self.assertEqual(known, sorted(known))
        self.assertEqual(rows[:len(known)], known)  # exact ones last

    def test_threads_and_isa_change_no_byte(self):
        want = self.ok("qverify", self.out, TINY, "--json", "-j", 1).out
        self.assertEqual(self.ok("qverify", self.out, TINY, "--json", "-j", 5).out, want)
        self.assertEqual(self.ok("qverify", self.out, TINY, "--json", env={"QPIPE_ISA": "scalar"}).out, want)

    def test_reports(self):
        self.ok("qverify", self.out, TINY, "-q", *(f"--report=r.{e}" for e in ("json", "xml", "html")))
        report = json.loads((self.dir / "r.json").read_text())
        self.assertTrue(report["sound"])
        suites = ElementTree.parse(self.dir / "r.xml").getroot()
        self.assertEqual([s.get("name") for s in suites], ["structure", "numbers", "comparison"])
        self.assertEqual(len(suites.findall(".//testcase")), int(suites.get("tests")))
        self.assertEqual(len(suites.find("testsuite[@name='comparison']")), len(report["tensors"]))
        page = Page((self.dir / "r.html").read_text())
        self.assertEqual(page.fetched, [])
        self.assertGreaterEqual(page.seen["svg"], 3)

    def test_failures_are_in_every_report(self):
        config = json.loads((self.out / "config.json").read_text())
        config["vocab_size"] += 1
        (self.out / "config.json").write_text(json.dumps(config))
        result = self.run_("qverify", self.out, "--report", "r.xml", "--report", "r.html", "-q")
        self.assertEqual((result.code, result.out), (1, ""))
        self.assertIn("vocab-size", result.err)
        failure = ElementTree.parse(self.dir / "r.xml").find(".//testcase[@name='vocab-size']/failure")
        self.assertEqual(failure.get("type"), "vocab-size")
        self.assertIn("vocab-size", (self.dir / "r.html").read_text())

    def test_reads_what_qexport_hands_over(self):
        self.ok("bash", "-c", f"set -o pipefail; qexport q.qmap -f compressed-tensors -o 'a b%' | qverify --against {TINY}")
        self.ok("bash", "-c", "set -o pipefail; qload q.qmap | qverify -")
        self.ok("bash", "-c", "set -o pipefail; qload q.qmap --stream | qverify")
        self.ok("bash", "-c", f"set -o pipefail; qload {TINY} | qverify {self.out} -")
        self.fails(3, "qverify", says="standard input: is empty")

    def test_usage(self):
        self.fails(2, "qverify", self.out, "--min-sqnr", "30", says="give --against BASE")
        self.fails(2, "qverify", self.out, TINY, "--against", TINY, says="two bases")
        self.fails(2, "qverify", self.out, "--report", "r.txt", says=".json, .xml or .html")
        self.fails(2, "qverify", "-", "-", says="cannot both be standard input")
        self.fails(2, "qverify", self.out, "--ignore", "re:(", says="regular expression")
        self.fails(4, "qverify", self.dir / "nowhere", says="nowhere")
        self.fails(4, "qverify", self.out, self.dir / "nowhere", says="nowhere")

    def test_a_malformed_base_is_bad_input(self):
        (self.dir / "base.safetensors").write_bytes(b"\xff" * 100)
        self.fails(3, "qverify", self.out, "base.safetensors", says="base.safetensors")

    def test_strict(self):
        config = json.loads((self.out / "config.json").read_text())
        config["torch_dtype"] = config["dtype"] = "float16"
        (self.out / "config.json").write_text(json.dumps(config))
        self.ok("qverify", self.out)
        result = self.run_("qverify", self.out, "--strict")
        self.assertEqual(result.code, 1, result)

    def test_bad_numbers(self):
        name = "model.layers.1.mlp.up_proj.weight"
        tensors = read_safetensors(self.out / "model.safetensors")
        scales = tensors[name + "_scale"][2]
        for bits, rule in ((b"\xc0\x7f", "nan-scale"), (b"\x80\x7f", "nan-scale"), (b"\0\0", "zero-scale")):
            self.change(name + "_scale", bits + scales[2:])
            self.assertEqual(self.rules(self.out), {rule})
        self.change(name + "_scale", scales)
        norm = tensors["model.norm.weight"][2]
        self.change("model.norm.weight", b"\x80\xff" + norm[2:])
        self.assertEqual(self.rules(self.out), {"nan-weight"})
        self.change("model.norm.weight", b"\0\x40" + norm[2:])
        self.assertEqual(self.rules(self.out, TINY, code=0), set())
        self.assertEqual(self.json(self.out, TINY)["warnings"], 1)  # kept-differs

    def test_another_model(self):
        self.assertEqual(self.rules(TINY, "q.qmap", code=0), set())
        other = self.dir / "other"
        shutil.copytree(TINY, other)
        tensors = read_safetensors(other / "model.safetensors")
        write_safetensors(other / "model.safetensors", {"x." + n: t for n, t in tensors.items()})
        self.assertEqual(self.rules(self.out, other), {"no-common-name"})
        tensors.pop("model.layers.2.mlp.up_proj.weight")
        write_safetensors(other / "model.safetensors", tensors)
        self.assertIn("missing-in-checkpoint", self.rules(other, TINY))
        self.assertIn("missing-module", self.rules(other))

    def test_nothing_is_changed(self):
        before = {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in self.out.iterdir()}
        self.ok("qverify", self.out, TINY)
        self.assertEqual({p: (p.read_bytes(), p.stat().st_mtime_ns) for p in self.out.iterdir()}, before)

    def test_damage_never_kills(self):
        """Headers, configs and data with random bytes: sound or failed, never a crash."""
        rng = random.Random(5)
        for name in ("model.safetensors", "config.json", "tokenizer.json"):
            good = (self.out / name).read_bytes()
            for _ in range(25):
                bad = bytearray(good)
                for _ in range(rng.randint(1, 4)):
                    bad[rng.randrange(min(len(bad), 4000))] = rng.randrange(256)
                if rng.random() < 0.2:
                    del bad[rng.randrange(len(bad)):]
                (self.out / name).write_bytes(bad)
                result = self.run_("qverify", self.out, "--report", "r.xml", "--report", "r.html")
                self.assertIn(result.code, (0, 1), result)
                ElementTree.parse(self.dir / "r.xml")
                Page((self.dir / "r.html").read_text())
            (self.out / name).write_bytes(good)


if __name__ == "__main__":
    main()
