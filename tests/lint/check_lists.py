#!/usr/bin/env python3
"""Lists that must agree: programs, man pages, completions, formats, fuzz targets, presets.

    check_lists.py            checks; the programs are in $QPIPE_BIN
    check_lists.py --update   writes man/*.1 and completions/* anew from the programs
"""

import difflib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(os.environ.get("QPIPE_BIN", ROOT / "build/release"))
PROGRAMS = sorted(p.name for p in (ROOT / "cmd").iterdir() if p.name != "tool")


def generated():
    """(path, what the program says it should hold)."""
    for name in PROGRAMS:
        for kind, path in (("man", f"man/{name}.1"), ("bash", f"completions/{name}.bash"),
                           ("zsh", f"completions/_{name}"), ("fish", f"completions/{name}.fish")):
            run = subprocess.run([BIN / name, "--print-page", kind], capture_output=True, text=True,
                                 check=True)
            yield ROOT / path, run.stdout


def update():
    for path, text in generated():
        path.write_text(text, encoding="utf-8")


def check_generated():
    for path, text in generated():
        name = path.relative_to(ROOT)
        if not path.exists():
            yield f"{name}: missing; run tests/lint/check_lists.py --update"
        elif path.read_text(encoding="utf-8") != text:
            diff = difflib.unified_diff(path.read_text(encoding="utf-8").splitlines(),
                                        text.splitlines(), str(name), "program", lineterm="", n=0)
            yield (f"{name}: not what the program generates; run tests/lint/check_lists.py "
                   "--update\n  " + "\n  ".join(list(diff)[:12]))
    known = {path for path, _ in generated()}
    for folder in ("man", "completions"):
        for path in (ROOT / folder).iterdir():
            if path not in known and path.suffix != ".5":
                yield f"{path.relative_to(ROOT)}: belongs to no program"


def check_help():
    """Every option of --help stands in the man page and in all completions."""
    for name in PROGRAMS:
        text = subprocess.run([BIN / name, "--help"], capture_output=True, text=True,
                              check=True).stdout
        text = text[:text.index("\nExamples:")]
        options = set(re.findall(r"--([a-z][a-z0-9-]+)", "\n".join(
            line for line in text.splitlines() if re.match(r"\s+-", line))))
        for path, spelled in ((f"man/{name}.1", r"Fl Fl {}\b"), (f"completions/{name}.bash", "--{}"),
                              (f"completions/_{name}", r"--{}\["),
                              (f"completions/{name}.fish", "-l {}")):
            page = (ROOT / path).read_text(encoding="utf-8").replace("\\-", "-")
            for option in sorted(options):
                if not re.search(spelled.format(option), page):
                    yield f"{path}: --{option} is missing"


def check_man():
    """mandoc has nothing to say; pages refer to pages that are there."""
    if shutil.which("mandoc") is None:
        return
    pages = sorted((ROOT / "man").glob("*.[15]"))
    run = subprocess.run(["mandoc", "-Tlint", *pages], capture_output=True, text=True, check=False)
    for line in (run.stdout + run.stderr).splitlines():
        # mandoc looks for other pages among those that are installed.
        reference = re.search(r"referenced manual not found: Xr (\S+) (\d)", line)
        if not reference or not (ROOT / f"man/{reference[1]}.{reference[2]}").exists():
            yield line


def check_formats():
    text = (ROOT / "formats/formats.def").read_text(encoding="utf-8")
    rows = re.findall(r"^QP_FORMAT\((\w+)\)", text, re.MULTILINE)
    if not rows:
        yield "formats/formats.def: no rows"
    for row in rows:
        if not (ROOT / f"formats/{row}.cc").exists() and not (ROOT / f"formats/{row}").is_dir():
            yield f"formats/formats.def: {row}: no formats/{row}.cc and no folder of that name"
    listed = subprocess.run([BIN / "qexport", "--list-formats", "--quiet"], capture_output=True,
                            text=True, check=True).stdout.split()
    for row in rows:
        if row.replace("_", "-") not in listed:
            yield f"qexport --list-formats does not show {row.replace('_', '-')}"


def check_fuzz():
    targets = {p.name.removesuffix("_fuzz.cc") for p in (ROOT / "tests/fuzz").glob("*_fuzz.cc")}
    corpora = {p.name for p in (ROOT / "tests/fuzz/corpus").iterdir()}
    for name in targets ^ corpora:
        yield f"tests/fuzz: {name} has a target or a corpus, not both"
    for name in targets & corpora:
        if not any((ROOT / "tests/fuzz/corpus" / name).iterdir()):
            yield f"tests/fuzz/corpus/{name}: empty"


def check_readme():
    """Schemes, formats and build presets that exist are named where people look for them."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    schemes = json.loads(subprocess.run([BIN / "qquantize", "--list-schemes", "--json"],
                                        capture_output=True, text=True, check=True).stdout)
    for scheme in schemes:
        if "refusal" not in scheme and f"`{scheme['name']}`" not in readme:
            yield f"README.md: scheme `{scheme['name']}` is missing"
    contributing = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    presets = json.loads((ROOT / "CMakePresets.json").read_text(encoding="utf-8"))
    for preset in presets["configurePresets"]:
        if not preset.get("hidden") and f"`{preset['name']}`" not in contributing:
            yield f"CONTRIBUTING.md: build preset `{preset['name']}` is missing"


def main():
    if sys.argv[1:] == ["--update"]:
        update()
        return 0
    problems = []
    for check in (check_generated, check_help, check_man, check_formats, check_fuzz, check_readme):
        problems += check()
    print("\n".join(problems) or "lists: all agree")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
