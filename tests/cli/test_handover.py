"""How stages hand over: every way a shell can connect them, and every way that goes wrong."""

import os
import pty
import re
import signal
import socket
import subprocess
import time
from pathlib import Path

from support import SIGPIPE, TINY, CliTest, main, qmap_header, sha256, tree

SCHEME = "-s w4a16"
EXPORT = "qexport -f compressed-tensors"


class Connections(CliTest):
    """Everything that works gives the same bytes."""

    @classmethod
    def setUpClass(cls):
        cls.reference = None

    def setUp(self):
        super().setUp()
        if Connections.reference is None:
            self.ok("qquantize", TINY, "-s", "w4a16", "-o", "ref.qmap")
            self.ok("qexport", "ref.qmap", "-f", "compressed-tensors", "-o", "ref")
            Connections.reference = tree(self.dir / "ref")

    def same(self, script):
        status, result = self.pipe(script)
        self.assertEqual(set(status), {0}, result)
        self.assertEqual(tree(self.dir / "out"), Connections.reference)
        self.assert_clean("out.partial")
        return result

    def test_pipe(self):
        result = self.same(f"qload {TINY} | qquantize {SCHEME} | {EXPORT} -o out")
        self.assertEqual(result.err, "")

    def test_dash_is_standard_input(self):
        self.same(f"qload {TINY} | qquantize - {SCHEME} | {EXPORT} - -o out")

    def test_tee(self):
        self.same(f"qload {TINY} | tee handle | qquantize {SCHEME} | tee h2 | {EXPORT} -o out")
        self.assertRegex((self.dir / "handle").read_text(), r"^qmap:/proc/\d+/fd/\d+ [0-9a-f]{32}\n$")

    def test_cat(self):
        self.same(f"qload {TINY} | cat | qquantize {SCHEME} | cat | cat | {EXPORT} -o out")

    def test_head_ends_before_the_reader_opens(self):
        self.same(f"qload {TINY} | head -1 | qquantize {SCHEME} | head -1 | {EXPORT} -o out")

    def test_slow_reader(self):
        self.same(f"qload {TINY} | (sleep 1; qquantize {SCHEME}) | (sleep 1; {EXPORT} -o out)")

    def test_process_substitution(self):
        self.same(f"{EXPORT} <(qquantize <(qload {TINY}) {SCHEME}) -o out")

    def test_fifo(self):
        self.same(f"mkfifo a b; qload {TINY} > a & qquantize a {SCHEME} > b & {EXPORT} b -o out")

    def test_redirected_fifo(self):
        self.same(f"mkfifo a; qload {TINY} > a & qquantize {SCHEME} < a | {EXPORT} -o out")

    def test_redirect_to_a_file_and_from_it(self):
        self.same(f"qload {TINY} > a.qmap; qquantize {SCHEME} < a.qmap > b.qmap; {EXPORT} < b.qmap -o out")
        self.assertEqual((self.dir / "a.qmap").read_bytes()[:5], b"\x89QMAP")

    def test_append_to_an_empty_file(self):
        self.same(f"qload {TINY} >> a.qmap; qquantize {SCHEME} a.qmap | {EXPORT} -o out")

    def test_command_substitution_of_a_named_output(self):
        self.same(f'h=$(qload {TINY} -o a.qmap); qquantize {SCHEME} <<< "$h" | {EXPORT} -o out')

    def test_output_option_in_the_middle(self):
        self.same(f"qload {TINY} -o a.qmap | qquantize {SCHEME} -o b.qmap | {EXPORT} -o out")
        self.assertEqual(sha256(self.dir / "b.qmap"), self.fresh("ref2.qmap"))

    def fresh(self, name):
        self.ok("qquantize", "a.qmap", "-s", "w4a16", "-o", name)
        return sha256(self.dir / name)

    def test_fan_out_of_a_named_output(self):
        self.same(f"qload {TINY} -o a.qmap | tee h | qquantize {SCHEME} | {EXPORT} -o out; "
                  f"qquantize {SCHEME} < h | {EXPORT} -o out2")
        self.assertEqual(tree(self.dir / "out2"), Connections.reference)

    def test_handle_in_a_file(self):
        self.same(f"qload {TINY} -o a.qmap | cat > h; qquantize h {SCHEME} -o b.qmap | cat > i; {EXPORT} i -o out")

    def test_spaces_and_odd_characters_in_the_path(self):
        odd = self.dir / "a b" / "c%41\td"
        odd.mkdir(parents=True)
        self.same(f"qload {TINY} -o '{odd}/x y.qmap' | qquantize {SCHEME} -o '{odd}/z %.qmap' | {EXPORT} -o out")

    def test_relative_output_read_from_another_directory(self):
        (self.dir / "sub").mkdir()
        self.same(f"qload {TINY} -o a.qmap | (cd sub; qquantize {SCHEME} -o b.qmap) | {EXPORT} -o out")

    def test_stream_through_cat(self):
        self.same(f"qload {TINY} --stream | cat | qquantize {SCHEME} --stream | dd bs=999 status=none | {EXPORT} -o out")

    def test_stream_carries_the_qmap_itself(self):
        # --pack makes it self-contained: what ssh delivers can be kept and used elsewhere.
        self.same(f"qload {TINY} --pack --stream | cat > a.qmap; qquantize {SCHEME} - < a.qmap | {EXPORT} -o out")
        data = (self.dir / "a.qmap").read_bytes()
        self.assertEqual(qmap_header(data)["file_length"], len(data))
        self.assertEqual(qmap_header(data)["flags"] & 1, 0)

    def test_socket(self):
        here, there = socket.socketpair()
        first = self.popen("qload", TINY, stdout=here)
        here.close()
        second = self.popen("qquantize", "-s", "w4a16", "-o", "b.qmap", stdin=there)
        there.close()
        self.assertEqual(second.wait(60), 0, second.stderr.read())
        self.assertEqual(first.wait(60), 0, first.stderr.read())

    def test_qexport_tells_its_directory(self):
        self.same(f"qload {TINY} | qquantize {SCHEME} | {EXPORT} -o out | tee qdir")
        self.assertEqual((self.dir / "qdir").read_text(), f"qdir:{self.dir}/out\n")

    def test_export_into_load(self):
        # A handle to a directory is an input like any other.
        self.same(f"qload {TINY} | qquantize {SCHEME} | {EXPORT} -o out | qload -o again.qmap")
        self.ok("qload", "out", "-o", "by-name.qmap")
        self.assertEqual(sha256(self.dir / "again.qmap"), sha256(self.dir / "by-name.qmap"))
        self.same(f"qload {TINY} | qquantize {SCHEME} | {EXPORT} -o first | qload | {EXPORT} -o out --force")

    def test_every_reader_gets_the_same_spill(self):
        self.same(f"qload {TINY} | qquantize {SCHEME} | {EXPORT} -o out")
        self.ok("bash", "-c", f"qload {TINY} | qquantize -s fp8-dynamic | {EXPORT} -o out2")
        self.assertNotEqual(tree(self.dir / "out2"), Connections.reference)


class NowhereToWrite(CliTest):
    def refused(self, result):
        self.assertEqual(result.code, 2, result)
        self.assertIn("nowhere to write the result; give -o FILE or a pipe", result.err)

    def test_dev_null(self):
        self.refused(self.sh(f"qload {TINY} > /dev/null"))
        self.refused(self.sh(f"qquantize {TINY} -s w4a16 > /dev/null"))

    def test_closed(self):
        self.refused(self.sh(f"qload {TINY} >&-"))
        self.refused(self.sh(f"qload {TINY} <&- >&-"))

    def test_terminal(self):
        master, slave = pty.openpty()
        try:
            self.refused(self.run_("qload", TINY, stdout=slave))
            self.refused(self.run_("qquantize", TINY, "-s", "w4a16", stdout=slave))
        finally:
            os.close(master)
            os.close(slave)

    def test_terminal_as_input(self):
        master, slave = pty.openpty()
        try:
            for command in (["qload"], ["qquantize", "-s", "w4a16"], ["qexport", "-f", "safetensors", "-o", "x"]):
                self.fails(2, *command, says="no input; name a model or a qmap, or pipe one in",
                           stdin=slave, stdout=subprocess.PIPE)
        finally:
            os.close(master)
            os.close(slave)

    def test_qexport_needs_a_directory(self):
        self.fails(2, "qexport", TINY, "-f", "safetensors", says="nowhere to write the result; give -o DIR")

    def test_file_that_is_not_empty(self):
        (self.dir / "a.qmap").write_text("something")
        result = self.sh(f"qload {TINY} >> a.qmap")
        self.assertEqual(result.code, 2, result)
        self.assertIn("not empty", result.err)
        self.assertEqual((self.dir / "a.qmap").read_text(), "something")

    def test_standard_output_is_the_input(self):
        self.ok("qload", TINY, "-o", "a.qmap")
        before = sha256(self.dir / "a.qmap")
        result = self.sh("qload a.qmap >> a.qmap")
        self.assertEqual(result.code, 2, result)
        self.assertEqual(sha256(self.dir / "a.qmap"), before)


class BrokenConnections(CliTest):
    def test_reader_dies_at_once(self):
        status, result = self.pipe(f"qload {TINY} | true")
        self.assertIn(status[0], (SIGPIPE,), result)
        self.assertEqual(result.err, "")
        self.assert_clean()

    def test_reader_takes_the_line_and_dies(self):
        start = time.monotonic()
        status, result = self.pipe(f"qload {TINY} | (read line)")
        self.assertEqual(status[0], SIGPIPE, result)
        self.assertEqual(result.err, "")
        self.assertLess(time.monotonic() - start, 25)

    def test_reader_fails_before_reading(self):
        status, result = self.pipe(f"qload {TINY} | qquantize -s nonsense | {EXPORT} -o out")
        self.assertEqual(status[1:], [2, 3], result)
        self.assertEqual(status[0], SIGPIPE, result)
        self.assert_clean("out")

    def test_stream_into_a_reader_that_dies(self):
        status, result = self.pipe(f"qload {TINY} --pack --stream | head -c 10 > /dev/null")
        self.assertEqual(status[0], SIGPIPE, result)
        self.assertEqual(result.err, "")
        self.assert_clean()

    def test_writer_fails(self):
        status, result = self.pipe(f"qload {self.dir}/absent | qquantize -s w4a16 | {EXPORT} -o out")
        self.assertEqual(status, [4, 3, 3], result)
        self.assertIn("the program before it in the pipe failed; see its message", result.err)
        self.assertEqual(result.err.count("\n"), 3)
        self.assert_clean("out")

    def test_nobody_takes_it(self):
        # Command substitution reads the line and waits for the writer: 30 s, not for ever. The
        # other ways in which nobody comes run beside it.
        read, write = os.pipe()
        idle = self.popen("qload", TINY, stdout=write)
        os.close(write)
        start = time.monotonic()
        result = self.sh(f"x=$(qload {TINY}); echo status $?")
        took = time.monotonic() - start
        self.assertIn("status 4", result.out)
        self.assertIn("nobody took the result in 30 s; use -o FILE", result.err)
        self.assertGreater(took, 25)
        self.assertLess(took, 60)
        self.assertEqual(idle.wait(30), 4)
        os.close(read)
        self.assert_clean()

    def test_handle_whose_writer_has_gone(self):
        status, result = self.pipe(f"qload {TINY} | tee h | qquantize -s w4a16 -o b.qmap")
        self.assertEqual(status[0], 0, result)
        self.fails(4, "qquantize", "h", "-s", "w4a16", "-o", "c.qmap",
                   says=["/proc/", "the program that made it has gone; run the pipeline again or use -o FILE"])
        self.assert_clean("c.qmap")

    def test_handle_to_a_file_that_is_gone(self):
        self.sh(f"qload {TINY} -o a.qmap | cat > h; rm a.qmap")
        self.fails(4, "qquantize", "h", "-s", "w4a16", "-o", "c.qmap", says=["a.qmap", "was it moved?"])

    def test_handle_to_a_replaced_file(self):
        self.sh(f"qload {TINY} -o a.qmap | cat > h; qload {TINY} --exclude norm -o a.qmap --force")
        result = self.fails(3, "qquantize", "h", "-s", "w4a16", "-o", "c.qmap",
                            says=["a.qmap: is not the qmap that was handed over", "run the pipeline again"])
        self.assertRegex(result.err, r"expected [0-9a-f]{32}, found [0-9a-f]{32}")
        self.assert_clean("c.qmap")

    def test_damaged_handles(self):
        for line in ("qmap:", "qmap:\n", "qmap:a.qmap\n", "qmap:a.qmap 123\n", "qmap: " + "0" * 32 + "\n",
                     "qmap:" + "x" * 100000, "qmap:a\0b " + "0" * 32 + "\n"):
            (self.dir / "h").write_text(line)
            for command in (["qquantize", "h", "-s", "w4a16", "-o", "c"], ["qload", "h", "-o", "c"]):
                result = self.run_(*command)
                self.assertIn(result.code, (3, 4), (line[:40], result))
                self.assertIn(": ", result.err)
        self.assert_clean("c")

    def test_handle_to_a_fifo_or_device(self):
        os.mkfifo(self.dir / "fifo")
        for target in (self.dir / "fifo", "/dev/zero", self.dir):
            (self.dir / "h").write_text(f"qmap:{target} {'0' * 32}\n")
            self.fails(3, "qquantize", "h", "-s", "w4a16", "-o", "c", says="no regular file", timeout=20)

    def test_something_else_in_the_pipe(self):
        for what, says in (("echo hello world", "neither a qmap nor a handle"), ("true", "is empty"),
                           ("cat /dev/zero | head -c 100000", "neither a qmap nor a handle"),
                           ("echo hi", "neither a qmap nor a handle")):
            status, result = self.pipe(f"{what} | qquantize -s w4a16 -o c")
            self.assertEqual(status[-1], 3, result)
            self.assertIn(says, result.err)
            self.assertIn("standard input", result.err)
        self.assert_clean("c")

    def test_stream_cut_short(self):
        self.ok("qload", TINY, "--pack", "-o", "a.qmap")
        for n in (8, 40, 64, 5000, 1000000):
            status, result = self.pipe(f"head -c {n} a.qmap | qquantize -s w4a16 -o c")
            self.assertEqual(status[-1], 3, result)
            self.assertIn("standard input", result.err)
            self.assertIn("truncated" if n >= 64 else "too short", result.err)
        self.assert_clean("c")

    def test_wrong_spill_directory(self):
        for env in ({"QPIPE_TMPDIR": "/nonexistent"}, {"QPIPE_TMPDIR": "", "TMPDIR": "/nonexistent"}):
            result = self.sh(f"qload {TINY} | cat", env=env)
            self.assertIn("/nonexistent: cannot create a spill file", result.err)
            self.assertIn("QPIPE_TMPDIR", result.err)

    def test_stream_and_output_exclude_each_other(self):
        self.fails(2, "qload", TINY, "--stream", "-o", "a", says="--stream")
        self.assert_clean("a")


class Signals(CliTest):
    """Blocked in every place where a stage waits, a signal ends it as the shell expects."""

    def dies(self, process, number):
        start = time.monotonic()
        process.send_signal(number)
        self.assertEqual(process.wait(20), -number, process.stderr.read())
        self.assertLess(time.monotonic() - start, 5)
        self.assert_clean("c")

    def waiting(self, process, state="S"):
        # Past the start of the program and asleep.
        for _ in range(400):
            text = Path(f"/proc/{process.pid}/stat").read_text()
            if text.rsplit(")", 1)[1].split()[0] == state and "(q" in text:
                time.sleep(0.05)
                return
            time.sleep(0.01)
        self.fail("never waits")

    def test_opening_a_fifo(self):
        os.mkfifo(self.dir / "fifo")
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            process = self.popen("qquantize", "fifo", "-s", "w4a16", "-o", "c")
            self.waiting(process)
            self.dies(process, number)

    def test_reading_standard_input(self):
        for number in (signal.SIGINT, signal.SIGTERM):
            process = self.popen("qexport", "-f", "safetensors", "-o", "c", stdin=subprocess.PIPE)
            self.waiting(process)
            self.dies(process, number)

    def test_waiting_for_the_reader(self):
        for number in (signal.SIGINT, signal.SIGTERM):
            process = self.popen("qload", TINY)
            self.assertRegex(process.stdout.readline(), rb"^qmap:/proc/")
            self.dies(process, number)

    def test_writing_a_stream(self):
        process = self.popen("qload", TINY, "--pack", "--stream")
        self.assertEqual(len(process.stdout.read(1000)), 1000)
        time.sleep(0.1)
        self.dies(process, signal.SIGTERM)

    def test_ignored_signals_stay_ignored(self):
        # nohup: a hang-up must not end the run.
        process = self.popen("qload", TINY, preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))
        line = process.stdout.readline()
        process.send_signal(signal.SIGHUP)
        time.sleep(0.2)
        self.assertIsNone(process.poll())
        self.assertEqual(self.run_("qquantize", "-s", "w4a16", "-o", "c", stdin=self.feed(line)).code, 0)
        self.assertEqual(process.wait(20), 0)

    def feed(self, line):
        read, write = os.pipe()
        os.write(write, line)
        os.close(write)
        self.addCleanup(os.close, read)
        return read

    def test_spill_survives_its_writer_once_opened(self):
        # The reader has the file open: what happens to the writer afterwards changes nothing.
        process = self.popen("qload", TINY)
        line = process.stdout.readline()
        path = re.match(r"qmap:(\S+) ", line.decode())[1]
        with open(path, "rb") as spill:
            self.assertEqual(process.wait(20), 0)
            self.assertEqual(spill.read(5), b"\x89QMAP")
        self.assertFalse(Path(path).exists())


if __name__ == "__main__":
    main()
