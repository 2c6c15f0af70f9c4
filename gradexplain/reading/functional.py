"""Functions that differentiate functions: ``torch.func`` and ``torch.autograd.functional``."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from gradexplain.ops import by_spelling
from gradexplain.reading.autograd import THIRD, derivatives, listed, requires_grad, started
from gradexplain.reading.objects import Call, Layer, Tensor, Unread, what
from gradexplain.reading.session import Session


def _output_of(s: Session, function: Any, args: Sequence[Any], call: Call) -> Tensor:
    """What a function of the text gives, as one tensor."""
    s.nested += 1
    try:
        output = s.call(function, tuple(args), {}, call.place, call.where)
    finally:
        s.nested -= 1
    if isinstance(output, (tuple, list)):
        s.lack("several outputs", call.place)
    if not isinstance(output, Tensor):
        s.fail(f"the function gives {what(output)}", call.place, "return a tensor")
    return output


def _differentiate(
    s: Session, function: Any, args: Sequence[Any], inputs: Sequence[Any], v: Any, call: Call
) -> tuple[Tensor, list[Any]]:
    """A function called, and its gradients by ``inputs``; without v those of each of its results."""
    for part in inputs:
        if isinstance(part, Tensor) and not s.requires(part):
            requires_grad(s, part, True, call.place)
    output = _output_of(s, function, args, call)
    if s.nested:
        return output, _rows(s, output, v, inputs, call)
    if v is None and math.prod(output.shape) != 1:
        v = s.literal(s.filled(output.shape, 1.0), output.dtype, call.place)
        s.say("jacobian", text=s.text(call.place))
    started(s, output, v, True, list(inputs), call.place, call.where, returned=True)
    return output, [Unread(s.text(call.place), THIRD) for _ in inputs]


def _rows(s: Session, output: Tensor, v: Any, inputs: Sequence[Any], call: Call) -> list[Any]:
    """The gradients as computed values; of an output with dimensions, one row for each element."""
    if v is not None or not output.shape:
        return derivatives(s, [(output, v)], inputs, call)
    units = np.eye(math.prod(output.shape)).reshape(-1, *output.shape)
    rows = [
        derivatives(s, [(output, s.literal(unit, output.dtype, call.place))], inputs, call)
        for unit in units
    ]

    def stacked(column: Any, part: Tensor) -> Any:
        made = s.apply(by_spelling("torch.stack"), (list(column),), {}, call.place)
        shape = (*output.shape, *part.shape)
        return s.apply(by_spelling("torch.reshape"), (made, shape), {}, call.place)

    return [
        stacked(column, part) for column, part in zip(zip(*rows, strict=True), inputs, strict=True)
    ]


def _product(s: Session, call: Call) -> Any:
    """``torch.autograd.functional.vjp(f, x, v)``."""
    given = call.get(1, "inputs")
    parts = listed(given)
    output, found = _differentiate(s, call.get(0, "func"), parts, parts, call.get(2, "v"), call)
    return output, tuple(found) if isinstance(given, (tuple, list)) else found[0]


def _curried(s: Session, call: Call) -> Any:
    """``torch.func.grad(f)(x)`` and ``jacrev(f, argnums=1)(x, y)``."""
    function, wanted = call.get(0, "func"), call.get(1, "argnums", 0)
    places = wanted if isinstance(wanted, tuple) else (wanted,)

    def inner(later: Call) -> Any:
        if not all(isinstance(n, int) and n < len(later.args) for n in places):
            s.fail("argnums names no argument", later.place, "count the arguments from 0")
        inputs = [part for n in places for part in listed(later.args[n])]
        output, found = _differentiate(s, function, later.args, inputs, None, later)
        one = not isinstance(wanted, tuple) and not isinstance(
            later.args[wanted], (dict, list, tuple)
        )
        result = found[0] if one else tuple(found)
        return (result, output) if call.name == "grad_and_value" else result

    return Layer(call.name, inner, attributes={"function": function, "places": places})


FUNCTIONS: dict[str, Callable[[Session, Call], Any]] = {
    "torch.autograd.functional.vjp": _product,
    **{f"torch.func.{name}": _curried for name in ("grad", "jacrev", "jacfwd", "grad_and_value")},
}
