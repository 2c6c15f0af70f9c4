"""What each function of PyTorch's is to a recorder, and the spellings of its record."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

#: Arithmetic, as Python's methods are called and as it is written, with PyTorch's function.
_ARITHMETIC = {
    "add": ("+", "torch.add"), "sub": ("-", "torch.sub"), "mul": ("*", "torch.mul"),
    "truediv": ("/", "torch.div"), "div": ("/", "torch.div"), "pow": ("**", "torch.pow"),
    "matmul": ("@", "torch.matmul"), "mod": ("%", "torch.remainder"),
    "floordiv": ("//", "torch.floor_divide"),
}  # fmt: skip

#: Calls that Python spells as operators.
SPOKEN = {"__setitem__": "x[…] = …"} | {
    f"__{how}{name}__": symbol + "=" * (how == "i")
    for name, (symbol, _) in _ARITHMETIC.items() for how in ("", "r", "i")
}  # fmt: skip

#: Python's operators, as PyTorch's functions; those with a second True have their operands swapped.
OPERATORS: dict[str, tuple[str, bool]] = {
    "__neg__": ("torch.neg", False), "__pos__": ("torch.positive", False),
    "__abs__": ("torch.abs", False), "__getitem__": ("operator.getitem", False),
    "__gt__": ("torch.gt", False), "__ge__": ("torch.ge", False), "__lt__": ("torch.lt", False),
    "__le__": ("torch.le", False), "__eq__": ("torch.eq", False), "__ne__": ("torch.ne", False),
    "__invert__": ("torch.logical_not", False), "__and__": ("torch.logical_and", False),
    "__or__": ("torch.logical_or", False), "true_divide": ("torch.div", False),
    "rsub": ("torch.sub", True), "clip": ("torch.clamp", False),
} | {
    f"__{how}{name}__": (function, how == "r")
    for name, (_, function) in _ARITHMETIC.items() for how in ("", "r", "i")
}  # fmt: skip

#: Calls that give the value itself in another storage, layout or dtype.
_COPIES = {"clone", "contiguous", "float", "double", "to", "type_as", "cpu", "alias", "type"}

#: Attributes that are operations; any other attribute is a question that computes nothing.
_ATTRIBUTES = {"T", "mT", "H", "mH", "real", "imag"}

#: Calls by which values leave PyTorch.
LEAVING = {
    "item", "tolist", "numpy", "__array__", "__float__", "__int__", "__index__", "data_ptr",
    "untyped_storage", "__dlpack__", "apply_", "map_", "storage",
}  # fmt: skip

#: Methods that compute no tensor.
_QUESTIONS = LEAVING | {
    "size", "dim", "numel", "nelement", "ndimension", "stride",
    "__len__", "__repr__", "__str__", "__format__", "__bool__",
    "__hash__", "is_floating_point", "is_complex", "is_contiguous", "storage_offset",
    "register_hook", "register_post_accumulate_grad_hook", "retain_grad", "requires_grad_",
    "get_device", "element_size", "is_same_size", "__iter__",
    "__contains__", "__dir__", "__reduce_ex__", "__deepcopy__", "_is_view", "is_set_to", "equal",
    "allclose", "has_names",
} - {"apply_", "map_"}  # fmt: skip

_HOMES = (
    ("torch", torch), ("F", torch.nn.functional), ("linalg", torch.linalg),
    ("special", torch.special), ("Tensor", torch.Tensor),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Kind:
    """How a function of PyTorch's is treated: ``skip``, ``inplace`` or ``op``."""

    kind: str
    name: str
    spellings: tuple[str, ...] = ()
    swap: bool = False
    #: The usual values of its parameters, where Python can tell.
    defaults: Mapping[str, Any] = field(default_factory=dict, compare=False)


def _defaults(func: Any) -> dict[str, Any]:
    try:
        parameters = inspect.signature(func).parameters.values()
    except (TypeError, ValueError):  # written in C++
        return {}
    return {p.name: p.default for p in parameters if p.default is not p.empty}


def classify(func: Any) -> Kind:
    """How a function is treated, and the spellings under which its record may be found."""
    name = getattr(func, "__name__", "") or type(func).__name__
    if name in ("__get__", "__set__", "__delete__"):
        name = getattr(getattr(func, "__self__", None), "__name__", name)
        if func.__name__ == "__get__" and name == "data":
            return Kind("op", "data")
        if func.__name__ != "__get__" or name not in _ATTRIBUTES:
            return Kind("skip", f"{name}.{func.__name__}")
        return Kind("op", name, (f"Tensor.{name}",))
    if name in _QUESTIONS:
        return Kind("skip", name)
    inplace = is_inplace(name)
    plain = name.rstrip("_") if inplace and not name.startswith("__") else name
    plain = plain.removeprefix("linalg_").removeprefix("special_")  # torch._C's own names for them
    if plain in OPERATORS:
        spelling, swap = OPERATORS[plain]
        return Kind("inplace" if inplace else "op", name, (spelling,), swap)
    if plain in _COPIES:
        return Kind("op", plain, ("torch.positive",))
    spellings = [f"{home}.{plain}" for home, owner in _HOMES if getattr(owner, plain, None) is func]
    for home, owner in _HOMES:
        spelling = f"{home}.{plain}"
        if spelling not in spellings and hasattr(owner, plain):
            spellings.append(spelling)
    kind = "inplace" if inplace else "op"
    return Kind(kind, name, tuple(spellings), defaults=_defaults(func))


def is_inplace(name: str) -> bool:
    """Whether a function of this name changes its first tensor."""
    if name.startswith("__"):
        return name == "__setitem__" or (
            name in OPERATORS and name.startswith("__i") and name != "__invert__"
        )
    return name.endswith("_") and not name.startswith("_") and not name.endswith("__")
