"""Faults that qverify must find, and sound checkpoints on which it is quiet: a part of bench/faults.py."""

import shutil

import faults
import moe_models
from support import TINY, CliTest, main

# Kinds that a base is no help for, by what they need.
CASES = {("w4a16", "compressed-tensors"), ("w4a16", "gptq"), ("nvfp4a16", "modelopt"), ("fp8-block", "fp8"),
         ("bnb-nf4", "bitsandbytes"), ("mxfp8", "modelopt")}


class Faults(CliTest):
    def checkpoint(self, base, scheme, family):
        qmap, out = self.dir / "q.qmap", self.dir / "out"
        qmap.unlink(missing_ok=True)
        self.assertTrue(faults.quantize(base, scheme, qmap), (scheme, family))
        self.assertTrue(faults.export(qmap, family, out), (scheme, family))
        return out

    def test_each_kind(self):
        moe_models.write("mixtral", self.dir / "mixtral")
        seen = set()
        for base in (TINY, self.dir / "mixtral"):
            for scheme, family in sorted(CASES):
                out = self.checkpoint(base, scheme, family)
                self.assertTrue(faults.verify(out)[0])
                self.assertTrue(faults.verify(out, base)[0])
                for kind, (fault, needs_base) in faults.FAULTS.items():
                    copy, what = faults.broken(out, fault, self.dir, seed=1)
                    if copy is None:
                        continue
                    good, errors, warnings = faults.verify(copy, base if needs_base else None)
                    if "far-codes" not in warnings:  # what gptq does, too, is no error
                        self.assertFalse(good, (kind, base.name, scheme, family, what))
                        self.assertTrue(errors)
                    seen.add(kind)
        self.assertEqual(seen, set(faults.FAULTS) - {"config: ignores nothing"})

    def test_bits_that_lie(self):
        """One code a byte: 8 bits that the config calls 4 do not fit; 4 bits that it calls 8 are narrow."""
        lie = faults.FAULTS["config: other num_bits"][0]
        for scheme, found in (("int8", "data"), ("w4a8", "narrow-codes")):
            copy, _ = faults.broken(self.checkpoint(TINY, scheme, "compressed-tensors"), lie, self.dir, seed=1)
            _, errors, warnings = faults.verify(copy)
            self.assertIn(found, errors + warnings)

    def test_zeros_are_no_fault(self):
        """The scale of a block of zeros is zero in bitsandbytes, and right."""
        shutil.copytree(TINY, self.dir / "zeros")
        shard = faults.shard_of(self.dir / "zeros")
        shard.put("model.layers.1.self_attn.q_proj.weight", bytes(1024), 3 * 512)
        shard.save()
        for scheme in ("bnb-nf4", "bnb-fp4", "bnb-int8"):
            out = self.checkpoint(self.dir / "zeros", scheme, "bitsandbytes")
            self.assertTrue(faults.verify(out)[0], scheme)

    def test_transforms_are_no_fault(self):
        """Folded scales and rotations make every value another one."""
        for algorithm in ("hqq", "rotate"):
            self.ok("qquantize", TINY, "-s", "w3a16", "-a", algorithm, "-o", f"{algorithm}.qmap")
            rules = {r for r in faults.verify(self.dir / f"{algorithm}.qmap", TINY)[1]}
            self.assertEqual(rules, set(), algorithm)


if __name__ == "__main__":
    main()
