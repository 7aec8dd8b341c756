"""qverify --target: threads of users, each as a tiny checkpoint with the fault, caught with the right
verdict and rule; and its sound sibling, which passes."""

import json
import struct

import gguf_file
import moe_models
import target_models as t
from support import TINY, CliTest, main

LOADS, LIES, REFUSES = "loads and uses everything", "loads but lies", "refuses"
Q, GATE, DOWN = "model.layers.0.self_attn.q_proj", "model.layers.0.mlp.gate_proj", "model.layers.1.mlp.down_proj"
QKV = [f"model.layers.0.self_attn.{x}_proj" for x in "qkv"]
EXPERT = "model.layers.0.mlp.experts.1.down_proj"


def plain(m, *names):
    """Linears that are stored unquantized after all."""
    for name in names:
        for tensor in [n for n in m.tensors if n.startswith(name + ".")]:
            del m.tensors[tensor]
        m.tensors[name + ".weight"] = ("BF16", m.linears[name])
    return m


def experts_plain(m):
    return plain(m, *(n for n in m.linears if ".experts." in n))


def qwen_experts():
    """Qwen3-MoE builds its routers as the config says."""
    return t.w4a16(t.qwen3_moe(), ignore=["re:.*mlp.gate$"])


def packed_head(m):
    m.linears["lm_head"] = (t.V, t.H)
    m.drop("lm_head.weight")
    return m.put("lm_head.weight_packed", "I32", t.V, t.H // 8).put("lm_head.weight_scale", "BF16", t.V, t.H // 128)


def head_as_gptq(m):
    m.drop("lm_head.weight")
    return (m.put("lm_head.qweight", "I32", t.H // 8, t.V).put("lm_head.qzeros", "I32", t.H // 128, t.V // 8)
            .put("lm_head.scales", "F16", t.H // 128, t.V))


def two_groups(first, second):
    """MXFP4 everywhere but gate and up, which are MXFP8; groups in this order."""
    m = t.mxfp4(t.llama())
    gate_up = [n for n in m.linears if n.endswith(("gate_proj", "up_proj"))]
    for name in gate_up:
        n, k = m.linears[name]
        m.drop(name + ".weight_packed").put(name + ".weight", "F8_E4M3", n, k)
    q = m.config["quantization_config"]
    four = q["config_groups"].pop("group_0")
    eight = {**four, "format": "mxfp8-quantized", "targets": ["re:.*(gate|up)_proj$"],
             "weights": {**four["weights"], "num_bits": 8}}
    four["targets"] = ["re:.*proj$"]
    q["config_groups"] = {"group_0": eight if first == 8 else four, "group_1": eight if second == 8 else four}
    return m.quant(format="mixed-precision")


def linear_attention(quantized):
    """in_proj_a and in_proj_b are left out, as in the real ones."""
    ignored = [f"model.layers.0.linear_attn.in_proj_{x}" for x in ("a", "b", "qkv", "z") if x not in quantized]
    return plain(t.w4a16(t.qwen3_5()), *ignored).ignore(*ignored)


def mtp(ignore):
    m = t.llama()
    m.tensors["mtp.layers.0.mlp.up_proj.weight"] = ("BF16", (t.I, t.H))
    return t.w4a16(m, ignore=ignore)


def gemma3(ignore=("re:.*vision_tower.*",)):
    m = t.llama()
    text = {k: v for k, v in m.config.items() if k not in ("architectures", "torch_dtype")}
    m.configure(architectures=["Gemma3ForConditionalGeneration"], model_type="gemma3",
                text_config={**text, "model_type": "gemma3_text"},
                vision_config={"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 1, "num_attention_heads": 2,
                               "image_size": 28, "patch_size": 14, "model_type": "siglip_vision_model", "vision_use_head": False})
    for names in (m.tensors, m.linears):
        for name in [n for n in names]:
            names["language_model." + name] = names.pop(name)
    t.siglip(m, "vision_tower.vision_model")
    m.put("multi_modal_projector.mm_input_projection_weight", "BF16", 128, t.H)
    m.put("multi_modal_projector.mm_soft_emb_norm.weight", "BF16", 128)
    return t.fp8_dynamic(m, which=lambda n: not n.startswith("vision"), ignore=ignore)


def projector(packed):
    m = t.qwen2_5_vl()
    m.linear("visual.merger.mlp.0", (512, 512))
    return t.w4a16(m, which=lambda n: t.language(n) or packed and "merger" in n, ignore=["re:visual.*"])


def qwen_vl(ignore):
    return t.fp8_dynamic(t.qwen2_5_vl(), ignore=ignore)


def mixed_qkv(same):
    m = t.w4a16(t.llama())
    n, k = m.linears[Q]
    q = m.config["quantization_config"]["config_groups"]
    if not same:
        for i in range(m.layers):
            m.put(f"model.layers.{i}.self_attn.q_proj.weight_packed", "I32", n, k // 4)
        q["group_1"] = {**q["group_0"], "targets": ["re:.*\\.q_proj$"], "weights": t.args(8)}
        q["group_0"]["targets"] = ["re:.*\\.(k|v|o|gate|up|down)_proj$"]
    return m


EXPERTS_UP = "model.layers.1.mlp.experts.2.up_proj"


def unlike(m, name):
    """A scale of its own where engines have one for all members."""
    m.values[name] = struct.pack("<f", 2)
    return m


def gate_quantized(stored):
    m = t.moe()
    if stored:
        m.linear("model.layers.0.mlp.gate", (4, t.H))
    return t.gptq(m)


def one_expert_fp8(m):
    n, k = m.linears[EXPERT]
    m.drop(EXPERT + ".weight_packed", EXPERT + ".weight_shape")
    return m.put(EXPERT + ".weight", "F8_E4M3", n, k).put(EXPERT + ".weight_scale", "BF16", n, 1)


def auto_mixed(bits):
    m = t.auto_round(t.llama(), extra_config={".*gate_proj.*": {"bits": bits}})
    for name, (n, k) in m.linears.items():
        if name.endswith("gate_proj"):
            m.put(name + ".qweight", "I32", k * bits // 32, n).put(name + ".qzeros", "I32", k // 128, n * bits // 32)
    return m


def fp8_cache():
    return t.modelopt(t.llama(), "FP8", kv_cache_quant_algo="FP8")


def scales(m, **more):
    return t.kv_scales(m, **more)


KV = {"num_bits": 8, "type": "float", "symmetric": True, "strategy": "tensor", "dynamic": False}

# thread; engine and its arguments; the checkpoint with the fault; verdict; rule; the sound sibling
# (None: one that passes as it is is t.w4a16(t.llama())).
CASES = [
    ("vllm#16309", "vllm", lambda: experts_plain(qwen_experts()), REFUSES, "unexpected-expert", qwen_experts),
    ("llm-compressor#2060", "vllm", lambda: experts_plain(t.w4a16(t.moe(mixtral=True), ignore=["re:.*down_proj$"])), REFUSES,
     "unexpected-expert", lambda: experts_plain(t.w4a16(t.moe(mixtral=True), ignore=["re:.*experts.*"]))),
    ("vllm#45102", "vllm", lambda: t.modelopt(t.llama(), "FP8").put("lm_head.input_scale", "F32"), REFUSES, "unexpected-tensor",
     lambda: t.modelopt(t.llama(), "FP8")),
    ("vllm#49137", "vllm", lambda: head_as_gptq(t.auto_round(t.llama())), REFUSES, "unexpected-tensor",
     lambda: head_as_gptq(t.auto_round(t.llama(), extra_config={"lm_head": {"bits": 4, "group_size": 128, "sym": True}}))),
    ("vllm#52997", "vllm --tp 4", lambda: t.fp8_block(t.llama()), REFUSES, "block-rows-fused", lambda: t.ct_block(t.llama(), ignore=["re:.*self_attn.*"], which=lambda n: ".mlp." in n)),
    ("vllm#54444", "vllm", lambda: t.nvfp4(t.llama()).drop(DOWN + ".weight_global_scale"), LIES, "missing-parameter", lambda: t.nvfp4(t.llama())),
    *((f"global scales, {what}", engine, lambda m=make, n=name: unlike(m(), n), verdict, topic, make)
      for engine, what, make, name, verdict, topic in (
          ("vllm", "compressed-tensors", lambda: t.nvfp4(t.llama()), Q + ".weight_global_scale", LIES, "global-scales"),
          ("vllm", "weights only", lambda: t.nvfp4(t.llama(), inputs=False), Q + ".weight_global_scale", LIES, "global-scales"),
          ("vllm", "modelopt", lambda: t.modelopt(t.llama()), Q + ".weight_scale_2", LIES, "global-scales-modelopt"),
          ("vllm", "experts", lambda: t.nvfp4(t.moe()), EXPERTS_UP + ".weight_global_scale", LIES, "global-scales-experts"),
          ("vllm", "modelopt experts", lambda: t.modelopt(t.moe()), EXPERTS_UP + ".weight_scale_2", LIES, "global-scales-experts-modelopt"),
          ("sglang", "compressed-tensors", lambda: t.nvfp4(t.llama()), Q + ".weight_global_scale", LIES, "global-scales"),
          ("sglang", "weights only", lambda: t.nvfp4(t.llama(), inputs=False), Q + ".weight_global_scale", REFUSES, "global-scales-a16"),
          ("sglang", "modelopt", lambda: t.modelopt(t.llama()), Q + ".weight_scale_2", LIES, "global-scales-modelopt"))),
    ("vllm#47445", "vllm", lambda: plain(t.fp8_dynamic(t.llama()), GATE), LIES, "float-into-codes", lambda: t.fp8_dynamic(t.llama())),
    ("sglang#25792, sglang#20870", "sglang", lambda: scales(t.modelopt(t.gemma3_text(), "FP8"), name="{0}.self_attn.{1}_proj.{1}_scale"),
     LIES, "kv-scale-dropped", lambda: scales(t.modelopt(t.gemma3_text(), "FP8", kv_cache_quant_algo="FP8"), name="{0}.self_attn.{1}_proj.{1}_scale")),
    ("sglang#19587", "sglang", lambda: t.modelopt(t.llama(), "FP8").drop(Q + ".input_scale"), LIES, "missing-input-scale", lambda: t.modelopt(t.llama(), "FP8")),
    ("sglang#35358", "sglang", lambda: packed_head(t.w4a16(t.llama())), LIES, "missing-parameter", lambda: t.w4a16(t.llama())),
    ("sglang#3604, llm-compressor#959", "sglang", lambda: t.w4a16(t.moe(), ignore=["re:.*experts.*"]), REFUSES, "unexpected-fused", lambda: t.w4a16(t.moe())),
    ("sglang#3571", "sglang --tp 2", lambda: t.awq(t.llama(intermediate_size=384)), REFUSES, "marlin-columns", lambda: t.awq(t.llama(intermediate_size=512))),
    ("sglang#23625", "sglang", lambda: t.modelopt(t.llama()).drop(Q + ".input_scale", GATE + ".input_scale"), LIES, "missing-input-scale", lambda: t.modelopt(t.llama())),
    ("llm-compressor#2255", "vllm", lambda: t.w4a16_asym(t.llama()).weights_args(symmetric=True), REFUSES, "unexpected-tensor", lambda: t.w4a16_asym(t.llama())),
    ("llm-compressor#2730", "vllm", lambda: two_groups(4, 8), REFUSES, "unexpected-fused", lambda: two_groups(8, 4)),
    ("auto-round#2174", "vllm", lambda: auto_mixed(8), REFUSES, "inc-disagree", lambda: auto_mixed(4)),
    ("auto-round#643", "vllm --tp 2", lambda: t.auto_round(t.llama(intermediate_size=384)), LIES, "input-not-aligned", lambda: t.auto_round(t.llama(intermediate_size=512))),
    ("LlamaFactory#10275", "vllm", lambda: t.gptq(t.llama(), dynamic={"-:.*down_proj": {}}), REFUSES, "unexpected-tensor",
     lambda: t.gptq(t.llama(), dynamic={"-:.*nothing": {}})),
    ("sglang#36158, vllm#52649", "vllm", lambda: mtp(("re:^mtp.*",)), REFUSES, "mtp-unknown", lambda: t.w4a16(t.llama())),
    ("sglang#38574", "sglang", lambda: mtp(()), LOADS, "mtp-targeted", lambda: mtp(("re:^mtp.*",))),
    ("auto-round#1477, Model-Optimizer#2427, Model-Optimizer#733, llm-compressor#2735", "vllm",
     lambda: t.w4a16(t.llama(num_nextn_predict_layers=1)), LOADS, "mtp-missing", lambda: t.w4a16(t.llama())),
    ("vllm#51910", "vllm", lambda: qwen_vl(["visual"]), LIES, "float-into-codes", lambda: qwen_vl(["re:visual.*"])),
    ("sglang#2935", "vllm", lambda: t.w4a16(t.llama()).drop("lm_head.weight"), LIES, "missing-parameter", lambda: t.w4a16(t.llama(tie_word_embeddings=True)).drop("lm_head.weight")),
    ("vllm#45544, vllm#53170", "vllm", lambda: packed_head(t.w4a16(t.llama(tie_word_embeddings=True))), REFUSES, "tied-head-quantized", lambda: t.w4a16(t.llama(tie_word_embeddings=True))),
    ("auto-round#1040", "sglang", lambda: head_as_gptq(t.auto_round(t.llama(tie_word_embeddings=True))), LIES, "tied-head-quantized", lambda: t.auto_round(t.llama(tie_word_embeddings=True))),
    ("llm-compressor#1546, llm-compressor#1306", "vllm", lambda: gemma3(()), LIES, "missing-parameter", gemma3),
    ("llm-compressor#1652", "vllm", lambda: projector(True), REFUSES, "unexpected-tensor", lambda: projector(False)),
    ("vllm-ascend#4313", "vllm", lambda: t.w4a16(t.qwen2_5_vl()), REFUSES, "unexpected-tensor", lambda: t.w4a16(t.qwen2_5_vl(), ignore=["re:visual.*"])),
    ("vllm#28663", "sglang", lambda: t.gptq(t.qwen2_5_vl()), REFUSES, "unexpected-fused", lambda: t.gptq(t.qwen2_5_vl(), dynamic={"-:.*visual.*": {}})),
    ("vllm#54623", "vllm", lambda: t.kv_scales(t.fp8_dynamic(t.qwen3_5()).quant(kv_cache_scheme=KV), layers=(1,)), LOADS, "kv-scale-architecture",
     lambda: t.fp8_dynamic(t.qwen3_5())),
    ("sglang#35455", "sglang", lambda: scales(t.fp8_dynamic(t.llama())), LIES, "kv-scale-dropped", lambda: scales(t.fp8_dynamic(t.llama()).quant(kv_cache_scheme=KV))),
    ("sglang#26436", "sglang", lambda: scales(t.modelopt(t.llama(), "FP8", kv_cache_quant_algo="FP8"), shape=(4,)), REFUSES, "kv-scale-per-head",
     lambda: scales(t.modelopt(t.llama(), "FP8", kv_cache_quant_algo="FP8"))),
    ("vllm#46265", "vllm", lambda: fp8_cache().put("model.layers.0.self_attn.v_scale", "F32", 1), REFUSES, "kv-scale-lone", lambda: scales(fp8_cache())),
    ("Model-Optimizer#20", "vllm", lambda: t.fp8_dynamic(t.llama()).quant(kv_cache_scheme=KV), LIES, "kv-scale-default",
     lambda: scales(t.fp8_dynamic(t.llama()).quant(kv_cache_scheme=KV))),
    ("vllm#41457", "vllm", lambda: linear_attention(["qkv"]), REFUSES, "fused-disagree", lambda: linear_attention([])),
    ("vllm#25378, vllm-ascend#2588, vllm#53992", "vllm", lambda: plain(t.w4a16(t.llama(), ignore=["model.layers.0.self_attn.q_proj"]), Q), REFUSES,
     "fused-disagree", lambda: t.w4a16(t.llama())),
    ("compressed-tensors#174", "vllm", lambda: t.w4a16(t.llama()).quant(quant_method=None), REFUSES, "no-method", lambda: t.w4a16(t.llama())),
    ("compressed-tensors#712", "vllm", lambda: t.w4a16(t.llama()).ignore(DOWN), REFUSES, "unexpected-tensor", lambda: plain(t.w4a16(t.llama()), DOWN).ignore(DOWN)),
    ("llm-compressor#2560", "vllm", lambda: (lambda m: m.config.pop("quantization_config") and m)(t.fp8_block(t.llama())), REFUSES, "codes-as-values", lambda: t.fp8_block(t.llama())),
    ("Model-Optimizer#1142, Model-Optimizer#1354", "vllm", lambda: one_expert_fp8(qwen_experts()), REFUSES, "unexpected-expert", qwen_experts),
    ("Model-Optimizer#1063", "sglang", lambda: t.modelopt(t.moe()).drop(EXPERT + ".input_scale"), LIES, "missing-input-scale", lambda: t.modelopt(t.moe())),
    ("ComfyUI#15511", "transformers", lambda: (lambda m: m.config.pop("quantization_config") and m)(t.nvfp4(t.llama())), LIES, "unexpected-tensor", lambda: t.nvfp4(t.llama())),
    # seeds: the limitations that SGLang's documentation lists
    ("quantization.mdx: mixed bits inside QKV", "sglang", lambda: mixed_qkv(False), REFUSES, "ct-no-target", lambda: mixed_qkv(True)),
    ("quantization.mdx: mlp.gate", "sglang", lambda: gate_quantized(True), LIES, "unexpected-tensor", lambda: gate_quantized(False)),
    ("quantization.mdx: Qwen2.5-VL, GPTQ", "sglang", lambda: t.gptq(t.qwen2_5_vl()), REFUSES, "unexpected-fused",
     lambda: t.awq(t.qwen2_5_vl(), modules_to_not_convert=["visual"])),
    ("quantization.mdx: Qwen2.5-VL, auto_round:auto_gptq", "sglang", lambda: t.auto_round(t.qwen2_5_vl()), LIES, "qwen2-5-vl-auto-gptq",
     lambda: t.auto_round(t.qwen2_5_vl(), awq_layout=True)),
    # what vLLM's own code was found to do (tests/peers/vllm.py)
    ("vLLM: a lone scale in compressed-tensors", "vllm",
     lambda: t.fp8_dynamic(t.llama()).quant(kv_cache_scheme=KV).put("model.layers.0.self_attn.v_scale", "F32", 1), LIES, "kv-scale-default",
     lambda: scales(t.fp8_dynamic(t.llama()).quant(kv_cache_scheme=KV))),
    ("vLLM: fp8 alone", "vllm", lambda: fp8_cache(), LIES, "kv-scale-default", lambda: scales(fp8_cache())),
    ("vLLM: scales per head", "vllm", lambda: scales(t.fp8_dynamic(t.llama()).quant(kv_cache_scheme=KV), shape=(t.KV, 1, 1)), REFUSES,
     "kv-scale-per-head", lambda: scales(t.fp8_dynamic(t.llama()).quant(kv_cache_scheme={**KV, "strategy": "attn_head"}), shape=(t.KV, 1, 1))),
    ("vLLM: scales per head, ModelOpt", "vllm", lambda: scales(fp8_cache(), shape=(t.KV,)), REFUSES, "kv-scale-per-head", lambda: scales(fp8_cache())),
    ("vLLM: GPTQ has no cache scales", "vllm", lambda: scales(t.gptq(t.llama())), LIES, "kv-scale-dropped", lambda: t.gptq(t.llama())),
    ("vLLM: unquantized models have none", "vllm", lambda: scales(t.llama()), REFUSES, "kv-scale-unquantized", lambda: t.llama()),
    ("vLLM: Marlin's groups", "vllm", lambda: t.gptq(t.llama(), group=256), REFUSES, "unsupported-scheme", lambda: t.gptq(t.llama(), group=64)),
    ("vLLM: AWQ's groups are cut", "vllm --tp 8", lambda: t.awq(t.llama()), REFUSES, "awq-input-not-aligned", lambda: t.awq(t.llama(), group=64)),
    ("vLLM: experts' groups are cut", "vllm --tp 4", lambda: only_experts(t.w4a16, t.qwen3_moe()), REFUSES, "group-split-experts",
     lambda: only_experts(t.w4a16, t.qwen3_moe(inner=512))),
    ("vLLM: more ranks than experts", "vllm --tp 4", lambda: t.fp8_dynamic(t.qwen3_moe(experts=2), ignore=["re:.*mlp.gate$"]), REFUSES, "tp-experts",
     lambda: t.fp8_dynamic(t.qwen3_moe(), ignore=["re:.*mlp.gate$"])),
    ("vLLM: a tower that ranks do not divide", "vllm --tp 4", lambda: qwen_vl(["re:visual.*"]), REFUSES, "tp-size-fused",
     lambda: t.fp8_dynamic(t.qwen2_5_vl(inner=344), ignore=["re:visual.*"])),
    ("vLLM: DeepSeek's classes look tensors up", "vllm", lambda: t.fp8_dynamic(t.deepseek_v3()).ignore("model.layers.0.mlp.down_proj"), REFUSES, "unexpected-looked-up",
     lambda: t.fp8_dynamic(t.deepseek_v3())),
    # what SGLang's own code was found to do (tests/peers/sglang.py)
    ("SGLang: llama.py renames weight_scale_inv", "sglang", lambda: t.fp8_block(t.llama()), LIES, "scale-inv-renamed", lambda: t.fp8_block(t.qwen3_moe())),
    ("SGLang: DeepSeek's latents are joined", "sglang", lambda: t.w4a16(t.deepseek_v3()), REFUSES, "latents-joined", lambda: t.fp8_block(t.deepseek_v3())),
    ("SGLang: no GPTQ without Marlin", "sglang", lambda: t.gptq(t.llama(), sym=False), REFUSES, "unsupported-scheme", lambda: t.gptq(t.llama())),
    ("SGLang: qwen3_moe.py renames no k_scale", "sglang", lambda: scales(t.fp8_block(t.qwen3_moe())), LIES, "kv-scale-dropped", lambda: t.fp8_block(t.qwen3_moe())),
    ("SGLang: llama.py has no packed_modules_mapping", "sglang", lambda: plain(t.w4a16(t.llama(), ignore=QKV), *QKV), LIES, "unexpected-tensor",
     lambda: plain(t.w4a16(t.qwen3_moe(), ignore=QKV), *QKV)),
    ("SGLang: GPTQ's groups are cut", "sglang --tp 2", lambda: t.gptq(t.llama(intermediate_size=384)), LIES, "gptq-groups-cut",
     lambda: t.gptq(t.llama(intermediate_size=512))),
]

def only_experts(make, m, *rest):
    """Experts quantized as `make` does it, the rest left out."""
    m = make(m, *rest, which=lambda n: ".experts." in n)
    if "ignore" in m.config.get("quantization_config", {}):
        m.ignore(*(n for n in m.linears if ".experts." not in n), "re:.*shared_expert.*", "re:.*self_attn.*", "re:.*mlp.gate$")
    return m


def w4a8(m, which=t.language):
    """INT4 codes, one a byte; INT8 activations per token."""
    t.int8(m, which)
    return m.weights_args(num_bits=4)


def slim(label):
    return lambda: t.modelslim(t.llama(), label)


def slim_experts(label):
    return lambda: t.modelslim(t.qwen3_moe(), label, which=lambda n: ".experts." in n)


# The documentation's Ascend tables (seeds/004), cell by cell: what, maker, on A2 and A3, on A5; where SGLang's code
# (0.5.23) does otherwise, its verdict.
YES, NO, OPEN = None, "hw-unsupported", "hw-open"
CODE = "hw-scheme"
ASCEND = [
    ("ModelSlim W4A4 dynamic, Linear", slim("W4A4_DYNAMIC"), YES, OPEN),
    ("ModelSlim W8A8 static, Linear", slim("W8A8"), YES, OPEN),
    ("ModelSlim W8A8 dynamic, Linear", slim("W8A8_DYNAMIC"), YES, OPEN),
    ("ModelSlim MXFP8, Linear", slim("W8A8_MXFP8"), NO, YES),
    ("ModelSlim W4A4 dynamic, MoE", slim_experts("W4A4_DYNAMIC"), YES, OPEN),
    ("ModelSlim W4A8 dynamic, MoE", slim_experts("W4A8_DYNAMIC"), YES, OPEN),
    ("ModelSlim W8A8 dynamic, MoE", slim_experts("W8A8_DYNAMIC"), YES, OPEN),
    ("ModelSlim MXFP8, MoE", slim_experts("W8A8_MXFP8"), NO, OPEN),
    ("AWQ W4A16, Linear", lambda: t.awq(t.llama()), YES, OPEN),
    ("AWQ W8A16, Linear", lambda: t.awq(t.llama(), bits=8), CODE, CODE),
    ("AWQ W4A16, MoE", lambda: t.awq(t.qwen3_moe()), YES, OPEN),
    ("GPTQ W4A16, Linear", lambda: t.gptq(t.llama()), YES, OPEN),
    ("GPTQ W8A16, Linear", lambda: t.gptq(t.llama(), bits=8), YES, OPEN),
    ("GPTQ W4A16, MoE", lambda: t.gptq(t.qwen3_moe()), YES, OPEN),
    ("GPTQ W8A16, MoE", lambda: t.gptq(t.qwen3_moe(), bits=8), YES, OPEN),
    ("auto-round W4A16, Linear", lambda: t.auto_round(t.llama()), YES, OPEN),
    ("auto-round W8A16, Linear", lambda: t.auto_round(t.llama(), bits=8), YES, OPEN),
    ("auto-round W4A16, MoE", lambda: t.auto_round(t.qwen3_moe()), YES, OPEN),
    ("auto-round W8A16, MoE", lambda: t.auto_round(t.qwen3_moe(), bits=8), YES, OPEN),
    ("compressed-tensors W8A8 dynamic, Linear", lambda: t.int8(t.llama()), YES, OPEN),
    ("compressed-tensors W4A8 dynamic, MoE", lambda: only_experts(w4a8, t.qwen3_moe()), CODE, CODE),
    ("compressed-tensors W4A16, MoE", lambda: only_experts(t.w4a16, t.qwen3_moe()), YES, OPEN, LIES),
    ("compressed-tensors W8A8 dynamic, MoE", lambda: only_experts(t.int8, t.qwen3_moe()), YES, OPEN),
]

# Engine arguments, maker, verdict, rule.
HARDWARE = [(f"sglang --hw {hw}", make, REFUSES if rule in (NO, CODE) else (verdict or [LOADS])[0], rule)
            for _, make, a23, a5, *verdict in ASCEND for hw, rule in (("a2", a23), ("a3", a23), ("a5", a5))] + [
    ("sglang --hw a2", lambda: t.fp8_block(t.qwen3_moe()), LOADS, "hw-not-known"),
    ("sglang --hw sm90", lambda: t.nvfp4(t.llama()), LOADS, None),
    ("sglang --hw sm75", lambda: t.nvfp4(t.llama()), REFUSES, "hw-capability"),
    ("sglang --hw sm100", lambda: t.nvfp4(t.llama()), LOADS, None),
    ("vllm --hw sm90", lambda: t.nvfp4(t.llama()), LOADS, None),
    ("sglang --hw sm80", lambda: t.modelopt(t.llama(), "FP8"), REFUSES, "hw-method-capability"),
    ("sglang --hw sm75", lambda: t.w4a16(t.llama()), REFUSES, "hw-capability"),
    ("sglang --hw sm75", lambda: t.gptq(t.llama()), REFUSES, "hw-scheme"),
    ("sglang --hw sm75", lambda: t.awq(t.llama()), REFUSES, "hw-scheme"),
    ("sglang --hw sm75", lambda: t.awq(t.llama().configure(torch_dtype="float16")), LOADS, None),
    ("sglang --hw cpu", lambda: t.int8(t.llama()), REFUSES, "hw-cpu-capability"),
    ("sglang --hw cdna3", lambda: t.w4a16(t.llama()), REFUSES, "hw-scheme"),
    ("sglang --hw cdna4", lambda: t.gptq(t.llama()), REFUSES, "hw-scheme"),
    ("sglang --hw cdna4", lambda: t.awq(t.llama()), REFUSES, "hw-scheme"),
    ("sglang --hw cdna3", lambda: t.modelopt(t.llama(), "FP8"), REFUSES, "hw-scheme"),
    ("sglang --hw cdna4", lambda: t.nvfp4(t.llama()), REFUSES, "hw-scheme"),
    ("sglang --hw cdna3", lambda: t.fp8_dynamic(t.llama()), LOADS, "hw-fnuz"),
    ("sglang --hw cdna4", lambda: t.fp8_dynamic(t.llama()), LOADS, None),
    ("sglang --hw cdna4", lambda: t.int8(t.llama()), LOADS, None),
    ("sglang --hw xpu", lambda: t.w4a16(t.llama()), LOADS, None),
    ("sglang --hw xpu", lambda: t.fp8_dynamic(t.llama()), LOADS, None),
    ("sglang --hw xpu", lambda: t.int8(t.llama()), REFUSES, "hw-scheme"),
    ("sglang --hw xpu", lambda: t.gptq(t.qwen3_moe()), REFUSES, "hw-scheme"),
    ("sglang --hw gaudi", lambda: t.w4a16(t.llama()), LOADS, "hw-not-known"),
]


class Target(CliTest):
    def check(self, model, args):
        model.write(self.dir / "m")
        engine, *more = args.split()
        result = self.run_("qverify", "m", "--target", engine, *more, "--json")
        report = json.loads(result.out)
        return result.code, report["target"], {f["rule"].split(".", 1)[1] for f in report["findings"] if "." in f["rule"]}, report

    def test_threads(self):
        for thread, args, broken, verdict, rule, sound in CASES:
            with self.subTest(thread=thread):
                code, target, rules, report = self.check(broken(), args)
                self.assertEqual((target["verdict"], code), (verdict, 0 if verdict == LOADS else 1), report["findings"])
                self.assertIn(rule, rules)
            with self.subTest(thread=thread, sound=True):
                code, target, rules, report = self.check(sound(), args)
                self.assertEqual((target["verdict"], code), (LOADS, 0), report["findings"])
                self.assertNotIn(rule, rules)
                self.assertEqual(set(target["counts"]) - {"used", "ignored by design"}, set())

    def test_hardware(self):
        for args, make, verdict, rule in HARDWARE:
            with self.subTest(args=args):
                _, target, rules, report = self.check(make(), args)
                self.assertEqual(target["verdict"], verdict, report["findings"])
                self.assertEqual({r for r in rules if r.startswith("hw-")}, {rule} - {None})

    def test_errors_are_the_engines(self):
        _, target, _, _ = self.check(experts_plain(qwen_experts()), "vllm")
        self.assertIn("AttributeError: Layer model.layers.0.mlp.experts has no parameter 'w2_weight' for checkpoint weight",
                      {f["error"] for f in target["findings"]})
        _, target, _, _ = self.check(t.gptq(t.qwen2_5_vl()), "sglang")
        self.assertIn("KeyError: 'visual.blocks.0.mlp.gate_up_proj.weight'", {f["error"] for f in target["findings"]})

    def test_sound_everywhere(self):
        """Formats by engines and ranks: no false alarm."""
        make = [lambda: t.w4a16(t.llama()), lambda: t.fp8_dynamic(t.llama()), lambda: t.awq(t.llama()), lambda: t.gptq(t.llama()),
                lambda: t.int8(t.llama()), lambda: t.fp8_dynamic(t.moe()), lambda: t.w4a16(t.moe(mixtral=True))]
        for i, maker in enumerate(make):
            for engine in ("vllm", "sglang"):
                for tp in (1, 2):
                    with self.subTest(i=i, engine=engine, tp=tp):
                        code, target, _, report = self.check(maker(), f"{engine} --tp {tp}")
                        self.assertEqual((code, target["verdict"]), (0, LOADS), report["findings"])

    def test_what_we_export_loads(self):
        """Schemes by families by shapes of models, in vLLM; and what SGLang's pages say it cannot."""
        cannot = {"mxfp4a16 compressed-tensors"}
        experts = {"int8 compressed-tensors"}
        latents = {"w4a16 compressed-tensors", "nvfp4a16 compressed-tensors", "w4a16 gptq", "w4a16 auto-round"}
        for name in ("mixtral", "deepseek_v3", "qwen3_moe", "gemma3"):
            moe_models.write(name, self.dir / name)
            for scheme, family in (("w4a16", "compressed-tensors"), ("fp8-dynamic", "compressed-tensors"), ("fp8-block", "fp8"),
                                   ("int8", "compressed-tensors"), ("nvfp4a16", "compressed-tensors"), ("mxfp4a16", "compressed-tensors"),
                                   ("w4a16", "gptq"), ("w4a16-asym", "awq"), ("w4a16", "auto-round")):
                out = f"{name}-{scheme}-{family}"
                self.ok("bash", "-c", f"set -o pipefail; qload {name} | qquantize -s {scheme} | qexport -f {family} -o {out}")
                for engine in ("vllm", "sglang"):
                    with self.subTest(out=out, engine=engine):
                        report = json.loads(self.run_("qverify", out, "--target", engine, "--json").out)
                        known = cannot | (experts if name != "gemma3" else set()) | (latents if name == "deepseek_v3" else set())
                        refused = engine == "sglang" and f"{scheme} {family}" in known
                        self.assertEqual(report["target"]["verdict"], REFUSES if refused else LOADS, report["findings"])

    def test_mixed_exports_load(self):
        """Several schemes, and layers left out: engines that join linears find what they look for, by whichever name."""
        mixed = {"mixed": [{"match": "re:.*down_proj", "scheme": "fp8-dynamic"}, {"match": "Linear", "scheme": "w4a16"}],
                 "one": [{"match": "Linear", "scheme": "int8"}]}
        for name, rules in mixed.items():
            (self.dir / "r.json").write_text(json.dumps({"rules": rules, "ignore": ["re:.*layers[.]0[.].*"]}))
            self.ok("bash", "-c", f"set -o pipefail; qquantize {TINY} --recipe r.json | qexport -f compressed-tensors -o {name}")
            for engine in ("vllm", "sglang", "transformers"):
                with self.subTest(name=name, engine=engine):
                    report = json.loads(self.run_("qverify", name, "--target", engine, "--json").out)
                    self.assertEqual(report["target"]["verdict"], LOADS, report["findings"][:3])
            # The test can fail: without the joined names it is what SGLang's own code gets wrong.
            config = json.loads((self.dir / name / "config.json").read_text())
            q = config["quantization_config"]
            for names in (q["ignore"], *(g["targets"] for g in q["config_groups"].values())):
                names[:] = [n for n in names if not n.endswith(("qkv_proj", "gate_up_proj"))]
            (self.dir / name / "config.json").write_text(json.dumps(config))
            report = json.loads(self.run_("qverify", name, "--target", "sglang", "--json").out)
            self.assertNotEqual(report["target"]["verdict"], LOADS)

    def test_version(self):
        t.w4a16(t.llama()).write(self.dir / "m")
        self.assertNotIn("no others are known", self.ok("qverify", "m", "--target", "vllm@0.33").err)
        self.assertIn("no others are known", self.ok("qverify", "m", "--target", "vllm@0.9").err)

    def test_memory(self):
        m = t.llama().write(self.dir / "m")
        whole = (m / "model.safetensors").stat().st_size
        _, target, _, _ = self.check(t.llama(), "vllm")
        self.assertLess(abs(target["rank_bytes"] - whole), 4096)  # but for the header
        norms = (2 * 2 + 1) * t.H * 2
        _, halves, _, _ = self.check(t.llama(), "vllm --tp 2")
        self.assertEqual(halves["rank_bytes"], (target["rank_bytes"] - norms) // 2 + norms)
        code, target, rules, _ = self.check(t.llama(), "vllm --device-memory 1M")
        self.assertEqual((code, target["verdict"]), (1, REFUSES))
        self.assertIn("device-memory", rules)

    def test_flags(self):
        t.w4a16(t.llama()).write(self.dir / "m")
        out = self.ok("qverify", "m", "--target", "sglang@0.5", "--tp", "2", "--engine-args", "--quantization compressed-tensors").out
        self.assertIn("sglang.flag-redundant", out)
        self.assertIn("--tp-size 2 --quantization compressed-tensors", out)
        t.int8(t.llama()).write(self.dir / "m")
        out = self.ok("qverify", "m", "--target", "sglang", "--engine-args", "--quantization w8a8_int8").out
        self.assertIn("sglang.w8a8-flag", out)

    def test_llama_cpp(self):
        t.w4a16(t.llama()).write(self.dir / "m")
        result = self.run_("qverify", "m", "--target", "llama.cpp")
        self.assertEqual(result.code, 1)
        self.assertIn("llama.cpp.no-gguf", result.out)
        self.ok("qexport", TINY, "-f", "gguf", "-o", "x.gguf")
        self.ok("qverify", "x.gguf", "--target", "llama.cpp", "--strict")
        file = gguf_file.Gguf(self.dir / "x.gguf")
        del file.tensors["blk.1.ffn_up.weight"]
        file.save(self.dir / "bad.gguf")
        report = json.loads(self.run_("qverify", "bad.gguf", "--target", "llama.cpp", "--json").out)
        self.assertEqual(report["target"]["verdict"], REFUSES)
        self.assertIn("tensor 'blk.1.ffn_up.weight' not found", {f["error"] for f in report["target"]["findings"]})

    def test_rules(self):
        rules = self.ok("qverify", "--list-rules").out.splitlines()
        ids = [line.split("\t")[0] for line in rules]
        self.assertEqual(len(ids), len(set(ids)))
        for id_ in ids:
            self.assertIn("source: ", self.ok("qverify", "--explain", id_).out)
        self.fails(2, "qverify", "--explain", "vllm.no-such-rule", says="is no rule")

    def test_wrong_use(self):
        t.llama().write(self.dir / "m")
        self.fails(2, "qverify", "m", "--target", "tgi", says="no engine")
        self.fails(2, "qverify", "m", "--target", "vllm", "--hw", "sm1", says="--hw")
        self.fails(2, "qverify", "m", "--target", "vllm", "--tp", "0", says="--tp")
        self.fails(2, "qverify", "m", "--tp", "2", says="need --target")

    def test_reads_no_data(self):
        """Headers alone: the weights are cut off behind a hole, and NaN in them are nobody's business here."""
        m = t.llama().write(self.dir / "m")
        data = bytearray((m / "model.safetensors").read_bytes())
        data[-64:] = b"\xff" * 64
        (m / "model.safetensors").write_bytes(data)
        self.ok("qverify", "m", "--target", "vllm", "--strict")
        self.assertEqual(self.run_("qverify", "m").code, 1)


if __name__ == "__main__":
    main()
