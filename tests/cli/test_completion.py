"""Completions: bash really completes; zsh and fish parse theirs."""

import shutil
import subprocess
import unittest
from pathlib import Path

from support import BIN, PROGRAMS, main

ROOT = Path(__file__).resolve().parents[2]
COMPLETIONS = ROOT / "completions"


def complete(program, *words):
    """What bash offers for the last word."""
    script = (f'source "{COMPLETIONS}/{program}.bash"; COMP_WORDS=("$@"); '
              f'COMP_CWORD=$(($# - 1)); _{program}; printf "%s\\n" "${{COMPREPLY[@]}}"')
    run = subprocess.run(["bash", "-uec", script, "bash", program, *words], capture_output=True,
                         text=True, check=True, env={"PATH": f"{BIN}:/usr/bin:/bin"})
    assert run.stderr == "", run.stderr
    return run.stdout.split()


class Bash(unittest.TestCase):
    def test_scheme_names_come_from_the_program(self):
        self.assertEqual(complete("qquantize", "-s", "fp8"), ["fp8-dynamic", "fp8-tensor", "fp8-block", "fp8-static"])
        self.assertIn("w4a16", complete("qquantize", "--scheme", "w4"))

    def test_value_after_equals_sign(self):
        self.assertEqual(complete("qquantize", "--scheme", "=", "fp8-b"), ["fp8-block"])
        self.assertIn("nvfp4a16", complete("qquantize", "--scheme", "="))

    def test_format_names_come_from_the_program(self):
        self.assertEqual(complete("qexport", "-f", "comp"), ["compressed-tensors"])

    def test_options(self):
        self.assertEqual(complete("qload", "--deq"), ["--dequantize"])
        for program in PROGRAMS:
            self.assertIn("--max-memory", complete(program, "--"))

    def test_files(self):
        self.assertIn(f"{ROOT}/README.md", complete("qload", f"{ROOT}/READ"))


class OtherShells(unittest.TestCase):
    def parse(self, shell, pattern):
        if shutil.which(shell) is None:
            self.skipTest(f"{shell} is not installed")
        files = sorted(COMPLETIONS.glob(pattern))
        self.assertEqual(len(files), len(PROGRAMS))
        for file in files:
            run = subprocess.run([shell, "-n", file], capture_output=True, text=True, check=False)
            self.assertEqual((run.returncode, run.stderr), (0, ""))

    def test_zsh(self):
        self.parse("zsh", "_*")

    def test_fish(self):
        self.parse("fish", "*.fish")


if __name__ == "__main__":
    main()
