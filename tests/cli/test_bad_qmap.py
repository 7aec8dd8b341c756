"""Damaged qmaps, and files that change under a qmap: refused with a message that names the file."""

import json
import os
import random
import time

from support import (BadInput, QMAP_FIELDS, QMAP_HEADER, main, qmap_header, qmap_manifest, tree,
                     write_llama)
from xxh3 import xxh3_128


class Qmap(BadInput):
    def setUp(self):
        super().setUp()
        self.model = write_llama(self.dir / "m", 128, 1, 32, 128)
        self.ok("qquantize", self.model, "-s", "w4a16", "-o", "good.qmap")
        self.good = (self.dir / "good.qmap").read_bytes()
        self.path = self.dir / "bad.qmap"

    def put(self, **fields):
        header = {**qmap_header(self.good), **fields}
        self.path.write_bytes(QMAP_HEADER.pack(*(header[f] for f in QMAP_FIELDS)) + self.good[64:])
        return self.path

    def rewrite(self, change):
        """The manifest changed and its checksum made to fit, as somebody who means harm would."""
        # XXH3 is not in Python's library: the programs are asked what they found.
        manifest = qmap_manifest(self.good)
        change(manifest)
        h = qmap_header(self.good)
        text = json.dumps(manifest, separators=(",", ":")).encode()
        tail = self.good[h["manifest_offset"] + h["manifest_length"]:]
        h.update(manifest_length=len(text), file_length=h["manifest_offset"] + len(text) + len(tail))
        body = self.good[64:h["manifest_offset"]] + text + tail
        h["hash_low"], h["hash_high"] = xxh3_128(text)
        self.path.write_bytes(QMAP_HEADER.pack(*(h[f] for f in QMAP_FIELDS)) + body)
        return self.path

    def refuse(self, path, *says):
        for command in (["qload", path, "-o", "c"], ["qquantize", path, "-s", "fp8-dynamic", "-o", "c"],
                        ["qexport", path, "-f", "compressed-tensors", "-o", "c"]):
            self.fails(3, *command, says=[f"{path}: ", *says])
            self.assert_clean("c")

    def test_good(self):
        self.ok("qexport", self.put(), "-f", "compressed-tensors", "-o", "c")
        self.ok("qexport", self.rewrite(lambda m: None), "-f", "compressed-tensors", "-o", "d")
        self.assertEqual(tree(self.dir / "c"), tree(self.dir / "d"))

    def test_magic_and_version(self):
        self.refuse(self.put(magic=b"\0" * 8), "unfinished qmap", "make it again")
        self.refuse(self.put(magic=b"\x89QMAP\n\n\x1a"), "bad magic")
        self.refuse(self.put(version=2), "version 2 (expected 1)", "update qpipe")
        self.refuse(self.put(version=0), "version 0")

    def test_truncated(self):
        h = qmap_header(self.good)
        for cut in (8, 32, 63, 64, 65, 4096, h["manifest_offset"], h["manifest_offset"] + 1, len(self.good) - 1):
            self.path.write_bytes(self.good[:cut])
            self.refuse(self.path, "too short" if cut < 64 else "truncated or damaged")
        self.path.write_bytes(self.good + b"\0")
        self.refuse(self.path, "truncated or damaged")
        self.path.write_bytes(b"")
        self.refuse(self.path, "too short")

    def test_header_numbers(self):
        for field in ("file_length", "manifest_offset", "manifest_length", "trailer_length"):
            for value in (0, 1, 63, 2**31, 2**63, 2**64 - 1, len(self.good), qmap_header(self.good)[field] + 1):
                if value != qmap_header(self.good)[field]:
                    result = self.run_("qload", self.put(**{field: value}), "-o", "c")
                    self.assertEqual(result.code, 3, (field, value, result))
        self.assert_clean("c")

    def test_manifest_checksum(self):
        h = qmap_header(self.good)
        self.refuse(self.put(hash_low=h["hash_low"] ^ 1), "manifest does not match its checksum")
        for at in (h["manifest_offset"], h["manifest_offset"] + 200, h["manifest_offset"] + h["manifest_length"] - 1):
            data = bytearray(self.good)
            data[at] ^= 4
            self.path.write_bytes(data)
            self.refuse(self.path, "manifest does not match its checksum", "make it again")

    def test_extent_checksum(self):
        # Caught when the extent is read, by whoever reads it, naming the tensor.
        for tensor in qmap_manifest(self.good)["tensors"]:
            file, offset, length = tensor["parts"][0]["extent"][:3]
            self.assertEqual(file, 0)
            data = bytearray(self.good)
            data[offset + length // 2] ^= 0x10
            self.path.write_bytes(data)
            self.fails(3, "qexport", self.path, "-f", "compressed-tensors", "-o", "c",
                       says=["bad.qmap", "does not match its checksum", "make it again"])
            self.assert_clean("c")
            result = self.fails(3, "qload", self.path, "--pack", "-o", "c", says=[f"tensor '{tensor['name']}'"])
            self.assertRegex(result.err, "expected [0-9a-f]{16}, found [0-9a-f]{16}")
        self.ok("qexport", self.path, "-f", "compressed-tensors", "-o", "c", "--no-check")

    def test_companion_checksum(self):
        companion = [c for c in qmap_manifest(self.good)["companions"] if c[0] == "config.json"][0]
        data = bytearray(self.good)
        data[companion[1][1] + 5] ^= 1
        self.path.write_bytes(data)
        self.refuse(self.path, "checksum")

    def test_companion_names(self):
        for name in ("../evil", "/etc/evil", "a/../../evil", "..", "a/..", "", "a\0b", "../../../../tmp/evil"):
            def change(m):
                m["companions"][0][0] = name
            self.refuse(self.rewrite(change), "companion file name", "leaves the directory")
        self.assertFalse((self.dir.parent / "evil").exists())

    def test_companion_that_would_be_a_result(self):
        # Names that qexport itself writes cannot come from a manifest.
        for name in ("model.safetensors", "model.safetensors.index.json", "sub/../model.safetensors", "./model.safetensors"):
            def change(m):
                m["companions"].append([name, m["companions"][0][1]])
            result = self.run_("qexport", self.rewrite(change), "-f", "compressed-tensors", "-o", "c", "--force")
            self.assertIn(result.code, (3, 4, 5), (name, result))
            self.assert_clean("c")

    def test_references_out_of_bounds(self):
        def extent(index, value):
            def change(m):
                m["tensors"][0]["parts"][0]["extent"][index] = value
            return change
        for change in (extent(0, 1), extent(0, 7), extent(0, 2**32 - 1), extent(0, 2**32), extent(1, 2**64 - 1), extent(1, 2**63),
                       extent(1, len(self.good)), extent(2, 0), extent(2, 2**64 - 1), extent(2, 7), extent(1, -1), extent(2, "x")):
            self.refuse(self.rewrite(change))

    def test_manifest_shapes(self):
        def setter(*path_value):
            *path, key, value = path_value
            def change(m):
                at = m
                for p in path:
                    at = at[p]
                at[key] = value
            return change
        t = ("tensors", 0)
        for change in (setter(*t, "shape", [2**63, 2**63]), setter(*t, "shape", []), setter(*t, "shape", [1] * 100),
                       setter(*t, "shape", "x"), setter(*t, "name", ""), setter(*t, "name", 7), setter(*t, "dtype", "F99"),
                       setter(*t, "scheme", 99), setter(*t, "scheme", -5), setter(*t, "parts", []), setter(*t, "parts", {}),
                       setter(*t, "unknown", 1), setter(*t, "parts", 0, "role", "nothing"), setter("tensors", 7),
                       setter("tensors", {}), setter("schemes", 7), setter("schemes", [7]), setter("schemes", [{}]),
                       setter("schemes", 0, "weights", {"num_bits": 99}), setter("schemes", 0, "weights", 7),
                       setter("companions", 7), setter("files", [["x"]]), setter("files", [[7, 7]]), setter("unknown", []),
                       setter("tensors", 1, "name", qmap_manifest(self.good)["tensors"][0]["name"])):
            self.refuse(self.rewrite(change))

    def test_deep_nesting(self):
        deep = []
        for _ in range(900):
            deep = [deep]
        self.refuse(self.rewrite(lambda m: m.update(provenance=deep)))

    def test_hostile_reference(self):
        # A file reference must be a plain file of the stated size; its bytes are never taken on trust.
        self.ok("qload", self.model, "-o", "r.qmap")
        self.good = (self.dir / "r.qmap").read_bytes()
        for name in ("/dev/zero", "/nonexistent", str(self.dir), "m/config.json"):
            def change(m):
                for f in m["files"]:
                    if f[0].endswith("model.safetensors"):
                        f[0] = name
            result = self.run_("qexport", self.rewrite(change), "-f", "safetensors", "-o", "c", timeout=20)
            self.assertIn(result.code, (3, 4), (name, result))
            self.assertIn(name.split("/")[-1], result.err)
            self.assert_clean("c")

    def test_random_damage(self):
        h = qmap_header(self.good)
        text = self.good[h["manifest_offset"]:h["manifest_offset"] + h["manifest_length"]]
        rng = random.Random(3)
        for _ in range(200):
            damaged = bytearray(text)
            for _ in range(rng.choice((1, 1, 2, 10))):
                damaged[rng.randrange(len(damaged))] = rng.choice(b'0123456789-"[]{},:xez')
            fields = dict(h)
            fields["hash_low"], fields["hash_high"] = xxh3_128(bytes(damaged))
            self.path.write_bytes(QMAP_HEADER.pack(*(fields[f] for f in QMAP_FIELDS)) + self.good[64:h["manifest_offset"]]
                                  + damaged + self.good[h["manifest_offset"] + len(text):])
            result = self.run_("qexport", self.path, "-f", "compressed-tensors", "-q", "-o", "c", "--force")
            self.assertIn(result.code, (0, 3, 4, 5), result)


class Changing(BadInput):
    """Files that change between the stages, and while they are read."""

    def setUp(self):
        super().setUp()
        self.model = write_llama(self.dir / "m", 128, 1, 32, 128)
        self.weights = self.model / "model.safetensors"
        self.ok("qload", self.model, "-o", "a.qmap")

    def refused_reference(self, *says, code=3):
        for command in (["qquantize", "a.qmap", "-s", "w4a16", "-o", "c"], ["qexport", "a.qmap", "-f", "safetensors", "-o", "c"],
                        ["qload", "a.qmap", "--pack", "-o", "c"]):
            self.fails(code, *command, says=says)
            self.assert_clean("c")

    def test_touched(self):
        os.utime(self.weights, (1, 1))
        self.refused_reference("model.safetensors: ", "changed since it was loaded", "run qload again")

    def test_grown(self):
        with open(self.weights, "ab") as file:
            file.write(b"x")
        self.refused_reference("model.safetensors: ", "changed since it was loaded")

    def test_shrunk(self):
        os.truncate(self.weights, 1000)
        self.refused_reference("model.safetensors: ", "expected ", "found 1000")

    def test_gone(self):
        os.remove(self.weights)
        self.refused_reference("model.safetensors: ", "the qmap refers to this file", "qload --pack", code=4)

    def test_companion_changed(self):
        (self.model / "config.json").write_text("{}")
        self.refused_reference("config.json: ", "changed since it was loaded")

    def test_same_size_and_time_with_a_hash(self):
        # What size and time cannot show, --hash does.
        self.ok("qload", self.model, "--hash", "-o", "a.qmap", "--force")
        stat = self.weights.stat()
        with open(self.weights, "r+b") as file:
            file.seek(-5, 2)
            file.write(b"\x12")
        os.utime(self.weights, ns=(stat.st_atime_ns, stat.st_mtime_ns))
        self.refused_reference("checksum")

    def big(self):
        model = write_llama(self.dir / "big", 1024, 3, 256, 2048)
        return model, model / "model.safetensors"

    def change_during(self, command, change, weights):
        """Changes the weights when the run has opened its output and reads; returns its Result."""
        process = self.popen(*command, env={"QPIPE_ISA": "scalar"})
        partial = self.dir / "c.partial"
        while not partial.exists() and process.poll() is None:
            time.sleep(0.001)
        time.sleep(0.03)
        running = process.poll() is None
        change(weights)
        out, err = process.communicate(timeout=60)
        return running, process.returncode, err.decode()

    def test_while_it_is_read(self):
        def shrink(path):
            os.truncate(path, 1 << 20)

        def touch(path):
            os.utime(path, (1, 1))

        caught = 0
        for change in (shrink, touch):
            for command in (["qquantize", "big", "-s", "w4a16", "-j", "1", "-o", "c"],
                            ["qload", "big", "--pack", "-j", "1", "-o", "c"],
                            ["qexport", "big", "-f", "safetensors", "-j", "1", "-o", "c"]):
                model, weights = self.big()
                running, code, err = self.change_during(command, change, weights)
                if not running:
                    continue  # done before the change: nothing to see
                if code == 0:  # it had read all it needed
                    self.ok("rm", "-rf", "c")
                    continue
                caught += 1
                self.assertEqual(code, 3, err)
                self.assertIn("model.safetensors: ", err)
                # The second where the change came before the first tensor was read.
                self.assertRegex(err, "changed while it was read .*; run again|changed since it was loaded .*; run qload again")
                self.assert_clean("c")
        self.assertGreaterEqual(caught, 2)


if __name__ == "__main__":
    main()
