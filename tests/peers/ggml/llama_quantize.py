"""What llama-quantize does, through llama-cpp-python."""

import ctypes

import llama_cpp
import numpy as np
from gguf import GGUFReader


def file_type(name):
    """The number of q4_k_m and so on."""
    return getattr(llama_cpp, next(k for k in vars(llama_cpp) if k.lower() == f"llama_ftype_mostly_{name}"))


class Importance(ctypes.Structure):
    _fields_ = [("name", ctypes.c_char_p), ("data", ctypes.POINTER(ctypes.c_float)), ("size", ctypes.c_size_t)]


def importance_of(path):
    """What llama-quantize passes: means, 1 where nothing was counted."""
    sums = {t.name: np.array(t.data, np.float32) for t in GGUFReader(path).tensors}
    entries, keep = [], []
    for name in sorted(n[: -len(".in_sum2")] for n in sums if n.endswith(".in_sum2")):
        total = sums[name + ".in_sum2"].reshape(-1)
        counts = np.repeat(sums[name + ".counts"].reshape(-1), len(total) // sums[name + ".counts"].size)
        mean = np.where(counts > 0, total / np.maximum(counts, 1), np.float32(1)).astype(np.float32)
        keep.append(mean)
        entries.append(Importance(name.encode(), mean.ctypes.data_as(ctypes.POINTER(ctypes.c_float)), mean.size))
    entries.append(Importance(None, None, 0))
    return (Importance * len(entries))(*entries), keep


def theirs(base, out, number, importance=None):
    """Whether llama_model_quantize made `out` of `base`; importance: an imatrix file."""
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype, params.nthread = number, 2
    if importance is not None:
        array, keep = importance_of(importance)
        params.imatrix = ctypes.cast(array, type(params.imatrix)) if not isinstance(params.imatrix, int) else ctypes.addressof(array)
    code = llama_cpp.llama_model_quantize(str(base).encode(), str(out).encode(), ctypes.byref(params))
    return code == 0
