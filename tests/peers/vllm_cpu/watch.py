"""Which memory of a model nobody writes, and from which tensors the rest is written."""

import torch
from torch.overrides import TorchFunctionMode

MARK = 0xA5
CODES = {torch.int8, torch.uint8, torch.int32, torch.int64, torch.float8_e4m3fn, torch.float8_e5m2}


def storage(tensor):
    return tensor.untyped_storage().data_ptr()


class Unwritten(TorchFunctionMode):
    """Marks the memory that torch.empty gives."""
    makers = {torch.empty, torch.empty_like, torch.empty_strided, torch.Tensor.new_empty}

    def __torch_function__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        if function in self.makers and out.device.type == "cpu" and out.numel():
            with torch._C.DisableTorchFunction():
                torch.empty(0, dtype=torch.uint8).set_(out.untyped_storage()).fill_(MARK)
        return out


def marked(tensor):
    """The part of a tensor's bytes that still has the mark."""
    flat = tensor.detach().contiguous().reshape(-1).view(torch.uint8)
    return float((flat == MARK).sum()) / max(flat.numel(), 1)


class Flow(TorchFunctionMode):
    """Follows stored tensors through views and copies into the memory of parameters."""
    writers = {"copy_", "__setitem__", "fill_", "index_copy_", "set_"}

    def __init__(self):
        super().__init__()
        self.sources = {}  # storage: {(name, dtype as stored)}
        self.written = {}  # storage: [(name, dtype as stored, dtype of what is written)]
        self.alive = []    # addresses are names only while their owners live
        self.read = {}     # name: which elements were written somewhere
        self.whole = {}    # storage as stored: name

    def begin(self, name, tensor):
        self.alive.append(tensor)
        self.whole[storage(tensor)] = name
        self.read[name] = torch.zeros(tensor.numel(), dtype=torch.bool)
        self.sources[storage(tensor)] = {(name, tensor.dtype)}

    def note(self, t):
        name = self.whole.get(storage(t))
        if name is not None and t.element_size() == self.alive_size(name, t):
            self.read[name].as_strided(t.shape, t.stride(), t.storage_offset()).fill_(True)
            return
        for other, _ in self.sources.get(storage(t), ()):  # copied on the way: which part is not known
            self.read[other].fill_(True)

    def alive_size(self, name, t):
        return t.untyped_storage().nbytes() // max(self.read[name].numel(), 1)

    def tensors(self, value):
        if isinstance(value, torch.Tensor):
            yield value
        elif isinstance(value, (list, tuple)):
            for v in value:
                yield from self.tensors(v)
        elif isinstance(value, dict):
            yield from self.tensors(list(value.values()))

    def __torch_function__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        with torch._C.DisableTorchFunction():
            came = set().union(*(self.sources.get(storage(t), set()) for t in self.tensors((args, kwargs or {}))))
            if came:
                if getattr(function, "__name__", "") in self.writers and isinstance(args[0], torch.Tensor):
                    self.written.setdefault(storage(args[0]), []).extend((n, d, args[0].dtype) for n, d in came)
                    for t in self.tensors((args[1:], kwargs or {})):
                        self.note(t)
                for t in self.tensors(out):
                    self.alive.append(t)
                    self.sources[storage(t)] = self.sources.get(storage(t), set()) | came
        return out
