"""The checkpoints that are compared."""

import dataclasses
import json
import random
import shutil
import subprocess
import tempfile
from pathlib import Path

import target_models as t
import test_target
from support import SIZES, count, write_safetensors


class NotExported(Exception):
    pass


@dataclasses.dataclass
class Case:
    part: str
    label: str
    write: object  # writes into a folder, returns the checkpoint
    tp: int = 1
    ep: int = 1
    capability: int = 90

    def arguments(self):
        return ["--tp", str(self.tp)] * (self.tp > 1) + ["--ep", str(self.ep)] * (self.ep > 1)


def of_threads():
    for thread, engine, broken, _, rule, sound in test_target.CASES:
        name, *more = engine.split()
        if name != "vllm":
            continue
        options = dict(zip(more[::2], more[1::2]))
        tp, ep = int(options.get("--tp", 1)), int(options.get("--ep", 1))
        hardware = options.get("--hw", "sm90")
        for what, maker in ((rule, broken), ("sound", sound)):
            yield Case("Threads", f"{thread}: {what}", lambda folder, maker=maker: maker().write(folder / "m"), tp, ep,
                       int(hardware[2:]))


# ---- what we export

def random_weights(m, directory):
    """Makers give shapes; quantizers want values."""
    directory.mkdir(parents=True)
    rng = random.Random(7)
    block = bytes(b for _ in range(1 << 15) for b in (rng.randrange(256), rng.choice((0x3C, 0xBC, 0x3D, 0xBD))))  # BF16 of 2^-7
    data = {}
    for name, (dtype, shape) in m.tensors.items():
        size = SIZES[dtype] * count(shape)
        data[name] = (dtype, shape, (block * (size // len(block) + 1))[:size])
    write_safetensors(directory / "model.safetensors", data)
    (directory / "config.json").write_text(json.dumps(m.config))
    for name, value in m.files.items():
        (directory / name).write_text(json.dumps(value))
    return directory


def blank(directory):
    """Loaders look at no value, and zeros are never taken for memory that nobody wrote."""
    for path in directory.glob("*.safetensors"):
        with path.open("r+b") as file:
            start = 8 + int.from_bytes(file.read(8), "little")
            size = path.stat().st_size
            file.truncate(start)
            file.truncate(size)


def qwen3_moe():
    m = t.qwen3_moe()
    for i in range(m.layers):
        for x in "qk":
            m.put(f"model.layers.{i}.self_attn.{x}_norm.weight", "BF16", t.D)
    return m.configure(num_experts_per_tok=2, decoder_sparse_step=1, mlp_only_layers=[], norm_topk_prob=True)


def deepseek_v3():
    heads, nope, rope, value, q_rank, kv_rank, inner, experts = 8, 128, 64, 128, 256, 512, 256, 4
    m = t.Model("DeepseekV3ForCausalLM", "deepseek_v3", head_dim=rope, num_key_value_heads=heads, q_lora_rank=q_rank,
                kv_lora_rank=kv_rank, qk_nope_head_dim=nope, qk_rope_head_dim=rope, v_head_dim=value, n_routed_experts=experts,
                n_shared_experts=1, num_experts_per_tok=2, moe_intermediate_size=inner, first_k_dense_replace=1, n_group=1,
                topk_group=1, topk_method="noaux_tc", scoring_func="sigmoid", norm_topk_prob=True, routed_scaling_factor=1.0,
                moe_layer_freq=1, num_nextn_predict_layers=0, hidden_act="silu", rms_norm_eps=1e-6)
    for i in range(m.layers):
        p = f"model.layers.{i}"
        m.norms(p)
        for name, shape in (("q_a_proj", (q_rank, t.H)), ("q_b_proj", (heads * (nope + rope), q_rank)),
                            ("kv_a_proj_with_mqa", (kv_rank + rope, t.H)), ("kv_b_proj", (heads * (nope + value), kv_rank)),
                            ("o_proj", (t.H, heads * value))):
            m.linear(f"{p}.self_attn.{name}", shape)
        m.put(f"{p}.self_attn.q_a_layernorm.weight", "BF16", q_rank).put(f"{p}.self_attn.kv_a_layernorm.weight", "BF16", kv_rank)
        if i == 0:
            m.mlp(p + ".mlp")
            continue
        m.put(f"{p}.mlp.gate.weight", "BF16", experts, t.H).put(f"{p}.mlp.gate.e_score_correction_bias", "F32", experts)
        for part in ("shared_experts", *(f"experts.{e}" for e in range(experts))):
            m.mlp(f"{p}.mlp.{part}", inner)
    return m


MODELS = {"llama": t.llama, "qwen3-moe": qwen3_moe, "deepseek-v3": deepseek_v3, "qwen2.5-vl": t.qwen2_5_vl}
CT = ("w4a16", "w4a16-g32", "w4a16-asym", "w8a16", "w3a16", "fp8-dynamic", "fp8-tensor", "fp8-block", "int8", "nvfp4a16", "mxfp4", "mxfp4a16",
      "mxfp8", "mxfp8a16", "w4a8", "w4afp8")
EXPORTS = ([("compressed-tensors", s) for s in CT] +
           [("gptq", "w4a16"), ("gptq", "w8a16"), ("gptq", "w3a16"), ("gptq", "w4a16-asym"), ("gptq", "w4a16-g256"), ("awq", "w4a16-asym"), ("awq", "w4a16"),
            ("auto-round", "w4a16"), ("auto-round", "w8a16"), ("auto-round", "mxfp4"), ("auto-round", "mxfp8"), ("fp8", "fp8-block"), ("fp8", "fp8-tensor"),
            ("fp8", "mxfp8"), ("modelopt", "nvfp4a16"), ("modelopt", "mxfp8"), ("modelopt", "fp8-dynamic"), ("modelopt", "fp8-block"),
            ("quark", "fp8-dynamic"), ("quark", "fp8-tensor"), ("quark", "mxfp4"), ("quark", "int8"),
            ("torchao", "torchao-int8wo"), ("torchao", "torchao-fp8wo"), ("bitsandbytes", "bnb-nf4"), ("modelslim", "int8")])
CALIBRATED = [("compressed-tensors", "fp8-static"), ("compressed-tensors", "int8-static"), ("compressed-tensors", "nvfp4"),
              ("fp8", "fp8-static"), ("modelopt", "fp8-static"), ("modelopt", "nvfp4"), ("quark", "fp8-static")]


class Exports:
    """Each checkpoint once, whatever the ranks."""

    def __init__(self, programs):
        self.programs, self.key, self.result = programs, None, None
        self.folder = tempfile.TemporaryDirectory()

    def write(self, *key):
        if key != self.key:
            self.folder.cleanup()
            self.folder = tempfile.TemporaryDirectory()
            try:
                self.result = self.export(*key, Path(self.folder.name))
            except NotExported as e:
                self.result = e
            self.key = key
        if isinstance(self.result, NotExported):
            raise self.result
        return self.result

    def export(self, model, format_, scheme, folder):
        source = random_weights(MODELS[model](), folder / "source")
        line = f'"$0/qload" -q "$1" | "$0/qquantize" -q -s {scheme} | "$0/qexport" -q -f {format_} -o "$2"'
        done = subprocess.run(["bash", "-o", "pipefail", "-c", line, self.programs, source, folder / "m"],
                              capture_output=True, text=True)
        shutil.rmtree(source)
        if done.returncode:
            raise NotExported(done.stderr.strip())
        blank(folder / "m")
        return folder / "m"

    def all(self):
        for model in MODELS:
            for format_, scheme in EXPORTS:
                for tp in (1, 2, 4, 8):
                    yield Case(f"{model}, exported", f"{model} {format_} {scheme} --tp {tp}",
                               lambda folder, a=(model, format_, scheme): self.write(*a), tp)


def all_of(programs):
    yield from of_threads()
    yield from Exports(Path(programs)).all()
