"""Error magnitudes beside values.

A magnitude is a first-order bound, in units of the roundoff, of the error that rounding every
operation makes (running error analysis: Higham, Accuracy and Stability of Numerical Algorithms,
section 3.3).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache, reduce
from typing import Any

import numpy as np
import sympy

from gradexplain.plan import contraction
from gradexplain.plan.arrays import (
    Pair,
    Relative,
    aligned,
    as_array,
    before,
    gathered,
    is_finite,
    running,
    scanned,
    scattered,
    sized,
    to_float,
    window,
)
from gradexplain.plan.lower import Lowering
from gradexplain.plan.numeric import Numeric
from gradexplain.plan.program import Node
from gradexplain.plan.running import run


class Magnitude:
    """Pairs of values, as ``values`` has them, and magnitudes in float64; ``pair(label)`` are the inputs'.

    As long as floats are finite, the magnitudes of products, quotients, powers, and of sums of numbers of
    one sign, are as many times the values as those that go in say (`Relative`), and no array is made.
    """

    cut = True

    def __init__(self, values: Numeric, pair: Callable[[str], Pair]) -> None:
        self._values = values
        self._pair = pair

    def step(self, node: Node, args: list[Any], spare: list[bool]) -> Any:
        value = self._values.step(node, [a[0] for a in args], [False] * len(args))
        if node.type != "real":
            return value, None
        exact = value.dtype.hasobject
        times = None if exact else self._times(node, value, args)
        if times is not None:
            return value, Relative(value, times)
        # Exact ones are arrays.
        if not exact and (node.kind not in ("map", "contract") or not is_finite(value)):
            args = [a if a[1] is None else sized(a) for a in args]
        size = getattr(self, f"_{node.kind}")(node, value, args)
        return value, np.asarray(size, dtype=np.float64)

    def _times(self, node: Node, value: Any, args: list[Pair]) -> float | None:
        """How many times its value the magnitude is, None where that is not one number."""
        what, kind = node.data, node.kind
        if kind in ("number", "real"):
            return 1.0
        if kind in ("element", "window", "gather"):
            size = self._pair(what[0])[1]
            return size.times if isinstance(size, Relative) else None
        each = [a[1].times for a in args if isinstance(a[1], Relative)]
        if len(each) < sum(arg.type == "real" for arg in node.args):
            return None
        found: float | None = None
        if kind == "map" and what in ("multiply", "divide"):
            found = sum(each) + len(each) - 1
        elif kind == "map" and isinstance(what, tuple):
            found = 1 + abs(what[1]) * each[0]
        elif kind == "map" and what == "sqrt":
            found = 1 + each[0] / 2
        elif kind in ("select", "take"):
            found = each[0]
        elif kind == "contract" and all(
            a[0].min(initial=0.0) >= 0 for a, arg in zip(args, node.args, strict=True) if arg.type == "real"
        ):  # fmt: skip
            found = _summed(node, each)
        return found if found is not None and is_finite(value) else None

    # -- leaves ----------------------------------------------------------------------------------

    def _number(self, node: Node, value: Any, args: list[Pair]) -> Any:
        return Relative(to_float(value))

    _real = _number

    def _element(self, node: Node, value: Any, args: list[Pair]) -> Any:
        size = self._pair(node.data[0])[1]
        return size[tuple(slice(None) if pick else 0 for pick in node.data[1])]

    def _window(self, node: Node, value: Any, args: list[Pair]) -> Any:
        return window(np.asarray(self._pair(node.data[0])[1]), node.data[1], node.axes, 0.0)

    def _gather(self, node: Node, value: Any, args: list[Pair]) -> Any:
        size = np.asarray(self._pair(node.data[0])[1])
        return gathered(size, [a[0] for a in args], [a.axes for a in node.args], node.axes)

    # -- arithmetic ------------------------------------------------------------------------------

    def _map(self, node: Node, value: Any, args: list[Pair]) -> Any:
        what = node.data
        values = [
            aligned(a[0], arg.axes, node.axes) for a, arg in zip(args, node.args, strict=True)
        ]
        sizes = [
            Relative(v, a[1].times) if isinstance(a[1], Relative) else aligned(a[1], arg.axes, node.axes)
            for v, a, arg in zip(values, args, node.args, strict=True)
        ]  # fmt: skip
        if what == "add":
            return reduce(np.add, sizes)
        if what == "multiply":
            return _product(values, sizes)
        if what == "divide":
            width, quotient, times = np.abs(to_float(values[1])), np.abs(to_float(value)), 1.0
            terms = []
            for size, factor in zip(sizes, (1.0, quotient), strict=True):
                if isinstance(size, Relative):
                    times += size.times
                else:
                    terms.append(factor * size)
            return reduce(np.add, terms) / width + times * quotient
        sizes = [np.asarray(size) for size in sizes]
        if isinstance(what, tuple):
            n, base = what[1], to_float(values[0])
            return _grown(value, [(n * base ** float(n - 1), sizes[0])])
        if what == "sqrt":
            return _grown(value, [(0.5 / to_float(value), sizes[0])])
        if what == "power":
            b, x, y = to_float(values[0]), to_float(values[1]), to_float(value)
            slopes = [(np.where(b == 0, 0.0, y * x / b), sizes[0])]
            if node.args[1].kind != "number":
                slopes.append((np.where(b > 0, y * np.log(np.abs(b)), 0.0), sizes[1]))
            return _grown(value, slopes)
        return _grown(value, self._slopes(what, values, sizes))

    def _slopes(
        self, what: Any, values: Sequence[Any], sizes: Sequence[Any]
    ) -> Iterator[tuple[Any, Any]]:
        """``|f'|`` at float64 for each argument, from the function's own derivative."""
        floats = [to_float(v) for v in values]
        for place, size in enumerate(sizes, start=1):
            slope = slope_of(what, len(values), place)
            if slope is not None:
                tensor = Numeric(lambda label: floats[int(label[1:])])
                yield run(slope, tensor), size
            elif slope_of(what, len(values), place, steps=True) is not None:
                yield np.ones(()), size

    # -- choices ---------------------------------------------------------------------------------

    def _choose(self, node: Node, value: Any, args: list[Pair]) -> Any:
        mask = aligned(args[0][0], node.args[0].axes, node.axes)
        pairs = zip(args[1:], node.args[1:], strict=True)
        sides = [aligned(a[1], arg.axes, node.axes) for a, arg in pairs]
        return np.where(mask, *sides, *[0.0] * (2 - len(sides)))

    _select = _choose

    # -- what runs over an axis ------------------------------------------------------------------

    def _contract(self, node: Node, value: Any, args: list[Pair]) -> Any:
        axes = [arg.axes for arg in node.args]
        masks = [arg.type != "real" for arg in node.args]
        widths = [self._width(arg, a[0]) for arg, a in zip(node.args, args, strict=True)]
        finite = all(
            mask or self._is_finite(arg, w, a[1])
            for arg, w, a, mask in zip(node.args, widths, args, masks, strict=True)
        )
        used = [k for k, arg in enumerate(node.args) if arg.type != "implied" or not finite]

        def total(arrays: Sequence[Any]) -> Any:
            if not finite:
                return contraction.masked(arrays, axes, masks, node.axes, 0.0)
            arrays = [arrays[k].astype(np.float64, copy=False) for k in used]
            return contraction.contracted(arrays, [axes[k] for k in used], node.axes)

        times = _summed(node, [a[1].times for a in args if finite and isinstance(a[1], Relative)])
        size = times * total(widths) if times else 0.0
        seen: dict[int, Any] = {}
        for place, (arg, (_, own), mask) in enumerate(zip(node.args, args, masks, strict=True)):
            if mask or (finite and isinstance(own, Relative)):
                continue
            if arg.place not in seen:  # of a square both terms are the same
                others = [*widths[:place], np.asarray(own), *widths[place + 1 :]]
                seen[arg.place] = total(others)
            size = size + seen[arg.place]
        return size

    def _width(self, node: Node, value: Any) -> Any:
        """``|value|``; of a view a view."""
        if node.kind == "window" and node.type == "real":
            return window(np.abs(to_float(self._values.source(node))), node.data[1], node.axes, 0.0)
        return np.abs(to_float(value)) if node.type == "real" else value

    def _is_finite(self, node: Node, width: Any, size: Any) -> bool:
        if node.kind == "window":  # a view has what its tensor has
            width = to_float(self._values.source(node))
            size = self._pair(node.data[0])[1]
        return is_finite(width) and (isinstance(size, Relative) or is_finite(size))

    def _reduce(self, node: Node, value: Any, args: list[Pair]) -> Any:
        how, bound = node.data
        places = tuple(node.args[0].axes.index(a) for a in bound)
        if how == "product":
            return _product_error(np.abs(to_float(args[0][0])), args[0][1], places)
        return np.max(args[0][1], axis=places)

    def _scan(self, node: Node, value: Any, args: list[Pair]) -> Any:
        how, _, to, upward = node.data
        if how == "sum":
            return scanned(node, [args[0][1]], 1.0)
        widths = [np.abs(to_float(a[0])) for a in args]
        if how == "decayed":
            # T = f + d·T', T' the one before: the error of d·T' is as of any product.
            place = node.axes.index(to)
            total = np.moveaxis(np.abs(to_float(value)), place, 0)
            before = np.zeros_like(total)
            if upward:
                before[1:] = total[:-1]
            else:
                before[:-1] = total[1:]
            before = np.moveaxis(before, 0, place)
            own = node.data[1]
            axes = [tuple(to if a == own else a for a in node.args[0].axes), node.args[1].axes]
            term = aligned(args[0][1], axes[0], node.axes)
            step = aligned(args[1][1] + widths[1], axes[1], node.axes)
            return running(
                term + before * step, aligned(widths[1], axes[1], node.axes), place, upward
            )
        place = node.args[0].axes.index(node.data[1])
        sides = [_product_errors(np.moveaxis(widths[0], place, 0), np.moveaxis(args[0][1], place, 0),
                                 turn, whole=how == "product")
                 for turn in ((True, False) if how == "others" else (upward,))]  # fmt: skip
        product, size = sides[0]
        if how == "others":
            after, error = sides[1]
            size = product * error + after * size + product * after
        return np.moveaxis(size, 0, place)

    def _scatter(self, node: Node, value: Any, args: list[Pair]) -> Any:
        tables = node.data[1]

        def add(where: Any, terms: Any, room: int) -> Any:
            return np.bincount(where, weights=terms, minlength=room)

        arrays = [a[0] for a in args]
        return scattered(node, args[0][1], arrays[1 : 1 + tables], arrays[1 + tables :], add)

    def _place(self, node: Node, value: Any, args: list[Pair]) -> Any:
        return Numeric(lambda _: None).place(node, [args[0][1], args[1][1], args[2][0]], [])

    def _take(self, node: Node, value: Any, args: list[Pair]) -> Any:
        return np.take(args[0][1], args[1][0], axis=node.args[0].axes.index(node.data))


def _roundings(node: Node) -> float:
    """The roundings of a sum's additions, as a part of the 32 that are allowed to each magnitude.

    PyTorch's kernels add n terms in 8 sums or more side by side, each rounding n/8 times (softmax); the
    windows that hold an element (a pool's backward) are added one after another.
    """
    bound = {axis for arg in node.args for axis in arg.axes if axis not in node.axes}
    at_once = 1 if any(arg.kind == "window" for arg in node.args) else 8
    return float(math.prod(axis.size for axis in bound) / (32 * at_once))


def _summed(node: Node, times: Sequence[float]) -> float:
    """How many times the sum of sizes the magnitude of a contraction is, by its own roundings and by
    factors that are so many ``times`` their sizes."""
    further = _roundings(node)
    if len(node.args) > 1:
        return sum(times) + max(1.0, further)
    return sum(times) + (further if further > 1 else 0.0) if node.args[0].type == "real" else 1.0


def _product(values: Sequence[Any], sizes: Sequence[Any]) -> Any:
    """The magnitude of a product; of factors that are `Relative` to their size at once."""
    width = size = None
    times = 0.0
    for v, s in sorted(
        zip(values, sizes, strict=True), key=lambda p: not isinstance(p[1], Relative)
    ):
        other = np.abs(to_float(v))
        if isinstance(s, Relative):
            times += s.times + 1
        elif width is None:
            size = s
        elif size is None:
            size = width * (s + times * other)
        else:
            size = width * s + other * size + width * other
        width = other if width is None else width * other
    return size


def _product_errors(value: Any, size: Any, upward: bool, *, whole: bool) -> Pair:
    """The running products of ``value`` along its first axis, and their magnitudes.

    With ``whole`` each has its own place in it, else it ends before.
    """
    if not upward:
        value, size = value[::-1], size[::-1]
    products = np.ones((len(value) + 1, *value.shape[1:]))
    np.multiply.accumulate(value, axis=0, out=products[1:])
    error = running(products[:-1] * size + products[1:], value, 0, True)
    if not whole:
        error = np.concatenate([np.ones_like(error[:1]), error[:-1]])
    pair = products[1:] if whole else products[:-1], error
    return pair if upward else (pair[0][::-1], pair[1][::-1])


def _grown(value: Any, slopes: Any) -> Any:
    """The magnitude of ``f(a)``: ``|f| + Σ |f'|·magnitude(a)``."""
    size = np.abs(to_float(value))
    # With digits to spare a bound beyond a float's range says that nothing is known yet.
    beyond = np.inf if np.asarray(value).dtype == object else 0.0
    for slope, inner in slopes:
        term = np.abs(to_float(slope)) * inner
        if not np.isfinite(term).all():
            term = np.where(
                np.isinf(inner) & ~(term <= 0), beyond, np.nan_to_num(term, posinf=beyond)
            )
        size = size + term
    return size


@lru_cache(maxsize=512)
def slope_of(what: Any, count: int, place: int, *, steps: bool = False) -> Node | None:
    """The derivative of a function by one of its arguments, which are the scalars ``_0``, ``_1``, …

    None where it has none, and for a function of steps unless ``steps``.
    """
    symbols = [sympy.Symbol(f"_{n}", real=True) for n in range(count)]
    try:
        slope = what(*symbols).fdiff(place)
    except sympy.core.function.ArgumentIndexError:
        return None
    if isinstance(slope, sympy.Heaviside) or slope.has(sympy.Heaviside, sympy.Derivative):
        slope = sympy.S.One if steps else None
    elif steps:
        slope = None
    return None if slope is None else Lowering(lambda _: ()).formula(slope, {})


def _product_error(value: Any, size: Any, axes: tuple[int, ...]) -> Any:
    """``|Π x| + Σ_k size_k·Π_{others} |x|`` over ``axes``, right also where an element is 0."""
    first = [np.moveaxis(a, axes, range(len(axes))) for a in (value, size)]
    flat, sizes = (a.reshape(-1, *a.shape[len(axes) :]) for a in first)
    others = before(flat, 1.0) * before(flat[::-1], 1.0)[::-1]
    return as_array(np.sum(others * sizes, axis=0) + np.prod(flat, axis=0))
