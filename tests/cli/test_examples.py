"""What README.md, the manual pages and tests/examples tell people to type, typed."""

import gzip
import json
import os
import re
import shutil
import subprocess
import tempfile
import unittest
import xml.etree.ElementTree as ET
from pathlib import Path

from support import BIN, TINY, main, write_pipeline

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "tests/examples"
MIXED = '{"rules": [{"match": "re:.*down_proj", "scheme": "fp8-dynamic"}, ' \
        '{"match": "Linear", "scheme": "w4a16"}]}\n'


class ExampleTest(unittest.TestCase):
    """A scratch folder with the things that the examples name."""

    def setUp(self):
        scratch = tempfile.TemporaryDirectory(prefix="qpipe-examples-")
        self.addCleanup(scratch.cleanup)
        self.dir = Path(scratch.name)
        shutil.copytree(TINY, self.dir / "model")
        self.env = {**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}",
                    "QPIPE_TMPDIR": str(self.dir), "MAKEFLAGS": ""}

    def sh(self, script, **more):
        run = subprocess.run(["bash", "-euo", "pipefail", "-c", script], cwd=self.dir,
                             env=self.env, capture_output=True, text=True, timeout=300,
                             stdin=subprocess.DEVNULL, check=False, **more)
        self.assertEqual(run.returncode, 0, f"{script}\n{run.stdout}{run.stderr}")
        return run.stdout + run.stderr

    def checkpoint(self, name):
        self.assertTrue((self.dir / name / "config.json").exists(), name)
        self.sh(f"qverify {name} -q")


    def provide_texts(self, command):
        """The texts and token ids that a command names."""
        held = (TINY / "heldout.txt").read_text()
        lines = "".join(json.dumps({"text": p}) + "\n" for p in held.split("\n\n") if p.strip())
        texts = {"text.txt": held, "calib.txt": held, "wiki.txt": held, "wiki.test.raw": held, "a.txt": held, "c4.json.gz": lines,
                 "b.txt.zst": held, "ids.jsonl": "".join(f"{list(range(i, i + 300))}\n" for i in range(3)),
                 "arc.jsonl": json.dumps({"context": "The", "choices": [" man", " of"], "answer": 0}) + "\n"}
        for name in ("FLUX.1-dev", "Wan2.2-T2V-A14B-Diffusers"):
            if f"./{name}" in command and not (self.dir / name).exists():
                write_pipeline(self.dir / name)
        for name, text in texts.items():
            if name not in command or (self.dir / name).exists():
                continue
            data = text.encode()
            if name.endswith(".gz"):
                data = gzip.compress(data)
            elif name.endswith(".zst"):  # one raw block per frame: no compressor needed
                parts = [data[i:i + 0x1ffff] for i in range(0, len(data), 0x1ffff)]
                data = b"".join(b"\x28\xb5\x2f\xfd\xa0" + len(p).to_bytes(4, "little") +
                                (len(p) << 3 | 1).to_bytes(3, "little") + p for p in parts)
            (self.dir / name).write_bytes(data)


class Readme(ExampleTest):
    def test_blocks(self):
        """In order, in one folder; blocks in other languages are not run."""
        blocks = re.findall(r"^```sh\n(.*?)^```", (ROOT / "README.md").read_text(), re.M | re.S)
        self.assertGreaterEqual(len(blocks), 4)
        for block in blocks:
            self.provide_texts(block)
            self.sh(block)
        for name in ("out", "model-w4a16", "plain"):
            self.checkpoint(name)
        self.assertIn("<svg", (self.dir / "report.html").read_text())


class Manual(ExampleTest):
    """The EXAMPLES of each page, each in a fresh copy of what they assume."""

    def commands(self, page):
        text = page.read_text().split(".Sh EXAMPLES", 1)[1].split(".Sh ", 1)[0]
        return [line[4:].replace("\\-", "-").replace("\\e", "\\")
                for line in text.splitlines() if line.startswith(".Dl ")]

    def provide(self, command):
        """Makes the inputs that a command names but does not make."""
        self.provide_texts(command)
        if "base.qmap" in command and "-o base.qmap" not in command:
            self.sh("qload ./model -o base.qmap")
        if "mixed.json" in command:
            (self.dir / "mixed.json").write_text(MIXED)
        if re.search(r"\bw4\.qmap", command) and "-o w4.qmap" not in command:
            self.sh("qquantize ./model -s w4a16 -o w4.qmap")
        for name in re.findall(r"part\d\.qmap", command):
            self.sh(f"qcalibrate ./model --text {TINY}/calib.txt -n 2 --seqlen 64 -o {name}")
        if re.search(r"\bcalib\.qmap", command) and "-o calib.qmap" not in command:
            self.sh(f"qcalibrate ./model --text {TINY}/calib.txt -n 2 --seqlen 64 -o calib.qmap")
        if "old.json" in command:
            self.sh("qload ./model | qquantize -s w4a16 | qexport -f compressed-tensors -o worse")
            self.sh(f"qverify worse ./model --eval {TINY}/heldout.txt --report old.json -q")
            shutil.rmtree(self.dir / "worse")
        if "./base" in command:
            shutil.copytree(TINY, self.dir / "base")
        if "./out" in command and "-o ./out" not in command:
            self.sh("qload ./model | qquantize -s fp8-dynamic | qexport -f compressed-tensors -o out")
        if "./model.gguf" in command:
            gguf = ROOT / "tests/fuzz/corpus/gguf/llama-spm-q8_0.gguf"
            shutil.copy(gguf, self.dir / "model.gguf")

    def run_page(self, name):
        commands = self.commands(ROOT / f"man/{name}.1")
        self.assertGreaterEqual(len(commands), 2)
        for command in commands:
            with self.subTest(command):
                self.tearDown()
                self.doCleanups()
                self.setUp()
                self.provide(command)
                self.sh(command)

    def test_qload(self):
        self.run_page("qload")

    def test_qcalibrate(self):
        self.run_page("qcalibrate")

    def test_qquantize(self):
        self.run_page("qquantize")

    def test_qexport(self):
        self.run_page("qexport")

    def test_qverify(self):
        self.run_page("qverify")


class Examples(ExampleTest):
    def test_script(self):
        shutil.copy(EXAMPLES / "quantize.sh", self.dir)
        self.sh("./quantize.sh model results")
        for scheme in ("fp8-dynamic", "int8", "w4a16"):
            self.checkpoint(f"results/{scheme}")
            self.assertTrue((self.dir / f"results/{scheme}.html").exists())
        self.assertFalse((self.dir / "results/base.qmap").exists())

    def test_makefile(self):
        shutil.copy(EXAMPLES / "Makefile", self.dir)
        self.sh("make -j8")
        for scheme in ("fp8-dynamic", "int8", "w4a16"):
            self.checkpoint(scheme)
        before = {p: p.stat().st_mtime_ns for p in self.dir.rglob("*")}
        self.assertRegex(self.sh("make"), "Nothing to be done|up to date")
        self.assertEqual(before, {p: p.stat().st_mtime_ns for p in self.dir.rglob("*")})
        # One that was removed is made again, the others are left alone.
        shutil.rmtree(self.dir / "int8")
        said = self.sh("make -j8")
        self.assertIn("-o int8", said)
        self.assertNotIn("qquantize", said)

    def test_ci_job(self):
        """The steps' commands, taken from the YAML without a YAML library."""
        text = (EXAMPLES / "verify.yml").read_text()
        steps = re.findall(r"^( +)run: \|\n((?:\1  .*\n)+)", text, re.M)
        self.assertEqual(len(steps), 2)
        for name, value in re.findall(r"^      ([A-Z]+): (.*)$", text, re.M):
            self.env[name] = value
        for _, script in steps:
            self.sh(script)
        cases = list(ET.parse(self.dir / "junit.xml").getroot().iter("testcase"))
        self.assertGreater(len(cases), 10)
        self.checkpoint("out")


if __name__ == "__main__":
    main()
