#!/usr/bin/env python3
"""Which file may include which: the layers of DESIGN.md, "Layout"."""

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
INCLUDE = re.compile(r'^\s*#\s*include\s*([<"])([^>"]+)[>"]', re.MULTILINE)

# Folders of lib/ by level: a file includes its own folder and lower levels.
LEVELS = [
    {"base"},
    {"tensor", "text", "layout"},
    {"kernels", "scheme"},
    {"qmap", "model", "config", "gemm"},
    {"plan", "pipe", "ggml"},
    {"engine"},
    {"arch"},
    {"stream", "target"},
    {"algorithm", "verify", "calibration", "eval"},
    {"transform"},
    {"allocate"},
]
LEVEL = {folder: i for i, folders in enumerate(LEVELS) for folder in folders}
# Within a level, who may include whom (else nobody does).
SAME_LEVEL = {("config", "model"), ("qmap", "model"), ("plan", "pipe"), ("plan", "ggml"), ("verify", "eval"),
              ("algorithm", "calibration")}
# Apart at any level: what a scheme means, what the user asked for, and the loops.
APART = {("config", "kernels"), ("scheme", "kernels"), ("kernels", "scheme"), ("kernels", "config"),
         ("plan", "kernels")}

# Headers with one door. Pattern of the header -> pattern of the files that may include it.
DOORS = {
    r"nlohmann/.*": r"lib/base/json\.h|formats/.*|cmd/.*",
    r"omp\.h": r"lib/base/parallel\.cc",
    r"immintrin\.h": r"lib/(kernels|gemm)/\w+_(avx\w*|amx)\.(cc|h|inc)",
    r"arm_neon\.h": r"lib/(kernels|gemm)/\w+_neon\.(cc|h|inc)",
    r"CLI/.*": r"cmd/.*",
    r"(zstd|xxhash|pcre2)\.h": r"lib/.*",
    r"openssl/.*": r"lib/base/sha256\.cc",
    r"(unicode/.*|zlib\.h)": r"lib/text/.*",
    r"Eigen/.*": r"lib/(kernels|algorithm)/.*",
    r"iostream": r"cmd/.*",
}


def sources():
    for top in ("lib", "formats", "cmd"):
        for path in sorted((ROOT / top).rglob("*")):
            if path.suffix in (".cc", ".h", ".inc", ".def"):
                yield path


def lib_problem(source, header):
    here, there = source.split("/")[1], header.split("/")[1]
    if here == there:
        return None
    for folder in (here, there):
        if folder not in LEVEL:
            return f"lib/{folder} has no level in tests/lint/check_includes.py"
    if (here, there) in APART:
        return f"lib/{here} stays apart from lib/{there}"
    if LEVEL[there] > LEVEL[here] or (
            LEVEL[there] == LEVEL[here] and (here, there) not in SAME_LEVEL):
        return f"lib/{here} is not above lib/{there}"
    return None


def formats_problem(source, header):
    """A family's folder is its own; container/, hf/ and formats/*.h are for all of them."""
    parts = header.split("/")
    if len(parts) < 3 or parts[1] in ("container", "hf", "verify"):
        return None
    family = source.split("/")[1].removesuffix(".cc").removesuffix(".h")
    return None if family == parts[1] else f"formats/{parts[1]} is private to its family"


def problem(source, quoted, header):
    for pattern, allowed in DOORS.items():
        if re.fullmatch(pattern, header) and not re.fullmatch(allowed, source):
            return f"<{header}> belongs to {allowed}"
    if not quoted:
        return None
    top, of = source.split("/")[0], header.split("/")[0]
    if not (ROOT / header).exists():
        return "is not there (includes start at the top of the repository)"
    order = ("lib", "formats", "cmd")
    if of not in order or order.index(of) > order.index(top):
        return f"{top}/ does not include {of}/ (cmd -> formats -> lib)"
    if top == "lib":
        return lib_problem(source, header)
    if top == "cmd" and of == "cmd":
        allowed = (source.split("/")[1], "tool")
        return None if header.split("/")[1] in allowed else "programs share only cmd/tool"
    if top == "formats" and of == "formats":
        return formats_problem(source, header)
    return None


def main():
    problems = []
    for path in sources():
        source = path.relative_to(ROOT).as_posix()
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".h" and "#pragma once" not in text:
            problems.append(f"{source}: no #pragma once")
        if re.search(r"^\s*#\s*pragma\s+omp", text, re.MULTILINE) and source != "lib/base/parallel.cc":
            problems.append(f"{source}: OpenMP belongs to lib/base/parallel.cc")
        for match in INCLUDE.finditer(text):
            what = problem(source, match[1] == '"', match[2])
            if what:
                line = text.count("\n", 0, match.start(2)) + 1
                problems.append(f"{source}:{line}: {match[2]}: {what}")
    print("\n".join(problems) or "includes: all in order")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
