"""When two arrays of numbers agree: the one place where that is decided.

A *bound* says how far PyTorch's own roundings may take it from the exact value:
``32·u·(E + |c|)`` for each element, where ``u`` is the unit roundoff of the dtype, ``c`` the exact
value and ``E`` the running error bound of the computation in units of ``u``
(`gradexplain.plan.magnitude`).  For one operation alone `judge` says what two numbers and a bound
come to; `gradexplain.routes.judged` does so for every step of a backward pass.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from gradexplain.explanation import Array, Difference
from gradexplain.ops.base import Op


@dataclass(frozen=True, slots=True)
class Format:
    """A floating point format: unit roundoff, smallest normal and largest number."""

    unit: float
    smallest: float
    largest: float


FORMATS = {
    "float64": Format(2.0**-53, 2.0**-1022, float(np.finfo(np.float64).max)),
    "float32": Format(2.0**-24, 2.0**-126, float(np.finfo(np.float32).max)),
    "float16": Format(2.0**-11, 2.0**-14, 65504.0),
    "bfloat16": Format(2.0**-8, 2.0**-126, (2.0 - 2.0**-7) * 2.0**127),
}
#: The unit roundoff of the dtypes in which a question may be asked.
ROUNDOFF = {name: FORMATS[name].unit for name in ("float64", "float32")}

#: Why routes differ where each difference is `by_kernel`.
COARSE = "PyTorch's own kernel is coarser here than its dtype"

#: How many roundings of the magnitude the routes may differ by; in formats of few digits, where that
#: would be everything, how many each rounding of the formula counts for.
ROUNDINGS, FEW_ROUNDINGS = 32, 8

#: A difference of this part of the whole is not overlooked: half of the 1 % that must be seen.
SEEN = 0.005


def bound(magnitude: Any, gradient: Array, v: Array, dtype: str) -> Array:
    """The largest difference allowed at each element, in the gradient's shape."""
    total = np.abs(v[np.isfinite(v)]).sum()
    scale = _scale(magnitude, gradient)
    with np.errstate(all="ignore"):
        scale += total
        scale *= ROUNDINGS * FORMATS[dtype].unit
    return scale


def _scale(magnitude: Any, value: Array) -> Array:
    """``magnitude + |value|``, each 0 where it is not finite; large arrays are made once."""
    size = np.asarray(magnitude, dtype=np.float64)
    scale = np.array(np.abs(value), dtype=np.float64)
    if size.shape != scale.shape:
        size, scale = np.broadcast_arrays(size, scale)
        scale = scale.copy()
    np.nan_to_num(scale, copy=False, nan=0.0, posinf=0.0)
    with np.errstate(all="ignore"):
        scale += size if np.isfinite(size).all() else np.nan_to_num(size, nan=0.0, posinf=0.0)
    return scale


def local_bound(magnitude: Any, expected: Array, upstream: Array, dtype: str) -> Array:
    """How far the roundings of one operation alone may take its contribution, by element.

    Where the formula is 0 without a rounding, as that of a mean over one element, PyTorch may still
    compute differences of what arrives; what is below the smallest normal number may be lost.
    """
    form = FORMATS[dtype]
    count = FEW_ROUNDINGS if is_coarse(dtype) else ROUNDINGS
    with np.errstate(all="ignore"):
        arriving = np.abs(upstream[np.isfinite(upstream)]).max(initial=0.0)
        scale = _scale(magnitude, expected)
        scale[scale == 0] = ROUNDINGS * arriving
        scale *= count * form.unit
        scale += 2 * form.smallest
        return scale


def exact_bound(magnitude: Any, a: Array, b: Array, digits: int, decimals: int = 0) -> Array:
    """What rounding may do to numbers of so many digits: next to nothing, and a float64's last bit.

    Each of the two is rounded to float64 once, by half a unit in the last place.  A formula may make
    one fraction of several ``decimals`` (doubles of the program such as 0.1), each off by as much.
    """
    with np.errstate(all="ignore"):
        size = np.nan_to_num(np.asarray(magnitude, dtype=np.float64), nan=0.0, posinf=0.0)
        larger = np.nan_to_num(np.maximum(np.abs(a), np.abs(b)), nan=0.0, posinf=0.0)
        last = FORMATS["float64"].unit * (2 * larger + decimals * size)
        return np.asarray(size * 10.0 ** (12 - digits) + last, dtype=np.float64)


def is_coarse(dtype: str) -> bool:
    """Whether a single rounding is not much less than the 1 % that must be seen."""
    return FORMATS[dtype].unit > 1e-4


def given(array: Array, dtype: str) -> tuple[Array, Array]:
    """One of PyTorch's own arrays and the size of its roundings: one each allows for those of sums;
    in formats of few digits most are float32's."""
    return array, np.abs(array) * (0.25 if is_coarse(dtype) else 1.0)


def differs(a: Array, b: Array, tolerance: Array) -> Any:
    """True at each element where ``a`` and ``b`` do not agree; nan agrees with nan, inf with inf."""
    with np.errstate(all="ignore"):
        gap = np.asarray(np.subtract(a, b))
        same = np.abs(gap, out=gap) <= tolerance
        return ~(same | (a == b) | (np.isnan(a) & np.isnan(b)))


@dataclass(frozen=True, slots=True)
class Judged:
    """What PyTorch's numbers and the expected ones come to.

    ``verdict`` is agree, mismatch or cannot tell; ``difference`` where they differ most, if by more
    than the bound.  ``margin`` is by how much an error of 1 % would exceed the bound where it is seen
    best, ``deviation`` the difference of the whole array, relative to it.
    """

    verdict: str
    difference: Difference | None
    margin: float
    deviation: float


def judge(
    name: str,
    routes: tuple[str, str],
    expected: Array,
    found: Array,
    allowed: Array,
    dtype: str,
    scale: float,
) -> Judged:
    """Hold ``found`` against ``expected``, within ``allowed`` at each element.

    ``scale`` is what a whole that should be 0 is held against.

    A mismatch is a difference beyond the bound.  Within it the two agree only if an error of 1 % would
    have been seen: if the whole deviates by less than `SEEN`.  Otherwise nothing can be told.
    """
    difference = worst(name, routes, expected, found, allowed)
    with np.errstate(all="ignore"):
        finite = np.isfinite(expected) & np.isfinite(found)
        shares = np.asarray(np.abs(expected))
        shares /= allowed
        margin = 2 * SEEN * float(shares.max(initial=0.0, where=finite & (allowed > 0)))
    del shares
    whole = (expected, found) if finite.all() else (expected[finite], found[finite])
    deviation = _deviation(*whole, scale)
    if difference is None and is_coarse(dtype):
        difference = _scaled(name, routes, expected, found, allowed, dtype)
    if difference is not None:
        return Judged("mismatch", difference, margin, deviation)
    decided = deviation <= (SEEN if not is_coarse(dtype) else 4 * FORMATS[dtype].unit)
    if decided and is_coarse(dtype):
        decided = abs(_factor(expected[finite], found[finite]) - 1) <= SEEN
    return Judged("agree" if decided else "cannot tell", None, margin, deviation)


def _deviation(expected: Array, found: Array, scale: float) -> float:
    """``‖found − expected‖ / ‖expected‖``; of what should be 0, its size against ``scale``."""
    size = float(np.abs(expected).max(initial=0.0))
    if size == 0:
        noise = float(np.abs(found).max(initial=0.0))
        return noise / scale if scale else float(noise > 0)
    with np.errstate(all="ignore"):
        gap = np.asarray(found - expected)
        gap /= size
        apart = np.linalg.norm(gap.ravel())
        whole = np.linalg.norm(np.divide(expected, size, out=gap).ravel())
    return float(apart / whole)


def _factor(expected: Array, found: Array) -> float:
    """The factor by which ``found`` is ``expected``, by least squares; 1 where there is nothing."""
    scale = float(np.abs(expected).max(initial=0.0))
    if scale == 0:
        return 1.0
    e, f = expected.ravel() / scale, found.ravel() / scale
    return float(np.dot(f, e) / np.dot(e, e))


def _scaled(
    name: str, routes: tuple[str, str], expected: Array, found: Array, allowed: Array, dtype: str
) -> Difference | None:
    """Whether a whole array is too large or too small, in a format of few digits.

    Roundings of the elements are as good as independent, so that they cancel in the factor by which
    one array is the other (Higham and Mary 2019, A New Approach to Probabilistic Rounding Error
    Analysis); a rounding of something that all elements share does not, and counts in full.
    """
    finite = np.isfinite(expected) & np.isfinite(found) & (expected != 0)
    distinct = len(np.unique(np.abs(expected[finite])))
    if distinct < 2:
        return None
    unit = FORMATS[dtype].unit
    weights = np.abs(expected[finite])
    roundings = float(np.dot(allowed[finite], weights) / np.dot(weights, weights))
    share = unit + 1.5 * roundings / FEW_ROUNDINGS / np.sqrt(distinct)
    if abs(_factor(expected[finite], found[finite]) - 1) <= share:
        return None
    gap = np.where(finite, np.abs(expected - found), -1.0)
    index = tuple(int(i) for i in np.unravel_index(int(np.argmax(gap)), gap.shape))
    values = float(expected[index]), float(found[index])
    return Difference(name, routes, index, values, float(allowed[index]), int(finite.sum()))


def coarseness(ops: Iterable[Op], order: int = 1) -> float:
    """By how much of its value PyTorch's derivative of this order may be off, beyond rounding."""
    return sum(kernel.relative for op in ops for kernel in op.coarse if kernel.order <= order)


def by_kernel(difference: Difference, relative: float, dtype: str) -> bool:
    """Whether a difference from PyTorch is no more than its own kernels are known to be off by.

    The tolerance is a number of roundings of a scale; the kernel's error is ``relative`` of the same.
    It is met everywhere if it is where the routes differ most.
    """
    a, b = difference.values
    allowed = difference.tolerance * (1 + relative / (ROUNDINGS * FORMATS[dtype].unit))
    return relative > 0 and "PyTorch" in difference.routes and abs(a - b) <= allowed


def settled(value: Array, magnitude: Any, unit: float) -> Array:
    """``value`` with what is only rounding noise against its magnitude put to 0."""
    with np.errstate(all="ignore"):
        size = np.asarray(magnitude, dtype=np.float64)
        noise = (np.abs(value) <= 8 * unit * size) & (size < np.inf)
    if not noise.any() and (value != 0).all():
        return value  # a large array is not copied
    return np.where(noise, 0.0, value) + 0.0


#: Two routes: their names, their numbers, and the bound.
Pair = tuple[tuple[str, str], Array, Array, Array]


def differences(name: str, pairs: Iterable[Pair]) -> list[Difference]:
    """Where each pair of routes differs most, of those that do not agree."""
    found = (worst(name, *pair) for pair in pairs)
    return [difference for difference in found if difference is not None]


def worst(name: str, routes: tuple[str, str], a: Array, b: Array, tol: Array) -> Difference | None:
    """Where two routes differ most, None where they agree."""
    wrong = differs(a, b, tol)
    if not wrong.any():
        return None
    with np.errstate(all="ignore"):
        gap = np.where(wrong, np.nan_to_num(np.abs(a - b) / tol, nan=np.inf, posinf=np.inf), -1.0)
    place = np.unravel_index(int(np.argmax(gap)), gap.shape)
    index = tuple(int(i) for i in place)
    return Difference(
        input=name,
        routes=routes,
        index=index,
        values=(float(a[index]), float(b[index])),
        tolerance=float(tol[index]),
        count=int(wrong.sum()),
    )
