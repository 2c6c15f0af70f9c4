"""Calls: which function is meant, and what it gives."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from gradexplain.errors import GradexplainError, Span
from gradexplain.reading import (
    attributes,
    autograd,
    classes,
    creation,
    functional,
    library,
    methods,
    optimizers,
    plain,
)
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
from gradexplain.reading.operators import become, change_in_place, put
from gradexplain.reading.session import Session


def _get(s: Session, call: Call) -> Any:
    owner, name = call.args[:2]
    if len(call.args) == 3 and not _has(s, call):
        return call.args[2]
    return attributes.attribute(s, owner, str(name), call.where, call.place)


def _has(s: Session, call: Call) -> bool:
    """Whether an object of the text holds a name; of anything else, whether it can be asked for."""
    owner, name = call.args[:2]
    if isinstance(owner, Layer):
        held = owner.parameters.keys() | owner.children.keys() | owner.attributes.keys()
        return name in held or (owner.own is not None and owner.own.find(name) is not None)
    try:
        return attributes.attribute(s, owner, str(name), call.where, call.place) is not None
    except GradexplainError:
        return False


def _set(s: Session, call: Call) -> None:
    owner, name, found = call.args
    if not isinstance(owner, Layer):
        s.unsupported(f"{what(owner)} takes no attributes here", call.place, plain.TRACE)
    classes.assign(s, owner, str(name), found)


_CALLABLE = (Own, Class, Layer, Method, Function)
#: What Python's own types are here.
_TYPES: dict[str, Any] = {
    "int": int, "float": float, "str": str, "bool": bool, "list": list, "tuple": tuple, "dict": dict,
    "Tensor": Tensor, "Parameter": Tensor, "Module": Layer, "FloatTensor": Tensor, "Variable": Tensor,
}  # fmt: skip


def _is_instance(s: Session, call: Call) -> bool:
    owner, wanted = call.args
    if isinstance(wanted, tuple):
        parts = (Call("isinstance", (owner, one), {}, call.place, call.where) for one in wanted)
        return any(_is_instance(s, part) for part in parts)
    path = getattr(wanted, "path", "")
    made = wanted if isinstance(wanted, Class) else library.member(s, path) if path else None
    if isinstance(made, Class):
        own = owner.own if isinstance(owner, Layer) else None
        while own is not None and own is not made:
            own = own.base
        return own is not None
    last = path.rpartition(".")[2]
    if isinstance(owner, Layer) and last != "Module":
        return owner.kind == last
    return isinstance(owner, _TYPES.get(last, ()))


#: What is done here for a function of Python, NumPy or PyTorch, by its path.
_FUNCTIONS: dict[str, Callable[[Session, Call], Any]] = {
    **creation.FUNCTIONS,
    **autograd.FUNCTIONS,
    **functional.FUNCTIONS,
    **optimizers.FUNCTIONS,
    **plain.FUNCTIONS,
    **{f"gradexplain.{name}": function for name, function in library.FUNCTIONS.items()},
    "super": classes.above,
    **dict.fromkeys(("copy.deepcopy", "copy.copy"), classes.copied),
    "getattr": _get,
    "setattr": _set,
    "hasattr": _has,
    "isinstance": _is_instance,
    "type": lambda s, call: attributes.kind_of(s, call.get(0, "object"), call.place),
    "callable": lambda s, call: isinstance(call.get(0, ""), _CALLABLE),
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
            for kind, hook in function.hooks:
                if kind == "register_forward_pre_hook":
                    new = s.call(hook, (function, args), {}, place, where)
                    args = args if new is None else new if isinstance(new, tuple) else (new,)
            found = function.call(Call(function.kind, args, kwargs, place, where))
            for kind, hook in function.hooks:
                if kind == "register_forward_hook":
                    new = s.call(hook, (function, args, found), {}, place, where)
                    found = found if new is None else new
            return found
        case Method(owner=owner, name=name):
            return methods.method(s, owner, Call(name, args, kwargs, place, where))
        case Function(path=path):
            return _function(s, path, Call(path.rpartition(".")[2], args, kwargs, place, where))
        case Unread(why=why):
            return Unread(s.text(place), why)
        case Module(path=path):  # a class that holds functions too: torch.Tensor
            return call(s, Function(path), args, kwargs, place, where)
    if isinstance(function, Tensor) and function.name in s.made:
        s.refuse("a tensor is called", where, name=function.name)
    s.fail(f"{what(function)} cannot be called", where, "name a function")


#: What is the same as a method of a tensor.
_METHODS = {f"torch.{name}" for name in ("argwhere", "clone", "detach", "is_floating_point", "nonzero",
                                         "numel", "reshape")}  # fmt: skip


def _function(s: Session, path: str, call: Call) -> Any:
    if path in _FUNCTIONS:
        found = _FUNCTIONS[path](s, call)
        if found is not NotImplemented:
            return found
    module = path.rpartition(".")[0]
    written = library.member(s, path if module else f"builtins.{path}")
    if written is not None:
        return s.call(written, call.args, call.kwargs, call.place, call.where)
    if module and module not in HOMES:
        if module.startswith("torch"):
            raise s.at(unknown(call.name, "a function", path), call.where)
        return Unread(s.text(call.place), plain.TRACE)
    records = functions(HOMES.get(module, ""), call.name)
    first = call.args[0] if call.args else None
    if path in _METHODS and isinstance(first, Tensor):
        return methods.method(s, first, dataclasses.replace(call, args=call.args[1:]))
    if not records:
        bare = call.name.removesuffix("_")
        in_place = bare != call.name and call.args and functions(HOMES.get(module, ""), bare)
        if in_place and isinstance(call.args[0], Tensor):
            return methods.in_place(s, call.args[0], bare, call)
        raise s.at(unknown(call.name, "a function", path if module else None), call.where)
    if module in ("math", "numpy") and call.args and all(map(is_number, call.args)):
        found = plain.mathematics(s, call)
        if found is not None:
            return found
    return apply(s, records, call)


def apply(s: Session, records: list[Any], call: Call) -> Any:
    """A record called; an argument that is not read is refused at its place."""
    for found in (*call.args, *call.kwargs.values()):
        s.need(call.place, found)
        if isinstance(found, (Layer, Own, Function)):
            s.fail(f"{what(found)} is not a tensor", call.place, "call it first, as in `layer(x)`")
    out = call.kwargs.get("out")
    given = {name: part for name, part in call.kwargs.items() if name != "out"}
    result = s.apply(records, call.args, given, call.place)
    if isinstance(out, Tensor) and isinstance(result, Tensor):
        if s.grad_enabled and (s.requires(out) or s.requires(result)):
            s.refuse("out of a gradient", call.place)
        put(s, out, ..., result, call.place)
        return out
    first = call.args[0] if call.args else None
    if isinstance(first, Tensor) and (
        call.kwargs.get("inplace") is True or (records[0].inplace and call.args[-1] is True)
    ):
        change_in_place(s, first, call.place)
        become(s, first, result)
    return result


def imported(module: str, name: str) -> Any:
    """What ``from module import name`` stands for."""
    if name in CONSTANTS and module.partition(".")[0] in ("math", "torch", "numpy"):
        return CONSTANTS[name]
    path = f"{module}.{name}"
    known = (
        module in MODULES
        or path in _FUNCTIONS
        or library.name_of(path)
        or module.startswith("torch.")
    )
    return Function(path) if known else Unread(name, plain.TRACE)
