"""qcalibrate against PyTorch: sums and maxima collected by hooks on transformers' own linears, over
the same token windows, in float32; and properties: threads, memory, batches, merging, resuming."""

import json
import math
import os
import signal
import struct
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from programs import bin_dir
from transformers import AutoModelForCausalLM, LlamaConfig, MixtralConfig

ROOT = Path(__file__).resolve().parents[2]
SEQLEN = 48


def qcalibrate(*arguments, **environment):
    return subprocess.run([bin_dir() / "qcalibrate", *map(str, arguments)], capture_output=True,
                          text=True, env=os.environ | environment, check=False)


def make(*arguments, **environment):
    done = qcalibrate(*arguments, **environment)
    assert done.returncode == 0, done.stderr
    return done


def write_windows(path, windows):
    path.write_text("".join(json.dumps(list(map(int, w))) + "\n" for w in windows))
    return path


class Statistics:
    """The calibration section of a qmap, read by its specification (man/qmap.5)."""

    def __init__(self, path):
        data = Path(path).read_bytes()
        offset, length = struct.unpack_from("<QQ", data, 24)
        self.json = json.loads(data[offset:offset + length])["calibration"]
        self.windows = self.json["windows"]
        self.raw = [self.bytes(data, s["extent"]) for s in self.json["inputs"]]
        self.of = {}
        for meta, raw in zip(self.json["inputs"], self.raw):
            for reader in meta["readers"]:
                self.of[reader] = self.parse(meta, raw)
        tokens = self.bytes(data, self.json["tokens"]["extent"])
        lengths = np.frombuffer(tokens, "<u4", self.windows)
        ids = np.frombuffer(tokens, "<i4", offset=4 * self.windows)
        self.tokens = [list(w) for w in np.split(ids, np.cumsum(lengths)[:-1])]

    @staticmethod
    def bytes(data, extent):
        assert extent[0] == 0, "statistics lie in the file itself"
        return data[extent[1]:extent[1] + extent[2]]

    def parse(self, meta, raw):
        cols, at = meta["cols"], 0

        def fixed():
            nonlocal at
            words = np.frombuffer(raw, "<i8", 2 * cols, at).reshape(cols, 2)
            at += 16 * cols
            low = words[:, 0].astype(np.uint64).astype(object)
            return np.array([(int(h) * 2**64 + int(l)) / 2**64 for l, h in zip(low, words[:, 1])])

        def floats(n):
            nonlocal at
            values = np.frombuffer(raw, "<f4", n, at)
            at += 4 * n
            return values

        out = {"rows": meta["rows"], "observed": meta["observed"], "input": meta["module"]}
        out["sum_abs"], out["sum_sq"] = fixed(), fixed()
        out["amax"], out["history"] = floats(cols), floats(self.windows)
        out["bins"] = np.zeros(1 << 14, np.int64)
        out["bins"][meta["first_bin"]:meta["first_bin"] + meta["bins"]] = np.frombuffer(
            raw, "<u8", meta["bins"], at)
        return out


def randomize(model):
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if p.ndim >= 2:
                p.copy_(torch.randn(p.shape, generator=generator) * 0.12)
            else:
                p.copy_(1 + 0.2 * torch.randn(p.shape, generator=generator))
    return model


def save(config, directory):
    model = randomize(AutoModelForCausalLM.from_config(config)).float().eval()
    model.save_pretrained(directory)
    return model


COMMON = dict(vocab_size=211, hidden_size=64, intermediate_size=96, num_hidden_layers=3,
              num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=256)


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    directory = tmp_path_factory.mktemp("calibration") / "llama"
    model = save(LlamaConfig(**COMMON), directory)
    windows = np.random.default_rng(3).integers(0, 211, (10, SEQLEN))
    return directory, model, windows, write_windows(directory.parent / "tokens.jsonl", windows)


def hooked(model, windows):
    """{module: every input row, window by window}"""
    seen = {}
    handles = [
        m.register_forward_pre_hook(
            lambda _, x, name=name: seen.setdefault(name, []).append(x[0].detach().reshape(-1, x[0].shape[-1])))
        for name, m in model.named_modules() if isinstance(m, torch.nn.Linear) and name != "lm_head"
    ]
    with torch.no_grad():
        for w in windows:
            model(torch.tensor([list(map(int, w))]))
    for h in handles:
        h.remove()
    return seen


def test_sums_and_maxima(llama, tmp_path):
    directory, model, windows, tokens = llama
    out = tmp_path / "c.qmap"
    make(directory, "--tokens", tokens, "-n", 0, "--compute", "f32", "--observer", "percentile",
         "--percentile", 99, "-o", out)
    found, seen = Statistics(out), hooked(model, windows)
    assert set(found.of) == set(seen)
    assert np.array_equal(np.array(found.tokens), windows)
    for name, batches in seen.items():
        x = torch.cat(batches).double().abs()
        s = found.of[name]
        assert s["rows"] == len(x)
        np.testing.assert_allclose(s["sum_abs"], x.sum(0), rtol=2e-4, atol=1e-5, err_msg=name)
        np.testing.assert_allclose(s["sum_sq"], x.square().sum(0), rtol=2e-4, atol=1e-5, err_msg=name)
        np.testing.assert_allclose(s["amax"], x.max(0).values, rtol=2e-4, atol=1e-5, err_msg=name)
        np.testing.assert_allclose(s["history"], [b.abs().max() for b in batches], rtol=2e-4)
        assert s["bins"].sum() == x.numel()
        exact = np.quantile(x.numpy().ravel(), 0.99)
        assert exact / 1.02 <= s["observed"] <= exact * 1.02, name


def test_observers(llama, tmp_path):
    directory, model, windows, tokens = llama
    seen = hooked(model, windows)
    run = ["--tokens", tokens, "-n", 0, "--compute", "f32"]
    make(directory, *run, "--observer", "max", "-o", tmp_path / "max.qmap")
    make(directory, *run, "--observer", "delayed", "--amax-history", 3, "--margin", 1, "-o", tmp_path / "delayed.qmap")
    make(directory, *run, "--observer", "mse", "-o", tmp_path / "mse.qmap")
    top, delayed, mse = (Statistics(tmp_path / f"{n}.qmap") for n in ("max", "delayed", "mse"))
    for name, batches in seen.items():
        amax = [float(b.abs().max()) for b in batches]
        assert math.isclose(top.of[name]["observed"], max(amax), rel_tol=2e-4)
        assert math.isclose(delayed.of[name]["observed"], 2 * max(amax[-3:]), rel_tol=2e-4)
        x = torch.cat(batches).abs().double()

        def error(range_):
            scale = range_ / 127
            return float(((x / scale).round().clamp(max=127) * scale - x).square().mean())

        best = min(error(max(amax) * f) for f in np.linspace(0.1, 1, 181))
        assert error(mse.of[name]["observed"]) <= best * 1.03, name


def test_same_bytes_everywhere(llama, tmp_path):
    directory, _, _, tokens = llama
    run = [directory, "--tokens", tokens, "-n", 0, "--observer", "mse"]
    make(*run, "-o", tmp_path / "a.qmap")
    expected = (tmp_path / "a.qmap").read_bytes()
    for i, more in enumerate((["-j1"], ["-j2"], ["-j7"], ["--batch-size", 1], ["--batch-size", 3],
                              ["--max-memory", "66MiB"])):
        out = tmp_path / f"b{i}.qmap"
        make(*run, *more, "-o", out)
        assert out.read_bytes() == expected, more


def test_merge_is_one_run(llama, tmp_path):
    directory, _, windows, tokens = llama
    run = ["-n", 0, "--observer", "percentile"]
    make(directory, "--tokens", tokens, *run, "-o", tmp_path / "all.qmap")
    parts = []
    for i, part in enumerate((windows[:3], windows[3:4], windows[4:])):
        write_windows(tmp_path / f"t{i}.jsonl", part)
        parts.append(tmp_path / f"p{i}.qmap")
        make(directory, "--tokens", tmp_path / f"t{i}.jsonl", *run, "-o", parts[-1])
    make("--merge", *parts, "-o", tmp_path / "merged.qmap")
    one, merged = Statistics(tmp_path / "all.qmap"), Statistics(tmp_path / "merged.qmap")
    assert one.raw == merged.raw
    assert one.tokens == merged.tokens
    for a, b in zip(one.json["inputs"], merged.json["inputs"]):
        assert {k: a[k] for k in a if k != "extent"} == {k: b[k] for k in b if k != "extent"}
    assert one.json["caches"] == merged.json["caches"]


def test_merge_refuses_another_model(llama, tmp_path):
    directory, _, _, tokens = llama
    save(LlamaConfig(**COMMON | {"hidden_size": 32}), tmp_path / "other")
    make(directory, "--tokens", tokens, "-o", tmp_path / "a.qmap")
    make(tmp_path / "other", "--tokens", tokens, "-o", tmp_path / "b.qmap")
    done = qcalibrate("--merge", tmp_path / "a.qmap", tmp_path / "b.qmap", "-o", tmp_path / "c.qmap")
    assert done.returncode == 2 and "is another" in done.stderr
    assert not (tmp_path / "c.qmap").exists()


def killed(arguments, journal, lines):
    """Kills the program once its journal has this many lines; the lines it had then, 0 if it ended."""
    process = subprocess.Popen([bin_dir() / "qcalibrate", *map(str, arguments)],
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None:
        if journal.exists() and journal.read_bytes().count(b"\n") >= lines:
            process.send_signal(signal.SIGKILL)
            process.wait()
            return journal.read_bytes().count(b"\n") if journal.exists() else 0
        time.sleep(0.001)
    return 0


def test_resume_after_kill(tmp_path):
    save(LlamaConfig(**COMMON | {"hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 24}),
         tmp_path / "m")
    windows = np.random.default_rng(4).integers(0, 211, (64, 200))
    run = [tmp_path / "m", "--tokens", write_windows(tmp_path / "t.jsonl", windows), "-n", 0]
    make(*run, "-o", tmp_path / "whole.qmap")
    out, journal = tmp_path / "out.qmap", tmp_path / "out.qmap.partial.journal"
    assert killed([*run, "-o", out], journal, 4) >= 4, "it was too fast to be killed"
    done = qcalibrate(*run, "-o", out)
    assert done.returncode == 4 and "--resume" in done.stderr
    had = killed([*run, "-o", out, "--resume"], journal, 9)
    assert had >= 9
    done = make(*run, "-o", out, "--resume")
    assert int(done.stderr.split(" layers taken over")[0].split()[-1]) >= 8
    assert out.read_bytes() == (tmp_path / "whole.qmap").read_bytes()
    assert sorted(p.name for p in tmp_path.glob("out.qmap*")) == ["out.qmap"]


def test_resume_refuses_another_run(llama, tmp_path):
    directory, _, windows, tokens = llama
    out = tmp_path / "o.qmap"
    (tmp_path / "o.qmap.partial").write_bytes(b"\0" * 64)
    (tmp_path / "o.qmap.partial.journal").write_text("somebody else's\n")
    done = qcalibrate(directory, "--tokens", tokens, "-o", out, "--resume")
    assert done.returncode == 2 and "another run" in done.stderr
    assert (tmp_path / "o.qmap.partial.journal").exists()


@pytest.fixture(scope="module")
def mixtral(tmp_path_factory):
    directory = tmp_path_factory.mktemp("calibration") / "mixtral"
    config = MixtralConfig(**COMMON | {"num_hidden_layers": 2}, num_local_experts=16, num_experts_per_tok=2)
    model = save(config, directory)
    windows = np.random.default_rng(5).integers(0, 211, (3, 3))
    return directory, model, write_windows(directory.parent / "tokens.jsonl", windows)


def test_experts(mixtral, tmp_path):
    directory, _, tokens = mixtral
    done = make(directory, "--tokens", tokens, "--compute", "f32", "-o", tmp_path / "c.qmap")
    found = Statistics(tmp_path / "c.qmap")
    for router in found.json["routers"]:
        assert router["rows"] == 9 and sum(router["counts"]) == 18
        layer = router["module"].split(".")[2]
        for e, count in enumerate(router["counts"]):
            names = [n for n in found.of if f"layers.{layer}." in n and f".experts.{e}." in n]
            assert len(names) == 3 and all(found.of[n]["rows"] == count for n in names)
    assert any(c == 0 for r in found.json["routers"] for c in r["counts"])
    assert "reached by no token" in done.stderr
    done = make(directory, "--tokens", tokens, "--compute", "f32", "--moe-all-experts", "-o", tmp_path / "a.qmap")
    every = Statistics(tmp_path / "a.qmap")
    assert "reached by no token" not in done.stderr
    assert all(s["rows"] == 9 for s in every.of.values())
    # The model's own path is the same.
    assert every.json["routers"] == found.json["routers"]
    assert every.json["caches"] == found.json["caches"]


def test_not_finite(llama, tmp_path):
    directory, model, _, tokens = llama
    bad = tmp_path / "bad"
    with torch.no_grad():
        weight = model.model.layers[1].mlp.down_proj.weight
        kept = weight[3, 4].item()
        weight[3, 4] = float("inf")
        model.save_pretrained(bad)
        weight[3, 4] = kept
    done = qcalibrate(bad, "--tokens", tokens, "-o", tmp_path / "c.qmap")
    assert done.returncode == 3 and "model.layers.1" in done.stderr, done.stderr
    assert not list(tmp_path.glob("c.qmap*"))


@pytest.mark.parametrize("text,code,message", [
    ("", 3, "no"), ("[1, 2, 500]\n", 3, "vocabulary"), ("[1, 2, -1]\n", 3, ""), ("{}\n", 3, "")])
def test_bad_tokens(llama, tmp_path, text, code, message):
    (tmp_path / "t.jsonl").write_text(text)
    done = qcalibrate(llama[0], "--tokens", tmp_path / "t.jsonl", "-o", tmp_path / "c.qmap")
    assert done.returncode == code and message in done.stderr, done.stderr
    assert not list(tmp_path.glob("c.qmap*"))


def test_memory_limit(llama, tmp_path):
    done = qcalibrate(llama[0], "--tokens", llama[3], "--max-memory", "1MiB", "-o", tmp_path / "c.qmap")
    assert done.returncode == 5 and "is the least that works" in done.stderr
    assert not list(tmp_path.glob("c.qmap*"))


def test_usage(llama, tmp_path):
    for arguments in ([llama[0], "-o", tmp_path / "c"], ["--merge", "a", "-o", tmp_path / "c"],
                      [llama[0], "--list"], [llama[0], llama[0], "--tokens", llama[3], "-o", tmp_path / "c"],
                      [llama[0], "--tokens", llama[3], "--observer", "maxx", "-o", tmp_path / "c"]):
        done = qcalibrate(*arguments)
        assert done.returncode == 2, (arguments, done.stderr)
    assert "did you mean 'max'" in done.stderr
