"""Calls: which function is meant, and what it gives."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from gradexplain.errors import Span
from gradexplain.reading import autograd, classes, creation, layers, methods, plain
from gradexplain.reading.names import CONSTANTS, HOMES, MODULES, functions, unknown
from gradexplain.reading.objects import (
    Call,
    Class,
    Function,
    Layer,
    Method,
    Module,
    Own,
    Tensor,
    Unread,
    is_number,
    what,
)
from gradexplain.reading.session import Session

#: What is done here for a function of Python, NumPy or PyTorch, by its path.
_FUNCTIONS: dict[str, Callable[[Session, Call], Any]] = {
    **creation.FUNCTIONS,
    **autograd.FUNCTIONS,
    **layers.FUNCTIONS,
    **plain.FUNCTIONS,
    "super": classes.above,
}


def call(
    s: Session,
    function: Any,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    place: Span,
    where: Span,
) -> Any:
    """The value of a call; ``where`` is the place of the function's name."""
    match function:
        case Own():
            return s.call_own(function, args, kwargs, place)
        case Class():
            return classes.instance(s, function, args, kwargs, place)
        case Layer():
            return function.call(Call(function.kind, args, kwargs, place, where))
        case Method(owner=owner, name=name):
            return methods.method(s, owner, Call(name, args, kwargs, place, where))
        case Function(path=path):
            return _function(s, path, Call(path.rpartition(".")[2], args, kwargs, place, where))
        case Unread(why=why):
            return Unread(s.text(place), why)
        case Module(path=path):  # a class that holds functions too: torch.Tensor
            return call(s, Function(path), args, kwargs, place, where)
    if isinstance(function, Tensor) and function.name in s.made:
        s.fail(
            f"`{function.name}` is called, and the text does not define it",
            where,
            "write its lines here",
        )
    s.fail(f"{what(function)} cannot be called", where, "name a function")


def _function(s: Session, path: str, call: Call) -> Any:
    if path in _FUNCTIONS:
        found = _FUNCTIONS[path](s, call)
        if found is not NotImplemented:
            return found
    module = path.rpartition(".")[0]
    if module and module not in HOMES:
        if module.startswith("torch"):
            raise s.at(unknown(call.name, "a function", path), call.where)
        return Unread(s.text(call.place), plain.TRACE)
    records = functions(HOMES.get(module, ""), call.name)
    if not records:
        bare = call.name.removesuffix("_")
        in_place = bare != call.name and call.args and functions(HOMES.get(module, ""), bare)
        if in_place and isinstance(call.args[0], Tensor):
            return methods.in_place(s, call.args[0], bare, call)
        if not module and not s.inputs.given and call.name in _BUILTIN:
            return Unread(s.text(call.place), plain.TRACE)
        raise s.at(unknown(call.name, "a function", path if module else None), call.where)
    if module in ("math", "numpy") and call.args and all(map(is_number, call.args)):
        found = plain.mathematics(s, call)
        if found is not None:
            return found
    return apply(s, records, call)


_BUILTIN = frozenset({"open", "input", "eval", "exec", "iter", "next", "vars", "globals"})


def apply(s: Session, records: list[Any], call: Call) -> Any:
    """A record called; an argument that is not read is refused at its place."""
    for found in (*call.args, *call.kwargs.values()):
        if isinstance(found, Unread):
            s.unsupported(f"`{found.text}` is not read", call.place, found.why)
        if isinstance(found, (Layer, Own, Function)):
            s.fail(f"{what(found)} is not a tensor", call.place, "call it first, as in `layer(x)`")
    result = s.apply(records, call.args, call.kwargs, call.place)
    first = call.args[0] if call.args else None
    if isinstance(first, Tensor) and (
        call.kwargs.get("inplace") is True or (records[0].inplace and call.args[-1] is True)
    ):
        methods.changed(s, first, result, call.place)
    return result


def imported(module: str, name: str) -> Any:
    """What ``from module import name`` stands for."""
    if name in CONSTANTS and module.partition(".")[0] in ("math", "torch", "numpy"):
        return CONSTANTS[name]
    return Function(f"{module}.{name}") if module in MODULES else Unread(name, plain.TRACE)
