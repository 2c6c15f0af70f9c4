"""Methods: of tensors, where they do more than a record, of layers, optimizers and lists."""

from __future__ import annotations

import ast
import dataclasses
import math
from collections.abc import Callable, ItemsView, KeysView, ValuesView
from typing import Any

import numpy as np

from gradexplain.graph import NamedNumber
from gradexplain.ops import by_spelling
from gradexplain.reading import autograd, classes, creation, custom, library, optimizers
from gradexplain.reading.arguments import Dtype, dtype_name
from gradexplain.reading.attributes import apart, data, one_number
from gradexplain.reading.names import unknown
from gradexplain.reading.objects import (
    COPIES,
    WHOLE,
    Call,
    Class,
    Function,
    Layer,
    Method,
    Module,
    Optimizer,
    Own,
    Results,
    Super,
    Tensor,
    Unread,
    formatted,
    what,
)
from gradexplain.reading.operators import become, change_in_place, put
from gradexplain.reading.plain import TRACE, ordered
from gradexplain.reading.session import Session


def method(s: Session, owner: Any, call: Call) -> Any:
    match owner:
        case Tensor():
            return _of_tensor(s, owner, call)
        case Layer():
            return _of_layer(s, owner, call)
        case Class():
            return _of_class(s, owner, call)
        case Super():
            return classes.of_super(s, owner, call)
        case Optimizer():
            return optimizers.optimizer(s, owner, call)
        case Unread(why=why):
            if call.name == "backward":
                s.need(call.where, owner)
            return Unread(s.text(call.place), why)
        case list() | dict() | str() | Results() | tuple() | range():
            return _of_plain(s, owner, call)
        case bool() | None:
            pass
        case int() | float() if by_spelling(f"Tensor.{call.name}"):
            number = s.computed(s.builder.constant(owner, call.place), None, call.place)
            return _of_tensor(s, number, call)
        case Own() | Function() | Module():
            return Unread(s.text(call.place), TRACE)
    if isinstance(owner, NamedNumber):
        number = s.computed(s.builder.constant(owner, call.place), None, call.place)
        return _of_tensor(s, number, call)
    if owner is None and call.name in ("zero_", "zero", "detach_", "fill_"):
        return None
    if owner is None and s.python:
        s.refuse("is called on none", call.where, name=call.name)
    s.fail(f"{what(owner)} has no methods", call.where, "call it on a tensor")


def _of_tensor(s: Session, owner: Tensor, call: Call) -> Any:
    name = call.name
    if name in _METHODS:
        found = _METHODS[name](s, owner, call)
        if found is not NotImplemented:
            return found
    s.need(call.place, *call.args, *call.kwargs.values())
    records = [op for op in by_spelling(f"Tensor.{name}") if not op.attribute]
    written = None if records else library.member(s, f"torch.Tensor.{name}")
    if written is not None:
        return s.call(written, (owner, *call.args), call.kwargs, call.place, call.where)
    if not records and name.endswith("_") and name != "requires_grad_":
        return in_place(s, owner, name[:-1], Call(name, (owner, *call.args), call.kwargs, call.place, call.where))  # fmt: skip
    if not records:
        raise s.at(unknown(name, "a method"), call.where)
    return s.apply(records, (owner, *call.args), call.kwargs, call.place)


def in_place(s: Session, owner: Tensor, name: str, call: Call) -> Any:
    """``x.add_(1)``: the tensor becomes the result of ``x.add(1)``."""
    args = call.args
    if name in ("zero", "fill", "copy"):
        put(s, owner, ..., 0.0 if name == "zero" else args[1], call.place)
        return owner
    if name in ("normal", "uniform", "exponential", "random", "bernoulli", "xavier_uniform"):
        owner.value, owner.example = s.inputs.example(owner.shape, signs=name == "normal"), True
        return owner
    records = [op for op in by_spelling(f"Tensor.{name}") if not op.attribute]
    if not records:
        raise s.at(unknown(f"{name}_", "a method"), call.where)
    change_in_place(s, owner, call.place)
    made = s.apply(records, args, call.kwargs, call.place)
    become(s, owner, made)
    return owner


# -- conversions -----------------------------------------------------------------------------------


def _to(s: Session, owner: Tensor, call: Call) -> Any:
    wanted = [part for part in (*call.args, *call.kwargs.values()) if isinstance(part, Dtype)]
    for part in call.args:
        if isinstance(part, Tensor):
            own = part.dtype or owner.dtype in WHOLE
            return cast(s, owner, part.dtype or "float64", call) if own else owner
    for part in (*call.args, call.kwargs.get("device")):
        if isinstance(part, str) and part.startswith(("cuda", "mps")):
            _device(s, part, owner)
    if not wanted:
        return owner
    if not wanted[0].own and (s.dtype is not None or not owner.dtype):
        if dtype_name(wanted[0].path) not in WHOLE:
            raise s.at(wanted[0].refused(), call.place)
    return cast(s, owner, dtype_name(wanted[0].path), call)


def _device(s: Session, name: str, owner: Tensor) -> Tensor:
    s.remark("device", f"A gradient is the same on every device: `{name}` is passed over.")
    return owner


def cast(s: Session, owner: Tensor, dtype: str, call: Call) -> Any:
    """The tensor with another element type; a new literal where the text has its elements."""
    if dtype in ("float16", "bfloat16") and owner.dtype is not None:
        s.lack("is not computed here", call.place, dtype=dtype)  # fmt: skip
    if owner.dtype == dtype == "bool":
        return owner
    known = s.known(owner)
    whole = owner.dtype in WHOLE
    if known is not None and not owner.requires_grad and (owner.ref is None or whole):
        array = np.trunc(known) if dtype in WHOLE and dtype != "bool" else known
        if dtype == "bool":
            array = (known != 0).astype(np.float64)
        made = s.literal(array, dtype, call.place)
        made.example, made.hint = owner.example, owner.hint
        return made
    if dtype == "bool":
        return s.apply(by_spelling("torch.ne"), (owner, 0), {}, call.place)
    if dtype in WHOLE:
        if known is None:
            with s.gradients(False):
                name = "clone" if owner.dtype == "bool" else "trunc"
                made = s.apply(by_spelling(f"torch.{name}"), (owner,), {}, call.place)
            made.dtype = dtype
            return made
        return s.literal(np.trunc(known), dtype, call.place)
    if whole or s.builder.nodes[s.ref(owner).id].integer:
        made = s.apply(by_spelling("Tensor.type_as"), (owner, 1.0), {}, call.place)
        made.dtype = dtype
        return made
    copy = Tensor(owner.shape, call.place, s.ref(owner), dtype, s.requires(owner))
    copy.name = owner.name
    return copy


def _type(s: Session, owner: Tensor, call: Call) -> Any:
    """``x.float()``, ``x.type(torch.LongTensor)``, ``a.astype(int)``."""
    kind = call.get(0, "dtype", None if call.name == "type" else call.name)
    if kind is None:
        return f"torch.{owner.dtype}"
    last = getattr(kind, "path", str(kind)).rpartition(".")[2].lower().removesuffix("tensor")
    name = dtype_name(last + "64" if call.name == "astype" and last in ("float", "int") else last)
    return owner if owner.dtype is None and name in _WIDE else cast(s, owner, name, call)


#: What a tensor of the whole run's dtype is left in.
_WIDE = ("float64", "float32")


def _contiguous(s: Session, owner: Tensor, call: Call) -> Any:
    """The tensor itself, or a copy where its elements do not stand one after the other."""
    if owner.view is None:
        return owner
    return s.share(
        dataclasses.replace(owner), owner, dataclasses.replace, copies=COPIES["contiguous"]
    )


def _clone(s: Session, owner: Tensor, call: Call) -> Any:
    if s.known(owner) is not None and not s.requires(owner) and owner.ref is None:
        return s.literal(s.known(owner), owner.dtype, call.place, example=owner.example)
    if owner.later is not None and owner.ref is None and not owner.requires_grad:
        return dataclasses.replace(apart(s, owner, call.place), place=call.place)
    return s.apply(by_spelling("torch.clone"), (owner,), {}, call.place)


def _item(s: Session, owner: Tensor, call: Call) -> Any:
    """A number; of what requires grad, one that is worked out where it is needed."""
    if not s.script and s.numbers is None:
        return NotImplemented
    if owner.grad_of is None and not s.requires(owner):
        return one_number(s, owner, call.place)
    return apart(s, owner, call.place)


def _to_list(s: Session, owner: Tensor, call: Call) -> Any:
    known = s.known(owner)
    return Unread(s.text(call.place), TRACE) if known is None else known.tolist()


def _numpy(s: Session, owner: Tensor, call: Call) -> Any:
    if not s.python:
        return NotImplemented
    if s.requires(owner):
        s.refuse("numpy of a gradient", call.where)
    return owner


# -- sizes -----------------------------------------------------------------------------------------


def _size(s: Session, owner: Tensor, call: Call) -> Any:
    values = [*call.args, *call.kwargs.values()]
    if not values:
        return owner.shape
    rank = len(owner.shape)
    if len(values) == 1 and isinstance(values[0], int) and -rank <= values[0] < rank:
        return owner.shape[values[0]]
    s.fail(f"size() takes one dimension of the {rank}", call.place, "count from 0, or from -1 back")


# -- autograd --------------------------------------------------------------------------------------


def _requires_grad_(s: Session, owner: Tensor, call: Call) -> Any:
    wanted = call.get(0, "requires_grad", True) is not False
    if owner.ref is not None and s.requires(owner):
        if not wanted:
            s.lack("requires_grad is switched off", call.place)
        return owner
    return autograd.requires_grad(s, owner, wanted, call.place)


def _hook(s: Session, owner: Tensor | None, call: Call) -> Any:
    """A hook that returns nothing is called with each gradient; one that changes it stands in the graph."""
    hook = call.get(0, "hook")
    body = hook.body if isinstance(hook, Own) else None
    if isinstance(body, ast.expr):
        looks = isinstance(body, ast.Call) and ast.unparse(body.func).split(".")[-1] in _LOOKS
    elif body is not None:
        parts = [part for statement in body for part in ast.walk(statement)]
        looks = not any(isinstance(part, ast.Return) and part.value for part in parts)
    else:
        looks = isinstance(hook, Function) and hook.path in _LOOKS or isinstance(hook, Method)
    if looks:
        s.say("hook: is passed over", text=s.text(call.place))
    used = owner is not None and owner.ref is not None and owner.ref.id in _inputs(s)
    if not looks and (owner is None or used):
        s.lack("late hook" if used else "hook of a module", call.place)
    if owner is None:
        return Unread(s.text(call.place), TRACE)
    own: Any = (owner, hook, call.place) if looks else (hook, call.place)
    held: list[Any] = s.looking if looks else owner.hooks or []
    held.append(own)
    if not looks:
        owner.hooks, owner.hooked = held, None

    def remove(later: Call) -> None:
        held.remove(own)
        if owner.hooked is not None:
            s.unhooked.add(owner.hooked[2].id)
            owner.hooked = None

    attributes = {"remove": Layer("remove", remove)}
    return Layer("handle", lambda later: None, attributes=attributes)


def _inputs(s: Session) -> set[int]:
    return {id for node in s.builder.nodes for id in node.inputs}


#: Calls that give None.
_LOOKS = {"print", "append", "extend", "update", "setattr", "__setitem__"}


def _permuted(s: Session, owner: Tensor, call: Call) -> Any:
    """Reshaping what the text has: the same elements in another shape."""
    known = s.known(owner)
    if known is None or owner.ref is not None or s.requires(owner) or call.kwargs or owner.example:
        return NotImplemented
    args = call.args[0] if len(call.args) == 1 and isinstance(call.args[0], tuple) else call.args
    if not all(isinstance(n, int) for n in args) or math.prod(known.shape) == 0:
        return NotImplemented
    try:
        found = s.literal(known.reshape(args), owner.dtype, call.place)
    except ValueError:
        return NotImplemented
    again = lambda base: method(s, base, call)  # noqa: E731
    return s.share(found, owner, again, copies=COPIES.get(call.name, ""))


_METHODS: dict[str, Callable[[Session, Tensor, Call], Any]] = {
    "backward": autograd.backward_method,
    "requires_grad_": _requires_grad_,
    "retain_grad": lambda s, owner, call: autograd.retain(s, owner, call.place),
    "register_hook": _hook,
    **dict.fromkeys(("to", "type_as"), _to),
    "contiguous": _contiguous,
    **dict.fromkeys(
        ("type", "astype", "float", "double", "half", "bfloat16", "long", "int", "bool"), _type
    ),
    **dict.fromkeys(
        ("nonzero", "argwhere"),
        lambda s, owner, call: creation.nonzero(
            s, dataclasses.replace(call, args=(owner, *call.args))
        ),
    ),
    "cuda": lambda s, owner, call: _device(s, "cuda()", owner),
    **dict.fromkeys(
        ("cpu", "share_memory_", "pin_memory", "resolve_conj"),
        lambda s, owner, call: owner,
    ),
    "clone": _clone,
    "copy": _clone,
    "detach": lambda s, owner, call: owner if owner.grad_of else data(s, owner, call.place),
    "item": _item,
    "tolist": _to_list,
    "numpy": _numpy,
    "size": _size,
    "dim": lambda s, owner, call: len(owner.shape),
    "ndimension": lambda s, owner, call: len(owner.shape),
    "numel": lambda s, owner, call: math.prod(owner.shape),
    "nelement": lambda s, owner, call: math.prod(owner.shape),
    "view": _permuted,
    "reshape": _permuted,
    "is_floating_point": lambda s, owner, call: owner.dtype not in WHOLE,
}


# -- other values ----------------------------------------------------------------------------------


def _of_class(s: Session, owner: Class, call: Call) -> Any:
    """``MyFunction.apply(x)``, and a method that is called on its class."""
    if call.name == owner.called == "apply":
        return custom.applied(s, owner, call)
    found = owner.find(call.name)
    given = found.arguments.args[:1] if isinstance(found, Own) else []
    first = (owner,) if given and given[0].arg == "cls" else ()
    return classes.invoked(s, owner, call.name, call, first)


def _of_layer(s: Session, owner: Layer, call: Call) -> Any:
    if owner.own is not None and owner.own.find(call.name) is not None:
        return classes.method(s, owner, call.name, call)
    match call.name:
        case "parameters":
            return owner.all_parameters()
        case "named_parameters":
            return owner.named_parameters()
        case "forward" | "__call__":
            return owner.call(call)
        case "double" | "to" if call.name == "double" or "float64" in map(_named, call.args):
            for parameter in owner.all_parameters():
                parameter.dtype = "float64"
            return owner
        case "to" | "cuda" | "cpu" | "float":
            return owner
        case "buffers":
            return [part for part in owner.attributes.values() if isinstance(part, Tensor)]
        case "named_children":
            return list(owner.children.items())
        case "named_modules":
            return list(owner.modules())
        case "register_forward_hook" | "register_forward_pre_hook":
            hook = (call.name, call.args[0])
            owner.hooks.append(hook)
            remove = Layer("remove", lambda later: owner.hooks.remove(hook))
            return Layer("handle", lambda later: None, attributes={"remove": remove})
        case "register_full_backward_hook" | "register_backward_hook":
            return _hook(s, None, call)
    return Unread(s.text(call.place), TRACE)


def _named(part: Any) -> str:
    return dtype_name(part.path) if isinstance(part, Dtype) else ""


#: Methods of texts that give what Python gives.
_TEXTS = {"find", "split", "startswith", "endswith", "lower", "upper", "strip", "replace", "count",
          "isalpha"}  # fmt: skip


def _of_plain(s: Session, owner: Any, call: Call) -> Any:
    """A method of Python's lists, dicts and texts."""
    if isinstance(owner, str):
        if call.name == "format" and not call.kwargs:
            found = formatted(str.format, owner, *call.args)
            return Unread(s.text(call.place), TRACE) if found is None else found
        plain = all(isinstance(part, (str, int, type(None))) for part in call.args)
        if call.name in _TEXTS and plain and not call.kwargs:
            return getattr(owner, call.name)(*call.args)
        return s.text(call.place)
    args = call.args
    if isinstance(owner, list):
        match call.name:  # a set is a list here
            case "add" if args[0] in owner:
                return None
            case "add":
                return owner.append(args[0])
            case "discard":
                return owner.remove(args[0]) if args[0] in owner else None
            case "sort":
                owner[:] = ordered(s, dataclasses.replace(call, args=(owner,)))
                return None
            case "extend":
                args = (s.iterate(args[0], call.place),)
    if isinstance(owner, tuple) and call.name == "numel":
        return math.prod(owner)
    function = getattr(owner, call.name, None)
    if function is None or not s.python:
        if isinstance(owner, list) and hasattr(set, call.name):
            s.unsupported(f"`{call.name}` of a set is not read", call.where, TRACE)
        s.fail(f"{what(owner)} has no method `{call.name}`", call.where, "call it on a tensor")
    try:
        found = function(*args, **call.kwargs)
    except (LookupError, TypeError, ValueError) as error:
        s.fail(f"`{call.name}`: {error}", call.place, "see what it is called on")
    return list(found) if isinstance(found, (KeysView, ValuesView, ItemsView)) else found
