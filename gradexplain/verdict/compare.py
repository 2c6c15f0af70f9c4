"""When two arrays of numbers agree: the one place where that is decided.

A *bound* says how far PyTorch's own roundings may take it from the exact value:
``32·u·(E + |c|)`` for each element, where ``u`` is the unit roundoff of the dtype, ``c`` the exact
value and ``E`` the running error bound of the computation in units of ``u``
(`gradexplain.plan.magnitude`).  For one operation alone `judge` says what two numbers and a bound
come to; `gradexplain.routes.judged` does so for every step of a backward pass.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cache, partial, reduce
from typing import Any
from zlib import crc32

import numpy as np

from gradexplain.explanation import Array, Difference
from gradexplain.ops.base import Op
from gradexplain.plan.arrays import Relative


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


#: Elements that are looked at together: what is made of them on the way stays in the cache.
_AT_ONCE = 1 << 15


def blocks(shape: tuple[int, ...]) -> Iterator[Any]:
    """Parts of arrays of this shape, one after another."""
    elements = math.prod(shape)
    if elements <= _AT_ONCE:
        yield ...
        return
    step = max(1, _AT_ONCE * shape[0] // elements)
    yield from (slice(low, low + step) for low in range(0, shape[0], step))


def bound(magnitude: Any, gradient: Array, v: Array, dtype: str) -> Array:
    """The largest difference allowed at each element, in the gradient's shape.

    Of several magnitudes, in a tuple, the largest counts.
    """
    total = sum(
        float(np.abs(v[part]).sum(where=np.isfinite(v[part]))) for part in blocks(np.shape(v))
    )

    def allowed(scale: Array) -> None:
        scale += total
        scale *= ROUNDINGS * FORMATS[dtype].unit

    return _scaled_by(magnitude, gradient, allowed)


def _scaled_by(magnitude: Any, value: Array, change: Callable[[Array], None]) -> Array:
    """``magnitude + |value|``, each 0 where it is not finite, and changed in place."""
    each = magnitude if isinstance(magnitude, tuple) else (magnitude,)
    shape = np.broadcast_shapes(np.shape(value), *(np.shape(size) for size in each))
    value, *sizes = (_spread(array, shape) for array in (value, *each))
    result = np.empty(shape)
    with np.errstate(all="ignore"):
        for part in blocks(shape):
            scale, own = result[part], reduce(np.maximum, [np.asarray(s[part]) for s in sizes])
            np.abs(value[part], out=scale)
            if not np.isfinite(scale).all():
                np.nan_to_num(scale, copy=False, nan=0.0, posinf=0.0)
            scale += own if np.isfinite(own).all() else np.nan_to_num(own, nan=0.0, posinf=0.0)
            change(scale)
    return result


def _spread(array: Any, shape: tuple[int, ...]) -> Any:
    """An array of floats, or magnitudes that are `Relative`, in this shape."""
    if isinstance(array, Relative) and array.shape == shape:
        return array
    return np.broadcast_to(np.asarray(array, dtype=np.float64), shape)


def local_bound(magnitude: Any, expected: Array, upstream: Any, dtype: str) -> Array:
    """How far the roundings of one operation alone may take its contribution, by element.

    ``upstream`` is what arrives, or the size of the largest of it.

    Where the formula is 0 without a rounding, as that of a mean over one element, PyTorch may still
    compute differences of what arrives; what is below the smallest normal number may be lost.
    """
    form = FORMATS[dtype]
    arriving = largest(np.asarray(upstream))

    def allowed(scale: Array) -> None:
        scale[scale == 0] = ROUNDINGS * arriving
        scale *= roundings(dtype)
        scale += 2 * form.smallest

    return _scaled_by(magnitude, expected, allowed)


def largest(array: Array) -> float:
    """The size of the largest finite element, 0 where there is none."""
    found = 0.0
    for part in blocks(array.shape):
        size = np.abs(array[part])
        most = float(size.max(initial=0.0))
        found = max(found, most if most < np.inf else
                    float(size.max(initial=0.0, where=np.isfinite(size))))  # fmt: skip
    return found


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


def seen(dtype: str) -> float:
    """The part of a number by which it may be off and count as right: `SEEN`, or a few roundings."""
    return 4 * FORMATS[dtype].unit if is_coarse(dtype) else SEEN


def extreme(array: Array, dtype: str) -> Any:
    """Where a third power of a number leaves the range of what a kernel for ``dtype`` computes with.

    No kernel multiplies an operand with itself more often than that: `layer_norm`'s takes the cube of
    what it divides by.  Formats of few digits are computed with in float32.
    """
    form = FORMATS["float32" if is_coarse(dtype) else dtype]
    size = np.abs(array)
    return (size > form.largest ** (1 / 3)) | ((size < form.smallest ** (1 / 3)) & (size > 0))


def roundings(dtype: str) -> float:
    """How far the roundings of one operation may take a number of size 1."""
    return (FEW_ROUNDINGS if is_coarse(dtype) else ROUNDINGS) * FORMATS[dtype].unit


def given(array: Array, dtype: str) -> tuple[Array, Array]:
    """One of PyTorch's own arrays and the size of its roundings: one each allows for those of sums;
    in formats of few digits most are float32's."""
    size = np.abs(array) * (0.25 if is_coarse(dtype) else 1.0)
    return array, np.where(np.isinf(size), 0.0, size)  # an infinity is exact


def differs(a: Array, b: Array, tolerance: Array) -> Any:
    """True at each element where ``a`` and ``b`` do not agree; nan agrees with nan, inf with inf."""
    with np.errstate(all="ignore"):
        gap = np.asarray(np.subtract(a, b))
        same = np.abs(gap, out=gap) <= tolerance
        return ~same if same.all() else ~(same | (a == b) | (np.isnan(a) & np.isnan(b)))


#: What is no larger is also looked at element by element, with digits to spare where needed.
EACH = 4_000

#: From so many numbers on their roundings are known from their own spread.
_ENOUGH = 12

#: Changes the last digits of numbers, or none.
Move = Callable[[Array], Array]

#: How often the last digits are moved, by up to one rounding.
_MOVES = 3


def still(array: Array) -> Array:
    """No change."""
    return array


@cache
def moves(dtype: str) -> tuple[Move, ...]:
    """Changes of the last digits, the same ones every time; of equal arrays they are equal."""

    def move(seed: int, array: Array) -> Array:
        source = np.random.default_rng([seed, crc32(array.tobytes())])
        return array * (1 + FORMATS[dtype].unit * source.uniform(-1, 1, array.shape))

    return tuple(partial(move, seed) for seed in range(_MOVES))


def unsteady(expected: Array, found: Array, moved: Iterable[Array], times: float) -> Any:
    """Where two numbers differ by no more than what is expected does when the numbers it is made of
    change in their last digits; ``moved`` is what that makes of it.

    There is then no more to be known of such an element than that it is nearly 0 beside what it is
    the rest of: to a backward-stable algorithm (Higham, Accuracy and Stability, section 1.5) it is.
    """
    with np.errstate(all="ignore"):
        changed = reduce(np.maximum, [np.abs(array - expected) for array in moved])
        return np.abs(expected - found) <= times * changed


def off(expected: Array, found: Array, dtype: str) -> Any:
    """The elements that are off by more than is `seen`, smaller ones than any normal number apart."""
    with np.errstate(all="ignore"):
        gap, size = np.abs(expected - found), np.abs(expected)
        normal = np.maximum(size, np.abs(found)) >= FORMATS[dtype].smallest
        return (gap > seen(dtype) * size) & normal


@dataclass(frozen=True, slots=True)
class Judged:
    """What PyTorch's numbers and the expected ones come to.

    ``verdict`` is agree, mismatch or cannot tell; ``difference`` where they differ most, if by more
    than the bound.  ``margin`` is by how much an error of 1 % would exceed the bound where it is seen
    best; ``whole`` says that an error of 1 % in all of it would have been seen.
    """

    verdict: str
    difference: Difference | None
    margin: float
    whole: bool


def judge(
    name: str,
    routes: tuple[str, str],
    expected: Array,
    found: Array,
    allowed: Array,
    dtype: str,
    scale: float,
    alone: bool = False,
) -> Judged:
    """Hold ``found`` against ``expected``, within ``allowed`` at each element.

    ``scale`` is what a whole that should be 0 is held against; ``alone`` says that each element is
    made by itself, so that no few of them share a rounding.

    A mismatch is a difference beyond the bound.  Within it the two agree only if an error of 1 % would
    have been seen: if the whole deviates by less than `SEEN`, and so does each of not too many elements
    that are not 0.  Otherwise nothing can be told.
    """
    tally = Tally(name, routes)
    tally.add(expected, found, allowed)
    result = tally.judged(dtype, scale)
    if result.verdict == "mismatch":
        return result
    whole = result.whole
    if is_coarse(dtype):
        difference = _scaled(name, routes, expected, found, allowed, dtype, alone)
        if difference is not None:
            return replace(result, verdict="mismatch", difference=difference)
        finite = np.isfinite(expected) & np.isfinite(found)
        whole &= abs(_factor(expected[finite], found[finite]) - 1) <= SEEN
    hidden = expected.size <= EACH and (off(expected, found, dtype) & (expected != 0)).any()
    return replace(result, verdict="agree" if whole and not hidden else "cannot tell", whole=whole)


@dataclass(slots=True)
class Tally:
    """What numbers, those expected and the bounds come to, part by part; see `judge`.

    ``difference`` is where they differ by most times the bound; ``size`` and ``noise`` are the largest
    of what is expected and found, ``whole`` and ``apart`` the norms of the one and of their difference.
    """

    name: str
    routes: tuple[str, str]
    difference: Difference | None = None
    most: float = -1.0
    size: float = 0.0
    noise: float = 0.0
    apart: float = 0.0
    whole: float = 0.0
    margin: float = 0.0

    def add(self, expected: Array, found: Array, allowed: Array, first: int = 0) -> None:
        """A part that begins at ``first`` of the first axis."""
        with np.errstate(all="ignore"):
            for part in blocks(np.shape(allowed)):
                at = first if part is ... else first + part.start
                self._add(expected[part], found[part], allowed[part], at)

    def _add(self, expected: Array, found: Array, allowed: Array, first: int) -> None:
        gap, size = np.asarray(np.subtract(expected, found)), np.asarray(np.abs(expected))
        apart, whole = _norm(gap), _norm(expected)
        if not (np.abs(gap) <= allowed).all():
            self._differs(expected, found, allowed, first)
        if not (apart < np.inf and whole < np.inf):
            finite = np.isfinite(expected) & np.isfinite(found)
            apart, whole = _norm(gap[finite]), _norm(expected[finite])
            size, found = np.where(finite, size, 0.0), np.where(finite, found, 0.0)
        self.apart, self.whole = math.hypot(self.apart, apart), math.hypot(self.whole, whole)
        self.size = max(self.size, most := float(size.max(initial=0.0)))
        if not most:
            self.noise = max(self.noise, largest(found))
        shares = np.divide(size, allowed, out=size)
        most = float(shares.max(initial=0.0))
        if not most < np.inf:
            most = float(shares.max(initial=0.0, where=allowed > 0))
        self.margin = max(self.margin, most)

    def _differs(self, expected: Array, found: Array, allowed: Array, first: int) -> None:
        wrong = differs(expected, found, allowed)
        if not wrong.any():
            return
        gap = np.nan_to_num(np.abs(expected - found) / allowed, nan=np.inf, posinf=np.inf)
        gap = np.where(wrong, gap, -1.0)
        at = tuple(int(i) for i in np.unravel_index(int(np.argmax(gap)), gap.shape))
        count = int(wrong.sum()) + (self.difference.count if self.difference else 0)
        if self.difference is None or gap[at] > self.most:
            values, bound = (float(expected[at]), float(found[at])), float(allowed[at])
            index, self.most = tuple(i + first * (not axis) for axis, i in enumerate(at)), gap[at]
            self.difference = Difference(self.name, self.routes, index, values, bound, count)
        self.difference.count = count

    def judged(self, dtype: str, scale: float) -> Judged:
        """What all of it comes to."""
        if self.size:
            deviation = self.apart / self.whole
        else:
            deviation = self.noise / scale if scale else float(self.noise > 0)
        decided = deviation <= seen(dtype)
        verdict = "mismatch" if self.difference else "agree" if decided else "cannot tell"
        return Judged(verdict, self.difference, 2 * SEEN * self.margin, bool(decided))


def _norm(array: Array) -> float:
    """``‖array‖``, infinite or nan where a number is."""
    flat = np.ravel(array)
    square = float(np.einsum("i,i", flat, flat))  # BLAS would start threads
    if 1e-200 < square < 1e200:
        return math.sqrt(square)
    most = float(np.abs(flat).max(initial=0.0))
    if most == 0 or not most < np.inf:
        return most
    flat = flat / most
    return most * math.sqrt(float(np.einsum("i,i", flat, flat)))


def _factor(expected: Array, found: Array) -> float:
    """The factor by which ``found`` is ``expected``, by least squares; 1 where there is nothing."""
    scale = float(np.abs(expected).max(initial=0.0))
    if scale == 0:
        return 1.0
    e, f = expected.ravel() / scale, found.ravel() / scale
    return float(np.dot(f, e) / np.dot(e, e))


def _scaled(
    name: str, routes: tuple[str, str], expected: Array, found: Array, allowed: Array, dtype: str,
    alone: bool,
) -> Difference | None:  # fmt: skip
    """Whether a whole array is too large or too small, in a format of few digits.

    Roundings of the elements are as good as independent, so that they cancel in the factor by which
    one array is the other (Higham and Mary 2019, A New Approach to Probabilistic Rounding Error
    Analysis); a rounding of something that all elements share does not, and counts in full.
    """
    finite = np.isfinite(expected) & np.isfinite(found) & (expected != 0)
    weights, unit = np.abs(expected[finite]), FORMATS[dtype].unit
    distinct = len(np.unique(weights))
    if not distinct:
        return None
    roundings = float(np.dot(allowed[finite], weights) / np.dot(weights, weights))
    factor, spread = _factor(expected[finite], found[finite]), 1.5 * roundings / FEW_ROUNDINGS
    if alone and distinct >= _ENOUGH:  # their own spread says how large they are
        apart = _norm(found[finite] - factor * expected[finite]) / _norm(weights)
        spread = min(spread, 4 * apart)
    if abs(factor - 1) <= unit + spread / np.sqrt(distinct):
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
    """``value`` with what is only rounding noise against its magnitude put to 0; there is none in
    numbers whose magnitude is so many times their own size."""
    value = np.asarray(value)
    size = None
    if not (isinstance(magnitude, Relative) and 8 * unit * magnitude.times < 1):
        size = _spread(magnitude, value.shape)
    result = value
    with np.errstate(all="ignore"):
        for part in blocks(value.shape):
            v = value[part]
            if size is None:
                noise = v == 0
            else:
                own = np.asarray(size[part])
                noise = (np.abs(v) <= 8 * unit * own) & (own < np.inf) | (v == 0)
            if not noise.any() or not np.where(v == 0, np.signbit(v), noise).any():
                continue  # a large array is not copied
            if result is value:
                result = np.array(value)
            np.copyto(result[part], 0.0, where=noise)
    return result


def worst(name: str, routes: tuple[str, str], a: Array, b: Array, tol: Array) -> Difference | None:
    """Where two routes differ most, None where they agree."""
    tally = Tally(name, routes)
    tally.add(a, b, tol)
    return tally.difference
