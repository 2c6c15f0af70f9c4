"""Numbers as they stand in code: sizes of axes by name, fractions, roots, constants of `math`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import sympy

#: Sizes of axes that formulas are derived at, so that one is told from a number of the user's: (p − 1)/2
#: is prime and no size: a size that was cancelled is then no number that a person writes.  The second row is
#: for tensors of many axes; the last of a row is only ever another size.
PRIMES = ((23, 59, 83, 107, 179, 227, 263, 347, 383), (11, 13, 17, 19, 29, 31, 37, 41, 43))


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


def integer(n: int, size: Size) -> str:
    """A whole number, sizes of axes in it by name."""
    found = []
    left = n
    size(n)
    for p in sympy.primefactors(n):
        name = size(p)
        while name is not None and left % p == 0:
            left //= p
            found.append(name)
    if not found:
        for off, sign in ((1, "-"), (-1, "+")):
            names = [
                size(p) if is_prime(p) else None for p in sympy.factorint(n + off, multiple=True)
            ]
            if all(names) and n + off > 1:
                return f"({' * '.join(map(str, names))} {sign} 1)"
    if left != 1 or not found:
        found.insert(0, str(left))
    return found[0] if len(found) == 1 else f"({' * '.join(found)})"


def parts(e: Any, size: Size) -> tuple[int, int]:
    """Numerator and denominator; of 2/(n − 1), where a 2 was cancelled, these."""
    p, q = int(e.p), int(e.q)
    if q > 10 and integer(q, size).isdigit() and not integer(2 * q, size).isdigit():
        return 2 * p, 2 * q
    return p, q


def rational(e: Any, size: Size) -> str:
    sign = "-" if e < 0 else ""
    p, q = parts(e, size)
    top, bottom = integer(abs(p), size), integer(q, size)
    if e.q == 1:
        return f"{sign}{top}"
    value = int(e.p) / int(e.q)
    if top.isdigit() and bottom.isdigit():
        # A number that was written as a float is one again: 1e-05, and not 1 / 100000.
        if len(repr(abs(value))) <= 6 or (e.q > 1000 and sympy.Rational(repr(value)) == e):
            return repr(value)
        if int(e.p) > 10**6 or int(e.q) > 10**6:
            return repr(value)
    return f"({sign}{top} / {bottom})"


def constant(e: Any) -> str:
    """A number that is no fraction: ``math.sqrt(2 / math.pi)``."""
    named = {sympy.pi: "math.pi", sympy.E: "math.e", sympy.oo: "math.inf", -sympy.oo: "-math.inf"}
    if e in named:
        return named[e]
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
    return repr(float(e))
