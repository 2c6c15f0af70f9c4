"""Targets: what a value is taken apart into, and where it is put."""

from __future__ import annotations

import ast
import dataclasses
from collections.abc import Sequence
from typing import Any

from gradexplain.errors import Span
from gradexplain.limits import MAX_TREE_NODES
from gradexplain.reading import autograd, classes
from gradexplain.reading.attributes import data
from gradexplain.reading.objects import Call, Class, Drawn, Layer, Module, Tensor, Unread, what
from gradexplain.reading.operators import put, replace, subscript
from gradexplain.reading.plain import special
from gradexplain.reading.program import attribute_span
from gradexplain.reading.session import Session


def assign(s: Session, target: ast.expr, found: Any, place: Span) -> Any:
    """Assign to a target; what stands there afterwards."""
    match target:
        case ast.Name(id=name):
            s.assign(name, found)
            return found
        case ast.Tuple(elts=parts) | ast.List(elts=parts):
            values = _split(s, parts, found, place)
            for part, one in zip(parts, values, strict=True):
                assign(s, part.value if isinstance(part, ast.Starred) else part, one, place)
            return tuple(values)
        case ast.Subscript(value=owner, slice=index):
            _to_element(s, s.evaluate(owner), s.evaluate(index), found, place)
            return None
        case ast.Attribute(value=owner):
            return _to_attribute(s, s.evaluate(owner), target, found, place)
    s.unsupported("this cannot be assigned to here", place, "assign to a plain name")


def _split(s: Session, parts: Sequence[ast.expr], found: Any, place: Span) -> list[Any]:
    """One value for each part; ``*rest`` takes a list of what is left."""
    star = next((n for n, part in enumerate(parts) if isinstance(part, ast.Starred)), None)
    if star is None:
        return unpacked(s, found, len(parts), place)
    values = iterated(s, found, place)
    after = len(values) - (len(parts) - star - 1)
    return [*values[:star], values[star:after], *values[after:]]


def _to_element(s: Session, owner: Any, index: Any, found: Any, place: Span) -> None:
    match owner:
        case Tensor():
            put(s, owner, index, found, place)
        case list() | dict():
            s.need(place, index)
            try:
                owner[index] = under(index, found) if isinstance(owner, dict) else found
            except (IndexError, TypeError):
                s.fail("this index does not fit the list", place, "count from 0")
        case Layer() if owner.own is not None and owner.own.find("__setitem__") is not None:
            s.call_own(owner.own.find("__setitem__"), (owner, index, found), {}, place)
        case Unread():
            pass
        case _:
            s.fail(f"{what(owner)} has no elements to assign to", place, "assign to a name")


def under(name: Any, part: Any) -> Any:
    """What a dict holds under a name: a tensor may be called so."""
    if isinstance(part, Tensor) and isinstance(name, str) and name.isidentifier():
        part.hint = part.hint or name
    return part


def _to_attribute(s: Session, owner: Any, target: ast.Attribute, found: Any, place: Span) -> None:
    if isinstance(owner, Tensor):
        match target.attr:
            case "grad":
                if found is None:
                    autograd.zero(s, owner)
                    return
                if found is not owner.grad:
                    owner.grad = dataclasses.replace(found, grad_of=owner)
                return
            case "requires_grad":
                autograd.requires_grad(s, owner, bool(found), place)
                return
            case "data" if isinstance(found, Tensor):
                s.requires(owner)
                owner.home += 1  # what shared its elements keeps them
                with s.gradients(False):
                    replace(s, owner, found)
                if found.view is not None:
                    s.tied += [owner, found.view.base]
                elif not found.requires_grad:
                    s.share(found, owner, lambda base: data(s, base, place), ..., detached=True)
                return
    if isinstance(owner, Layer):
        old = owner.parameters.get(target.attr)
        if old is not None and isinstance(found, Tensor):
            found.name, found.is_parameter = found.name or old.name, True
        setter = owner.own and owner.own.find(f"{target.attr} =")
        if setter:
            s.call_own(setter, (owner, found), {}, place)
        else:
            classes.assign(s, owner, target.attr, found)
        return
    if isinstance(owner, Class) and not owner.placed:
        owner.body[target.attr] = found
        return
    if isinstance(owner, (Unread, Module)):
        return
    s.lack("assigned attribute", attribute_span(s.program, target), attr=target.attr)


def iterated(s: Session, found: Any, place: Span) -> list[Any]:
    """The values that a loop goes through."""
    if isinstance(found, Tensor):
        if not found.shape:
            s.fail("iteration over a 0-d tensor", place, "loop over a tensor with dimensions")
        rows = [subscript(s, found, n, place) for n in range(found.shape[0])]
        for view in (row.view for row in rows if row.view is not None):
            view.several = True  # PyTorch's loop is over unbind()
        return rows
    if isinstance(found, dict):
        return list(found)
    if isinstance(found, (list, tuple, range, str)):
        if len(found) > MAX_TREE_NODES:
            s.lack("long loop", place, count=len(found), MAX_TREE_NODES=MAX_TREE_NODES)
        taken = list(found)
        if isinstance(found, Drawn):
            found.clear()
        return taken
    s.need(place, found)
    if isinstance(found, Layer):
        loops = found.own is not None and (
            found.own.find("__iter__") or found.own.find("__getitem__")
        )
        if not loops and (found.own is None or found.own.placed):
            return list(found.children if found.kind == "ModuleDict" else found.children.values())
        return _of_object(s, found, place)
    s.fail(f"{what(found)} cannot be looped over", place, "loop over a range or a list")


def _of_object(s: Session, found: Layer, place: Span) -> list[Any]:
    """What an object of the text gives in a loop: by ``__iter__``, or by ``__len__`` and ``__getitem__``."""
    call = Call("iter", (), {}, place, place)
    if found.own is not None and found.own.find("__iter__") is not None:
        return iterated(s, special(s, found, "__iter__", call), place)
    count = special(s, found, "__len__", call)
    return [special(s, found, "__getitem__", call, n) for n in range(count)]


def unpacked(s: Session, found: Any, count: int, place: Span) -> list[Any]:
    """The parts of a value, one for each of ``count`` names."""
    if isinstance(found, Unread):
        return [found] * count
    if isinstance(found, Tensor) and not found.shape:
        s.fail("a tensor of shape () cannot be unpacked", place, "leave the comma out")
    parts = (
        iterated(s, found, place)
        if isinstance(found, (Tensor, list, tuple, range, str))
        else [found]
    )
    if len(parts) != count:
        s.refuse(
            "other count of names", place, count=count, count2=len(parts), s="s" * (len(parts) != 1)
        )
    return parts
