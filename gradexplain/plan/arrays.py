"""What the interpretations share: arrays with named axes, floats and mpmath numbers."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from gradexplain import arithmetic
from gradexplain.plan.program import Affine, Axes, Axis, Node

#: Values (floats, or mpmath numbers) and their magnitudes, an array of floats or `Relative`; None where
#: there are none.
Pair = tuple[Any, Any]


class Relative(np.lib.mixins.NDArrayOperatorsMixin):
    """Magnitudes that are ``times`` the size of each of ``values``, worked out where they are read.

    Such are those of numbers rounded once, of products and quotients of such, and of their sums where
    nothing cancels.  An infinity is exact.
    """

    def __init__(self, values: Any, times: float = 1.0) -> None:
        self.values = values
        self.times = times
        self.shape, self.ndim, self.size = values.shape, values.ndim, values.size

    def __getitem__(self, part: Any) -> Relative:
        return Relative(as_array(self.values[part]), self.times)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        size = as_array(np.abs(self.values))
        if self.times != 1:
            np.multiply(size, self.times, out=size)
        if not np.isfinite(size).all():
            size[np.isinf(self.values)] = 0.0
        return size

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **options: Any) -> Any:
        arrays = [np.asarray(a) if isinstance(a, Relative) else a for a in inputs]
        return getattr(ufunc, method)(*arrays, **options)


def sized(pair: Pair) -> Pair:
    """The pair with its magnitudes as an array."""
    return pair[0], np.asarray(pair[1])


def added(one: Pair, other: Pair) -> Pair:
    """The sum of two pairs of the same shape."""
    with np.errstate(all="ignore"):
        return as_array(one[0] + other[0]), as_array(one[1] + other[1])


def is_finite(array: Any) -> bool:
    """Whether no infinity and no nan is among numbers."""
    return bool(np.isfinite(array).all())


def to_exact(array: Any) -> Any:
    """A float64 array as mpmath numbers, each exactly the float."""
    with np.errstate(all="ignore"):
        exact = np.frompyfunc(lambda x: arithmetic.mp.mpf(float(x)), 1, 1)(
            np.asarray(array, dtype=object)
        )
    return as_array(exact)


def to_float(array: Any) -> Any:
    """mpmath numbers, or floats, as float64; an array of float64 itself, which is not to be changed."""
    array = np.asarray(array)
    if array.dtype == np.float64:
        return array
    if array.dtype != object:
        return array.astype(np.float64)
    return np.fromiter(map(_float, array.flat), np.float64, array.size).reshape(array.shape)


def _float(x: Any) -> float:
    try:
        sign, whole, two, bits = x._mpf_
        if whole and -900 < two + bits < 900 and -9000 < two < 900:
            size = whole << two if two > 0 else whole / (1 << -two)  # Python rounds it right
            return float(-size if sign else size)
        return float(x)
    except OverflowError:
        return math.inf if x > 0 else -math.inf
    except AttributeError:
        return float(x)


def within(exact: Any) -> Any:
    """`to_float`, but that what is neither 0 nor infinite stays so."""
    rounded = to_float(exact)
    if rounded is exact or (np.isfinite(rounded) & (rounded != 0)).all():
        return np.asarray(rounded)
    return np.asarray(_kept(exact, rounded), dtype=np.float64)


def _nearest(exact: Any, rounded: float) -> float:
    if exact == 0 or not abs(exact) < math.inf:
        return rounded
    size = min(max(abs(rounded), sys.float_info.min), sys.float_info.max)
    return size if exact > 0 else -size


_kept = np.frompyfunc(_nearest, 2, 1)


def as_array(value: Any) -> Any:
    """A 0-d array where NumPy returned a scalar."""
    if isinstance(value, np.ndarray):
        return value
    array = np.empty((), dtype=value.dtype if isinstance(value, np.generic) else object)
    array[()] = value
    return array


def aligned(array: Any, axes: Axes, to: Axes) -> Any:
    """``array`` with its axes in the order of ``to``, missing ones of length 1."""
    if axes == to or not axes:
        return array
    order, full = _alignment(axes, to)
    return (array if order is None else array.transpose(order))[full]


@lru_cache(maxsize=4096)
def _alignment(axes: Axes, to: Axes) -> tuple[tuple[int, ...] | None, tuple[Any, ...]]:
    order = tuple(sorted(range(len(axes)), key=lambda place: to.index(axes[place])))
    full = tuple(slice(None) if axis in axes else None for axis in to)
    return None if order == tuple(range(len(axes))) else order, full


def block(value: Any, place: int, part: slice) -> Any:
    """A part of a value along the axis at ``place``, where it has it in full; of a pair, of both."""
    if isinstance(value, tuple):
        return tuple(None if a is None else block(a, place, part) for a in value)
    if value.ndim <= place or value.shape[place] == 1:
        return value
    return value[(slice(None),) * place + (part,)]


def joined(node: Node, whole: Any, value: Any, place: int | None, part: slice | None) -> Any:
    """``whole``, None at first, with a block of ``node``'s in it at ``place``, or added to it.

    Without a ``part`` the value is all of it.
    """
    if part is None:
        return value
    if isinstance(value, tuple):
        before, size = whole or (None, None)
        whole = joined(node, before, value[0], place, part)
        if place is not None and isinstance(value[1], Relative):
            if size is None or (isinstance(size, Relative) and size.times == value[1].times):
                return whole, Relative(whole, value[1].times)
        size, own = (np.asarray(s) if isinstance(s, Relative) else s for s in (size, value[1]))
        return whole, None if own is None else joined(node, size, own, place, part)
    if place is None:
        return value if whole is None else np.add(whole, value, out=whole)
    if whole is None:
        whole = np.empty(node.shape, dtype=value.dtype)
    whole[(slice(None),) * place + (part,)] = value
    return whole


def window(array: Any, lines: Sequence[Affine], axes: Axes, zero: Any) -> Any:
    """``array[line, …]`` over ``axes`` as a view; ``zero`` outside of it."""
    around = [
        (max(0, -line.low), max(0, line.high + 1 - n))
        for line, n in zip(lines, array.shape, strict=True)
    ]
    if any(pad for pair in around for pad in pair):
        array = np.pad(array, around, constant_values=zero)
    strides: dict[Axis, int] = dict.fromkeys(axes, 0)
    offset = []
    for line, (before, _), stride in zip(lines, around, array.strides, strict=True):
        offset.append(line.start + before)
        for axis, step in line.steps:
            strides[axis] += step * stride
    # A step backwards starts at the far end: the corner is where every letter is 0.
    corner = array[tuple(slice(place, None) for place in offset)]
    shape = tuple(axis.size for axis in axes)
    return np.lib.stride_tricks.as_strided(corner, shape, tuple(strides.values()), writeable=False)


def gathered(array: Any, places: Sequence[Any], axes: Sequence[Axes], to: Axes) -> Any:
    """``array`` at computed places, those outside of it at its edge."""
    at = tuple(
        np.clip(aligned(place, own, to), 0, n - 1)
        for place, own, n in zip(places, axes, array.shape, strict=True)
    )
    return array[at]


def _found(table: Any, spot: Any) -> Any:
    """Where each entry of ``table`` stands among ``spot``, the last time; -1 where it does not."""
    if table.size == 0 or spot.size == 0:
        return np.full(table.shape, -1)
    most = max(int(spot.max()), int(table.max()))
    if most <= 16 * (spot.size + table.size):
        back = np.full(most + 1, -1)
        back[spot] = np.arange(spot.size)
        return np.where(table < 0, -1, back[np.maximum(table, 0)])
    # Far apart, as the places of an example of astronomic size are: no table of all numbers.
    by_value = np.argsort(spot, kind="stable")
    place = np.searchsorted(spot, table, side="right", sorter=by_value) - 1
    last = by_value[np.maximum(place, 0)]
    return np.where((place >= 0) & (spot[last] == table), last, -1)


def scattered(
    node: Any, value: Any, tables: Sequence[Any], spots: Sequence[Any], add: Callable[..., Any]
) -> Any:
    """The sum of the terms of ``value`` over the bound axes, each at the place its tables name.

    ``add(where, terms, room)`` sums terms by their place in ``room`` places.
    """
    part, own = node.args[0], node.args[1 : 1 + len(tables)]
    over = node.data[0]
    kept = tuple(
        a for a in node.axes if a not in {x for s in node.args[1 + len(tables) :] for x in s.axes}
    )
    order = (*kept, *over)
    shape = tuple(a.size for a in order)
    count = math.prod(a.size for a in kept)
    where = np.arange(count).reshape([a.size if a in kept else 1 for a in order])
    valid = np.ones(shape, dtype=bool)
    room = count
    for table, table_node, spot in zip(tables, own, spots, strict=True):
        spot = np.ravel(spot)
        at = aligned(_found(np.asarray(table), spot), table_node.axes, order)
        valid = valid & (at >= 0)
        where = where * spot.size + at
        room *= spot.size
    terms = np.broadcast_to(aligned(value, part.axes, order), shape)[valid]
    total = add(np.broadcast_to(where, shape)[valid], terms, room)
    return total.reshape([a.size for a in node.axes])


def scanned(node: Any, arrays: Sequence[Any], one: Any) -> Any:
    """A running sum, product, product of all others, or a sum that decays from place to place."""
    how, own, to, upward = node.data
    part = node.args[0]
    axes = tuple(to if a == own else a for a in part.axes)
    value = np.moveaxis(arrays[0], axes.index(to), 0)
    value = value if upward else value[::-1]
    if how == "sum":
        result = np.cumsum(value, axis=0)
    elif how == "product":
        result = np.multiply.accumulate(value, axis=0)
    elif how == "before":
        result = before(value, one)
    elif how == "others":
        result = before(value, one) * before(value[::-1], one)[::-1]
    else:
        value = aligned(arrays[0], axes, node.axes)
        step = aligned(arrays[1], node.args[1].axes, node.axes)
        return running(value, step, node.axes.index(to), upward)
    result = result if upward else result[::-1]
    return np.moveaxis(result, 0, axes.index(to))


def running(terms: Any, steps: Any, place: int, upward: bool) -> Any:
    """``T[k] = terms[k] + steps[k]·T[k - 1]`` along an axis, or from its end."""
    shape = np.broadcast_shapes(terms.shape, steps.shape)
    terms, steps = (np.moveaxis(np.broadcast_to(a, shape), place, 0) for a in (terms, steps))
    result = np.empty(terms.shape, dtype=np.result_type(terms, steps))
    order = range(len(terms)) if upward else range(len(terms) - 1, -1, -1)
    total = None
    for k in order:
        total = result[k] = terms[k] if total is None else terms[k] + steps[k] * total
    return np.moveaxis(result, 0, place)


def before(value: Any, one: Any) -> Any:
    """The product of all before each place."""
    result = np.empty_like(value)
    result[:1] = one
    np.multiply.accumulate(value[:-1], axis=0, out=result[1:])
    return result
