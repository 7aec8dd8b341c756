"""One checkpoint through vLLM's config classes, model class and loader, up to process_weights_after_loading."""

import gc
import logging
import traceback

import numpy
import start  # before vLLM's modules
import watch

from vllm.config import set_current_vllm_config  # noqa: E402
from vllm.model_executor.layers.quantization import QUANTIZATION_METHODS, get_quantization_config  # noqa: E402
from vllm.model_executor.layers.quantization.compressed_tensors.compressed_tensors import CompressedTensorsKVCacheMethod  # noqa: E402
from vllm.model_executor.layers.quantization.kv_cache import BaseKVCacheMethod  # noqa: E402
from vllm.model_executor.model_loader.default_loader import DefaultModelLoader  # noqa: E402
from vllm.model_executor.model_loader.utils import initialize_model  # noqa: E402
from vllm.v1.kv_cache_interface import is_quantized_kv_cache  # noqa: E402
from vllm.utils.torch_utils import set_default_torch_dtype  # noqa: E402


class Heard(logging.Handler):
    def __init__(self):
        super().__init__(logging.WARNING)
        self.lines = []

    def emit(self, record):
        self.lines.append(record.getMessage())


def warm():
    """Imports what children would import one by one."""
    for name in QUANTIZATION_METHODS:
        try:
            get_quantization_config(name)
        except ImportError:  # of a package that is not here: a case that wants it says so
            pass
    gc.collect()
    gc.freeze()


def load(path, tp=1, rank=0, ep=1, capability=90):
    """stage: how far it came; error: the exception's text, or none; unwritten: {parameter: part of its bytes};
    dropped: tensors that went nowhere; converted: codes that became values, or the other way; read: of tensors
    that this rank reads in part, which elements, as bits in hexadecimal."""
    out = {"stage": "config", "error": "", "unwritten": {}, "dropped": [], "converted": [], "defaults": []}
    start.Device.capability = capability
    heard = Heard()
    logging.getLogger("vllm").addHandler(heard)
    try:
        config = start.engine_config(path, tp, ep)
        start.set_groups(tp, rank, ep)
        with set_current_vllm_config(config), set_default_torch_dtype(config.model_config.dtype):
            out["stage"] = "build"
            with watch.Unwritten():
                model = initialize_model(config)
            # What the constructors wrote is no longer memory that waits for a tensor.
            waiting = {n for n, p in model.named_parameters() if p.numel() and watch.marked(p.data) == 1}
            waiting -= unneeded(model)
            out["stage"] = "load"
            observe(DefaultModelLoader(config.load_config), model, config, waiting, out)
            cache_scales(model)
        out["stage"] = "loaded"
    except Exception as e:
        out["error"] = f"{type(e).__name__}: {e}"
        out["trace"] = traceback.format_exc()
    out["warnings"] = heard.lines
    return out


def unneeded(model):
    """Scales of inputs that stay as they are."""
    return {f"{name}.{p}" for name, module in model.named_modules() if getattr(getattr(module, "quant_method", None), "use_a16", False)
            for p, _ in module.named_parameters(recurse=False) if "input" in p}


def cache_scales(model):
    """What process_weights_after_loading does with scales of keys and values; it needs no kernel."""
    for module in model.modules():
        method = getattr(module, "quant_method", None)
        if isinstance(method, BaseKVCacheMethod):
            for x in "kv":
                scale = getattr(module, f"{x}_scale").data
                scale[scale == 0] = 0.5  # tests store zeros; what is not stored is negative
            method.process_weights_after_loading(module)


def at_one(module, flow):
    """Whether the cache is quantized, and a scale is neither stored nor the other's."""
    method = getattr(module, "quant_method", None)
    if not isinstance(method, BaseKVCacheMethod) or not is_quantized_kv_cache(module.kv_cache_dtype):
        return False
    written = [watch.storage(getattr(module, f"{x}_scale").data) in flow.written for x in "kv"]
    return not (all(written) if isinstance(method, CompressedTensorsKVCacheMethod) else any(written))


def observe(loader, model, config, waiting, out):
    flow, names, everything = watch.Flow(), [], loader.get_all_weights

    def followed(*args):
        for name, tensor in everything(*args):
            tensor = tensor.clone()  # memory of its own
            names.append(name)
            flow.begin(name, tensor)
            yield name, tensor

    loader.get_all_weights = followed
    with flow:
        loader.load_weights(model, config.model_config)
    used = set()
    for name, p in model.named_parameters():
        for source, stored, into in flow.written.get(watch.storage(p.data), []):
            used.add(source)
            if stored != into and {stored, into} & watch.CODES:
                out["converted"].append([source, str(stored).removeprefix("torch."), str(into).removeprefix("torch.")])
        left = watch.marked(p.data) if name in waiting else 0
        if left:
            out["unwritten"][name] = left
    for _, b in model.named_buffers():
        used.update(source for source, _, _ in flow.written.get(watch.storage(b), []))
    out["defaults"] = [name for name, module in model.named_modules() if at_one(module, flow)]
    out["dropped"] = [n for n in names if n not in used]
    out["read"] = {n: numpy.packbits(flow.read[n].numpy()).tobytes().hex() for n in used if not flow.read[n].all()}
