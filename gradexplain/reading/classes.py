"""Classes of the text: modules of ``torch.nn`` and plain ones, their methods written out where called."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from gradexplain.errors import Span
from gradexplain.reading.objects import Call, Class, Layer, Own, Super, Tensor
from gradexplain.reading.session import Session
from gradexplain.tensors import mapped


def instance(s: Session, made: Class, args: Any, kwargs: Mapping[str, Any], place: Span) -> Layer:
    """What calling a class gives."""
    self = Layer(made.name, lambda later: None, own=made)
    self.call = lambda later: method(s, self, made.called, later)
    start = made.find("__init__")
    if isinstance(start, Own):
        s.call_own(start, (self, *args), kwargs, place)
    elif made.fields is not None:
        _record(
            s, self, made.fields, {**dict(zip(made.fields, args, strict=False)), **kwargs}, place
        )
    elif args or kwargs:
        s.fail(f"{made.name}() takes no arguments", place, "write `def __init__(self, …)` in it")
    return self


def _record(s: Session, self: Layer, fields: list[str], given: dict[str, Any], place: Span) -> None:
    """The values of a dataclass: those that are given, and the defaults of the others."""
    assert self.own is not None
    for name in fields:
        found = given.pop(name, self.own.body.get(name, self))
        if found is self:
            s.fail(f"{self.kind}() needs the argument {name}", place, "give it")
        if isinstance(found, Layer) and found.kind == "field":
            found = found.call(Call(name, (name,), {}, place, place))
        assign(s, self, name, found)
    for name in given:
        s.fail(f"{self.kind}() has no argument {name}=", place, "leave it out")
    after = self.own.find("__post_init__")
    if isinstance(after, Own):
        s.call_own(after, (self,), {}, place)


def method(s: Session, self: Layer, name: str, call: Call) -> Any:
    """``self.name(…)``."""
    assert self.own is not None
    return invoked(s, self.own, name, call, (self,))


def above(s: Session, call: Call) -> Super:
    """``super()``, or ``super(Net, self)`` as Python 2 has it."""
    found = call.args[1] if len(call.args) == 2 else _self(s)
    if not s.assigned("__class__") or not isinstance(found, Layer):
        s.fail("super() stands outside a class", call.place, "leave it out")
    return Super(found, s.lookup("__class__").base)


def of_super(s: Session, owner: Super, call: Call) -> Any:
    """``super().forward(x)``; what PyTorch's own class does beside it is of no consequence here."""
    if owner.base is not None and owner.base.find(call.name) is not None:
        return invoked(s, owner.base, call.name, call, (owner.self,))
    return None


def _self(s: Session) -> Any:
    local = s.scopes[-1]
    return local.get("self", next((v for v in local.values() if isinstance(v, Layer)), None))


def invoked(s: Session, home: Class, name: str, call: Call, first: tuple[Any, ...]) -> Any:
    """A method of a class, called with what it is called on before the arguments."""
    found = home.find(name)
    if not isinstance(found, Own):
        s.refuse("has no method", call.where, name=home.name, name2=name)
    first = () if name in home.statics else first
    return s.call_own(found, (*first, *call.args), call.kwargs, call.place)


def attribute(s: Session, self: Layer, name: str, place: Span) -> Any:
    """``self.name``: a property is worked out; None where there is nothing of the name."""
    found = None if self.own is None else self.own.find(name)
    if isinstance(found, Own) and self.own is not None and name in self.own.properties:
        return s.call_own(found, (self,), {}, place)
    return None if isinstance(found, Own) else found


def assign(s: Session, self: Layer, name: str, found: Any) -> None:
    """``self.name = …``: modules and parameters are held apart, as in PyTorch."""
    for held in (self.children, self.parameters, self.attributes):
        held.pop(name, None)
    if isinstance(found, Layer):
        self.children[name] = found
    elif isinstance(found, Tensor) and found.is_parameter:
        self.parameters[name] = found
    else:
        if isinstance(found, Tensor):
            s.call_it(found, name)
        self.attributes[name] = found


def copied(s: Session, call: Call) -> Any:
    """``copy.deepcopy``: tensors and objects of their own, with the same values; ``copy.copy`` of a list."""
    found, place = call.get(0, "x"), call.place
    if call.name == "copy" and isinstance(found, (list, dict)):
        return found.copy()
    made: dict[int, Any] = {}

    def copy(old: Any) -> Any:
        if id(old) in made:
            return made[id(old)]
        if isinstance(old, Tensor):
            if old.ref is not None and not s.builder.nodes[old.ref.id].is_leaf:
                s.refuse("deepcopy of a result", place)
            return made.setdefault(id(old), replace(old, ref=None, name="", grad=None, rows=None))
        new = made[id(old)] = replace(old)
        if old.own is not None:
            new.call = lambda later: method(s, new, new.own.called, later)
        for held in ("parameters", "children", "attributes"):
            setattr(new, held, mapped(getattr(old, held), (Tensor, Layer), copy))
        return new

    return mapped(found, (Tensor, Layer), copy)


def marks(node: ast.FunctionDef) -> set[str]:
    """``staticmethod``, ``property`` and ``setter`` among the decorators of a method."""
    return {getattr(d, "id", getattr(d, "attr", "")) for d in node.decorator_list}
