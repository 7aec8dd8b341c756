"""Archives of Python packages, fetched at test time and kept in $QPIPE_CACHE/packages."""

import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

from programs import missing

ROOT = Path(__file__).resolve().parents[2]
# What of llama.cpp's source tests use: the converter and its library, vocabularies.
OF_LLAMA_CPP = ("convert_hf_to_gguf.py", "conversion/", "gguf-py/gguf/", "models/ggml-vocab-")


def cache():
    folder = Path(os.environ.get("QPIPE_CACHE", Path.home() / ".cache/qpipe")) / "packages"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def fetch(package, kind, pattern):
    """The archive of a package, once."""
    found = list(cache().glob(pattern))
    if not found:
        run = subprocess.run([sys.executable, "-m", "pip", "download", "-q", "--no-deps", f"--{kind}", ":all:",
                              "-d", cache(), package], capture_output=True, text=True)
        found = list(cache().glob(pattern))
        if not found:
            missing(f"cannot fetch {package}: {run.stderr[-300:]}")
    return found[0]


def llama_cpp():
    """The folder with llama.cpp's source, as the source package that peers build has it."""
    lines = (ROOT / "tests/peers/llama.cpp.txt").read_text().splitlines()
    package = next(line for line in lines if line.startswith("llama-cpp-python=="))
    folder = cache() / package.replace("==", "-")
    if not folder.exists():
        source = fetch(package, "no-binary", "llama_cpp_python-*.tar.gz")
        part = folder.with_suffix(f".{os.getpid()}.partial")
        with tarfile.open(source) as archive:
            for member in archive:
                inside = member.name.partition("/vendor/llama.cpp/")[2]
                if inside.startswith(OF_LLAMA_CPP) and member.isfile():
                    path = part / inside
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_bytes(archive.extractfile(member).read())
        try:
            part.rename(folder)
        except OSError:  # another process was first
            shutil.rmtree(part)
    return folder
