"""When two routes agree: one bound, in one place.

Per element, ``tol = 32·u·(E + |g| + Σ|v|)``: ``u`` is the unit roundoff of the dtype, ``g`` the
gradient, ``E`` the running error bound of the computation in units of ``u``
(`gradexplain.plan.magnitude`), carried through the chain rule, so that cancellation widens the bound
just where it widens PyTorch's own rounding error.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from gradexplain.explanation import Array, Difference
from gradexplain.ops.base import Op

#: Unit roundoff of each dtype.
ROUNDOFF = {"float64": 2.0**-53, "float32": 2.0**-24}

#: Why routes differ where each difference is `by_kernel`.
COARSE = "PyTorch's own kernel is coarser here than its dtype"

#: How many roundings of the magnitude the routes may differ by.
ROUNDINGS = 32


def bound(magnitude: Any, gradient: Array, v: Array, dtype: str) -> Array:
    """The largest difference allowed at each element, in the gradient's shape."""
    with np.errstate(all="ignore"):
        total = np.abs(v[np.isfinite(v)]).sum()
        size = np.nan_to_num(np.asarray(magnitude, dtype=np.float64), nan=0.0, posinf=0.0)
        scale = size + np.nan_to_num(np.abs(gradient), nan=0.0, posinf=0.0) + total
        return np.asarray(ROUNDINGS * ROUNDOFF[dtype] * scale, dtype=np.float64)


def differs(a: Array, b: Array, tolerance: Array) -> Any:
    """True at each element where ``a`` and ``b`` do not agree; nan agrees with nan, inf with inf."""
    with np.errstate(all="ignore"):
        same = (a == b) | (np.isnan(a) & np.isnan(b)) | (np.abs(a - b) <= tolerance)
    return ~same


def coarseness(ops: Iterable[Op], order: int = 1) -> float:
    """By how much of its value PyTorch's derivative of this order may be off, beyond rounding."""
    return sum(kernel.relative for op in ops for kernel in op.coarse if kernel.order <= order)


def by_kernel(difference: Difference, relative: float, dtype: str) -> bool:
    """Whether a difference from PyTorch is no more than its own kernels are known to be off by.

    The tolerance is a number of roundings of a scale; the kernel's error is ``relative`` of the same.
    It is met everywhere if it is where the routes differ most.
    """
    a, b = difference.values
    allowed = difference.tolerance * (1 + relative / (ROUNDINGS * ROUNDOFF[dtype]))
    return relative > 0 and "PyTorch" in difference.routes and abs(a - b) <= allowed


def settled(value: Array, magnitude: Any, unit: float) -> Array:
    """``value`` with what is only rounding noise against its magnitude put to 0."""
    with np.errstate(all="ignore"):
        size = np.asarray(magnitude, dtype=np.float64)
        noise = (np.abs(value) <= 8 * unit * size) & (size < np.inf)
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
