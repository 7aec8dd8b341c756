"""nvidia-modelopt, on the CPU, with its own presets. METHOD: fp8, nvfp4, int4_awq, int8_smoothquant ..
(the preset of that name; GROUP_SIZE replaces the group of INT4)."""
import copy

import peer

import modelopt.torch.quantization as mtq  # noqa: E402
import torch  # noqa: E402
from modelopt.torch.export import export_hf_checkpoint  # noqa: E402

name = peer.METHOD.upper()
config = copy.deepcopy(getattr(mtq, f"{name}_CFG", None) or getattr(mtq, f"{name}_DEFAULT_CFG"))
for entry in config["quant_cfg"]:
    sizes = (entry.get("cfg") or {}).get("block_sizes") if isinstance(entry.get("cfg"), dict) else None
    if name.startswith("INT4") and sizes:
        sizes[-1] = peer.GROUP


def show(model):
    with torch.no_grad():
        for window in peer.WINDOWS:
            model(torch.tensor([window]))


torch.manual_seed(0)
model = peer.bf16_model()
made = peer.Made(("nvidia-modelopt", "transformers"), preset=name, algorithm=config["algorithm"])
with made:
    model = mtq.quantize(model, config, show)
with torch.no_grad():
    export_hf_checkpoint(model, export_dir=peer.OUT)
made.report()
