"""Functions that differentiate functions: ``torch.func`` and ``torch.autograd.functional``."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from gradexplain.ops import by_spelling
from gradexplain.reading import library
from gradexplain.reading.autograd import THIRD, derivatives, listed, requires_grad, started
from gradexplain.reading.objects import Call, Tensor, Unread, what
from gradexplain.reading.session import Session


def _differentiated(s: Session, call: Call) -> tuple[Tensor, list[Any]]:
    """``differentiated(function, args, inputs, v, create)``: what a function gives, and its gradients by
    ``inputs``; without v those of each of its results.
    """
    function, args, inputs, v, create = (*call.args, None, False)[:5]
    for part in inputs:
        if isinstance(part, Tensor) and not s.requires(part):
            requires_grad(s, part, True, call.place)
    s.nested += 1
    try:
        output = s.call(function, tuple(args), {}, call.place, call.where)
        if isinstance(output, (tuple, list)):
            s.lack("several outputs", call.place)
        if not isinstance(output, Tensor):
            s.fail(f"the function gives {what(output)}", call.place, "return a tensor")
        rows = _rows(s, output, v, inputs, call) if create or s.nested > 1 else []
    finally:
        s.nested -= 1
    if s.nested:
        return output, rows
    if v is None and math.prod(output.shape) != 1:
        v = s.literal(s.filled(output.shape, 1.0), output.dtype, call.place)
        s.say("jacobian", text=s.text(call.place))
    started(s, output, v, True, list(inputs), call.place, call.where, returned=True)
    made = frozenset(s.ref(row).id for row in rows if row is not None)
    s.calls[-1] = dataclasses.replace(s.calls[-1], derived=made)
    return output, rows or [Unread(s.text(call.place), THIRD) for _ in inputs]


def _rows(s: Session, output: Tensor, v: Any, inputs: Sequence[Any], call: Call) -> list[Any]:
    """The gradients as computed values; of an output with dimensions, one row for each element."""
    if v is not None or not output.shape:
        return derivatives(s, [(output, v)], inputs, call)
    if s.any_size:
        s.lack("at its own sizes", call.place)
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
    args = call.get(0, "func"), listed(given), listed(given), call.get(2, "v")
    output, found = _differentiated(s, dataclasses.replace(call, args=args))
    return output, tuple(found) if isinstance(given, (tuple, list)) else found[0]


def _curried(s: Session, call: Call) -> Any:
    """``torch.func.grad(f)`` and ``jacrev(f, argnums=1)``."""
    made = library.member(s, "torch.func.Derivative")
    args = call.get(0, "func"), call.get(1, "argnums", 0), call.name == "grad_and_value"
    return s.call(made, args, {}, call.place, call.where)


FUNCTIONS: dict[str, Callable[[Session, Call], Any]] = {
    **{f"torch.func.{name}": _curried for name in ("grad", "jacrev", "jacfwd", "grad_and_value")},
    "torch.autograd.functional.vjp": _product,
    "gradexplain.differentiated": _differentiated,
}
