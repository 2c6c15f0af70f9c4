"""PyTorch without the parts that neither a forward nor a backward pass on the CPU runs.

Half of what ``import torch`` takes goes to tracing, export, documentation and kernels for tensors
without data.  A helper leaves them out; where a question turns out to need one, what it found is void,
and a helper with all of PyTorch is asked instead.
"""

from __future__ import annotations

import os
import sys
from importlib import import_module
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

_LEFT_OUT = frozenset(
    "torch.distributions torch.optim torch.profiler torch.testing torch.ao torch.nn.intrinsic "
    "torch.nn.qat torch.nn.quantizable torch.nn.quantized torch._size_docs torch._storage_docs "
    "torch._tensor_docs torch.quantization torch.masked torch.export torch.func "
    "torch._higher_order_ops torch.distributed._meta_registrations torch._meta_registrations "
    "torch.compiler torch._native torch._decomp torch._refs torch._prims".split()
)

#: Set for a helper that is to have all of PyTorch.
_WHOLE = "GRADEXPLAIN_ALL_OF_PYTORCH"


class _Absent(ModuleType):
    """A module that is left out."""

    def __getattr__(self, name: str) -> Any:
        if not Finder.complete and name in ("cond", "while_loop", "vmap"):  # taken at import
            return None
        if not name.startswith("__"):
            Finder.missed = True
        raise AttributeError(name)


class Finder:
    """Gives PyTorch an `_Absent` for what is left out."""

    complete = False  # PyTorch is imported
    missed = False  # something was wanted that is not there

    @classmethod
    def find_spec(cls, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if cls.complete and name.startswith("torch."):
            cls.missed = True  # a part that is imported late counts on those before it
        elif name in _LEFT_OUT and (spec := PathFinder.find_spec(name, path, target)):
            spec.loader = cls  # type: ignore[assignment]
            return spec
        return None

    @staticmethod
    def create_module(spec: ModuleSpec) -> ModuleType:
        return _Absent(spec.name)

    @staticmethod
    def exec_module(module: ModuleType) -> None:
        pass


def load() -> None:
    """Import PyTorch, without what is left out unless this process was started by `whole`."""
    if _WHOLE not in os.environ:
        sys.meta_path.insert(0, Finder)
    try:
        _watched(import_module("torch"))
        import_module("torch.utils._device")  # what `torch.get_default_device` imports late
    except Exception:  # another PyTorch is made in another way
        Finder.missed = _WHOLE not in os.environ
    Finder.complete = True


def _watched(torch: ModuleType) -> None:
    """Have it known when PyTorch is asked for a part by attribute, whoever catches the error."""
    own = torch.__dict__["__getattr__"]

    def found(name: str) -> Any:
        Finder.missed |= Finder.complete and f"torch.{name}" in _LEFT_OUT
        return own(name)

    torch.__dict__["__getattr__"] = found


def lacked(answer: tuple[bool, Any]) -> bool:
    """Whether an answer may be what it is because something was left out."""
    late = Finder in sys.meta_path and isinstance(answer[1], (AttributeError, ImportError))
    return Finder.missed or late


def whole() -> None:
    """Start this process anew, with all of PyTorch."""
    os.execve(sys.executable, sys.orig_argv, {**os.environ, _WHOLE: "1"})
