#!/usr/bin/env python3
"""Adds up JUnit files: one line per file, then "N passed, M failed"; skipped tests by name.

Fails when a test failed, when no test ran, and, with CI=true, when one was skipped.
"""

import os
import sys
import xml.etree.ElementTree as ET
from pathlib import Path


def read(path):
    """(passed, failed names, skipped names) of one file."""
    passed, failed, skipped = 0, [], []
    for case in ET.parse(path).getroot().iter("testcase"):
        name = f"{case.get('classname', '')} {case.get('name', '')}".strip()
        if case.find("failure") is not None or case.find("error") is not None:
            failed.append(name)
        elif case.find("skipped") is not None or case.get("status") in ("notrun", "disabled"):
            skipped.append(name)
        else:
            passed += 1
    return passed, failed, skipped


def main(paths):
    totals = [0, 0, 0]
    for path in paths:
        passed, failed, skipped = read(path)
        for word, names in (("failed", failed), ("skipped", skipped)):
            for name in names:
                print(f"{word}: {name}")
        print(f"{Path(path).stem}: {passed} passed, {len(failed)} failed, {len(skipped)} skipped")
        totals = [a + b for a, b in zip(totals, (passed, len(failed), len(skipped)))]
    strict = os.environ.get("CI") == "true"
    if totals[2] and strict:
        print("with CI=true a skipped test is a failure")
        totals[1:] = [totals[1] + totals[2], 0]
    print(f"{totals[0]} passed, {totals[1]} failed" + (f", {totals[2]} skipped" if totals[2] else ""))
    return 1 if totals[1] or not totals[0] else 0


if __name__ == "__main__":
    sys.exit(main([p for p in sys.argv[1:] if Path(p).exists()]))
