#!/usr/bin/env python3
"""How many seeded faults qverify finds, by kind, and whether it is quiet on sound checkpoints.

    QPIPE_BIN=build/release python3 bench/faults.py [--seeds 2] [--schemes REGEX] [--json OUT]

Quantizes tests/data/tiny-lm and a small Mixtral with every scheme, exports each result to every
family that takes it, and verifies all of these (with and without the base: no alarm is allowed).
Then it breaks copies of each, one fault at a time (tests/cli/faults.py), and verifies them again. A
fault counts as found when qverify exits with 1, as warned when it has a warning that the sound one had not. Python's standard library only.
"""

import argparse
import json
import os
import re
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests/cli"))
os.environ.setdefault("QP_TEST_DATA", str(Path(__file__).resolve().parent.parent / "tests/data"))

import faults  # noqa: E402
import moe_models  # noqa: E402


def schemes(pattern):
    listed = json.loads(faults.program("qquantize", "--list-schemes", "--json").stdout)
    return [s["name"] for s in listed if re.search(pattern, s["name"])]


def families():
    lines = faults.program("qexport", "--list-formats").stdout.splitlines()
    return [line.split()[0] for line in lines if line.split()[0] not in ("mmproj", "diffusers", "safetensors")]


def sound_checkpoints(work, models, pattern):
    """(name, path, base) of every model x scheme x family that can be written."""
    qmap = work / "q.qmap"
    for model, base in models.items():
        for scheme in schemes(pattern):
            qmap.unlink(missing_ok=True)
            if not faults.quantize(base, scheme, qmap):
                continue
            for family in families():
                out = work / ("out.gguf" if family == "gguf" else "out")
                out.unlink() if out.is_file() else None
                if faults.export(qmap, family, out):
                    yield f"{model} {scheme} {family}", out, base


class Tally:
    def __init__(self):
        self.kinds = {}
        self.missed = []

    def add(self, kind, found, where, rules):
        done = self.kinds.setdefault(kind, [0, 0, {}, 0])
        done[0] += 1
        done[1] += found
        done[3] += not found and bool(rules)
        for rule in rules if found else ():
            done[2][rule] = done[2].get(rule, 0) + 1
        if not found:
            self.missed.append((kind, where, rules))

    def print(self):
        print(f"{'fault':38}{'seeded':>7}{'found':>7}{'rate':>9}{'warned':>8}  rules")
        for kind, (seeded, found, rules, warned) in self.kinds.items():
            top = ", ".join(sorted(rules, key=rules.get, reverse=True)[:4])
            print(f"{kind:38}{seeded:7}{found:7}{100 * found / seeded:8.1f}%{warned:8}  {top}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=1, help="copies per fault and checkpoint")
    parser.add_argument("--schemes", default="", help="only those that match")
    parser.add_argument("--missed", action="store_true", help="print what was not found")
    parser.add_argument("--json", help="write the figures")
    args = parser.parse_args()
    tally, sound, alarms = Tally(), 0, []
    with tempfile.TemporaryDirectory(prefix="qpipe-faults-") as folder:
        work = Path(folder)
        moe_models.write("mixtral", work / "mixtral")
        models = {"tiny-lm": faults.TINY, "mixtral": work / "mixtral"}
        for name, path, base in sound_checkpoints(work, models, args.schemes):
            for against in (None, base):
                good, errors, usual = faults.verify(path, against)
                if not good:
                    alarms.append((name, "with base" if against else "alone", errors))
            sound += 1
            kinds = faults.FAULTS if path.is_dir() else faults.GGUF_FAULTS
            for kind, (fault, needs_base) in kinds.items():
                for seed in range(args.seeds):
                    copy, what = faults.broken(path, fault, work, seed)
                    if copy is None:
                        break
                    good, errors, warnings = faults.verify(copy, base if needs_base else None)
                    new = [w for w in warnings if w not in usual]
                    tally.add(kind, not good, f"{name}: {what}", new if good else errors)
    tally.print()
    print(f"sound checkpoints: {sound}, alarms: {len(alarms)}")
    for alarm in alarms:
        print("  alarm:", *alarm)
    if args.missed:
        for missed in tally.missed:
            print("  missed:", *missed)
    if args.json:
        result = {"sound": sound, "alarms": alarms, "missed": tally.missed,
                  "kinds": {k: {"seeded": v[0], "found": v[1], "warned": v[3]} for k, v in tally.kinds.items()}}
        Path(args.json).write_text(json.dumps(result, indent=2) + "\n")
    return 1 if alarms else 0


if __name__ == "__main__":
    sys.exit(main())
