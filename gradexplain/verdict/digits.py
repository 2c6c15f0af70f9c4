"""How many digits of a floating point computation are right, and which operation lost them.

The exact values are those of an evaluation with digits to spare.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from gradexplain.explanation import Array
from gradexplain.graph import Graph, Node
from gradexplain.numbers import distinct
from gradexplain.tensors import spot
from gradexplain.verdict.compare import FORMATS, blocks, differs, largest, unsteady

#: Works values out again at inputs that were moved.
Moved = Callable[[], Iterable[Array]]

#: How many times that what the last digits leave open all operations together may.
_TIMES = 64

#: An operation has lost digits when its result has so many fewer than what it was made from.
_LOSS = 3.0


@dataclass(frozen=True, slots=True)
class Loss:
    """The operation in which digits were lost.

    ``index`` is the element of its result that is worst off, with ``before`` right digits in the
    operands and ``after`` in the result, of ``of`` in the dtype; ``overflow`` says that the result was
    too large for the dtype.
    """

    node: Node
    index: tuple[int, ...]
    before: float
    after: float
    of: float
    exact: float
    found: float
    overflow: bool = False


def in_format(dtype: str) -> float:
    """The decimal digits of a dtype."""
    return -math.log10(FORMATS[dtype].unit)


def right(found: Array, exact: Array, dtype: str) -> Array:
    """The right decimal digits of each element, from 0 to the dtype's."""
    most = in_format(dtype)
    with np.errstate(all="ignore"):
        apart = np.abs(found - exact) / np.abs(exact)
        digits = -np.log10(apart)
    same = (found == exact) | (np.isnan(found) & np.isnan(exact))
    digits = np.where(same, most, np.nan_to_num(digits, nan=0.0, posinf=most, neginf=0.0))
    return np.clip(digits, 0.0, most)


def whole(found: Array, exact: Array, dtype: str, scale: float) -> float:
    """The right digits of a tensor as a whole: the largest error against the largest element.

    Where all of it should be 0, it is held against ``scale``.
    """
    most = in_format(dtype)
    size = error = 0.0
    with np.errstate(all="ignore"):
        for part in blocks(np.shape(exact)):
            f, e = found[part], exact[part]
            gap = np.abs(f - e)
            if not np.isfinite(gap).all():
                finite = np.isfinite(e)
                odd = ~finite
                if (np.isfinite(f) != finite).any() or not np.array_equal(f[odd], e[odd], True):
                    return 0.0
                gap, e = gap[finite], e[finite]
            size = max(size, float(np.abs(e).max(initial=0.0)))
            error = max(error, float(gap.max(initial=0.0)))
    size = size or scale
    if error == 0 or size == 0:
        return most
    return min(most, max(0.0, math.log10(size) - math.log10(error)))


def _fewest(found: Array, exact: Array, dtype: str) -> tuple[tuple[int, ...], float]:
    """Where a tensor has the fewest right digits, and how many."""
    where, least = (0,) * found.ndim, math.inf
    for part in blocks(found.shape):
        each = right(found[part], exact[part], dtype)
        at = np.unravel_index(int(np.argmin(each)), each.shape)
        if each[at] < least:
            first = 0 if part is ... else part.start
            where = tuple(int(i) + first * (not axis) for axis, i in enumerate(at))
            least = float(each[at])
    return where, least


def few(digits: Any, dtype: str) -> Any:
    """Whether so few digits, or where, are worth a word: less than half of the dtype's."""
    return digits < in_format(dtype) / 2


def lost(
    found: Array | None, exact: Array, dtype: str, scale: float, moved: Moved | None = None
) -> Any:
    """The elements of a tensor that have `few` right digits; None are zeros.

    They are those of its `whole`, whose largest element they are held against, and those that have
    few of their own.  ``moved`` are the exact values where the last digits of all that they are made
    of are changed: what those leave open, and all without ``moved``, is part of the whole.
    """
    found = np.zeros(exact.shape) if found is None else found
    result = np.zeros(exact.shape, dtype=bool)
    with np.errstate(all="ignore"):
        if few(whole(found, exact, dtype, scale), dtype):
            near = 10 ** (-in_format(dtype) / 2) * (largest(exact) or scale)
            result |= differs(found, exact, np.asarray(near))
    if moved is not None:
        own = few(right(found, exact, dtype), dtype) & (np.abs(exact) >= FORMATS[dtype].smallest)
        own &= np.isfinite(exact)
        result |= own & ~unsteady(exact, found, moved(), _TIMES) if own.any() else False
    return result


def worst(name: str, lost: Any, found: Array, exact: Array, dtype: str) -> tuple[float | None, str]:
    """The element of those ``lost`` that has the fewest right digits: how many, and in words; None and
    nothing without any."""
    if not lost.any():
        return None, ""
    each = np.where(lost, right(found, exact, dtype), math.inf)
    index = tuple(int(i) for i in np.unravel_index(int(np.argmin(each)), each.shape))
    true, real = distinct(float(exact[index]), float(found[index]), precision=6)
    return float(each[index]) + 0.0, f"{spot(name, index)} is {true}, and {real} in PyTorch"


def forward_losses(
    graph: Graph, found: Mapping[int, Array], exact: Mapping[int, Array], dtype: str
) -> list[Loss]:
    """The operations whose results have far fewer right digits than what they were made from."""
    most = in_format(dtype)
    digits: dict[int, float] = {}
    losses = []
    for node in graph.nodes:
        if node.id not in found or node.id not in exact or found[node.id].size == 0:
            continue
        index, after = _fewest(found[node.id], exact[node.id], dtype)
        digits[node.id] = after
        if node.op is None:
            continue
        before = min((digits.get(i, most) for i in node.inputs), default=most)
        if before - after < _LOSS and not (before > 0.5 and after == 0):
            continue
        value, true = float(found[node.id][index]), float(exact[node.id][index])
        if math.isnan(value) and not all(
            np.isfinite(found[i]).all() for i in node.inputs if i in found
        ):
            continue  # nan and infinities follow IEEE's rules: nothing is lost
        overflow = not math.isfinite(value) and before > 0
        losses.append(Loss(node, index, before, after, most, true, value, overflow))
    return losses
