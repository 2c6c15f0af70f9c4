"""Numbers as they stand in code: sizes of axes by name, fractions, roots, constants of `math`."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import sympy

#: Sizes of axes that formulas are derived at, so that one is told from a number of the user's: (p − 1)/2
#: is prime and no size: a size that was cancelled is then no number that a person writes.  The second row is
#: for tensors of many axes, and has none of these (p − 1)/2; the last of a row is only ever another size.
PRIMES = ((23, 59, 83, 107, 179, 227, 263, 347, 383), (13, 17, 19, 31, 37, 43, 47, 61, 67))

#: How far a number may be from a size to be said by it: ``N - 1``.
NEAR = 10


def is_prime(n: int) -> bool:
    """Whether ``n`` stands for a size."""
    return any(n in row for row in PRIMES)


def next_prime(n: int) -> int:
    """Another size: what holds for any holds at it too."""
    row = next(row for row in PRIMES if n in row)
    return row[row.index(n) + 1]


def elsewhere(shape: tuple[int, ...]) -> tuple[int, ...]:
    """A shape with other sizes for those that stand for any."""
    return tuple(next_prime(n) if is_prime(n) else n for n in shape)


Size = Callable[[int], "str | None"]

#: A larger number is the digits of a float: what else divides it is no part of a size.
_DIGITS = 10**14


def _sizes_in(n: int, size: Size) -> list[int]:
    """The sizes that divide ``n``, whatever else does."""
    row = next((row for row in PRIMES if any(map(size, row))), ())
    return [p for p in row if n % p == 0 and size(p)]


def integer(n: int, size: Size) -> str:
    """A whole number, sizes of axes in it by name."""
    found = []
    left = n
    for p in _sizes_in(n, size) if n else ():
        while left % p == 0:
            left //= p
            found.append(str(size(p)))
    if left > 1 and n <= _DIGITS:
        for off, sign in ((1, "-"), (-1, "+")):
            near = sympy.factorint(left + off, multiple=True)
            names = [size(p) if is_prime(p) else None for p in near]
            if all(names) and left + off > 1:
                found.insert(0, f"({' * '.join(map(str, names))} {sign} 1)")
                return found[0] if len(found) == 1 else f"({' * '.join(found)})"
        size(left)  # refuses what is part of a size
        for p in sympy.primefactors(left):  # an axis that was told its size
            name = size(p)
            while name is not None and left % p == 0:
                left //= p
                found.append(name)
    if left != 1 or not found:
        found.insert(0, str(left))
    return found[0] if len(found) == 1 else f"({' * '.join(found)})"


def parts(e: Any, size: Size) -> tuple[int, int]:
    """Numerator and denominator; of 2/(n − 1), where a 2 was cancelled, these."""
    p, q = int(e.p), int(e.q)
    if q > 10 and integer(q, size).isdigit() and not integer(2 * q, size).isdigit():
        return 2 * p, 2 * q
    return p, q


def is_decimal(e: Any, size: Size) -> bool:
    """Whether a fraction is written with a point: 1.702, 0.125, and no size among its factors."""
    p, q = abs(int(e.p)), int(e.q)
    return (
        q > 1 and 10**9 % q == 0 and (q % 5 == 0 or q <= 8)
        and len(repr(p / q)) < 10 and not any(map(size, (*sympy.primefactors(q), *_sizes_in(p, size))))
    )  # fmt: skip


def rational(e: Any, size: Size) -> str:
    sign = "-" if e < 0 else ""
    p, q = parts(e, size)
    if q > 1000 and pow(10, q.bit_length(), q) == 0 and not _sizes_in(p, size):
        return repr(p / q)  # 0.044715, whose digits are no sizes
    top, bottom = integer(abs(p), size), integer(q, size)
    if e.q == 1:
        return f"{sign}{top}"
    value = int(e.p) / int(e.q)
    if is_decimal(e, size):
        return repr(value)
    if top.isdigit() and bottom.isdigit():
        if len(repr(abs(value))) <= 6 or max(abs(p), q) > 10**6:
            return shortest(value)
    return f"({sign}{top} / {bottom})"


_NAMED = {math.pi: "math.pi", math.e: "math.e", math.inf: "math.inf", -math.inf: "-math.inf"}


def shortest(value: float) -> str:
    """A number as it is written: ``math.pi``, ``math.sqrt(2)``, ``(1 / math.sqrt(2))``, else digits."""
    if len(repr(value)) < 15 or value in _NAMED or not 1e-3 < abs(value) < 1e3:
        return _NAMED.get(value, repr(value))
    square, sign = value**2, "-" if value < 0 else ""
    for part, text in ((square, "math.sqrt({})"), (1 / square, "(1 / math.sqrt({}))")):
        if round(part) < 1000 and abs(part - round(part)) <= 2e-15 * part:
            root = math.sqrt(round(part))
            if root.is_integer():  # 0.49999999999999994
                return repr(math.copysign(root if part is square else 1 / root, value))
            return sign + text.format(round(part))
    return repr(value)


def constant(e: Any) -> str:
    """A number that is no fraction: ``math.sqrt(2 / math.pi)``."""
    if e.is_infinite or e in (sympy.pi, sympy.E):
        return _NAMED[float(e)]
    sign = "-" if e.could_extract_minus_sign() else ""
    for k, root in ((0, ""), (-1, " / math.pi"), (1, " * math.pi")):
        square = sympy.nsimplify(sympy.simplify(e**2 / sympy.pi**k))
        if square.is_Rational and square.p < 1000 and square.q < 1000:
            p, q = int(square.p), int(square.q)
            inner = (
                f"{p}{root}"
                if q == 1
                else f"{p} / {q}{root}"
                if k >= 0
                else f"{p} / ({q} * math.pi)"
            )
            inner = "math.pi" if p == q == 1 and k == 1 else inner
            return f"{sign}math.sqrt({inner})"
    return shortest(float(e))
