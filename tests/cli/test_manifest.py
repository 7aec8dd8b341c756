"""qverify --manifest and --sample as users meet them; sha256sum is the judge of manifests."""

import json
import shutil
import subprocess
import unittest

from support import TINY, CliTest, main, write_llama

NAMES = ["plain.txt", "with space", "back\\slash", "line\nbreak", "carriage\rreturn", "sub/folder/file", "ünïcode", "-dash"]


class Manifest(CliTest):
    def setUp(self):
        super().setUp()
        self.model = self.dir / "model"
        shutil.copytree(TINY, self.model)
        for name in NAMES:
            path = self.model / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(name)
        (self.model / "empty").write_bytes(b"")
        (self.model / ".cache").mkdir()
        (self.model / ".cache/lock").write_text("hidden")

    def sha256sum(self, *args, **kwargs):
        if shutil.which("sha256sum") is None:
            raise unittest.SkipTest("no sha256sum")
        return subprocess.run(["sha256sum", *args], cwd=self.model, capture_output=True, **kwargs)

    def rules(self, *args, code=1):
        result = self.run_("qverify", self.model, "--manifest", "check", "--json", *args)
        self.assertEqual(result.code, code, result)
        return sorted(f["rule"] for f in json.loads(result.out)["findings"] if f["severity"] == "error")

    def test_sha256sum_reads_ours(self):
        self.ok("qverify", self.model, "--manifest", "write", "-j", 3)
        checked = self.sha256sum("--strict", "-c", "SHA256SUMS")
        self.assertEqual(checked.returncode, 0, checked)
        listed = (self.model / "SHA256SUMS").read_bytes()
        self.assertEqual(len(listed.splitlines() if b"\r" not in listed else listed.split(b"\n")[:-1]),
                         sum(p.is_file() and ".cache" not in p.parts for p in self.model.rglob("*")) - 1)
        names = sorted(str(p.relative_to(self.model)) for p in self.model.rglob("*")
                       if p.is_file() and ".cache" not in p.parts and p.name != "SHA256SUMS")
        theirs = self.sha256sum("--", *sorted(names, key=str.encode)).stdout
        self.assertEqual(listed, theirs)  # byte for byte, escapes too

    def test_we_read_theirs(self):
        for flags in ((), ("--binary",), ("--tag",)):
            names = sorted("./" + str(p.relative_to(self.model)) for p in self.model.rglob("*")
                           if p.is_file() and ".cache" not in p.parts and p.name != "SHA256SUMS")
            (self.model / "SHA256SUMS").write_bytes(self.sha256sum(*flags, *names).stdout)
            self.assertEqual(self.rules(code=0), [], flags)

    def test_what_is_found(self):
        self.ok("qverify", self.model, "--manifest", "write")
        self.assertEqual(self.rules(code=0), [])
        (self.model / "with space").write_text("other")
        (self.model / "plain.txt").unlink()
        (self.model / "new").write_text("new")
        self.assertEqual(self.rules(), ["manifest-changed", "manifest-extra", "manifest-missing"])

    def test_hostile_manifests(self):
        zeros = "0" * 64
        (self.dir / "sums").write_text(f"{zeros}  ../secret\n{zeros}  /etc/passwd\n{zeros}  sub/../../x\n"
                                       f"{zeros} nothing\nrubbish\n\\{zeros}  bad\\q\n\\\n# comment\n")
        rules = self.rules("--manifest-file", self.dir / "sums")
        self.assertEqual(rules.count("manifest-format"), 7)
        self.assertNotIn("manifest-missing", rules)

    def test_an_unsound_checkpoint_gets_none(self):
        (self.model / "tokenizer.json").write_text("{")
        self.assertEqual(self.run_("qverify", self.model, "--manifest", "write").code, 1)
        self.assertFalse((self.model / "SHA256SUMS").exists())

    def test_one_file(self):
        self.ok("qverify", self.model / "model.safetensors", "--manifest", "write")
        checked = self.sha256sum("-c", "model.safetensors.sha256")
        self.assertEqual(checked.returncode, 0, checked)
        self.ok("qverify", self.model / "model.safetensors", "--manifest", "check")

    def test_usage(self):
        self.fails(2, "qverify", self.model, "--manifest-file", "x", says="--manifest check")
        self.fails(2, "qverify", self.model, "--manifest", "make", says="--manifest")
        self.fails(4, "qverify", self.model, "--manifest", "check", says="SHA256SUMS")


class Sample(CliTest):
    def setUp(self):
        super().setUp()
        self.model = write_llama(self.dir / "model", hidden=512, layers=1, vocab=2048, intermediate=1024)

    def report(self, *args):
        return json.loads(self.ok("qverify", *args, "--json").out)

    def test_what_is_said(self):
        out = self.ok("qverify", self.model, "--sample", "5%").out
        self.assertIn("sound in the sample", out)
        self.assertIn("5 % of the rows of each, seed 0", out)
        report = self.report(self.model, "--sample", "0.05", "--seed", 7)
        self.assertEqual((report["sample"]["share"], report["sample"]["seed"]), (0.05, 7))
        self.assertLess(report["sample"]["bytes_read"], 0.3 * report["sample"]["bytes"])
        self.assertEqual(len(report["tensors"]), 12)
        self.assertNotIn("sample", self.report(self.model, "--sample", "100%"))
        self.ok("qverify", self.model, "--sample", "5%", "-q", "--report=r.xml", "--report=r.html")
        for name in ("r.xml", "r.html"):
            self.assertIn("5 % of the rows", (self.dir / name).read_text())

    def test_threads_change_no_byte_and_seeds_do(self):
        self.ok("qquantize", self.model, "-s", "w4a16", "-o", "q.qmap")
        args = ("qverify", "q.qmap", self.model, "--sample", "20%", "--json")
        want = self.ok(*args, "-j", 1).out
        self.assertEqual(self.ok(*args, "-j", 4).out, want)
        self.assertNotEqual(self.ok(*args, "--seed", 1).out, want)
        whole = self.report("q.qmap", self.model)["overall"]["sqnr_db"]
        self.assertAlmostEqual(json.loads(want)["overall"]["sqnr_db"], whole, delta=0.2)

    def test_usage(self):
        for bad in ("0", "0%", "101%", "-3%", "5", "1", "x", "5%%", "nan%", ""):
            self.fails(2, "qverify", self.model, f"--sample={bad}", says="--sample")


if __name__ == "__main__":
    main()
