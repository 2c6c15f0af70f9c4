"""Operators and subscripts: on plain numbers as Python has them, on tensors as records."""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from gradexplain.errors import Span
from gradexplain.ops import by_spelling
from gradexplain.reading.objects import (
    WHOLE,
    Layer,
    Tensor,
    Unread,
    formatted,
    is_number,
    promoted,
    what,
)
from gradexplain.reading.program import span
from gradexplain.reading.session import Session


def _power(a: float, b: float) -> float:
    """In floats: 9**9**9**9 must not become an integer of a billion digits."""
    result = float(a) ** float(b)
    whole = isinstance(a, int) and isinstance(b, int) and b >= 0
    return int(result) if whole and abs(result) < 2**53 else result


def _no_numbers(a: Any, b: Any) -> float:
    raise TypeError


#: Python's operators: the operation that carries them out on tensors, their sign, and numbers.
BINARY: dict[type[ast.operator], tuple[str, str, Callable[[Any, Any], Any]]] = {
    ast.Add: ("add", "+", lambda a, b: a + b),
    ast.Sub: ("sub", "-", lambda a, b: a - b),
    ast.Mult: ("mul", "*", lambda a, b: a * b),
    ast.Div: ("div", "/", lambda a, b: a / b),
    ast.FloorDiv: ("floor_divide", "//", lambda a, b: a // b),
    ast.Mod: ("remainder", "%", lambda a, b: a % b),
    ast.Pow: ("pow", "**", _power),
    ast.MatMult: ("matmul", "@", _no_numbers),
    ast.BitAnd: ("bitwise_and", "&", lambda a, b: a & b),
    ast.BitOr: ("bitwise_or", "|", lambda a, b: a | b),
}
COMPARE: dict[type[ast.cmpop], str] = {
    ast.Lt: "lt", ast.LtE: "le", ast.Gt: "gt", ast.GtE: "ge", ast.Eq: "eq", ast.NotEq: "ne",
}  # fmt: skip
_COMPARED: dict[str, Callable[[Any, Any], bool]] = {
    "lt": lambda a, b: a < b, "le": lambda a, b: a <= b, "gt": lambda a, b: a > b,
    "ge": lambda a, b: a >= b, "eq": lambda a, b: a == b, "ne": lambda a, b: a != b,
}  # fmt: skip

#: What is computed at once on tensors that the text has: exactly rounded, as PyTorch does it.
_FOLDED = {"add": np.add, "sub": np.subtract, "mul": np.multiply, "div": np.divide}


#: What arithmetic on two tensors of true and false is.
_OF_BOOLS = {"add": "logical_or", "mul": "logical_and"}


def binary(
    s: Session,
    op: type[ast.operator],
    a: Any,
    b: Any,
    place: Span,
    sides: Sequence[ast.AST] = (),
) -> Any:
    if op not in BINARY:
        s.lack("unknown operator", place)
    name, sign, plain = BINARY[op]
    if is_number(a) and is_number(b):
        return _number(s, plain, a, b, place)
    joined = _joined(op, a, b)
    if joined is not None:
        return joined
    for side, operand in zip(sides, (a, b), strict=False):
        if not is_operand(operand):
            refuse_operand(s, operand, sign, span(s.program, side))
    if all(isinstance(part, Tensor) and part.dtype == "bool" for part in (a, b)):
        name = _OF_BOOLS.get(name, name)
    folded = _fold(s, name, a, b, place)
    return operator(s, name, (a, b), place) if folded is None else folded


def refuse_operand(s: Session, operand: Any, sign: str, place: Span) -> None:
    s.need(place, operand)
    key = "no operand: a layer" if isinstance(operand, Layer) else "no operand"
    s.refuse(key, place, what=what(operand), sign=sign)


def _joined(op: type[ast.operator], a: Any, b: Any) -> Any:
    """Lists and texts, which + joins and * repeats."""
    if op is ast.Add and type(a) is type(b) and isinstance(a, (list, tuple, str)):
        return a + b
    if op is ast.Mult:
        for held, times in ((a, b), (b, a)):
            if isinstance(held, (list, tuple, str)) and isinstance(times, int) and times <= 1000:
                return held * times
    if op is ast.Mod and isinstance(a, str):
        return formatted(str.__mod__, a, b) or Unread(a, "its values are not known here")
    return None


def _number(s: Session, plain: Callable[[Any, Any], Any], a: Any, b: Any, place: Span) -> Any:
    try:
        result = plain(a, b)
    except (ArithmeticError, ValueError, TypeError):
        result = math.nan
    if isinstance(result, complex) or result != result or abs(result) > 1e308:
        s.refuse("no finite value", place)
    # Integers stay integers (a dim, a size) while a float could hold them too.
    return result if abs(result) < 2**53 else float(result)


def _fold(s: Session, name: str, a: Any, b: Any, place: Span) -> Tensor | None:
    """The result where both operands are numbers of the text, or gradients, and nothing requires grad."""
    tensors = [t for t in (a, b) if isinstance(t, Tensor)]
    if s.any_size or name not in _FOLDED:
        return None
    if not all(isinstance(t, Tensor) or is_number(t) for t in (a, b)):
        return None
    waits = [_waits(s, t) for t in tensors]
    if not all(
        w or (_is_known(s, t) and not t.example) for w, t in zip(waits, tensors, strict=True)
    ):
        return None
    if not any(waits) and not any(t.ref is None for t in tensors):
        return None
    dtype = promoted(t.dtype for t in tensors)
    if dtype in WHOLE and (name == "div" or any(isinstance(t, float) for t in (a, b))):
        dtype = s.default
    if dtype == "bool" and (len(tensors) == 1 or name != "mul"):
        return None
    unit = np.dtype(dtype or "float64")

    numbers = [_numbers(s, t, place) for t in (a, b)]

    def computed() -> Any:
        values = [np.asarray(number()).astype(unit) for number in numbers]
        with np.errstate(all="ignore"):
            return _FOLDED[name](*values)

    try:
        shape = np.broadcast_shapes(*(t.shape for t in tensors))
    except ValueError:
        return None  # shapes that do not fit: the record says it better
    if any(waits):
        return Tensor(shape, place, dtype=dtype, later=lambda: np.asarray(computed(), np.float64))
    return s.literal(computed(), dtype, place)


def _waits(s: Session, tensor: Tensor) -> bool:
    """Whether the elements are worked out later: a gradient's, or a leaf's where none is recorded."""
    if tensor.rows is not None:
        return False
    if tensor.requires_grad:
        return tensor.is_leaf and not s.grad_enabled
    return tensor.later is not None and tensor.ref is None


def _numbers(s: Session, tensor: Any, place: Span) -> Callable[[], Any]:
    """The elements that a tensor has now, whatever becomes of it."""
    if not isinstance(tensor, Tensor):
        return lambda: tensor
    if tensor.ref is not None and s.builder.nodes[tensor.ref.id].is_leaf:
        label, shape = s.builder.nodes[tensor.ref.id].label, tensor.shape
        return lambda: s.leaf_value(label, shape)
    now = dataclasses.replace(tensor, view=None)
    return lambda: s.number(now, place)


def _is_known(s: Session, value: Any) -> bool:
    return isinstance(value, Tensor) and not value.requires_grad and s.known(value) is not None


def operator(s: Session, name: str, args: tuple[Any, ...], place: Span) -> Any:
    return s.apply(by_spelling(f"torch.{name}")[:1], args, {}, place)


def unary(s: Session, op: ast.unaryop, operand: Any, place: Span, node: ast.AST) -> Any:
    if isinstance(op, (ast.Not, ast.Invert)):
        if isinstance(operand, bool):
            return not operand
        if isinstance(op, ast.Not) and not isinstance(operand, Tensor):
            return not operand
        return operator(s, "logical_not", (operand,), place)
    if is_number(operand):
        return -operand if isinstance(op, ast.USub) else operand
    if not is_operand(operand):
        s.refuse("has no sign", span(s.program, node), what=what(operand))
    plain = _is_known(s, operand) and operand.ref is None and not s.any_size
    if isinstance(op, ast.USub) and plain:
        return s.literal(-np.asarray(s.known(operand)), operand.dtype, place)
    return operator(s, "neg" if isinstance(op, ast.USub) else "positive", (operand,), place)


def compare(s: Session, name: str, a: Any, b: Any, place: Span) -> Any:
    if isinstance(a, Tensor) or isinstance(b, Tensor) or not s.python:
        s.need(place, a, b)
        if not isinstance(a, str) and not isinstance(b, str):
            return operator(s, name, (a, b), place)
    try:
        return _COMPARED[name](a, b)
    except TypeError:
        s.fail(f"{what(a)} and {what(b)} cannot be compared", place, "compare numbers")


def is_operand(value: Any) -> bool:
    return isinstance(value, (Tensor, int, float, list))


# -- subscripts ------------------------------------------------------------------------------------


def subscript(s: Session, owner: Any, index: Any, place: Span) -> Any:
    if isinstance(owner, Unread):
        return Unread(s.text(place), owner.why)
    if isinstance(owner, dict):
        s.need(place, index)
        if isinstance(index, Tensor) or index not in owner:
            s.fail("there is no such key", place, f"its keys are: {', '.join(map(str, owner))}")
        return owner[index]
    if isinstance(owner, Layer) and owner.own is not None and owner.own.find("__getitem__"):
        return s.call_own(owner.own.find("__getitem__"), (owner, index), {}, place)
    if isinstance(owner, Layer) and isinstance(index, (int, str)):
        held = owner.children if isinstance(index, str) else list(owner.children.values())
        if index in held if isinstance(held, dict) else -len(held) <= int(index) < len(held):
            return held[index]  # type: ignore[index]
        s.fail(f"it holds {len(held)} modules", place, "count from 0")
    if isinstance(owner, (tuple, list, range, str)):
        if isinstance(index, Tensor) and math.prod(index.shape) == 1:
            index = int(s.number(index, place).reshape(-1)[0])
        if isinstance(index, (int, slice)) and not isinstance(index, bool):
            try:
                return owner[index]
            except IndexError:
                s.refuse("index out of range", place, index=index, count=len(owner))
        s.fail("an index here must be an integer", place, "write a whole number")
    if not isinstance(owner, Tensor):
        s.fail(f"{what(owner)} has no elements to index", place, "index a tensor or a list")
    if s.script:
        index = _chosen(s, index, place)
    if _is_known(s, owner) and owner.ref is None and owner.rows is None and not owner.example:
        taken = _taken(s, s.known(owner), index)
        if taken is not None:
            found = s.literal(taken, owner.dtype, place)
            return s.share(found, owner, lambda base: subscript(s, base, index, place), index)
    s.need(place, *(index if isinstance(index, tuple) else (index,)))
    return s.apply(by_spelling("operator.getitem"), (owner, index), {}, place)


def _chosen(s: Session, index: Any, place: Span) -> Any:
    """An index in which each condition stands as the places where it holds."""
    items: list[Any] = []
    for item in index if isinstance(index, tuple) else (index,):
        is_mask = isinstance(item, Tensor) and item.dtype == "bool"
        items += places_of(s, item, place) if is_mask else [item]
    return tuple(items) if isinstance(index, tuple) or len(items) > 1 else items[0]


def places_of(s: Session, mask: Tensor, place: Span) -> list[list[int]]:
    """The places where a condition holds, a table of indices for each axis."""
    if not s.script and s.known(mask) is None:
        subscript(s, mask, mask, place)  # is refused: an expression has no values yet
    places = np.nonzero(s.number(mask, place))
    if not places[0].size:
        s.fail("the condition holds nowhere: nothing is left", place, "use other values")
    if s.known(mask) is None:
        s.decided(place, "other elements")
    return [table.tolist() for table in places]


def _taken(s: Session, array: Any, index: Any) -> Any:
    """The elements at integers and slices, None where the record has to say what is wrong."""
    items = index if isinstance(index, tuple) else (index,)
    if not all(isinstance(item, (int, slice, type(...))) or item is None for item in items):
        return None
    try:
        taken = array[index]
    except (IndexError, ValueError):
        return None
    return taken if np.size(taken) else None


def plain_index(s: Session, index: Any, place: Span) -> Any:
    """A subscript as NumPy takes it."""
    if isinstance(index, Tensor):
        numbers = s.number(index, place)
        return numbers.astype(bool) if index.dtype == "bool" else numbers.astype(np.int64)
    if isinstance(index, tuple):
        return tuple(plain_index(s, part, place) for part in index)
    return index


def put(s: Session, target: Tensor, index: Any, new: Any, place: Span) -> None:
    """``target[index] = new``: from here on the tensor is one with these elements in place."""
    known = s.known(target)
    rows = target.rows is not None or known is not None
    if target.ref is None and rows and target.shape and isinstance(index, int):
        n = target.shape[0]
        wide = isinstance(new, Tensor) and new.shape == target.shape[1:]
        if -n <= index < n and wide and not target.requires_grad and not _is_known(s, new):
            target.rows = target.rows or [None] * n
            target.rows[index % n] = dataclasses.replace(new, view=None)
            written(s, target, place)
            return
    change_in_place(s, target, place)
    number = new if is_number(new) else s.known(new) if _is_known(s, new) else None
    plain = _is_known(s, target) and target.ref is None and not target.example and not s.any_size
    if plain and number is not None:
        array = np.array(known)
        with contextlib.suppress(IndexError, ValueError):  # what is wrong is said below
            array[plain_index(s, index, place)] = number
            become(s, target, s.literal(array, target.dtype, place))
            return
    mask = isinstance(index, Tensor) and index.dtype == "bool" and index.shape == target.shape
    if index is ...:
        become(s, target, scattered(s, target, ..., new, place))
    elif mask and (not isinstance(new, Tensor) or not new.shape):
        replace(s, target, operator(s, "where", (index, new, target), place))
    else:
        replace(s, target, scattered(s, target, index, new, place))


def scattered(s: Session, target: Tensor, index: Any, new: Any, place: Span) -> Any:
    """The tensor with ``new`` at the places that a subscript names."""
    if s.any_size:
        s.unsupported("elements are put into a tensor at its own size only", place, "write it anew")
    places = np.arange(math.prod(target.shape)).reshape(target.shape)
    try:
        taken = places[plain_index(s, index, place)]
    except (IndexError, ValueError):
        s.fail("this index does not fit the tensor", place, f"its shape is {target.shape}")
    if not isinstance(new, Tensor):
        new = s.literal(np.broadcast_to(new, taken.shape), target.dtype, place)
    more = len(new.shape) - len(taken.shape)
    if more > 0 and set(new.shape[:more]) == {1}:  # leading axes of one element are left out
        new = operator(s, "reshape", (new, new.shape[more:]), place)
    part = (
        new if new.shape == taken.shape else operator(s, "broadcast_to", (new, taken.shape), place)
    )
    if index is ...:
        return part
    return operator(s, "put", (target, taken.tolist(), part), place)


def change_in_place(s: Session, target: Tensor, place: Span) -> None:
    """Refuse a change in place where PyTorch does."""
    node = s.builder.nodes[target.ref.id] if target.ref is not None else None
    computed = node is not None and node.op is not None
    if s.grad_enabled and target.requires_grad and not computed and target.rows is None:
        s.refuse("leaf in place", place)
    if getattr(target.view, "several", False) and s.grad_enabled and s.requires(target):
        s.refuse("several views", place)


def become(s: Session, owner: Tensor, made: Tensor) -> None:
    """A tensor that was changed in place is ``made`` from here on."""
    own = owner.ref is None and owner.rows is None and not s.requires(made) and owner.is_leaf
    if not own or not s.grad_enabled and owner.requires_grad:
        replace(s, owner, made)
        return
    owner.later, owner.value, owner.ref = made.later, s.known(made), made.ref
    if owner.value is None and owner.later is None:
        owner.ref = s.ref(made)
    written(s, owner, made.place)


def written(s: Session, tensor: Tensor, place: Span) -> None:
    """A tensor was changed in place: so is what it is a view of."""
    tensor.version += 1
    view = tensor.view
    if view is None or view.home != view.base.home:
        return
    base = view.base
    if s.is_copy(tensor):
        tensor.view = None
        return
    if view.detached and _silently(s, base, place):
        return
    index = view.index
    if s.any_size:
        s.unsupported("a view is changed at its own size only", place, "write it anew")
    if index is None:
        places = np.unravel_index(s.taken(view), base.shape)
        index = tuple(table.tolist() for table in places)
    with s.gradients(s.grad_enabled and not view.detached):
        put(s, base, index, dataclasses.replace(tensor, view=None, place=place), place)
    view.version = base.version


def _silently(s: Session, tensor: Tensor, place: Span) -> bool:
    """Mark a computed value that is changed where no gradient sees it: its old one is not used again."""
    if tensor.ref is None or tensor.is_leaf or not s.requires(tensor):
        return False
    s.shadowed[tensor.ref.id] = place
    s.overwritten.append((tensor.ref.id, len(s.builder.nodes), place))
    return True


def replace(s: Session, target: Tensor, new: Tensor) -> None:
    """The tensor has another value from here on, in every name that it goes by."""
    if not s.grad_enabled and _silently(s, target, new.place):
        return
    if target.is_leaf and target.requires_grad:
        renewed(s, target, new)
        return
    if target.ref is not None and new.ref is not None:
        s.overwritten.append((target.ref.id, new.ref.id, new.place))
    target.rows, target.value, target.later, target.ref = None, new.value, new.later, new.ref
    target.hooks = None  # they were the old value's
    target.requires_grad = s.requires(new)
    if new.ref is not None:
        name = next((n for scope in s.scopes for n, v in scope.items() if v is target), target.name)
        if name:
            target.ref = s.builder.name(new.ref, name)
    written(s, target, new.place)


def renewed(s: Session, target: Tensor, new: Tensor) -> None:
    """A leaf whose elements were changed: the same leaf with other values."""
    place = new.place
    known = s.known(new)
    if target in s.tied:
        s.lack("tied data", place)
    if target.ref is not None:
        s.stale[s.builder.nodes[target.ref.id].label] = place
    target.ref, target.value, target.example = None, known, False
    target.version += 1
    target.later = None if known is not None else (lambda: s.number(new, place))
