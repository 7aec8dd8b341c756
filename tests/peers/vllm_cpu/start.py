"""vLLM's own Python without a GPU: its source package, stubs of what is compiled, a CUDA platform of a given
compute capability that keeps its tensors in memory, groups of any size. Import this before anything of vLLM's."""

import importlib.abc
import importlib.machinery
import logging
import os
import subprocess
import sys
import tarfile
import types
from pathlib import Path

VERSION = "0.33.0"
os.environ.update(VLLM_LOGGING_LEVEL="WARNING", VLLM_NO_USAGE_STATS="1", HF_HUB_OFFLINE="1", VLLM_PLUGINS="")


def source():
    """The folder of the source package, of which only the Python is used."""
    packages = Path(os.environ.get("QPIPE_CACHE", Path.home() / ".cache/qpipe")) / "packages"
    folder = packages / f"vllm-{VERSION}"
    if not folder.exists():
        packages.mkdir(parents=True, exist_ok=True)
        archive = packages / f"vllm-{VERSION}.tar.gz"
        if not archive.exists():  # its metadata say "+empty" without the override, and pip minds
            subprocess.run([sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--no-build-isolation", "--no-binary",
                            "vllm", "-d", packages, f"vllm=={VERSION}"], check=True,
                           env={**os.environ, "VLLM_TARGET_DEVICE": "empty", "VLLM_VERSION_OVERRIDE": VERSION})
        part = folder.with_suffix(f".{os.getpid()}.partial")
        with tarfile.open(archive) as tar:
            for member in tar:
                inside = member.name.partition("/")[2]
                if inside.startswith(("vllm/", "vllm.egg-info/")) and member.isfile():
                    path = part / inside
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_bytes(tar.extractfile(member).read())
        part.rename(folder)
    return folder


# ---- stubs

class Loose(type):
    def __getattr__(cls, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return Thing

    def __getitem__(cls, key):
        return cls

    def __or__(cls, other):
        return cls

    def __ror__(cls, other):
        return cls


class Thing(metaclass=Loose):
    """Whatever one asks of it: a class, a decorator, a context."""

    def __init__(self, *args, **kwargs):
        pass

    def __call__(self, *args, **kwargs):
        return args[0] if len(args) == 1 and callable(args[0]) else self

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return Thing()

    def __enter__(self):
        return self

    def __exit__(self, *args):
        return False


class Module(types.ModuleType):
    __path__ = []

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        value = Loose(name, (Thing,), {"__module__": self.__name__})
        setattr(self, name, value)
        return value


class Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    roots = {"xgrammar", "opentelemetry", "uvloop"}
    compiled = ("vllm.vllm_flash_attn", "vllm._C", "vllm._moe_C", "vllm._rocm_C")

    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in self.roots or name.startswith(self.compiled):
            return importlib.machinery.ModuleSpec(name, self, is_package=True)
        return None

    def create_module(self, spec):
        return Module(spec.name)

    def exec_module(self, module):
        pass


class Ops(types.ModuleType):
    """torch.ops._C. What asks for kernels is answered as csrc/quantization does in a build with CUDA 13; the
    kernels themselves are there, and fail when they are called."""
    every = False  # vLLM registers shapes of the kernels that it finds while it is imported

    def cutlass_scaled_mm_supports_fp8(self, capability):
        return capability >= 89

    def cutlass_scaled_mm_supports_block_fp8(self, capability):
        return capability >= 90

    def cutlass_group_gemm_supported(self, capability):
        return 90 <= capability < 120

    def cutlass_scaled_mm_supports_fp4(self, capability):
        return 100 <= capability < 130

    def mxfp4_experts_quant_supported(self, capability):
        return 100 <= capability < 120

    def __getattr__(self, name):
        if name.startswith("__") or not Ops.every:
            raise AttributeError(name)

        def kernel(*args, **kwargs):
            raise NotImplementedError(f"{name}: no kernels here")
        kernel.default = kernel
        return kernel


sys.path.insert(0, str(source()))
sys.meta_path.insert(0, Finder())

import torch  # noqa: E402

torch.set_num_threads(1)
for namespace in ("_C", "_moe_C", "_C_cache_ops", "_C_stable_libtorch", "_qutlass_C", "_vllm_fa2_C", "_vllm_fa3_C"):
    setattr(torch.ops, namespace, Ops(namespace))
torch.cuda.Stream = torch.cuda.Event = Thing

import vllm.platforms  # noqa: E402
from vllm.platforms.cuda import CudaPlatformBase  # noqa: E402
from vllm.platforms.interface import DeviceCapability  # noqa: E402


class Device(CudaPlatformBase):
    capability = 90

    @classmethod
    def get_device_capability(cls, device_id=0):
        return DeviceCapability(*divmod(cls.capability, 10))

    @classmethod
    def get_device_name(cls, device_id=0):
        return f"a device of capability {cls.capability}"

    @classmethod
    def get_device_total_memory(cls, device_id=0):
        return 80 << 30

    @classmethod
    def device_count(cls):
        return 64

    @classmethod
    def current_device(cls):
        return "cpu"

    @classmethod
    def num_compute_units(cls, device_id=0):
        return 132

    @classmethod
    def get_attn_backend_cls(cls, selected_backend=None, attn_selector_config=None, num_heads=None):
        if attn_selector_config.use_mla:
            return "vllm.v1.attention.backends.mla.triton_mla.TritonMLABackend"
        return "vllm.v1.attention.backends.triton_attn.TritonAttentionBackend"

    @classmethod
    def get_vit_attn_backend(cls, *args, **kwargs):
        from vllm.v1.attention.backends.registry import AttentionBackendEnum
        return AttentionBackendEnum.TORCH_SDPA


vllm.platforms._current_platform = Device()

import vllm._custom_ops  # noqa: E402,F401

Ops.every = True

import transformers.utils.import_utils as of_transformers  # noqa: E402
import vllm.model_executor.model_loader.weight_utils as weight_utils  # noqa: E402
import vllm.model_executor.models.registry as registry  # noqa: E402
from vllm.distributed import parallel_state  # noqa: E402
from vllm.engine.arg_utils import EngineArgs  # noqa: E402

import vllm.triton_utils  # noqa: E402
import vllm.utils.import_utils as import_utils  # noqa: E402

import_utils._has_module.cache_clear()

# Lists of them are sifted while modules are imported.
vllm.triton_utils.triton.Config = type("Config", (Thing,), {"num_stages": 1, "num_warps": 4})
registry._run_in_subprocess = lambda function: function()  # the stubs are in this process
weight_utils.enable_tqdm = lambda *args: False
of_transformers.is_torchvision_available()  # no, and from now on its modules can be imported
Finder.roots |= {"torchvision", "triton", "cuda"}  # Humming wants these; vLLM has decided to do without
logging.getLogger("vllm").handlers.clear()


class Ranks:
    def __init__(self, size, rank):
        self.size, self.rank = lambda: size, lambda: rank


class Group:
    """What model classes and parameters ask of a group of ranks."""
    device_communicator = mq_broadcaster = None
    use_device_communicator = False
    unique_name = "group"

    def __init__(self, size=1, rank=0):
        self.world_size = size
        self.rank = self.rank_in_group = self.local_rank = rank
        self.ranks = list(range(size))
        self.first_rank, self.last_rank = 0, size - 1
        self.is_first_rank, self.is_last_rank = rank == 0, rank == size - 1
        self.device = torch.device("cpu")
        self.device_group = self.cpu_group = Ranks(size, rank)

    def all_reduce(self, tensor):
        return tensor


def set_groups(tp, rank, ep):
    state = parallel_state
    state._WORLD = state._TP = state._INNER_DP_WORLD = Group(tp, rank)
    state._PP = state._DP = state._DCP = state._PCP = state._ENGRAM_DP = Group()
    state._EP = state._EPLB = Group(tp, rank) if ep > 1 else Group()


def engine_config(path, tp, ep):
    """All that vLLM checks before a worker starts."""
    return EngineArgs(model=str(path), tensor_parallel_size=tp, enable_expert_parallel=ep > 1, skip_tokenizer_init=True,
                      enforce_eager=True, max_model_len=128,
                      distributed_executor_backend="mp" if tp > 1 else None).create_engine_config()
