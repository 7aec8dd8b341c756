"""GPTQ by GPTQModel, on the CPU, with its own defaults; METHOD is the number of bits."""
import os

import peer

os.environ.setdefault("GPTQMODEL_CPU_WORKERS", "2")  # its pool asks for more workers than it grants itself
from gptqmodel import GPTQModel, QuantizeConfig  # noqa: E402

samples = [{"input_ids": w, "attention_mask": [1] * len(w)} for w in peer.WINDOWS]
config = QuantizeConfig(bits=int(peer.METHOD), group_size=peer.GROUP, sym=True, device="cpu")
loaded = GPTQModel.load(peer.MODEL, config)
made = peer.Made(("gptqmodel", "transformers"), act_group_aware=config.act_group_aware, desc_act=config.desc_act,
                 damp_percent=config.damp_percent, mse=config.mse, sym=config.sym)
with made:
    loaded.quantize(samples, batch_size=1)
loaded.save(peer.OUT)
made.report()
