"""Options, by environment: QPIPE_BIN the folder of the programs (default build/), QPIPE_CACHE the
folder with smollm2/ (tests/data/make_smollm2.py), QPIPE_REPORT a file for the table of
perplexities."""

import os
import sys
import warnings
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("TQDM_DISABLE", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # threads that spin stop others on a busy machine
sys.path.insert(0, str(Path(__file__).parent))
warnings.filterwarnings("ignore")

import pytest  # noqa: E402
import torch  # noqa: E402

import converter as llama_converter  # noqa: E402
import programs  # noqa: E402
import reference  # noqa: E402

LOG = []       # lines that the test that runs has written
MEASURED = []  # those of all tests, which the end of the run shows


def pytest_configure(config):
    if not (programs.bin_dir() / "qload").exists():
        raise pytest.UsageError(f"no programs in {programs.bin_dir()}: build them, or set QPIPE_BIN")
    torch.set_num_threads(2)
    config.schemes = reference.scheme_table()


def pytest_generate_tests(metafunc):
    if "label" in metafunc.fixturenames:
        metafunc.parametrize("label", list(metafunc.config.schemes), scope="session")


# Tests may run in several processes (pytest-xdist): lines travel with a test's report.
@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport():
    outcome = yield
    if LOG:
        outcome.get_result().user_properties.append(("measured", LOG.copy()))
        LOG.clear()


def pytest_runtest_logreport(report):
    for name, value in report.user_properties:
        if name == "measured":
            MEASURED.extend(value)


def pytest_terminal_summary(terminalreporter):
    if not MEASURED:
        return
    text = "\n".join(MEASURED)
    if path := os.environ.get("QPIPE_REPORT"):
        Path(path).write_text(text + "\n")
        return
    terminalreporter.write_sep("=", "measured")
    terminalreporter.write_line(text)


@pytest.fixture(scope="session")
def schemes(pytestconfig):
    """{label: (arguments of qquantize, the library's scheme)}"""
    return pytestconfig.schemes


@pytest.fixture(scope="session")
def log():
    return LOG


@pytest.fixture(scope="session")
def smollm2():
    cache = Path(os.environ.get("QPIPE_CACHE", Path.home() / ".cache/qpipe"))
    for place in (cache / "smollm2", cache):
        if (place / "smollm2.gguf").exists() and (place / "smollm2-bf16").is_dir():
            return place
    programs.missing(f"no SmolLM2 in {cache} (tests/data/make_smollm2.py makes it)")


@pytest.fixture(scope="session")
def converter():
    """converter(source, out, *arguments, pre=None): llama.cpp's convert_hf_to_gguf.py."""
    made = llama_converter.Converter()
    yield made
    made.close()
