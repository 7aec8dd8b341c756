"""Makes torch say that it sees a device of one of qverify's --hw. Nothing runs on it: tensors stay on the CPU."""

import os
import sys
import types

import torch

CUDA = {"sm75": (7, 5), "sm80": (8, 0), "sm89": (8, 9), "sm90": (9, 0), "sm100": (10, 0), "sm120": (12, 0)}
HIP = {"cdna3": ("gfx942", (9, 4)), "cdna4": ("gfx950", (9, 5))}
GIB = 1 << 30


class Dummy:
    """A stream or an event."""

    cuda_stream = 0

    def __init__(self, *args, **kwargs):
        pass

    def __getattr__(self, name):
        return lambda *args, **kwargs: None

    def __enter__(self):
        return self

    def __exit__(self, *args):
        return False


def namespace(space, capability, architecture=""):
    version = capability if isinstance(capability, tuple) else (0, 0)
    properties = types.SimpleNamespace(
        name="A device", major=version[0], minor=version[1], total_memory=80 * GIB, multi_processor_count=132,
        warp_size=32, gcnArchName=architecture, uuid="0", L2_cache_size=50 << 20, has_fp64=True,
        shared_memory_per_block_optin=232448, max_threads_per_multi_processor=2048)
    space.is_available = lambda: True
    space.device_count = lambda: 8
    space.current_device = lambda: 0
    space.set_device = lambda d=None: None
    space.get_device_capability = lambda d=None: capability
    space.get_device_name = lambda d=None: properties.name
    space.get_device_properties = lambda d=None: properties
    space.mem_get_info = lambda d=None: (80 * GIB, 80 * GIB)
    for name in ("memory_allocated", "max_memory_allocated", "memory_reserved"):
        setattr(space, name, lambda d=None: 0)
    for name in ("empty_cache", "synchronize", "reset_peak_memory_stats"):
        setattr(space, name, lambda *args: None)
    space.Stream = space.Event = Dummy
    space.current_stream = space.stream = lambda d=None: Dummy()
    return space


def pretend(hardware):
    """Before SGLang is imported."""
    if hardware in CUDA:
        torch.version.cuda = "13.0"
        namespace(torch.cuda, CUDA[hardware])
    elif hardware in HIP:
        architecture, capability = HIP[hardware]
        torch.version.hip = "7.0"
        namespace(torch.cuda, capability, architecture)
    elif hardware in ("a2", "a3", "a5"):
        torch.npu = namespace(types.ModuleType("torch.npu"), (None, None))
        torch.npu.get_device_name = lambda d=None: {"a2": "Ascend910B", "a3": "Ascend910_93", "a5": "Ascend950"}[hardware]
        acl = sys.modules["acl"] = types.ModuleType("acl")
        acl.rt = types.SimpleNamespace(get_device_info=lambda *args: (3510, 0) if hardware == "a5" else (0, 0))
    elif hardware == "xpu":
        namespace(torch.xpu, {"version": "20.1.0"})
    elif hardware == "cpu":
        os.environ["SGLANG_USE_CPU_ENGINE"] = "1"
    elif hardware == "gaudi":
        torch.hpu = namespace(types.ModuleType("torch.hpu"), (None, None))
    else:
        raise ValueError(hardware)
