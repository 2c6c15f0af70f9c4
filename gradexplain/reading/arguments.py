"""Arguments as written to arguments as a record takes them.

The rules are those of a Python call under the record's schema, with PyTorch's habits: several
integers may stand for a tuple (``x.permute(1, 0)``), NumPy's ``axis`` and ``keepdims`` are understood,
a number stands for a tensor of shape ``()``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from gradexplain.errors import InputError, UnsupportedError
from gradexplain.graph import Ref
from gradexplain.ops.base import Op, Parameter
from gradexplain.reading.said import lacking, refused

#: NumPy's names for PyTorch's arguments.
_SYNONYMS = {"axis": "dim", "keepdims": "keepdim", "x": "input", "x1": "input", "x2": "other",
             "axis0": "dim0", "axis1": "dim1"}  # fmt: skip

#: Arguments of PyTorch that change nothing here when they are None or False.
_IGNORED = {"dtype": None, "out": None, "inplace": False, "layout": None, "device": None,
            "memory_format": None, "requires_grad": None, "pin_memory": None, "size_average": None, "reduce": None,
            "_stacklevel": 3}  # fmt: skip

_WORDS = {
    "int": "an integer", "float": "a number", "bool": "True or False", "str": "a string",
    "Tensor": "a tensor", "IntTensor": "a tensor of integers", "Index": "a subscript",
}  # fmt: skip


#: PyTorch's shorter names of dtypes.
_SHORT = {
    "double": "float64",
    "float": "float32",
    "long": "int64",
    "int": "int32",
    "short": "int16",
    "half": "float16",
}


def dtype_name(path: str) -> str:
    """``float32`` for ``torch.float``."""
    last = path.rpartition(".")[2]
    return _SHORT.get(last, last)


@dataclass(frozen=True, slots=True, eq=False)
class Dtype:
    """``torch.float64`` as an argument; ``own`` if the whole run has it."""

    path: str
    own: bool

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Dtype) and dtype_name(self.path) == dtype_name(other.path)

    def __hash__(self) -> int:
        return hash(dtype_name(self.path))

    def refused(self) -> UnsupportedError:
        return lacking("other dtype", path=self.path)


@dataclass(frozen=True, slots=True)
class Tensors:
    """What is to be known of tensors: how a constant becomes one, and which hold known integers.

    ``constant(value, integer=…)`` makes one of a number or a nested list.
    """

    constant: Callable[..., Ref]
    is_integer: Callable[[Ref], bool]


def bind(
    op: Op, args: Sequence[Any], kwargs: Mapping[str, Any], tensors: Tensors
) -> tuple[Any, ...]:
    """The arguments in the order of ``op``'s schema.

    Raises `InputError` where the call does not fit the schema, `UnsupportedError` for an argument of
    PyTorch's that is not understood here.
    """
    return _Binding(op, tensors).bound(args, kwargs)


@dataclass(frozen=True, slots=True)
class _Binding:
    """The arguments of one call of a record."""

    op: Op
    tensors: Tensors

    def bound(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[Any, ...]:
        op = self.op
        values: dict[str, Any] = {}
        positional = [p for p in op.parameters if not p.keyword_only and not p.is_aux]
        given = list(args)
        for place, parameter in enumerate(positional):
            if not given:
                break
            # x.permute(1, 0): the integers that follow are one list.
            if (parameter.is_list and parameter.kind == "int" and isinstance(given[0], int) and (
                len(given) > len(positional) - place or (_only_ints(given) and place == len(positional) - 1)
            )) or (parameter.is_list and parameter.is_tensor and isinstance(given[0], Ref)):  # fmt: skip
                values[parameter.name] = tuple(given)
                given = []
            else:
                values[parameter.name] = given.pop(0)
        # After the others come inplace= (the value is the same) or dtype=.
        if len(given) == 1 and (
            isinstance(given[0], Dtype) or (op.inplace and isinstance(given[0], bool))
        ):
            kwargs = {**kwargs, "dtype" if isinstance(given[0], Dtype) else "inplace": given.pop()}
        if given:
            raise self.unfit(f"takes {_count(len(positional))}, found {len(args)}")
        names = {p.name for p in op.parameters if not p.is_aux}
        for key, value in kwargs.items():
            name = key if key in names else _SYNONYMS.get(key, key)
            if name in values:
                raise self.unfit(f"got the argument {key}= twice")
            if name in names:
                values[name] = value
            elif not self.is_passed_over(key, value):
                raise self.unfit(f"has no argument {key}=")
        missing = [p.name for p in op.parameters if p.required and p.name not in values]
        if missing:
            raise self.unfit(f"needs the argument {missing[0]}")
        return tuple(
            self.converted(p, values[p.name]) if p.name in values else p.default
            for p in op.parameters
            if not p.is_aux
        )

    def is_passed_over(self, key: str, value: Any) -> bool:
        """Whether an argument that the schema does not have changes nothing here."""
        if key == "dtype" and isinstance(value, Dtype):
            if not value.own:
                raise value.refused()
            return True
        if key == "inplace" and self.op.inplace and isinstance(value, bool):
            return True
        if key in _IGNORED and value is not None and value != _IGNORED[key]:
            raise lacking("argument", name=key, op=self.op.name, call=signature(self.op))
        return key in _IGNORED

    def unfit(self, why: str) -> InputError:
        remedy = f"the call is {signature(self.op)}"
        return InputError(f"{self.op.name}(){'' if why[0] == ':' else ' '}{why}", remedy=remedy)

    def wrong(self, p: Parameter, value: Any, expected: str) -> InputError:
        found = "a tensor" if isinstance(value, Ref) else repr(value)
        return self.unfit(f": the argument {p.name} must be {expected}, found {found}")

    def converted(self, p: Parameter, value: Any) -> Any:
        if value is None and (p.optional or (not p.required and p.default is None)):
            return None
        if p.is_list and p.is_tensor:
            if isinstance(value, (tuple, list)) and value:
                return tuple(self.tensor(p, part) for part in value)
            raise self.wrong(p, value, "a list of tensors")
        if p.is_tensor:
            return self.tensor(p, value)
        if p.is_list:
            if isinstance(value, bool):
                raise self.wrong(p, value, "an integer or a tuple of integers")
            if isinstance(value, int) and p.kind == "int":
                return value if p.name in ("dim", "dims") else (value,)
            if isinstance(value, (tuple, list)) and all(_is_a(p.kind, part) for part in value):
                return tuple(value)
            raise self.wrong(p, value, f"{_WORDS[p.kind]} or a tuple of them")
        if p.kind == "Index":
            return self.subscript(value)
        if p.kind == "Any":
            return _frozen(value)
        if _is_a(p.kind, value):
            return float(value) if p.kind == "float" and isinstance(value, bool) else value
        raise self.wrong(p, value, _WORDS[p.kind])

    def tensor(self, p: Parameter, value: Any) -> Ref:
        integer = p.kind == "IntTensor"
        if isinstance(value, Ref):
            return self.index(value) if integer else value
        if isinstance(value, (bool, int, float)) and not integer:
            return self.tensors.constant(value)
        if isinstance(value, (int, list, tuple)) and not isinstance(value, bool):
            return self.tensors.constant(value, integer=integer)
        raise self.wrong(p, value, _WORDS[p.kind])

    def subscript(self, value: Any) -> Any:
        """A subscript, its lists of integers as tensors; a list of True and False says where it is True."""
        items: list[Any] = []
        for item in value if isinstance(value, tuple) else (value,):
            if isinstance(item, (list, bool)):
                table = np.asarray(item if is_regular(item) else None)
                whole = partial(self.tensors.constant, integer=True)
                if table.dtype == bool and table.ndim:
                    items += [whole(axis.tolist()) for axis in np.nonzero(table)]
                    continue
                if table.dtype.kind not in "iu" and table.size:
                    raise refused("no index", op=self.op.name, item=item)
                item = whole(table.tolist())
            items.append(self.index(item) if isinstance(item, Ref) else item)
        return tuple(items) if isinstance(value, tuple) or len(items) != 1 else items[0]

    def index(self, value: Ref) -> Ref:
        if not self.tensors.is_integer(value):
            raise refused("unknown index", op=self.op.name)
        return value


def is_regular(value: Any) -> bool:
    """Whether nested lists of numbers form a tensor."""
    level = [value]
    while level:
        if all(isinstance(part, (int, float)) for part in level):
            return True
        if not all(isinstance(part, (list, tuple)) for part in level):
            return False
        if len({len(part) for part in level}) > 1:
            return False
        level = [item for part in level for item in part]
    return True


def _frozen(value: Any) -> Any:
    """Lists as tuples."""
    return tuple(map(_frozen, value)) if isinstance(value, (list, tuple)) else value


#: What an argument of each kind may be; True and False are no integers.
_KINDS: dict[str, Any] = {"int": int, "float": (int, float), "bool": bool, "str": str}


def _is_a(kind: str, value: Any) -> bool:
    return isinstance(value, _KINDS.get(kind, ())) and not (
        kind == "int" and isinstance(value, bool)
    )


def _only_ints(values: Sequence[Any]) -> bool:
    return all(_is_a("int", v) for v in values)


def _count(n: int) -> str:
    return "one argument" if n == 1 else f"at most {n} arguments"


def signature(op: Op) -> str:
    """The call as PyTorch's documentation writes it: ``sum(input, dim=None, keepdim=False)``."""
    pieces = []
    starred = False
    for p in (p for p in op.parameters if not p.is_aux):
        if p.keyword_only and not starred:
            pieces.append("*")
            starred = True
        pieces.append(p.name if p.required else f"{p.name}={p.default!r}")
    if op.inplace:
        pieces.append("inplace=False")
    return f"{op.name}({', '.join(pieces)})"
