"""What stands after a dot and is not called: shapes, ``.grad``, constants, members of modules."""

from __future__ import annotations

import dataclasses
import math
import re
from typing import Any

from gradexplain.errors import InputError, Span
from gradexplain.ops import by_spelling
from gradexplain.reading import classes
from gradexplain.reading.arguments import Dtype, dtype_name
from gradexplain.reading.names import CONSTANTS, MODULES, unknown
from gradexplain.reading.objects import (
    WHOLE,
    Class,
    Function,
    Layer,
    Method,
    Module,
    Optimizer,
    Results,
    Tensor,
    Unread,
)
from gradexplain.reading.plain import TRACE
from gradexplain.reading.session import Session

#: PyTorch's names of element types.
_DTYPE = re.compile(r"(?:b?float|u?int)\d*|complex\d+|double|half|long|short|bool|cfloat")


def attribute(s: Session, owner: Any, name: str, where: Span, place: Span) -> Any:
    """``owner.name``; ``where`` is the place of the name alone."""
    if s.python and name == "__class__":
        return kind_of(s, owner, place)
    if s.python and name in ("__name__", "__version__"):
        last = getattr(owner, "path", "").rpartition(".")[2]
        return getattr(owner, "name", last) if last != "torch" else Unread(s.text(place), TRACE)
    if name.startswith("_") and not isinstance(owner, (Layer, Class)):
        s.refuse("private name", where, name=name)
    match owner:
        case Module(path=path):
            return member(s, path, name)
        case Unread(why=why):
            return Unread(s.text(place), why)
        case Results() if name in owner.fields:
            return owner[owner.fields.index(name)]
        case Tensor():
            return _of_tensor(s, owner, name, where, place)
        case Layer():
            for held in (owner.parameters, owner.children, owner.attributes):
                if name in held:
                    return held[name]
            if name == "training":
                return owner.training
            found = classes.attribute(s, owner, name, place)
            return Method(owner, name, place) if found is None else found
        case Class() if name == owner.called == "apply":
            return Method(owner, name, place)
        case Class() if owner.find(name) is not None:
            return owner.find(name)
        case Optimizer() if name == "param_groups":
            return owner.param_groups
        case Optimizer() | list() | tuple() | dict() | str():
            return Method(owner, name, place)
    raise s.at(unknown(name, "an attribute", attributes=True), where)


def member(s: Session, path: str, name: str) -> Any:
    """What a module holds by a name."""
    whole = f"{path}.{name}"
    if whole in MODULES:
        return Module(whole)
    if (
        path in ("torch", "numpy")
        and _DTYPE.fullmatch(name)
        or (path == "numpy" and name == "float_")
    ):
        kind = dtype_name(name)
        open_ = s.script and s.dtype is None
        own = kind in ("float32", "float64") if open_ else kind == (s.dtype or "float64")
        return Dtype(whole, own)
    if name in CONSTANTS:
        return CONSTANTS[name]
    return Function(whole)


def _of_tensor(s: Session, owner: Tensor, name: str, where: Span, place: Span) -> Any:
    match name:
        case "shape":
            return owner.shape
        case "ndim":
            return len(owner.shape)
        case "grad":
            return gradient(s, owner, place)
        case "data":
            return data(s, owner, place)
        case "dtype":
            kind = owner.dtype or s.dtype or "float64"
            return Dtype(f"torch.{kind}", kind == (s.dtype or kind))
        case "requires_grad" if s.python:
            return s.requires(owner)
        case "is_leaf":
            return not s.requires(owner) or owner.is_leaf or owner.name in s.made
        case "device" | "grad_fn" | "layout" | "is_cuda" | "names":
            return Unread(s.text(place), TRACE)
        case "size" if not by_spelling("Tensor.size"):
            return Method(owner, name, place)
        case "real":
            return owner
    for op in by_spelling(f"Tensor.{name}"):
        if op.attribute:
            return s.apply([op], (owner,), {}, place)
    if by_spelling(f"Tensor.{name}"):
        if s.python:
            return Method(owner, name, place)
        error = InputError(f"`.{name}` is a method", remedy=f"call it, as in `x.{name}()`")
        raise s.at(error, where)
    raise s.at(unknown(name, "an attribute", attributes=True), where)


def kind_of(s: Session, owner: Any, place: Span) -> Any:
    """``type(x)``: the class of a module or an object, and of a tensor."""
    if isinstance(owner, Layer):
        own = owner.own is not None and not owner.own.placed
        return owner.own if own else Function(f"torch.nn.{owner.kind}")
    if isinstance(owner, Tensor):
        return Module("torch.Tensor")
    return Unread(s.text(place), TRACE)


def data(s: Session, owner: Tensor, place: Span) -> Tensor:
    """``x.data``: the same elements, without a gradient."""
    if owner.ref is None and owner.rows is None and (owner.requires_grad or owner.is_leaf):
        found = dataclasses.replace(
            owner, requires_grad=False, name="", is_parameter=False, hooks=None
        )
    else:
        with s.gradients(True):
            found = s.apply(by_spelling("torch.detach"), (owner,), {}, place)
    s.share(found, owner, lambda base: data(s, base, place), ..., detached=True)
    return found


def apart(s: Session, owner: Tensor, place: Span) -> Tensor:
    """The elements that a tensor has now, without a gradient, whatever becomes of it."""
    s.requires(owner)  # a view is taken anew
    return dataclasses.replace(data(s, owner, place), view=None, grad_of=None)


def gradient(s: Session, owner: Tensor, place: Span) -> Any:
    """``x.grad``: what the calls so far left in it."""
    if owner.grad is None and s.requires(owner) and not owner.is_leaf and not owner.retained:
        node = s.builder.nodes[owner.ref.id] if owner.ref is not None else None
        if node is not None and node.label and node.op:
            shown = s.text(place).removesuffix(".grad")
            s.say("no leaf", shown=shown)
    if owner.grad is None and not s.python:
        raise s.at(unknown("grad", "an attribute", attributes=True), place)
    return owner.grad


def one_number(s: Session, value: Any, place: Span) -> float:
    """The number that a tensor of one element holds."""
    if math.prod(value.shape) != 1:
        s.refuse("several elements", place, count=math.prod(value.shape))
    found = float(s.number(value, place).reshape(-1)[0])
    return int(found) if value.dtype in WHOLE else found
