#!/usr/bin/env python3
"""One idea per file: sources over 600 lines fail."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
MAX_LINES = 600
SUFFIXES = {".cc", ".h", ".inc", ".def", ".py", ".sh", ".cmake", ""}
FOLDERS = ("cmd", "lib", "formats", "tests", "bench")
TOP = {"cmd", "lib", "formats", "tests", "bench", "man", "completions", "CMakeLists.txt",
       "CMakePresets.json", "README.md", "DESIGN.md", "CONTRIBUTING.md", "CHANGELOG.md", "LICENSE",
       "demo", "check"}


def tracked():
    try:
        out = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
        if out.returncode == 0:
            return [Path(line) for line in out.stdout.splitlines() if (ROOT / line).is_file()]
    except FileNotFoundError:  # no git here: whatever lies in the folders
        pass
    return [p.relative_to(ROOT) for f in FOLDERS for p in (ROOT / f).rglob("*") if p.is_file()]


def main():
    problems, sizes = [], []
    for path in tracked():
        if path.parts[0] not in TOP and not path.parts[0].startswith("."):
            problems.append(f"{path}: does not belong at the top of the repository")
        size = (ROOT / path).stat().st_size
        if size > 4 << 20:
            problems.append(f"{path}: {size} bytes (expected 4 MiB at most)")
        if path.parts[0] not in FOLDERS or path.suffix not in SUFFIXES or "data" in path.parts or "corpus" in path.parts:
            continue
        lines = (ROOT / path).read_text(encoding="utf-8", errors="replace").count("\n")
        sizes.append((lines, path))
        if lines > MAX_LINES:
            problems.append(f"{path}: {lines} lines (expected {MAX_LINES} at most): two ideas?")
    print("\n".join(problems) or "sizes: all in order")
    print("longest:", ", ".join(f"{p} {n}" for n, p in sorted(sizes, reverse=True)[:5]))
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
