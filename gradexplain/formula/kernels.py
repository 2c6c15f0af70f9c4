"""Kernels: what the functions of formulas are worth, in float64 and with digits to spare.

The manners are IEEE's: a pole is an infinity, a value that is not real is nan, nothing is raised.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from gradexplain.arithmetic import mp


def vectorised(function: Callable[..., float]) -> Callable[..., Any]:
    def call(*arrays: Any) -> Any:
        return np.asarray(np.frompyfunc(function, len(arrays), 1)(*arrays), dtype=np.float64)

    return call


def guarded(function: Callable[..., Any], at_pole: Any = None) -> Callable[..., Any]:
    """``function`` in IEEE manners: a pole is ``at_pole``, a value that is not real is nan."""

    def call(*values: Any) -> Any:
        if any(mp.isnan(value) for value in values):
            return mp.nan
        try:
            result = function(*values)
        except (ZeroDivisionError, ValueError):
            return mp.nan if at_pole is None else at_pole
        if isinstance(result, mp.mpc):
            return result.real if result.imag == 0 else mp.nan
        return result

    return call


def erfinv(a: Any) -> Any:
    """Newton's method from Winitzki's approximation; the tails on erfc, which keeps its digits."""
    a = np.asarray(a, dtype=np.float64)
    size = np.abs(a)
    inside = np.where(size < 1, a, 0.0)
    log = np.log1p(-inside * inside)
    half = 2 / (np.pi * 0.147) + log / 2
    x = np.sign(inside) * np.sqrt(np.sqrt(half * half - log / 0.147) - half)
    erf, erfc = vectorised(math.erf), vectorised(math.erfc)
    for _ in range(3):
        tail = np.abs(inside) > 0.5
        error = np.where(
            tail, np.sign(x) * ((1 - np.abs(inside)) - erfc(np.abs(x))), erf(x) - inside
        )
        step = error / (2 / np.sqrt(np.pi) * np.exp(-x * x))
        x = x - step / (1 + x * step)
    return np.where(size < 1, x, np.where(size == 1, np.copysign(np.inf, a), np.nan))


#: B(2k): the Bernoulli numbers of the asymptotic series of digamma and its derivatives.
_BERNOULLI = (1 / 6, -1 / 30, 1 / 42, -1 / 30, 5 / 66, -691 / 2730, 7 / 6, -3617 / 510)


def polygamma(n: Any, a: Any) -> Any:
    """digamma and trigamma by recurrence up to 10 and the asymptotic series from there."""
    order = int(np.asarray(n).ravel()[0])
    a = np.asarray(a, dtype=np.float64)
    if order > 1:
        return vectorised(lambda x: float(exact_polygamma(order, mp.mpf(float(x)))))(a)
    low = a < 0.5
    x = np.where(low, 1 - a, a)
    total = np.zeros_like(x)
    for _ in range(10):
        small = x < 10
        safe = np.where(small, x, 1.0)
        total = np.where(small, total - 1 / safe if order == 0 else total + 1 / safe**2, total)
        x = np.where(small, x + 1, x)
    terms = enumerate(_BERNOULLI, start=1)
    if order == 0:
        total = total + np.log(x) - 0.5 / x - sum(b / (2 * k * x ** (2 * k)) for k, b in terms)
        mirrored = total - np.pi / np.tan(np.pi * np.where(low, a, 0.25))
    else:
        total = total + 1 / x + 0.5 / x**2 + sum(b / x ** (2 * k + 1) for k, b in terms)
        mirrored = (np.pi / np.sin(np.pi * np.where(low, a, 0.25))) ** 2 - total
    pole = (a <= 0) & (a == np.floor(a))
    if order == 0:
        at_pole = np.where(a == 0, -np.copysign(np.inf, a), np.nan)
        return np.where(pole, at_pole, np.where(low, mirrored, total))
    return np.where(pole, np.inf, np.where(low, mirrored, total))


def lgamma(value: float) -> float:
    try:
        return math.lgamma(value)
    except (ValueError, OverflowError):
        return math.inf


#: Beyond ``2^±_FAR`` an exponential's exponent would itself be a number of astronomic length.
#: Every float64 is nearer.
_FAR = 1024


def capped(function: Callable[..., Any], below: Any, above: Any) -> Callable[..., Any]:
    """A function that grows as exp, with its limits where no arithmetic reaches."""
    safe = guarded(function)

    def call(value: Any) -> Any:
        if mp.isnan(value) or value == 0 or mp.mag(value) <= _FAR:
            return safe(value)
        return above if value > 0 else below

    return call


exact_exp = capped(mp.exp, mp.zero, mp.inf)


def exact_lgamma(a: Any) -> Any:
    """``log|Γ(a)|``, reflected below 1/2: ``Γ(a)·Γ(1 − a) = π/sin(πa)``."""
    if a >= 0.5:
        return mp.loggamma(a)
    if a == mp.floor(a):
        return mp.inf
    return mp.log(mp.pi / abs(mp.sinpi(a))) - mp.loggamma(1 - a)


def exact_log(value: Any) -> Any:
    return -mp.inf if value == 0 else mp.nan if value < 0 else mp.log(value)


def periodic(function: Callable[..., Any]) -> Callable[..., Any]:
    """sin, cos, tan of an infinity are nan, and of what has too many digits before the point."""
    safe = guarded(function)

    def call(value: Any) -> Any:
        far = mp.isinf(value) or (mp.isnormal(value) and mp.mag(value) > 100_000)
        return mp.nan if far else safe(value)

    return call


def domain(function: Callable[..., Any], low: float, high: float, ends: Any = None) -> Any:
    """``function`` on ``[low, high]``, nan outside; ``ends`` are its values at the two ends."""
    safe = guarded(function)

    def call(value: Any) -> Any:
        if mp.isnan(value) or value < low or value > high:
            return mp.nan
        if ends is not None and value in (low, high):
            return ends[0] if value == low else ends[1]
        return safe(value)

    return call


def exact_erfc(x: Any) -> Any:
    """erfc; far out by its first term, as mpmath counts the terms that it would need with integers."""
    if x > 1e20:
        return exact_exp(-x * x) / (x * mp.sqrt(mp.pi))
    return mp.erfc(x)


def sign_exact(value: Any) -> Any:
    return mp.nan if mp.isnan(value) else mp.mpf(int(value > 0) - int(value < 0))


def rounded(function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda value: value if not mp.isfinite(value) else function(value)


def sinc_slope(n: Any, x: Any, _: Any) -> Any:
    return vectorised(lambda n, x: float(exact_sinc_slope(n, mp.mpf(x), x)))(n, x)


def exact_sinc_slope(n: Any, x: Any, _: Any) -> Any:
    """The Taylor series about 0, and away from it the recurrence, which divides by ``x^n``."""
    n = int(n)
    if not mp.isfinite(x):
        return mp.zero if mp.isinf(x) else mp.nan
    if abs(x) >= 1:
        slope = mp.sincpi(x)
        for k in range(1, n + 1):
            turn = (mp.sinpi, mp.cospi, lambda a: -mp.sinpi(a), lambda a: -mp.cospi(a))[k % 4]
            slope = (mp.pi ** (k - 1) * turn(x) - k * slope) / x
        return slope
    total = mp.zero
    for k in range((n + 1) // 2, 40):
        factor = mp.ff(2 * k, n) / mp.factorial(2 * k + 1)
        total += (-1) ** k * mp.pi ** (2 * k) * factor * mp.power(x, 2 * k - n)
    return total


def exact_polygamma(n: Any, a: Any) -> Any:
    """Reflected below 0, where the recurrence would take as many steps as ``|a|``.

    ``(−1)ⁿ·ψₙ(1 − a) − ψₙ(a)`` is the n-th derivative of ``π·cot(πa)`` (DLMF 5.15.6).
    """
    n = int(n)
    if mp.isnan(a):
        return mp.nan
    if a == 0:
        return -mp.inf if n % 2 == 0 else mp.inf
    if mp.isinf(a):
        return mp.inf if a > 0 and n == 0 else mp.zero if a > 0 else mp.nan
    if a < 0 and a == mp.floor(a):
        return mp.nan if n % 2 == 0 else mp.inf
    if a > 0:
        return mp.polygamma(n, a)
    cot = mp.cospi(a) / mp.sinpi(a)
    slopes = [
        mp.zero,
        mp.pi,
    ]  # a polynomial in cot(πa), lowest power first; d cot(πa) = −π·(1 + cot²)
    for _ in range(n):
        inner = [k * c for k, c in enumerate(slopes)][1:]
        slopes = [mp.zero] * (len(inner) + 2)
        for k, c in enumerate(inner):
            slopes[k] -= mp.pi * c
            slopes[k + 2] -= mp.pi * c
    turned = mp.polygamma(n, 1 - a)
    return (-turned if n % 2 else turned) - mp.polyval(slopes[::-1], cot)
