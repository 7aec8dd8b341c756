"""qverify --target llama.cpp on GGUFs that are broken in many ways: the verdict is what llama.cpp was seen to do with
each (tests/peers/results/llama.cpp.md), and what makes it refuse has an error text."""

import json

import gguf_broken as broken
from support import TINY, CliTest, main


class TargetGguf(CliTest):
    def verdict(self, path):
        result = self.run_("qverify", path, "--target", "llama.cpp", "--json")
        target = json.loads(result.out)["target"]
        self.assertEqual(result.code, 0 if target["verdict"] == broken.LOADS else 1)
        return target

    def test_seen(self):
        self.ok("bash", "-c", f"set -o pipefail; qquantize {TINY} -s q8_0 | qexport -f gguf -o x.gguf")
        sound = {broken.TINY: self.dir / "x.gguf", broken.SPM: self.dir / "spm.gguf"}
        broken.make(sound[broken.TINY], broken.as_spm, sound[broken.SPM])
        for path in sound.values():
            self.assertEqual(self.verdict(path)["verdict"], broken.LOADS)
        for group, name, base, change in broken.kinds():
            if base not in sound:
                continue  # made by the peer's script
            with self.subTest(name=name, group=group):
                broken.make(sound[base], change, self.dir / "bad.gguf")
                target = self.verdict(self.dir / "bad.gguf")
                expected = broken.DIFFERENT.get(name, [broken.seen(name)])[0]
                self.assertEqual(target["verdict"], expected, target["findings"])
                if expected == broken.REFUSES and "weight in" not in name and "embedding in" not in name:  # it dies silently
                    self.assertTrue(any(f["error"] for f in target["findings"] if f["effect"] == "refuses"), target["findings"])

    def test_shards(self):
        self.ok("qexport", TINY, "-f", "gguf", "--shard-size", "500KB", "-o", "s.gguf")
        shards = sorted(self.dir.glob("s-*.gguf"))
        target = self.verdict(shards[0])
        self.assertEqual((target["verdict"], target["counts"]), (broken.LOADS, {"used": 29}))
        self.assertEqual(self.verdict(shards[1])["verdict"], broken.REFUSES)
        shards[1].rename(self.dir / "away.gguf")
        target = self.verdict(shards[0])
        self.assertEqual((target["verdict"], target["findings"][0]["error"]), (broken.REFUSES, "failed to load GGUF split from"))

    def test_directory(self):
        self.assertEqual(self.verdict(TINY)["verdict"], broken.REFUSES)


if __name__ == "__main__":
    main()
