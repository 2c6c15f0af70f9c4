"""Constants: tensors made of literal arguments, or in the shape of another tensor."""
# fmt: off

from __future__ import annotations

import math
from typing import Any

import numpy as np

from gradexplain.errors import InputError
from gradexplain.limits import MAX_ELEMENTS
from gradexplain.ops.base import Op, Shape, expect, register

_FAMILY = "constant"


def check_size(shape: Shape) -> None:
    expect(math.prod(shape) <= MAX_ELEMENTS,
           f"a tensor of shape {{}} has {math.prod(shape):,} elements; the most is {MAX_ELEMENTS:,}", shape,
           remedy="use a smaller shape: the formulas are the same at any size")


def _sizes(size: Any) -> Shape:
    sizes: Shape = (size,) if isinstance(size, int) else tuple(size)
    expect(not any(n < 0 for n in sizes), f"a size cannot be negative, found {sizes}")
    check_size(sizes)
    return sizes


def _filled(b: Any, size: Any, value: float) -> Any:
    return b.constant(np.full(_sizes(size), float(value)))


for _name, _value in (("zeros", 0), ("ones", 1)):
    register(Op(
        f"{_name}(int[] size)", _FAMILY, homes="torch",
        expand=lambda b, size, value=_value: _filled(b, size, value),
        samples=(f"x[2,3]*{_name}(2, 3)", f"x[3] + torch.{_name}((2, 1))"),
    ))
    register(Op(
        f"{_name}_like(Tensor input)", _FAMILY, homes="torch",
        expand=lambda b, x, value=_value: _filled(b, b.shape(x), value),
        samples=(f"x[2,3] - {_name}_like(x)",),
    ))
    register(Op(
        f"new_{_name}(Tensor input, int[] size)", _FAMILY, homes="Tensor",
        expand=lambda b, x, size, value=_value: _filled(b, size, value),
        samples=(f"x[3]*x.new_{_name}(3)",),
    ))
register(Op(
    "full(int[] size, float fill_value)", _FAMILY, homes="torch", expand=_filled,
    samples=("x[2]*full((2,), 3.5)",),
))
register(Op(
    "full_like(Tensor input, float fill_value)", _FAMILY, homes="torch",
    expand=lambda b, x, value: _filled(b, b.shape(x), value), samples=("x[2]*full_like(x, 2)",),
))
register(Op(
    "new_full(Tensor input, int[] size, float fill_value)", _FAMILY, homes="Tensor",
    expand=lambda b, x, size, value: _filled(b, size, value), samples=("x[2]*x.new_full((2,), 2)",),
))


def _eye(b: Any, n: int, m: int | None) -> Any:
    rows, columns = _sizes((n, n if m is None else m))
    return b.constant(np.eye(rows, columns))


register(Op(
    "eye(int n, int? m=None)", _FAMILY, homes="torch", expand=_eye,
    samples=("x[2,2] @ eye(2)", "x[2,2] @ eye(2, 3)"),
))


def _arange(b: Any, start: float, end: float | None, step: float) -> Any:
    first, last = (0, start) if end is None else (start, end)
    if step == 0 or not all(map(math.isfinite, (first, last, step))):
        raise InputError("arange needs finite numbers and a step that is not 0")
    expect((last - first) / step >= 0, f"arange: a step of {step} does not lead from {first} to {last}")
    count = math.ceil((last - first) / step)
    check_size((count,))
    return b.constant(first + step * np.arange(count, dtype=np.float64))


register(Op(
    "arange(float start, float? end=None, float step=1)", _FAMILY, homes="torch", expand=_arange,
    samples=("x[3]*arange(3)", "x[3]*arange(1, 2.5, 0.5)", "x[4][arange(1, 3)]"),
))
register(Op(
    "arange(float end, *, float step=1)", _FAMILY, homes="torch",
    expand=lambda b, end, step: _arange(b, 0, end, step), samples=("x[3]*arange(end=3)",),
))


def _spaced(base: bool) -> Any:
    def expand(b: Any, start: float, end: float, steps: int, *rest: float) -> Any:
        expect(steps >= 0, f"the number of steps cannot be negative, found {steps}")
        check_size((steps,))
        places = np.linspace(start, end, steps)
        return b.constant(np.power(rest[0], places) if base else places)

    return expand


register(Op(
    "linspace(float start, float end, int steps)", _FAMILY, homes="torch", expand=_spaced(False),
    samples=("x[3]*linspace(0, 1, 3)",),
))
register(Op(
    "logspace(float start, float end, int steps, float base=10)", _FAMILY, homes="torch",
    expand=_spaced(True), samples=("x[3]*logspace(0, 2, 3)",),
))
