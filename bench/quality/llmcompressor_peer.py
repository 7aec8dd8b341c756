"""llm-compressor, on the CPU, with its own defaults. METHOD: awq-w4a16, gptq-w3a16, rtn-w2a16 ..;
smoothquant-int8 (INT8 activations per token at run time), smoothquant-int8-static (per tensor)."""
import peer

import torch  # noqa: E402
from compressed_tensors.quantization import preset_name_to_scheme  # noqa: E402
from llmcompressor import oneshot  # noqa: E402
from llmcompressor.modifiers.gptq import GPTQModifier  # noqa: E402
from llmcompressor.modifiers.quantization import QuantizationModifier  # noqa: E402
from llmcompressor.modifiers.transform.awq import AWQModifier  # noqa: E402
from llmcompressor.modifiers.transform.smoothquant import SmoothQuantModifier  # noqa: E402

if not torch.accelerator.is_available():
    torch.Tensor.pin_memory = lambda self: self  # AWQ pins its cache whatever the device

algorithm, _, name = peer.METHOD.partition("-")
scheme = preset_name_to_scheme("W8A8" if name.startswith("int8") else name.upper(), ["Linear"])
if peer.GROUP and scheme.weights.group_size:
    scheme.weights.group_size = peer.GROUP
if name.endswith("-static"):
    inputs = scheme.input_activations
    inputs.dynamic, inputs.strategy, inputs.observer = False, "tensor", "static_minmax"

groups = {"config_groups": {"group_0": scheme}, "ignore": ["lm_head"]}
recipe = {
    "awq": lambda: [AWQModifier(), QuantizationModifier(**groups)],
    "gptq": lambda: [GPTQModifier(**groups)],
    "rtn": lambda: [QuantizationModifier(**groups)],
    # 0.8 is what its INT8 examples use; with GPTQ behind it, as they do, in "smoothquant+gptq".
    "smoothquant": lambda: [SmoothQuantModifier(smoothing_strength=0.8), QuantizationModifier(**groups)],
    "smoothquant+gptq": lambda: [SmoothQuantModifier(smoothing_strength=0.8), GPTQModifier(**groups)],
}[algorithm]()

batches = torch.utils.data.DataLoader(
    [{"input_ids": torch.tensor(w), "attention_mask": torch.ones(len(w), dtype=torch.long)} for w in peer.WINDOWS],
    batch_size=1)
model = peer.bf16_model()
made = peer.Made(("llmcompressor", "compressed-tensors", "transformers"),
                 recipe=[m.model_dump(exclude_none=True, exclude_defaults=True, mode="json",
                                      exclude={"config_groups", "ignore"}) | {"is": type(m).__name__} for m in recipe],
                 weights=scheme.weights.model_dump(exclude_none=True, mode="json"),
                 inputs=scheme.input_activations and scheme.input_activations.model_dump(exclude_none=True, mode="json"))
with made:
    oneshot(model=model, dataset=batches, recipe=recipe, num_calibration_samples=len(peer.WINDOWS),
            max_seq_length=len(peer.WINDOWS[0]), shuffle_calibration_samples=False)
model.save_pretrained(peer.OUT, save_compressed=True)
made.report()
