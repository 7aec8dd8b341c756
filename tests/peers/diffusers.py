"""diffusers: tiny Flux and Wan 2.2 pipelines of random weights, as they are, torchao, bitsandbytes."""

import atexit
import filecmp
import functools
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from unittest import mock

from common import BIN, Peer, compare_bytes, compare_values, main, pipe, same, tensors

import torch
from diffusers import (AutoencoderKL, AutoencoderKLWan, BitsAndBytesConfig, DiffusionPipeline,
                       FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel,
                       TorchAoConfig, WanPipeline, WanTransformer3DModel)
from diffusers.quantizers.bitsandbytes import BnB4BitDiffusersQuantizer, BnB8BitDiffusersQuantizer
from diffusers.quantizers.bitsandbytes.utils import dequantize_bnb_weight
from torchao.quantization import quant_api
from torchao.quantization import (Float8DynamicActivationFloat8WeightConfig, Float8WeightOnlyConfig,
                                  Int8DynamicActivationInt8WeightConfig, Int8WeightOnlyConfig, PerRow)
from transformers import CLIPTextConfig, CLIPTextModel, T5Config, T5EncoderModel

# torchao asks for a GPU that multiplies FP8 before it quantizes; what it stores does not depend on one.
quant_api.is_sm_at_least_89 = lambda: True
quant_api._check_hardware_support = lambda granularity: None

CLASSES = {"flux": FluxTransformer2DModel, "wan": WanTransformer3DModel}
FOLDERS = {"flux": ["transformer"], "wan": ["transformer", "transformer_2"]}
# What stays as it is: qquantize's own choice, by the names that diffusers matches with.
KEPT = {"flux": ["x_embedder", "context_embedder", "time_text_embed", "norm_out", "norm1",
                 "norm1_context", "norm"],
        "wan": ["condition_embedder", "proj_out"]}


# bitsandbytes in diffusers cannot tell a Flux's proj_out from those of its blocks (qexport says so).
NAMESAKES = {"flux": ["--ignore", "re:.*proj_out.weight"], "wan": []}
CPU = {"": "cpu"}


def text_encoder():
    return T5EncoderModel(T5Config(vocab_size=64, d_model=32, d_kv=8, d_ff=64, num_layers=1, num_heads=4))


def flux():
    return FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(), tokenizer=None, tokenizer_2=None,
        vae=AutoencoderKL(block_out_channels=(4,), latent_channels=1, norm_num_groups=1),
        text_encoder=CLIPTextModel(CLIPTextConfig(vocab_size=64, hidden_size=32, intermediate_size=64,
                                                  num_hidden_layers=1, num_attention_heads=4)),
        text_encoder_2=text_encoder(),
        transformer=FluxTransformer2DModel(
            in_channels=4, num_layers=2, num_single_layers=2, attention_head_dim=16,
            num_attention_heads=8, joint_attention_dim=32, pooled_projection_dim=32,
            axes_dims_rope=(4, 4, 8), guidance_embeds=True))


def wan():
    def transformer():
        return WanTransformer3DModel(
            num_attention_heads=4, attention_head_dim=32, text_dim=32, freq_dim=32, ffn_dim=256,
            num_layers=2, rope_max_seq_len=32)
    return WanPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(), tokenizer=None, text_encoder=text_encoder(),
        vae=AutoencoderKLWan(base_dim=3, dim_mult=[1, 1, 1, 1], num_res_blocks=1),
        transformer=transformer(), transformer_2=transformer(), boundary_ratio=0.875)


@functools.cache
def source(name):
    """The pipeline's directory, made once."""
    root = tempfile.mkdtemp()
    atexit.register(shutil.rmtree, root, ignore_errors=True)
    torch.manual_seed(5)
    {"flux": flux, "wan": wan}[name]().to(torch.bfloat16).save_pretrained(f"{root}/{name}")
    return Path(root) / name


def load(name, directory, folder, **options):
    return CLASSES[name].from_pretrained(directory, subfolder=folder, torch_dtype=torch.bfloat16, **options)


def load_pipeline(name, directory):
    tokenizers = {"flux": ["tokenizer", "tokenizer_2"], "wan": ["tokenizer"]}[name]
    return DiffusionPipeline.from_pretrained(directory, torch_dtype=torch.bfloat16,
                                             **{t: None for t in tokenizers})


def output(name, model):
    """What the transformer makes of fixed inputs."""
    g = torch.Generator().manual_seed(7)
    def rand(*shape):
        return torch.randn(*shape, generator=g).to(torch.bfloat16)
    if name == "flux":
        inputs = dict(hidden_states=rand(1, 16, 4), encoder_hidden_states=rand(1, 8, 32),
                      pooled_projections=rand(1, 32), timestep=torch.tensor([0.5]),
                      guidance=torch.tensor([3.5]), img_ids=torch.zeros(16, 3), txt_ids=torch.zeros(8, 3))
    else:
        inputs = dict(hidden_states=rand(1, 16, 1, 8, 8), encoder_hidden_states=rand(1, 8, 32),
                      timestep=torch.tensor([500]))
    with torch.no_grad():
        return model(**inputs, return_dict=False)[0]


def inside(directory):
    """Tensors of the transformers, as qload names them."""
    return {f"{folder.name}/{name}": t for folder in sorted(Path(directory).glob("transformer*"))
            for name, t in tensors(folder).items()}


def ours(directory, out):
    pipe(["qload", directory, "--dequantize"], ["qexport", "-f", "diffusers", "-o", out])
    return inside(out)


def quantized(directory):
    """FOLDER/MODULE of what qload holds quantized."""
    listed = subprocess.run([BIN / "qload", directory, "--list", "--json"], capture_output=True, check=True)
    return {t["name"].removesuffix(".weight") for t in json.loads(listed.stdout)["tensors"] if "scheme" in t}


def quantize(name, args, out):
    pipe(["qquantize", source(name), *args], ["qexport", "-f", "diffusers", "-o", out])
    return out


def same_files(a, b, but=()):
    """"" when two folders hold the same files, byte for byte."""
    files = {p.relative_to(r).as_posix() for r in (a, b) for p in Path(r).rglob("*") if p.is_file()}
    for file in sorted(f for f in files if not f.startswith(tuple(but))):
        there = [(Path(r) / file).is_file() for r in (a, b)]
        if not all(there) or not filecmp.cmp(Path(a) / file, Path(b) / file, shallow=False):
            return f"{file} differs" if all(there) else f"{file} is only on one side"
    return ""


def carry_row(name, *options):
    """As it is, loaded as a pipeline: outputs and weights of every component."""
    def run(scratch):
        out = scratch / "ours"
        pipe(["qload", source(name)], ["qexport", "-f", "diffusers", "-o", out, *options])
        problem = same_files(source(name), out, ["transformer"] if options else [])
        if problem:
            return problem
        a, b = load_pipeline(name, source(name)), load_pipeline(name, out)
        for part, model in a.components.items():
            if not isinstance(model, torch.nn.Module):
                continue
            found = b.components[part].state_dict()
            differ = [n for n, t in model.state_dict().items() if not same(t, found[n])]
            if differ:
                return f"{part}: {differ[0]} differs"
        for folder in FOLDERS[name]:
            if not same(output(name, a.components[folder]), output(name, b.components[folder])):
                return f"{folder}: another output"
        return ""
    return run


def weights(name, directory, **options):
    """{FOLDER/MODULE: weight} of the linears that the library holds quantized."""
    found = {}
    for folder in FOLDERS[name]:
        for module, m in load(name, directory, folder, **options).named_modules():
            weight = getattr(m, "weight", None)
            if not isinstance(m, torch.nn.Linear) or type(weight) is torch.nn.Parameter:
                continue
            if hasattr(weight, "quant_state") or hasattr(weight, "SCB"):
                found[f"{folder}/{module}"] = dequantize_bnb_weight(weight, getattr(m, "state", None))
            else:
                found[f"{folder}/{module}"] = weight.dequantize()
    return found


def read_row(name, args, **options):
    def run(scratch):
        quantize(name, args, scratch / "ours")
        expected = ours(scratch / "ours", scratch / "plain")
        found = weights(name, scratch / "ours", **options)
        if found.keys() != (want := quantized(scratch / "ours")):
            return f"quantized in one of the two: {sorted(found.keys() ^ want)[:3]}"
        return compare_values(expected, found) or same_files(source(name), scratch / "ours", ["transformer"])
    return run


def without_gpu_check(function):
    """bitsandbytes runs on a CPU; diffusers asks for a GPU all the same. That question is left out."""
    def run(*args):
        with mock.patch.object(BnB4BitDiffusersQuantizer, "validate_environment", lambda *a, **k: None), \
             mock.patch.object(BnB8BitDiffusersQuantizer, "validate_environment", lambda *a, **k: None):
            return function(*args)
    return run


def stored_row(name, args):
    """For families without a loader in the library: stored codes and scales by torch."""
    def run(scratch):
        quantize(name, args, scratch / "ours")
        raw = inside(scratch / "ours")
        found = {}
        for key, t in raw.items():
            scale = next((raw[f"{key}{s}"] for s in ("_scale", "_scale_inv") if f"{key}{s}" in raw), None)
            if scale is None:
                continue
            if key.split(".")[-1] == "weight" and scale.dim() == 2 and scale.shape != (t.shape[0], 1):
                scale = scale.repeat_interleave(128, 0).repeat_interleave(128, 1)[:t.shape[0], :t.shape[1]]
            found[key.removesuffix(".weight")] = t.float() * scale.float()
        if found.keys() != (want := quantized(scratch / "ours")):
            return f"quantized in one of the two: {sorted(found.keys() ^ want)[:3]}"
        return compare_values(ours(scratch / "ours", scratch / "plain"), found)
    return run


def refused_row(name, args, words):
    """The library must say no, and so: when it learns the form, this row fails."""
    def run(scratch):
        quantize(name, args, scratch / "ours")
        try:
            load(name, scratch / "ours", "transformer")
        except Exception as e:
            return "" if words in str(e) else f"{type(e).__name__}: {str(e)[:200]}"
        return "the library loads it"
    return run


def saved_row(name, save, shown=False, **options):
    """The library saves; its values and ours."""
    def run(scratch):
        save(name, scratch / "theirs")
        got = ours(scratch / "theirs", scratch / "plain")
        if shown:
            found = weights(name, scratch / "theirs", **options)
            if found.keys() != (want := quantized(scratch / "theirs")):
                return f"quantized in one of the two: {sorted(found.keys() ^ want)[:3]}"
            return compare_values(got, found)
        want = inside(source(name))
        # Some modules of a Wan are F32 in memory, whatever dtype is asked for.
        return compare_bytes(got, {n: t.to(got[n].dtype) if n in got else t for n, t in want.items()})
    return run


def save_plain(**options):
    def save(name, out):
        load_pipeline(name, source(name)).save_pretrained(out, **options)
    return save


def save_quantized(config, **options):
    def save(name, out):
        shutil.copytree(source(name), out, ignore=shutil.ignore_patterns("transformer*"))
        for folder in FOLDERS[name]:
            model = load(name, source(name), folder, quantization_config=config(name), **options)
            model.save_pretrained(out / folder)
    return save


def bytes_row(name, args, save):
    """Every stored tensor of the modules that both quantize."""
    def run(scratch):
        quantize(name, args, scratch / "ours")
        save(name, scratch / "theirs")
        modules = tuple(f"{m}." for m in quantized(scratch / "ours"))
        a, b = ({n: t for n, t in inside(scratch / d).items() if n.startswith(modules)}
                for d in ("ours", "theirs"))
        return compare_bytes(a, b) if len(a) > len(modules) else "nothing to compare"
    return run


def ao(config):
    return lambda name: TorchAoConfig(config, modules_to_not_convert=KEPT[name])


def bnb(**options):
    return lambda name: BitsAndBytesConfig(**options, llm_int8_skip_modules=KEPT[name])


ROWS = {}
for n in CLASSES:
    ROWS["carry", f"{n}"] = carry_row(n)
    ROWS["carry", f"{n} --shard-size 100k"] = carry_row(n, "--shard-size", "100k")
    for s in ("int8wo", "int8dq", "fp8wo", "fp8dq-per_row", "fp8dq-per_tensor"):
        ROWS["read", f"{n} {s} --numerics torchao"] = read_row(n, ["-s", s, "--numerics", "torchao"])
    for s in ("bnb-nf4", "bnb-nf4-dq", "bnb-fp4", "bnb-int8"):
        ROWS["read", f"{n} {s} (1)"] = without_gpu_check(
            read_row(n, ["-s", s, *NAMESAKES[n]], device_map=CPU))
    for s in ("fp8-tensor", "fp8-block", "int8", "w4a4 --group-size channel", "fp8-dynamic"):
        ROWS["decode", f"{n} {s}"] = stored_row(n, ["-s", *s.split()])
    ROWS["save", f"{n}"] = saved_row(n, save_plain())
    ROWS["save", f"{n} in shards"] = saved_row(n, save_plain(max_shard_size="100KB"))
    ROWS["save", f"{n} variant fp16"] = saved_row(n, save_plain(variant="fp16"))
    ROWS["save", f"{n} as .bin"] = saved_row(n, save_plain(safe_serialization=False))
    for label, config in {"int8wo": Int8WeightOnlyConfig(version=2),
                          "int8dq": Int8DynamicActivationInt8WeightConfig(version=2),
                          "fp8wo": Float8WeightOnlyConfig(),
                          "fp8dq-per_row": Float8DynamicActivationFloat8WeightConfig(granularity=PerRow())}.items():
        ROWS["save", f"{n} torchao {label}"] = saved_row(n, save_quantized(ao(config)), shown=True)
        if n == "wan":  # of a Flux, diffusers skips other modules than we do
            ROWS["bytes", f"{n} {label} --numerics torchao"] = bytes_row(
                n, ["-s", label, "--numerics", "torchao"], save_quantized(ao(config)))
    for label, options in {"nf4": dict(load_in_4bit=True, bnb_4bit_quant_type="nf4"),
                           "nf4-double": dict(load_in_4bit=True, bnb_4bit_quant_type="nf4",
                                              bnb_4bit_use_double_quant=True),
                           "int8": dict(load_in_8bit=True)}.items():
        save = save_quantized(bnb(**options), device_map=CPU)
        ROWS["save", f"{n} bitsandbytes {label} (1)"] = without_gpu_check(
            saved_row(n, save, shown=True, device_map=CPU))
        if n == "wan":
            scheme = f"bnb-{label}".replace("double", "dq")
            ROWS["bytes", f"{n} {scheme} (1)"] = without_gpu_check(bytes_row(n, ["-s", scheme], save))
ROWS["refuse", "flux fp8-tensor (2)"] = refused_row("flux", ["-s", "fp8-tensor"], "Unknown quantization type, got fp8")

if __name__ == "__main__":
    sys.exit(main(Peer(
        title="diffusers",
        about="Pipelines of random weights, a tiny Flux and a tiny Wan 2.2 with two transformers, on the CPU.",
        packages=("diffusers", "torchao", "bitsandbytes", "torch", "transformers"), save={}, load=None,
        target="diffusers", more=ROWS, notes=(
            "1. diffusers asks for a GPU before it loads bitsandbytes' weights, which run on a CPU; that",
            "   question is left out here, everything else is the library's.",
            "2. `fp8` and ModelSlim's W8A8 and W4A4 are SGLang's forms: diffusers has no loader for them.",
            "   FP8 that diffusers itself loads is torchao's (`fp8wo`, `fp8dq-*`)."))))
