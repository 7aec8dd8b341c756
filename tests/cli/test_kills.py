"""Runs that do not end well: signals at random moments, full disks, limits. Nothing half-done is
ever taken for a result, and nothing is left that nobody asked for."""

import os
import random
import resource
import shutil
import signal
import subprocess
import time
from pathlib import Path

from support import SIGPIPE, TINY, CliTest, main, sha256, tree, qmap_manifest, write_llama

# Slow enough to be hit in the middle: one thread, no vector instructions.
SLOW = {"QPIPE_ISA": "scalar"}
QUANTIZE = ["qquantize", "-s", "w4a16-asym", "-j", "1", "--group-size", "64"]
EXPORT = ["qexport", "-f", "compressed-tensors", "-j", "1"]
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGKILL, signal.SIGHUP)


class Kills(CliTest):
    model_home = None

    @classmethod
    def setUpClass(cls):
        cls.home = Path(cls.shared_dir())
        cls.model = write_llama(cls.home / "model", hidden=768, layers=2, vocab=512, intermediate=2048)  # 30 MB

    @staticmethod
    def shared_dir():
        import tempfile
        return tempfile.mkdtemp(prefix="qpipe-kills-")

    @classmethod
    def tearDownClass(cls):
        shutil.rmtree(cls.home, ignore_errors=True)

    def setUp(self):
        super().setUp()
        self.env.update(SLOW)
        self.rng = random.Random(2026)

    def reference(self):
        """An undisturbed run: its bytes and how long it took."""
        start = time.monotonic()
        self.ok(*QUANTIZE, self.model, "-o", "ref.qmap")
        quantize = time.monotonic() - start
        start = time.monotonic()
        self.ok(*EXPORT, "ref.qmap", "-o", "ref")
        return quantize, time.monotonic() - start

    # ---- a pipeline, any stage, any signal

    def test_pipeline_at_random_moments(self):
        quantize, export = self.reference()
        want = tree(self.dir / "ref")
        took = quantize + export
        finished = killed = 0
        left = False
        for n in range(60):
            stage, number = n % 3, SIGNALS[(n // 3) % 4]
            load = self.popen("qload", self.model)
            middle = self.popen(*QUANTIZE, stdin=load.stdout)
            last = self.popen(*EXPORT, "-o", "out", stdin=middle.stdout)
            load.stdout.close()
            middle.stdout.close()
            stages = [load, middle, last]
            time.sleep(self.rng.uniform(0, took if stage else 0.02))
            victim = stages[stage]
            alive = victim.poll() is None
            start = time.monotonic()
            victim.send_signal(number)
            victim.wait(30)
            if alive:
                self.assertLess(time.monotonic() - start, 10)
            codes = [s.wait(60) for s in stages]
            errors = [s.stderr.read().decode() for s in stages]
            where = f"round {n}: stage {stage}, {number.name}: {codes} {errors}"
            # The victim died of the signal, or was done already; the others end as documented.
            self.assertIn(codes[stage], (-number, 0) if stage == 0 else (-number, 0, 3, 4), where)
            for i, code in enumerate(codes):
                if i != stage:
                    self.assertIn(code, (0, 3, 4, -signal.SIGPIPE), where)
                if code > 0:
                    self.assertRegex(errors[i], r"(?m)^q\w+: .+: .+; ", where)  # says what to do
                self.assertNotIn("defect", errors[i], where)
            self.assertEqual(list(self.spills.iterdir()), [], where)
            out = self.dir / "out"
            if codes[2] == 0 or out.exists():
                self.assertEqual(tree(out), want, where)  # complete or absent
                finished += 1
            else:
                self.assertNotEqual(codes[2], 0, where)
                killed += 1
            partial = self.dir / "out.partial"
            # Only a kill that cannot be caught leaves it; the next run that gets as far as writing takes it away.
            left = partial.exists() and (left or (stage, number) == (2, signal.SIGKILL))
            if partial.exists():
                self.assertTrue(left, where)
                self.assertNotEqual(codes[2], 0, where)
                self.fails(3, "qload", partial, "-o", "x", says="unfinished output of qexport")
            self.ok("rm", "-rf", "out")
            for s in stages:
                self.reap(s)
        self.assertGreater(killed, 0, (finished, killed))
        self.ok(*EXPORT, "ref.qmap", "-o", "out")
        self.assertEqual(tree(self.dir / "out"), want)

    # ---- -o, and going on

    def test_quantize_and_resume(self):
        took, _ = self.reference()
        want = sha256(self.dir / "ref.qmap")
        resumed = 0
        out, partial, journal = (self.dir / n for n in ("o.qmap", "o.qmap.partial", "o.qmap.partial.journal"))
        for n in range(40):
            number = SIGNALS[n % 4]
            extra = []
            for attempt in range(2):  # a run that goes on is interrupted as well
                process = self.popen(*QUANTIZE, self.model, "-o", out, *extra)
                time.sleep(self.rng.uniform(0, took))
                process.send_signal(number)
                code = process.wait(30)
                error = process.stderr.read().decode()
                self.reap(process)
                where = f"round {n}, {number.name}: {code} {error}"
                self.assertIn(code, (-number, 0), where)
                self.assertEqual(out.exists(), not partial.exists() and out.exists(), where)
                if code != 0 and not out.exists() and partial.exists():
                    if magic_absent(partial):
                        self.fails(3, "qload", partial, "--list", says="unfinished qmap")
                    self.fails(4, *QUANTIZE, self.model, "-o", out, says=["o.qmap.partial", "--resume", "--force"])
                    self.assertTrue(partial.exists())
                    extra = ["--resume"]
                if out.exists():
                    break
            if not out.exists():
                result = self.ok(*QUANTIZE, self.model, "-o", out, "--resume")
                resumed += "taken over from the unfinished run" in result.err
            self.assertEqual(sha256(out), want, where)
            self.assertFalse(partial.exists() or journal.exists(), where)
            out.unlink()
        self.assertGreater(resumed, 0)  # how often the middle is hit is up to the machine
        self.assertEqual(list(self.spills.iterdir()), [])

    def interrupted(self, *more):
        """A run stopped in the middle, with something to resume."""
        for delay in 3 * (0.15, 0.1, 0.2, 0.05, 0.3, 0.03, 0.02, 0.01):
            process = self.popen(*QUANTIZE, self.model, "-o", "o.qmap", *more)
            time.sleep(delay)
            process.send_signal(signal.SIGINT)
            process.wait(30)
            self.reap(process)
            if (self.dir / "o.qmap.partial.journal").exists():
                return
            self.ok("rm", "-f", "o.qmap")
        self.fail("never interrupted in the middle")

    def test_resume_refuses_another_run(self):
        self.interrupted()
        for command, env in ((["qquantize", "-s", "w4a16", "-j", "1"], {}), (["qquantize", "-s", "fp8-dynamic"], {}),
                             (QUANTIZE + ["--ignore", "re:.*k_proj"], {}), (QUANTIZE, {"QPIPE_ISA": ""})):
            result = self.run_(*command, self.model, "-o", "o.qmap", "--resume", env=env)
            if env and result.code == 0:
                continue  # a machine without vector instructions
            self.assertIn(result.code, (2, 4), result)
            if "fuse" in result.err:
                continue
            self.assertIn("--force", result.err)
            self.assertTrue((self.dir / "o.qmap.partial").exists())
        # Thread count and memory are no part of a run.
        self.assertIn("taken over", self.ok(*QUANTIZE, "-j", "3", "--max-memory", "300MB", self.model, "-o", "o.qmap", "--resume").err)
        self.reference()
        self.assertEqual(sha256(self.dir / "o.qmap"), sha256(self.dir / "ref.qmap"))

    def killed_after(self, tensors):
        """A run killed, uncaught, as soon as its journal names that many tensors; how many it names."""
        journal = self.dir / "o.qmap.partial.journal"
        for _ in range(20):
            self.ok("rm", "-f", "o.qmap")
            process = self.popen(*QUANTIZE, self.model, "-o", "o.qmap", "--force")
            while process.poll() is None and finished_in(journal) < tensors:
                time.sleep(0.001)
            process.kill()
            process.wait(30)
            self.reap(process)
            if journal.exists():
                return finished_in(journal)
        self.fail("never killed in the middle")

    def test_kill_loses_nothing_that_was_finished(self):
        self.reference()
        for tensors in (1, 4, 10):  # ten of them are in the first layer
            finished = self.killed_after(tensors)
            self.assertGreaterEqual(finished, tensors)
            result = self.ok(*QUANTIZE, self.model, "-o", "o.qmap", "--resume")
            self.assertIn(f"{finished} tensors taken over", result.err)
            self.assertEqual(sha256(self.dir / "o.qmap"), sha256(self.dir / "ref.qmap"))

    def test_power_cut(self):
        # What a disk may hold then: lines whose data did not reach it. Marks stand for data that did.
        self.reference()
        for marked in (False, True):
            finished = self.killed_after(6)
            journal, partial = self.dir / "o.qmap.partial.journal", self.dir / "o.qmap.partial"
            lines = [l for l in journal.read_text().splitlines() if not l.startswith("synced")]
            lost = self.tensor("ref.qmap", int(lines[-1].split()[0]))
            with open(partial, "r+b") as file:
                file.seek(lost["offset"])
                file.write(bytes(lost["length"]))
            if marked:
                lines.append(f"synced {finished - 1}")
            journal.write_text("\n".join(lines) + "\n")
            result = self.ok(*QUANTIZE, self.model, "-o", "o.qmap", "--resume")
            self.assertIn(f"{finished - 1} tensors taken over", result.err)
            self.assertEqual(sha256(self.dir / "o.qmap"), sha256(self.dir / "ref.qmap"), marked)

    def tensor(self, qmap, number):
        """Where the first part of a tensor is."""
        _, offset, length, _ = qmap_manifest((self.dir / qmap).read_bytes())["tensors"][number]["parts"][0]["extent"]
        return {"offset": offset, "length": length}

    def test_layers_are_synced(self):
        journal = self.dir / "o.qmap.partial.journal"
        for extra in ([], ["--no-sync"]):
            text = ""
            process = self.popen(*QUANTIZE, self.model, "-o", "o.qmap", "--force", *extra)
            while process.poll() is None and "synced" not in text:
                time.sleep(0.001)
                text = journal.read_text() if journal.exists() else text
            self.assertEqual(process.wait(30), 0)
            self.reap(process)
            self.assertEqual("synced" in text, not extra, text)

    def test_force_starts_again(self):
        self.interrupted()
        self.ok("qquantize", self.model, "-s", "fp8-dynamic", "-o", "o.qmap", "--force")
        self.assertFalse((self.dir / "o.qmap.partial.journal").exists())
        self.ok("qquantize", self.model, "-s", "fp8-dynamic", "-o", "p.qmap")
        self.assertEqual(sha256(self.dir / "o.qmap"), sha256(self.dir / "p.qmap"))

    def test_journal_of_other_content_is_never_trusted(self):
        # qload's partial file in place of qquantize's, then --resume: nothing may be taken over.
        self.interrupted()
        journal = (self.dir / "o.qmap.partial.journal").read_bytes()
        self.ok("qload", self.model, "--pack", "-o", "o.qmap", "--force")
        self.assertFalse((self.dir / "o.qmap.partial.journal").exists())
        self.assertTrue(journal)

    def test_damaged_journal(self):
        for damage in (lambda j: j[:len(j) // 2], lambda j: j + b"garbage", lambda j: b"", lambda j: j + b"99999999 0 0\n",
                       lambda j: j[:-1]):
            self.interrupted()
            journal = self.dir / "o.qmap.partial.journal"
            journal.write_bytes(damage(journal.read_bytes()))
            result = self.run_(*QUANTIZE, self.model, "-o", "o.qmap", "--resume")
            self.assertEqual(result.code, 0, result)
            self.ok("qexport", "o.qmap", "-f", "compressed-tensors", "-o", "x", "--force")
            self.ok("rm", "o.qmap")

    def test_second_signal_kills(self):
        process = self.popen(*QUANTIZE, self.model, "-o", "o.qmap")
        time.sleep(0.05)
        for _ in range(2):
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
        self.assertIn(process.wait(10), (-signal.SIGINT, 0))

    # ---- no room

    def small_disk(self, size):
        """A file system of its own, so small that the run must fill it."""
        place = self.dir / f"disk{size}"
        place.mkdir()
        mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", place], capture_output=True)
        if mounted.returncode != 0:
            message = "cannot mount a tmpfs: " + mounted.stderr.decode().strip()
            if os.geteuid() == 0 and os.environ.get("CI"):
                self.fail(message)
            self.skipTest(message)
        self.addCleanup(subprocess.run, ["umount", place], capture_output=True)
        return place

    def no_room(self, result, place, *says):
        self.assertEqual(result.code, 4, result)
        for text in says:
            self.assertIn(str(text), result.err)
        self.assertNotIn("unexpected", result.err)
        self.assertEqual(sorted(p.name for p in place.rglob("*") if "partial" not in p.name), [], result)

    def test_full_disk(self):
        for size in ("64k", "1m", "8m"):
            place = self.small_disk(size)
            for command in (["qquantize", self.model, "-s", "w4a16"], ["qload", self.model, "--pack"],
                            *([["qload", self.model, "--pack", "--zstd"]] if size == "64k" else [])):
                self.no_room(self.run_(*command, "-o", place / "o"), place, place)
                self.assertEqual(list(place.iterdir()), [])
            for f in ("safetensors", "compressed-tensors"):
                self.no_room(self.run_("qexport", self.model, "-f", f, "-o", place / "o", "-q"), place, "free some space")
                self.assertEqual(list(place.iterdir()), [])

    def test_disk_that_fills_meanwhile(self):
        # The check of free space is passed, the reservation is not: sparse growth by somebody else.
        place = self.small_disk("40m")
        for command in (["qquantize", self.model, "-s", "int8", "-o", place / "o"],
                        ["qexport", self.model, "-f", "safetensors", "-o", place / "o", "--shard-size", "10M"]):
            (place / "other").write_bytes(b"x" * (25 << 20))
            result = self.run_(*command)
            self.assertEqual(result.code, 4, result)
            os.remove(place / "other")
            self.assertEqual(list(place.iterdir()), [])

    def test_full_disk_of_spills(self):
        place = self.small_disk("1m")
        status, result = self.pipe(f"qload {self.model} | qquantize -s w4a16 | qexport -f compressed-tensors -o out",
                                   env={"QPIPE_TMPDIR": str(place)})
        self.assertEqual(status[1:], [4, 3], result)
        self.assertIn(f"spill file in {place}", result.err)
        self.assertIn("QPIPE_TMPDIR", result.err)
        self.assertEqual(list(place.iterdir()), [])
        self.assert_clean("out")

    def test_full_disk_behind_a_redirection(self):
        place = self.small_disk("1m")
        result = self.sh(f"qquantize {self.model} -s w4a16 > {place}/o.qmap")
        self.assertEqual(result.code, 4, result)
        self.assertEqual((place / "o.qmap").stat().st_size, 0)
        self.fails(3, "qload", place / "o.qmap", "--list")

    def test_file_size_limit(self):
        for limit in (0, 4096, 1 << 20, 5 << 20):
            def limited():
                resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
            for command in (["qquantize", self.model, "-s", "w4a16", "-o", "o"], ["qload", self.model, "--pack", "-o", "o"],
                            ["qload", self.model, "--pack", "--zstd", "-o", "o"],
                            ["qexport", self.model, "-f", "safetensors", "-o", "o"],
                            ["qexport", self.model, "-f", "compressed-tensors", "-o", "o", "-q"]):
                if "--zstd" in command and limit > 4096:
                    continue  # it may fit
                result = self.run_(*command, preexec_fn=limited)
                self.assertEqual(result.code, 4, (limit, command, result))
                self.assertIn("File too large", result.err)
                self.assert_clean("o")

    def test_file_size_limit_between_data_and_manifest(self):
        # Everything is written but the table of contents: kept for --resume, or nothing is kept.
        self.reference()
        full = (self.dir / "ref.qmap").stat().st_size
        want = sha256(self.dir / "ref.qmap")
        for less in (1, 100, 1500, 3000):
            def limited():
                resource.setrlimit(resource.RLIMIT_FSIZE, (full - less, full - less))
            result = self.run_(*QUANTIZE, self.model, "-o", "o.qmap", preexec_fn=limited)
            self.assertEqual(result.code, 4, result)
            self.assertFalse((self.dir / "o.qmap").exists())
            if (self.dir / "o.qmap.partial").exists():
                self.assertIn("--resume", result.err)
                self.assertIn("taken over", self.ok(*QUANTIZE, self.model, "-o", "o.qmap", "--resume").err)
                self.assertEqual(sha256(self.dir / "o.qmap"), want)
            self.ok("rm", "-f", "o.qmap")
            self.assert_clean("o.qmap")

    def test_resume_without_room_loses_nothing(self):
        self.interrupted()
        size = (self.dir / "o.qmap.partial").stat().st_size

        def limited():
            resource.setrlimit(resource.RLIMIT_FSIZE, (size // 2, size // 2))
        self.fails(4, *QUANTIZE, self.model, "-o", "o.qmap", "--resume", preexec_fn=limited)
        self.assertIn("taken over", self.ok(*QUANTIZE, self.model, "-o", "o.qmap", "--resume").err)

    def test_descriptor_limit(self):
        def limited():
            resource.setrlimit(resource.RLIMIT_NOFILE, (4, 4))
        for command in (["qload", TINY, "-o", "o"], ["qquantize", TINY, "-s", "w4a16", "-o", "o"],
                        ["qexport", TINY, "-f", "safetensors", "-o", "o"]):
            result = self.run_(*command, preexec_fn=limited)
            self.assertIn(result.code, (0, 4), result)
            if result.code:
                self.assertIn("Too many open files", result.err)
                self.assert_clean("o")
            self.ok("rm", "-rf", "o")

    def test_memory_limit(self):
        # An allocation that fails is an error with advice, not a crash.
        def limited():
            resource.setrlimit(resource.RLIMIT_AS, (200 << 20, 200 << 20))
        result = self.run_("qquantize", self.model, "-s", "w4a16", "-j", "1", "-o", "o", preexec_fn=limited)
        self.assertIn(result.code, (0, 4, 5), result)


def finished_in(journal):
    """Tensors that a journal names."""
    try:
        lines = journal.read_text().split("\n")[1:-1]
    except FileNotFoundError:
        return 0
    return sum(not line.startswith("synced") for line in lines)


def magic_absent(path):
    with open(path, "rb") as file:
        return file.read(8) == b"\0" * 8


if __name__ == "__main__":
    main()
