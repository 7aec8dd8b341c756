"""Stand-ins for packages that need a GPU or a compiler. They import, their classes can be inherited and their
decorators leave functions as they are; once `working` is set, calling one raises NeedsKernel."""

import importlib.abc
import importlib.machinery
import sys
import types

NAMES = {"aiter", "cuda", "cutlass", "decord", "deep_ep", "deep_gemm", "flash_attn", "flash_mla", "flashinfer", "humming",
         "IPython", "llguidance", "outlines", "quack", "sgl_kernel", "sgl_kernel_npu", "tilelang", "torch_memory_saver",
         "torchair", "torchaudio", "torchvision", "triton", "tvm_ffi", "xgrammar"}


ABSENT = {"sgl_kernel.scalar_type"}  # SGLang has names of its own instead


class NeedsKernel(Exception):
    """The code came to a kernel: what follows can't be run here."""


class State:
    working = False


def special(name):
    return name.startswith("__") and name.endswith("__")


class Anything:
    """Callable, subscriptable, a decorator, a context, an empty list."""

    def __init__(self, name="?"):
        self.__dict__["_name"] = name

    def __getattr__(self, name):
        if special(name):
            raise AttributeError(name)
        if name == "active":  # of triton's drivers: there is none
            raise RuntimeError("no driver")
        return Anything(f"{self._name}.{name}")

    def __call__(self, *args, **kwargs):
        if State.working:
            raise NeedsKernel(self._name)
        if len(args) == 1 and not kwargs and isinstance(args[0], (types.FunctionType, type)):
            return args[0]
        return Anything(f"{self._name}()")

    def __getitem__(self, i):
        return self

    def __mro_entries__(self, bases):
        return ()

    def __enter__(self):
        return self

    def __exit__(self, *args):
        return False

    def __iter__(self):
        return iter(())

    def __bool__(self):
        return False

    def stop(self, other):
        raise NeedsKernel(self._name)

    __floordiv__ = __rfloordiv__ = __mod__ = __rmod__ = stop

    def __index__(self):
        return 0

    def __hash__(self):
        return hash(self._name)

    def same(self, other):
        return self

    __or__ = __ror__ = __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = same

    def above(self, other):  # versions and counts: enough of them
        return True

    __ge__ = __gt__ = above

    def below(self, other):
        return False

    __lt__ = __le__ = below


class Kind(type):
    def __getattr__(cls, name):
        if special(name):
            raise AttributeError(name)
        return Anything(name)


class Thing(metaclass=Kind):
    """A class of a stand-in."""

    def __init__(self, *args, **kwargs):
        pass

    def __getattr__(self, name):
        if special(name):
            raise AttributeError(name)
        return Anything(name)

    def __class_getitem__(cls, i):
        return cls

    @classmethod
    def __get_pydantic_core_schema__(cls, source, handler):
        from pydantic_core import core_schema
        return core_schema.any_schema()


class Stub(types.ModuleType):
    __version__ = "99.0.0"

    def __getattr__(self, name):
        if special(name):
            raise AttributeError(name)
        named = name[0].isupper() and not name.isupper()
        value = Kind(name, (Thing,), {}) if named else Anything(f"{self.__name__}.{name}")
        setattr(self, name, value)
        return value


class Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(self, name, path=None, target=None):
        if name in ABSENT:
            raise ImportError(name)
        if name.partition(".")[0] in NAMES:
            return importlib.machinery.ModuleSpec(name, self, is_package=True)
        return None

    def create_module(self, spec):
        module = Stub(spec.name)
        module.__path__, module.__file__ = [], "stub"
        return module

    def exec_module(self, module):
        pass


def install():
    sys.meta_path.insert(0, Finder())
