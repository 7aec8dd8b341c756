"""Loads checkpoints with SGLang's own code, on a device that is not there.

    python load.py HARDWARE     reads {"path": .., "tp": .., "rank": .., "args": {..}} a line, answers each with one

SGLang builds ServerArgs, ModelConfig, its quantization config and the model's class, creates the parameters of one
rank and runs load_weights. Then process_weights_after_loading of every layer, as far as that goes without kernels.
Not run: the forward pass. torch.empty gives a pattern, so what nobody wrote is known; what was read of which tensor is
followed through every operation.
"""

import concurrent.futures
import json
import logging
import os
import sys
import traceback
import types
import warnings
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:] = [p for p in sys.path if Path(p or ".").resolve() not in (HERE, HERE.parent)]
sys.path.insert(0, str(HERE))
warnings.filterwarnings("ignore")

import devices  # noqa: E402
import stubs  # noqa: E402

hardware = sys.argv[1]
stubs.install()
if hardware in ("a2", "a3", "a5"):
    stubs.NAMES.add("torch_npu")
if hardware == "gaudi":
    stubs.NAMES.add("habana_frameworks")

import numpy  # noqa: E402
import torch  # noqa: E402
from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402

torch.set_num_threads(1)
if hardware in ("a2", "a3", "a5"):
    torch.ops.npu = stubs.Anything("torch.ops.npu")
devices.pretend(hardware)
EMPTY = 0xA5
plain_empty, plain_empty_like = torch.empty, torch.empty_like


def bytes_of(tensor):
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8)


def patterned(tensor):
    if tensor.device.type == "cpu" and tensor.numel() and tensor.is_contiguous():
        tensor.detach().reshape(-1).view(torch.uint8).fill_(EMPTY)
    return tensor


class Inline(concurrent.futures.Executor):
    """Loads one tensor after the other: what is followed is followed in one thread."""

    def __init__(self, *args, **kwargs):
        pass

    def submit(self, function, *args, **kwargs):
        future = concurrent.futures.Future()
        try:
            future.set_result(function(*args, **kwargs))
        except BaseException as e:
            future.set_exception(e)
        return future


class Follow(TorchDispatchMode):
    """Which stored tensors an operation's inputs come from, and those that were written somewhere or looked at."""

    def __init__(self):
        super().__init__()
        self.names, self.used, self.kept, self.written = {}, set(), [], {}
        self.whole, self.read = {}, {}  # storage: name as stored; name: which elements something was made of

    def tag(self, tensor, name):
        self.kept.append(tensor)  # its address stays its own
        where = tensor.untyped_storage().data_ptr()
        self.names[where], self.whole[where] = {name}, (name, tensor.element_size())
        self.read[name] = numpy.zeros(tensor.numel(), dtype=bool)

    def note(self, value, made):
        """Elements of stored tensors that something is made of; a view is nothing new."""
        for v in value if isinstance(value, (list, tuple)) else (value,):
            if not isinstance(v, torch.Tensor) or v.device.type != "cpu" or not v.numel():
                continue
            where = v.untyped_storage().data_ptr()
            name, size = self.whole.get(where, (None, 0))
            if name is None or where in made:
                continue
            if v.element_size() != size:
                self.read[name][:] = True
                continue
            step = self.read[name].strides[0]
            numpy.lib.stride_tricks.as_strided(self.read[name][v.storage_offset():], v.shape, [step * n for n in v.stride()])[...] = True

    def of(self, value):
        found = set()
        for v in value if isinstance(value, (list, tuple)) else (value,):
            if isinstance(v, torch.Tensor) and v.device.type == "cpu":
                found |= self.names.get(v.untyped_storage().data_ptr(), set())
        return found

    def __torch_dispatch__(self, function, types_, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        name = function.overloadpacket.__name__
        if name in ("copy_", "fill_", "index_put_"):
            where = args[0].untyped_storage().data_ptr()
            self.written[where] = self.written.get(where, 0) + args[0].numel()
        sources = set()
        for value in (*args, *(kwargs or {}).values()):
            sources |= self.of(value)
        if not sources:
            return out
        outs = out if isinstance(out, (list, tuple)) else (out,)
        made = {v.untyped_storage().data_ptr() for v in outs if isinstance(v, torch.Tensor)}
        for value in (*args, *(kwargs or {}).values()):
            self.note(value, made)
        if name in ("copy_", "_local_scalar_dense", "fill_", "index_put_"):
            self.used |= sources
        for v in out if isinstance(out, (list, tuple)) else (out,):
            if isinstance(v, torch.Tensor) and v.numel() and name not in ("copy_", "fill_"):
                where = v.untyped_storage().data_ptr()
                if where not in self.names:
                    self.kept.append(v)
                self.names[where] = self.names.get(where, set()) | sources
        return out


def group(size, rank):
    return types.SimpleNamespace(world_size=size, rank_in_group=rank, rank=rank, is_first_rank=rank == 0,
                                 is_last_rank=rank == size - 1, first_rank=0, last_rank=size - 1, ranks=list(range(size)),
                                 device_group=None, cpu_group=None, next_rank=rank, prev_rank=rank, unique_name="g",
                                 barrier=lambda: None, all_reduce=lambda x: x)


def prepare():
    """What is the same for all checkpoints: imported once, before the forks."""
    logging.disable(logging.WARNING)
    if hardware in ("a2", "a3", "a5"):
        import torch_npu  # noqa: F401
    import sglang.srt.model_loader.loader  # noqa: F401
    from sglang.srt.utils import common
    common.get_amdgpu_memory_capacity = lambda: 192 << 10  # asks rocminfo
    common.get_hpu_memory_capacity = lambda: 96 << 10      # asks hl-smi
    from sglang.srt.models.registry import ModelRegistry
    logging.disable(logging.NOTSET)
    return ModelRegistry


class Words(logging.Handler):
    def __init__(self):
        super().__init__(logging.WARNING)
        self.words = []

    def emit(self, record):
        self.words.append(record.getMessage())


def build(request):
    from sglang.srt.configs.load_config import LoadConfig
    from sglang.srt.configs.model_config import ModelConfig
    from sglang.srt.layers.moe import initialize_moe_config
    from sglang.srt.layers.quantization.fp4_utils import initialize_fp4_gemm_config
    from sglang.srt.layers.quantization.fp8_utils import initialize_fp8_gemm_config
    from sglang.srt.model_loader import loader
    from sglang.srt.runtime_context import SpawnRanks, get_parallel, publish
    from sglang.srt.server_args import ServerArgs

    tp, rank = request["tp"], request["rank"]
    args = ServerArgs(model_path=request["path"], tp_size=tp, skip_tokenizer_init=True, **request.get("args", {}))
    publish(args, role="scheduler", ranks=SpawnRanks(world_rank=rank, gpu_id=rank))
    parallel = get_parallel()
    groups = {"world_group": (tp, rank), "pp_group": (1, 0)}
    for name in ("tp", "attn_tp", "attn_cp", "moe_ep", "moe_dp", "moe_tp"):
        groups[name + "_group"] = (getattr(parallel, name + "_size"), getattr(parallel, name + "_rank"))
    groups["shared_experts_tp_group"] = groups["tp_group"]
    parallel.override_permanently(**{n: group(*g) for n, g in groups.items()})
    model_config = ModelConfig.from_server_args(args)
    # As Scheduler.init_moe_gemm_config does before it loads.
    initialize_moe_config()
    initialize_fp8_gemm_config()
    initialize_fp4_gemm_config()
    load_config = LoadConfig()
    config = loader._get_quantization_config(model_config, load_config)
    with loader.set_default_torch_dtype(model_config.dtype):
        model = loader._initialize_model(model_config, load_config, config)
    return model, model_config, config


def stored(path):
    from safetensors import safe_open
    for file in sorted(Path(path).glob("*.safetensors")):
        with safe_open(file, "pt") as f:
            for name in f.keys():
                yield name, f.get_tensor(name)


def empty_share(tensor):
    """Of a tensor's elements, those that nobody wrote; some codes of one byte look like that and are not."""
    b = bytes_of(tensor)
    found = float((b.view(-1, tensor.element_size()) == EMPTY).all(1).float().mean()) if b.numel() else 0.0
    return found if tensor.element_size() > 1 or found > 0.05 else 0.0


# What is said where the code came to a kernel, and not to a fault of the checkpoint's.
KERNELS = ("from the 'CPU' backend", "Anything", "sgl_kernel", "'size_bits'", "'_OpNamespace'", "not compiled with CUDA",
           "e8m0_shuffle", "kernel_api_logging", "'NoneType' object is not callable", "at start of device string: npu",
           "has no attribute 'npu'", "dict_keys([])")
if hardware == "cpu":  # where torch says it in earnest
    KERNELS = tuple(k for k in KERNELS if k != "not compiled with CUDA")


def kernel(e):
    return isinstance(e, stubs.NeedsKernel) or any(word in str(e) for word in KERNELS)


def process(model):
    """{layer: error} of what follows the loading, but for what stops at a kernel."""
    from sglang.srt.model_loader.loader import _modules_with_quant_method
    errors, kernels = {}, set()
    stubs.State.working = True
    for module, method in _modules_with_quant_method(model):
        try:
            method.process_weights_after_loading(module)
        except Exception as e:
            if kernel(e):
                kernels.add(" ".join(str(e).split())[:100])
                continue
            where = traceback.extract_tb(e.__traceback__)[-1]
            errors.setdefault(f"{type(e).__name__}: {e}"[:300], f"{Path(where.filename).name}:{where.lineno} {type(method).__name__}")
    return errors, sorted(kernels)


def load(request):
    words = Words()
    logging.getLogger("sglang").addHandler(words)
    logging.getLogger().addHandler(words)
    answer = {"stage": "build"}
    torch.empty = lambda *a, **k: patterned(plain_empty(*a, **k))
    torch.empty_like = lambda *a, **k: patterned(plain_empty_like(*a, **k))
    concurrent.futures.ThreadPoolExecutor = Inline
    try:
        model, model_config, config = build(request)
        answer |= {"stage": "load", "model": type(model).__name__, "method": model_config.quantization,
                   "config": type(config).__name__,
                   "schemes": sorted({type(getattr(m, "scheme", None) or m.quant_method).__name__ for m in model.modules()
                                      if getattr(m, "quant_method", None) is not None})}
        parameters = dict(model.named_parameters())
        created = {n: empty_share(p) > 0.5 for n, p in parameters.items()}
        answer["parameters"] = {n: [str(p.dtype), list(p.shape)] for n, p in parameters.items()}
        follow = Follow()
        weights = []
        for name, tensor in stored(request["path"]):
            follow.tag(tensor, name)
            weights.append((name, tensor))
        from sglang.srt.model_loader.loader import DefaultModelLoader
        try:
            with follow:
                DefaultModelLoader.load_weights_only(model, iter(weights), torch.device("cpu"))
        except Exception as e:  # DeepSeek's classes go on to what follows the loading
            if not kernel(e) or "post_load_weights" not in "".join(traceback.format_tb(e.__traceback__)):
                raise
        answer["stage"] = "loaded"
        answer["dropped"] = sorted(n for n, t in weights if t.numel() and n not in follow.used)
        answer["read"] = {n: numpy.packbits(r).tobytes().hex() for n, r in follow.read.items() if n in follow.used and not r.all()}
        answer["uninitialised"] = {n: s for n, p in parameters.items() if created[n] and (s := empty_share(p))}
        answer["default"] = {n: s for n, p in parameters.items() if not created[n] and p.numel() and
                             (s := 1 - follow.written.get(p.untyped_storage().data_ptr(), 0) / p.numel()) > 0}
        answer["process"], answer["kernels"] = process(model)
        answer["stage"] = "done"
    except Exception as e:
        if kernel(e):  # before all was loaded: what the rest would do is not known
            answer |= {"stage": "kernel", "kernels": [f"before the end: {' '.join(str(e).split())[:80]}"], "words": []}
            return answer
        where = [f for f in traceback.extract_tb(e.__traceback__) if "sglang" in f.filename or True][-1]
        answer |= {"error": f"{type(e).__name__}: {e}", "where": f"{where.filename.rpartition('/srt/')[2]}:{where.lineno}"}
        if os.environ.get("QPIPE_TRACE"):
            traceback.print_exc()
    answer["words"] = list(dict.fromkeys(words.words))
    return answer


def main():
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what SGLang prints is not an answer
    prepare()
    answers.write("{}\n")
    answers.flush()
    for line in sys.stdin:
        read, write = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(read)
            with os.fdopen(write, "w") as out:
                out.write(json.dumps(load(json.loads(line))))
            os._exit(0)
        os.close(write)
        with os.fdopen(read) as f:
            text = f.read()
        os.waitpid(child, 0)
        answers.write((text or json.dumps({"stage": "died", "error": "the process died"})) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
