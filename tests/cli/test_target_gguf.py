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
                expected = broken.NOT_SEEN.get(name, broken.seen(name))
                self.assertEqual(target["verdict"], expected, target["findings"])
                if expected == broken.REFUSES:
                    self.assertTrue(any(f.get("error") for f in target["findings"]), target["findings"])


if __name__ == "__main__":
    main()
