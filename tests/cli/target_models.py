"""Tiny checkpoints, header-sound, in the layouts that engines load: config.json and safetensors whose
tensors are zeros. Each maker takes what is to be wrong with it."""

import copy
import json
import struct
from pathlib import Path

from support import SIZES, count, write_safetensors

H, I, V, HEADS, KV, D = 512, 1024, 256, 8, 4, 64
SIZES.setdefault("F8_E8M0", 1)

ATTENTION = {"q_proj": (HEADS * D, H), "k_proj": (KV * D, H), "v_proj": (KV * D, H), "o_proj": (H, HEADS * D)}
MLP = {"gate_proj": (I, H), "up_proj": (I, H), "down_proj": (H, I)}


class Model:
    """tensors: {name: (dtype, shape)}; config: config.json."""

    def __init__(self, architecture="LlamaForCausalLM", model_type="llama", layers=2, **config):
        self.layers = layers
        self.config = {"architectures": [architecture], "model_type": model_type, "torch_dtype": "bfloat16",
                       "hidden_size": H, "intermediate_size": I, "num_hidden_layers": layers, "vocab_size": V,
                       "num_attention_heads": HEADS, "num_key_value_heads": KV, "head_dim": D,
                       "tie_word_embeddings": False, **config}
        self.tensors = {"model.embed_tokens.weight": ("BF16", (V, H)), "model.norm.weight": ("BF16", (H,)),
                        "lm_head.weight": ("BF16", (V, H))}
        self.linears = {}  # name: (out, in)
        self.files = {}
        self.values = {}  # {tensor: bytes}, where zeros will not do

    def linear(self, name, shape):
        self.linears[name] = shape
        self.tensors[name + ".weight"] = ("BF16", shape)

    def attention(self, prefix):
        for name, shape in ATTENTION.items():
            self.linear(f"{prefix}.self_attn.{name}", shape)

    def mlp(self, prefix, inner=I):
        for name, (n, k) in MLP.items():
            self.linear(f"{prefix}.{name}", (inner if n == I else n, inner if k == I else k))

    def norms(self, prefix):
        for name in ("input_layernorm", "post_attention_layernorm"):
            self.tensors[f"{prefix}.{name}.weight"] = ("BF16", (H,))

    # ---- faults

    def drop(self, *names):
        for name in names:
            del self.tensors[name]
        return self

    def put(self, name, dtype, *shape):
        self.tensors[name] = (dtype, shape)
        return self

    def configure(self, **changes):
        self.config.update(changes)
        return self

    def quant(self, **changes):
        q = self.config["quantization_config"]
        for key, value in changes.items():
            if value is None:
                q.pop(key, None)
            else:
                q[key] = value
        return self

    def weights_args(self, **changes):
        self.config["quantization_config"]["config_groups"]["group_0"]["weights"].update(changes)
        return self

    def ignore(self, *names):
        self.config["quantization_config"]["ignore"] = ["lm_head", *names]
        return self

    def shape_of(self, tensor):
        """The bytes of a weight_shape: what reads it unpacks with it."""
        module, _, part = tensor.rpartition(".")
        return struct.pack("<2q", *self.linears[module]) if part == "weight_shape" and module in self.linears else None

    def write(self, directory, fill=lambda dtype, n: bytes(SIZES[dtype] * n)):
        """fill: the bytes of n elements."""
        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        write_safetensors(directory / "model.safetensors",
                          {n: (d, s, self.values.get(n) or self.shape_of(n) or fill(d, count(s))) for n, (d, s) in self.tensors.items()})
        (directory / "config.json").write_text(json.dumps(self.config))
        for name, value in self.files.items():
            (directory / name).write_text(json.dumps(value))
        return directory


def llama(**config):
    m = Model(**config)
    for i in range(m.layers):
        m.norms(f"model.layers.{i}")
        m.attention(f"model.layers.{i}")
        m.mlp(f"model.layers.{i}.mlp", config.get("intermediate_size", I))
    return m


def moe(experts=4, mixtral=False, inner=256, shared=True, **config):
    if mixtral:
        m = Model("MixtralForCausalLM", "mixtral", num_local_experts=experts, **{"intermediate_size": inner, **config})
    else:
        m = Model("Qwen2MoeForCausalLM", "qwen2_moe", num_experts=experts, moe_intermediate_size=inner,
                  **{"num_experts_per_tok": 2, "shared_expert_intermediate_size": inner, **config})
    block, names = ("block_sparse_moe", ("w1", "w3", "w2")) if mixtral else ("mlp", ("gate_proj", "up_proj", "down_proj"))
    for i in range(m.layers):
        p = f"model.layers.{i}"
        m.norms(p)
        m.attention(p)
        m.tensors[f"{p}.{block}.gate.weight"] = ("BF16", (experts, H))
        for e in range(experts):
            for name, shape in zip(names, ((inner, H), (inner, H), (H, inner))):
                m.linear(f"{p}.{block}.experts.{e}.{name}", shape)
        if not mixtral and shared:
            biases(m, p)
            m.mlp(f"{p}.mlp.shared_expert", inner)
            m.tensors[f"{p}.mlp.shared_expert_gate.weight"] = ("BF16", (1, H))
    return m


def biases(m, prefix):
    """Those of Qwen2's attention."""
    for name in ("q_proj", "k_proj", "v_proj"):
        m.tensors[f"{prefix}.self_attn.{name}.bias"] = ("BF16", ATTENTION[name][:1])


def head_norms(m, prefix):
    for name in ("q_norm", "k_norm"):
        m.tensors[f"{prefix}.self_attn.{name}.weight"] = ("BF16", (D,))


def qwen3_moe(**more):
    m = moe(shared=False, **more)
    for i in range(m.layers):
        head_norms(m, f"model.layers.{i}")
    del m.config["shared_expert_intermediate_size"]
    return m.configure(architectures=["Qwen3MoeForCausalLM"], model_type="qwen3_moe", decoder_sparse_step=1, mlp_only_layers=[],
                       norm_topk_prob=True)


def deepseek_v3(experts=4, inner=256, **config):
    """A dense layer, then one of experts; the latents' sizes are no multiples of a block, as in the real one."""
    m = Model("DeepseekV3ForCausalLM", "deepseek_v3", **{
        "q_lora_rank": 256, "kv_lora_rank": 128, "qk_nope_head_dim": 2 * D, "qk_rope_head_dim": D, "v_head_dim": 2 * D,
        "num_key_value_heads": HEADS, "n_routed_experts": experts, "n_shared_experts": 1, "n_group": 1, "topk_group": 1,
        "num_experts_per_tok": 2, "moe_intermediate_size": inner, "first_k_dense_replace": 1, "moe_layer_freq": 1,
        "topk_method": "noaux_tc", "scoring_func": "sigmoid", "norm_topk_prob": True, "routed_scaling_factor": 2.5,
        "num_nextn_predict_layers": 0, "rope_theta": 10000.0, "max_position_embeddings": 4096, **config})
    for i in range(m.layers):
        p = f"model.layers.{i}"
        m.norms(p)
        for name, shape in (("q_a_proj", (256, H)), ("q_b_proj", (HEADS * 3 * D, 256)), ("kv_a_proj_with_mqa", (128 + D, H)),
                            ("kv_b_proj", (HEADS * 4 * D, 128)), ("o_proj", (H, HEADS * 2 * D))):
            m.linear(f"{p}.self_attn.{name}", shape)
        m.tensors[f"{p}.self_attn.q_a_layernorm.weight"] = ("BF16", (256,))
        m.tensors[f"{p}.self_attn.kv_a_layernorm.weight"] = ("BF16", (128,))
        if i == 0:
            m.mlp(f"{p}.mlp")
            continue
        m.tensors[f"{p}.mlp.gate.weight"] = ("BF16", (experts, H))
        m.tensors[f"{p}.mlp.gate.e_score_correction_bias"] = ("F32", (experts,))
        for e in range(experts):
            m.mlp(f"{p}.mlp.experts.{e}", inner)
        m.mlp(f"{p}.mlp.shared_experts", inner)
    return m


def gemma3_text(**config):
    m = llama(**{"tie_word_embeddings": True, **config}).drop("lm_head.weight")
    m.configure(architectures=["Gemma3ForCausalLM"], model_type="gemma3_text", query_pre_attn_scalar=D, sliding_window=64)
    for i in range(m.layers):
        head_norms(m, f"model.layers.{i}")
        for name in ("pre_feedforward_layernorm", "post_feedforward_layernorm"):
            m.tensors[f"model.layers.{i}.{name}.weight"] = ("BF16", (H,))
    return m


def siglip(m, prefix, size=128, inner=256):
    """A vision tower of one block."""
    p = f"{prefix}.encoder.layers.0"
    for name, shape in ((f"{p}.self_attn.q_proj", (size, size)), (f"{p}.self_attn.k_proj", (size, size)),
                        (f"{p}.self_attn.v_proj", (size, size)), (f"{p}.self_attn.out_proj", (size, size)),
                        (f"{p}.mlp.fc1", (inner, size)), (f"{p}.mlp.fc2", (size, inner))):
        m.linear(name, shape)
        m.put(name + ".bias", "BF16", shape[0])
    for name in (f"{p}.layer_norm1", f"{p}.layer_norm2", f"{prefix}.post_layernorm"):
        m.put(name + ".weight", "BF16", size).put(name + ".bias", "BF16", size)
    m.put(f"{prefix}.embeddings.patch_embedding.weight", "BF16", size, 3, 14, 14)
    m.put(f"{prefix}.embeddings.patch_embedding.bias", "BF16", size)
    m.put(f"{prefix}.embeddings.position_embedding.weight", "BF16", 4, size)


def qwen3_5(**config):
    """A layer of linear attention, then one of attention with a gate."""
    keys, values, heads = 256, 512, 8
    m = Model("Qwen3_5ForCausalLM", "qwen3_5_text", layer_types=["linear_attention", "full_attention"], linear_conv_kernel_dim=4,
              linear_key_head_dim=D, linear_value_head_dim=D, linear_num_key_heads=keys // D, linear_num_value_heads=heads,
              attn_output_gate=True, **config)
    p = "model.layers.0.linear_attn"
    for name, shape in (("in_proj_qkv", (2 * keys + values, H)), ("in_proj_z", (values, H)), ("in_proj_b", (heads, H)),
                        ("in_proj_a", (heads, H)), ("out_proj", (H, values))):
        m.linear(f"{p}.{name}", shape)
    m.put(f"{p}.conv1d.weight", "BF16", 2 * keys + values, 1, 4).put(f"{p}.norm.weight", "BF16", D)
    m.put(f"{p}.A_log", "F32", heads).put(f"{p}.dt_bias", "BF16", heads)
    m.attention("model.layers.1")
    m.linear("model.layers.1.self_attn.q_proj", (2 * HEADS * D, H))
    head_norms(m, "model.layers.1")
    for i in range(m.layers):
        m.norms(f"model.layers.{i}")
        m.mlp(f"model.layers.{i}.mlp")
    return m


def qwen2_5_vl(inner=342, **config):
    """inner: of the vision tower, as odd as 3420 is to the real one."""
    m = llama(**config)
    m.configure(architectures=["Qwen2_5_VLForConditionalGeneration"], model_type="qwen2_5_vl", vision_config={
        "depth": 1, "hidden_size": 128, "out_hidden_size": H, "intermediate_size": inner, "num_heads": 16,
        "patch_size": 14, "spatial_merge_size": 2, "temporal_patch_size": 2, "in_channels": 3, "window_size": 112,
        "fullatt_block_indexes": [0], "tokens_per_second": 2})
    for i in range(m.layers):
        biases(m, f"model.layers.{i}")
    p = "visual.blocks.0"
    m.linear(f"{p}.attn.qkv", (3 * 128, 128))
    m.linear(f"{p}.attn.proj", (128, 128))
    for name, shape in (("gate_proj", (inner, 128)), ("up_proj", (inner, 128)), ("down_proj", (128, inner))):
        m.linear(f"{p}.mlp.{name}", shape)
    for name in [n for n in m.linears if n.startswith(p)]:
        m.tensors[name + ".bias"] = ("BF16", m.linears[name][:1])
    for name in ("norm1", "norm2"):
        m.tensors[f"{p}.{name}.weight"] = ("BF16", (128,))
    m.tensors["visual.patch_embed.proj.weight"] = ("BF16", (128, 3, 2, 14, 14))
    m.tensors["visual.merger.ln_q.weight"] = ("BF16", (128,))
    for name, shape in (("0", (512, 512)), ("2", (H, 512))):
        m.linear(f"visual.merger.mlp.{name}", shape)
        m.tensors[f"visual.merger.mlp.{name}.bias"] = ("BF16", shape[:1])
    return m


def cdiv(a, b):
    return -(-a // b)


def replace(m, which, tensors):
    """Puts tensors(n, k) of suffixes in the place of the weights that `which` takes."""
    for name, (n, k) in m.linears.items():
        if not which(name):
            continue
        m.tensors.pop(name + ".weight", None)
        for suffix, (dtype, shape) in tensors(n, k).items():
            m.tensors[f"{name}.{suffix}"] = (dtype, shape)
    return m


def language(name):
    return not name.startswith(("visual", "vision", "mtp", "model.vision"))


def args(bits, kind="int", strategy="group", group=128, **more):
    return {"num_bits": bits, "type": kind, "symmetric": True, "group_size": group, "strategy": strategy,
            "dynamic": False, "observer": "minmax", **more}


TOKEN8 = {"num_bits": 8, "type": "float", "symmetric": True, "strategy": "token", "dynamic": True}


def ct(m, format_, weights, inputs, tensors, which=language, ignore=()):
    group = {"targets": ["Linear"], "weights": weights, "input_activations": inputs, "output_activations": None,
             "format": format_}
    m.config["quantization_config"] = {"quant_method": "compressed-tensors", "format": format_,
                                       "quantization_status": "compressed", "config_groups": {"group_0": group},
                                       "ignore": ["lm_head", *ignore]}
    return replace(m, which, tensors)


def w4a16(m, bits=4, group=128, which=language, ignore=()):
    return ct(m, "pack-quantized", args(bits, group=group), None, lambda n, k: {
        "weight_packed": ("I32", (n, cdiv(k * bits, 32))), "weight_scale": ("BF16", (n, k // group)),
        "weight_shape": ("I64", (2,))}, which, ignore)


def w4a16_asym(m, which=language, ignore=()):
    return ct(m, "pack-quantized", args(4, symmetric=False), None, lambda n, k: {
        "weight_packed": ("I32", (n, k // 8)), "weight_scale": ("BF16", (n, k // 128)),
        "weight_zero_point": ("I32", (n // 8, k // 128)), "weight_shape": ("I64", (2,))}, which, ignore)


def fp8_dynamic(m, which=language, ignore=()):
    return ct(m, "float-quantized", args(8, "float", "channel", None), TOKEN8, lambda n, k: {
        "weight": ("F8_E4M3", (n, k)), "weight_scale": ("BF16", (n, 1))}, which, ignore)


def ct_block(m, which=language, ignore=()):
    inputs = {**TOKEN8, "strategy": "group", "group_size": 128}
    weights = args(8, "float", "block", None, block_structure=[128, 128])
    return ct(m, "float-quantized", weights, inputs, lambda n, k: {
        "weight": ("F8_E4M3", (n, k)), "weight_scale": ("BF16", (cdiv(n, 128), cdiv(k, 128)))}, which, ignore)


def int8(m, which=language, ignore=()):
    return ct(m, "int-quantized", args(8, "int", "channel", None), {**TOKEN8, "type": "int"}, lambda n, k: {
        "weight": ("I8", (n, k)), "weight_scale": ("BF16", (n, 1))}, which, ignore)


def nvfp4(m, inputs=True, which=language, ignore=()):
    four = args(4, "float", "tensor_group", 16)
    tensors = {"weight_packed": lambda n, k: ("U8", (n, k // 2)), "weight_scale": lambda n, k: ("F8_E4M3", (n, k // 16)),
               "weight_global_scale": lambda n, k: ("F32", (1,))}
    if inputs:
        tensors["input_global_scale"] = lambda n, k: ("F32", (1,))
    return ct(m, "nvfp4-pack-quantized", four, {**four, "dynamic": "local"} if inputs else None,
              lambda n, k: {s: f(n, k) for s, f in tensors.items()}, which, ignore)


def mxfp4(m, which=language, ignore=()):
    return ct(m, "mxfp4-pack-quantized", args(4, "float", "group", 32, scale_dtype="torch.uint8"), None, lambda n, k: {
        "weight_packed": ("U8", (n, k // 2)), "weight_scale": ("U8", (n, k // 32))}, which, ignore)


def gptq(m, bits=4, group=128, which=language, order=True, **more):
    m.config["quantization_config"] = {"quant_method": "gptq", "bits": bits, "group_size": group, "desc_act": False,
                                       "sym": True, "lm_head": False, "checkpoint_format": "gptq", **more}
    return replace(m, which, lambda n, k: {
        "qweight": ("I32", (cdiv(k * bits, 32), n)), "qzeros": ("I32", (cdiv(k, group), cdiv(n * bits, 32))),
        "scales": ("F16", (cdiv(k, group), n)), **({"g_idx": ("I32", (k,))} if order else {})})


def awq(m, group=128, which=language, bits=4, **more):
    m.config["quantization_config"] = {"quant_method": "awq", "bits": bits, "group_size": group, "zero_point": True,
                                       "version": "gemm", "modules_to_not_convert": None, **more}
    return replace(m, which, lambda n, k: {
        "qweight": ("I32", (k, n * bits // 32)), "qzeros": ("I32", (k // group, n * bits // 32)),
        "scales": ("F16", (k // group, n))})


def auto_round(m, awq_layout=False, bits=4, **more):
    m = awq(m, bits=bits) if awq_layout else gptq(m, bits, order=False)
    m.config["quantization_config"] = {
        "quant_method": "auto-round", "packing_format": "auto_round:auto_awq" if awq_layout else "auto_round:auto_gptq",
        "bits": bits, "group_size": 128, "sym": not awq_layout, "data_type": "int", "block_name_to_quantize": "model.layers", **more}
    return m


def fp8_block(m, which=language, left=(), **more):
    m.config["quantization_config"] = {"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": [128, 128],
                                       "modules_to_not_convert": ["lm_head", *left], **more}
    return replace(m, which, lambda n, k: {
        "weight": ("F8_E4M3", (n, k)), "weight_scale_inv": ("F32", (cdiv(n, 128), cdiv(k, 128)))})


def modelopt(m, algo="NVFP4", left=("lm_head",), **more):
    m.config["quantization_config"] = {"quant_method": "modelopt", "quant_algo": algo, "ignore": list(left), **more}
    if algo == "FP8":
        tensors = {"weight": lambda n, k: ("F8_E4M3", (n, k)), "weight_scale": lambda n, k: ("F32", ()),
                   "input_scale": lambda n, k: ("F32", ())}
    else:
        tensors = {"weight": lambda n, k: ("U8", (n, k // 2)), "weight_scale": lambda n, k: ("F8_E4M3", (n, k // 16)),
                   "weight_scale_2": lambda n, k: ("F32", ()), "input_scale": lambda n, k: ("F32", ())}
    return replace(m, language, lambda n, k: {s: f(n, k) for s, f in tensors.items()})


SLIM = {"W8A8": lambda n, k: {"weight": ("I8", (n, k)), "input_scale": ("BF16", (1,)), "input_offset": ("BF16", (1,)),
                              "quant_bias": ("I32", (n,)), "deq_scale": ("F32", (n,)), "weight_scale": ("F32", (n, 1)),
                              "weight_offset": ("F32", (n, 1))},
        "W4A8_DYNAMIC": lambda n, k: {"weight": ("I8", (n // 2, k)), "weight_scale": ("F32", (n, 1)), "weight_offset": ("F32", (n, 1)),
                                      "scale_bias": ("F32", (n, 1))},
        "W8A8_MXFP8": lambda n, k: {"weight": ("F8_E4M3", (n, k)), "weight_scale": ("U8", (n, k // 32))}}


def modelslim(m, label="W8A8_DYNAMIC", which=language):
    dynamic = lambda n, k: {"weight": ("I8", (n, k)), "weight_scale": ("F32", (n, 1)), "weight_offset": ("F32", (n, 1))}  # noqa: E731
    tensors = SLIM.get(label, dynamic)
    m = replace(m, which, tensors)
    description = {name: "FLOAT" for name in m.tensors}
    for name in m.linears:
        for suffix in tensors(1, 32) if which(name) else ():
            description[f"{name}.{suffix}"] = label
    m.files["quant_model_description.json"] = description
    return m


def bnb4(m):
    m.config["quantization_config"] = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    return replace(m, language, lambda n, k: {
        "weight": ("U8", (n * k // 2, 1)), "weight.absmax": ("F32", (n * k // 64,)), "weight.quant_map": ("F32", (16,)),
        "weight.quant_state.bitsandbytes__nf4": ("U8", (80,))})


def kv_scales(m, name="{}.self_attn.{}_scale", shape=(1,), layers=None):
    for i in layers or range(m.layers):
        for kv in "kv":
            m.tensors[name.format(f"model.layers.{i}", kv)] = ("F32", shape)
    return m


def copied(m):
    return copy.deepcopy(m)
