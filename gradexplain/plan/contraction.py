"""Sums of products: in which order, and how each pair is taken."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache, lru_cache
from itertools import combinations
from typing import Any

import numpy as np

from gradexplain.plan.arrays import aligned
from gradexplain.plan.program import Axes, union

#: Up to this many factors every order is tried.
_ALL = 7


def _size(axes: Axes) -> int:
    return math.prod(axis.size for axis in axes)


@lru_cache(maxsize=4096)
def order(factors: tuple[Axes, ...], out: Axes) -> tuple[tuple[tuple[int, ...], Axes], ...]:
    """Pairs of places in the list of factors, and the axes of each pair's result.

    A pair is taken away and its result put at the end of the list.  Of up to `_ALL` factors the order
    of the fewest products is found, of more the cheapest pair is taken each time.
    """
    return _best(factors, out) if len(factors) <= _ALL else _greedy(factors, out)


def cost(factors: Sequence[Axes], bound: Sequence[Any]) -> tuple[int, int]:
    """The number of products, the factors themselves counted; and the elements of the largest pair's
    result on the way."""
    axes = union(factors)
    out = tuple(a for a in axes if a not in bound)
    found, largest = sum(_size(axes) for axes in factors), 0
    left = list(factors)
    for places, kept in order(tuple(factors), out):
        chosen = [left.pop(place) for place in sorted(places, reverse=True)]
        found += _size(union(chosen))
        largest = max(largest, _size(kept)) if left else largest
        left.append(kept)
    return found, largest


def _kept(inside: Axes, outside: Sequence[Axes], out: Axes) -> Axes:
    wanted = set(out).union(*outside) if outside else set(out)
    return tuple(a for a in inside if a in wanted)


def _greedy(factors: Sequence[Axes], out: Axes) -> tuple[tuple[tuple[int, ...], Axes], ...]:
    left = list(factors)
    steps: list[tuple[tuple[int, ...], Axes]] = []
    while len(left) > 1:
        best: Any = None
        for places in combinations(range(len(left)), 2):
            rest = [axes for place, axes in enumerate(left) if place not in places]
            joined = union([left[places[0]], left[places[1]]])
            kept = _kept(joined, rest, out)
            price = _size(kept) - _size(left[places[0]]) - _size(left[places[1]]), _size(joined)
            if best is None or price < best[0]:
                best = price, places, kept
        _, places, kept = best
        for place in sorted(places, reverse=True):
            left.pop(place)
        left.append(kept)
        steps.append((places, kept))
    return tuple(steps)


def _best(factors: Sequence[Axes], out: Axes) -> tuple[tuple[tuple[int, ...], Axes], ...]:
    """By the cheapest way to make the product of each subset of the factors."""
    n = len(factors)
    whole = (1 << n) - 1

    @cache
    def axes_of(subset: int) -> Axes:
        """Those of a single factor all, others summed as they can be."""
        if not subset & (subset - 1):
            return factors[subset.bit_length() - 1]
        inside = union(factors[k] for k in range(n) if subset >> k & 1)
        return _kept(inside, [factors[k] for k in range(n) if not subset >> k & 1], out)

    made: dict[int, tuple[int, int]] = {1 << k: (0, 0) for k in range(n)}
    for subset in sorted(range(1, whole + 1), key=int.bit_count):
        if subset in made:
            continue
        best: tuple[int, int] | None = None
        first = subset & -subset
        part = (subset - 1) & subset
        while part:
            if part & first:  # each pair once
                other = subset ^ part
                joined = _size(union([axes_of(part), axes_of(other)]))
                price = made[part][0] + made[other][0] + joined + _size(axes_of(subset))
                if best is None or price < best[0]:
                    best = price, part
            part = (part - 1) & subset
        assert best is not None
        made[subset] = best
    places = {1 << k: k for k in range(n)}
    left = [1 << k for k in range(n)]
    steps: list[tuple[tuple[int, ...], Axes]] = []

    def take(subset: int) -> None:
        if subset in places:
            return
        part = made[subset][1]
        take(part)
        take(subset ^ part)
        pair = tuple(sorted((left.index(part), left.index(subset ^ part))))
        for place in sorted(pair, reverse=True):
            left.pop(place)
        left.append(subset)
        places[subset] = -1
        steps.append((pair, axes_of(subset)))

    take(whole)
    return tuple(steps)


def contracted(arrays: Sequence[Any], axes: Sequence[Axes], out: Axes) -> Any:
    """The sum of the product of float arrays over every axis that is not in ``out``, in an array of its own."""
    operands = list(zip(arrays, axes, strict=True))
    if len(operands) == 1:
        array, own = operands[0]
        places = tuple(k for k, a in enumerate(own) if a not in out)
        kept = tuple(a for a in own if a in out)
        return np.array(aligned(np.sum(array, axis=places), kept, out))
    for places, kept in order(tuple(axes), out)[:-1]:
        chosen = [operands.pop(place) for place in sorted(places, reverse=True)]
        operands.append((_pair(chosen, kept), kept))
    return _pair(operands, out)


def _pair(operands: Sequence[tuple[Any, Axes]], out: Axes) -> Any:
    """A matrix product where it can be one, else a single pass over both."""
    (a, la), (b, lb) = operands
    both = [i for i in la if i in lb]
    summed = [i for i in both if i not in out]
    batch = [i for i in both if i in out]
    left = [i for i in la if i not in lb]
    right = [i for i in lb if i not in la]
    if summed and left and right and set(left + right) <= set(out):
        if out.index(right[0]) < out.index(left[0]):
            a, la, left, b, lb, right = b, lb, right, a, la, left

        sizes = dict([*zip(la, a.shape, strict=True), *zip(lb, b.shape, strict=True)])

        def grouped(array: Any, axes: Axes, *groups: list[Any]) -> Any:
            shape = [sizes[i] for i in batch] + [math.prod(sizes[i] for i in g) for g in groups[1:]]
            return np.transpose(array, [axes.index(i) for g in groups for i in g]).reshape(shape)

        product = np.matmul(
            grouped(a, la, batch, left, summed), grouped(b, lb, batch, summed, right)
        )
        found = [*batch, *left, *right]
        product = product.reshape([sizes[i] for i in found])
        return np.transpose(product, [found.index(i) for i in out])
    number = {axis: place for place, axis in enumerate(union([la, lb]))}
    return np.einsum(
        a, [number[i] for i in la], b, [number[i] for i in lb], [number[i] for i in out]
    )


def masked(
    arrays: Sequence[Any], axes: Sequence[Axes], masks: Sequence[bool], out: Axes, zero: Any
) -> Any:
    """The same for any numbers: where a mask does not hold a term is 0, whatever it would be."""
    operands = list(zip(arrays, axes, masks, strict=True))

    def joined(x: tuple[Any, Axes, bool], y: tuple[Any, Axes, bool]) -> tuple[Any, Axes, bool]:
        (a, la, ma), (b, lb, mb) = x, y
        to = union([la, lb])
        a, b = aligned(a, la, to), aligned(b, lb, to)
        if ma and mb:
            return a & b, to, True
        if ma or mb:
            return np.where(*((a, b) if ma else (b, a)), zero), to, False
        return a * b, to, False

    def summed(x: tuple[Any, Axes, bool], kept: Axes) -> tuple[Any, Axes, bool]:
        array, own, mask = x
        places = tuple(k for k, a in enumerate(own) if a not in kept)
        if not places:
            return x
        if mask:
            array = np.where(array, zero + 1, zero)
        return np.sum(array, axis=places), tuple(a for a in own if a in kept), False

    if len(operands) > 1:
        for places, kept in order(tuple(axes), out):
            b, a = (operands.pop(place) for place in sorted(places, reverse=True))
            operands.append(summed(joined(a, b), kept))
    array, own, mask = summed(operands[0], out)
    array = np.where(array, zero + 1, zero) if mask else array
    return aligned(np.asarray(array), own, out)
