#!/usr/bin/env python3
"""The shell scripts are POSIX (dash parses them) and shellcheck has nothing to say."""

import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def scripts():
    found = [ROOT / name for name in ("demo", "check", ".ci/run")]
    for top in ("tests", "bench"):
        found += sorted((ROOT / top).rglob("*.sh"))
    return found


def main():
    tools = [["dash", "-n"], ["shellcheck", "-x", "-P", str(ROOT)]]
    missing = [t[0] for t in tools if shutil.which(t[0]) is None]
    if missing:
        print("skipped: not installed:", *missing)
        return 77
    bad = 0
    for script in scripts():
        if "bash" in script.read_text(encoding="utf-8").split("\n", 1)[0]:
            continue
        for tool in tools:
            bad += subprocess.run([*tool, str(script)], cwd=ROOT, check=False).returncode != 0
    print(f"shell: {len(scripts())} scripts, {bad} problems")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
