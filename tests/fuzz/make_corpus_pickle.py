#!/usr/bin/env python3
"""Writes corpus/pickle: what pickle_fuzz starts from. Small files of PyTorch and Python's zipfile
from tests/data/torch, and the objects of streams without their heads."""

import pathlib
import pickletools

HERE = pathlib.Path(__file__).parent
DATA = HERE.parent / "data" / "torch"
OUT = HERE / "corpus" / "pickle"
FILES = ("rezipped.pt", "zip64.pt", "bad_short_storage.pt", "python2_stream.pt",
         "dtypes_stream.pt")
STREAMS = ("views_stream.pt", "python2_stream.pt", "bad_os_system_stream.pt")


def after_head(path):
    """What follows the pickles of magic number, version and system info."""
    with path.open("rb") as f:
        for _ in range(3):
            for _ in pickletools.genops(f):
                pass
        return f.read()


def main():
    OUT.mkdir(parents=True, exist_ok=True)
    for name in FILES:
        (OUT / name).write_bytes((DATA / name).read_bytes())
    for name in STREAMS:
        (OUT / (name + ".object")).write_bytes(after_head(DATA / name))


if __name__ == "__main__":
    main()
