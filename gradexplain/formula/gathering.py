"""Common factors and common denominators: SymPy's `factor_terms` and `together`, each part once.

The same forms, found by exponents that are plain integers, for the formulas that occur here:
commutative, and with no ``exp(−(a + b))`` left as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache, reduce
from typing import Any

import sympy
from sympy.core.exprtools import decompose_power
from sympy.core.mul import _keep_coeff

#: A term: its coefficient, and the exponent of each factor.
_Term = tuple[Any, dict[Any, int]]


@lru_cache(maxsize=8192)
def factored(e: Any) -> Any:
    """``e`` with the factors that the terms of each of its sums share taken out."""
    if e.is_Atom:
        return e
    if e.is_Pow or e.is_Function or not isinstance(e, sympy.Expr):
        args = tuple(map(factored, e.args))
        return e if args == e.args else e.func(*args)
    if isinstance(e, sympy.Sum):
        body = factored(e.function)
        free, bound = body.as_independent(*(limit[0] for limit in e.limits))
        if body.is_Add:
            return free * e.func(1, *e.limits) + e.func(bound, *e.limits)
        return free * e.func(bound, *e.limits)
    content, rest = e.as_content_primitive(radical=False, clear=False)
    if rest.is_Add:
        terms = [factored(term) for term in rest.args]
        if all(term.as_coeff_Mul()[0] < 0 for term in terms):
            content, terms = -content, [-term for term in terms]
        rest = _gathered(terms)
    elif rest.args:
        rest = rest.func(*map(factored, rest.args))
    return _keep_coeff(content, rest, clear=False, sign=True)


@lru_cache(maxsize=8192)
def together(e: Any) -> Any:
    """``e`` as one fraction: its sums over a common denominator, nothing multiplied out."""
    if e.is_Atom or e.is_Function:
        return e
    if e.is_Add:
        return _gathered([together(term) for term in e.args], fraction=True)
    if e.is_Pow:
        return e.func(together(e.base), e.exp)
    return e.func(*map(together, e.args))


def _gathered(terms: Sequence[Any], *, fraction: bool = False) -> Any:
    """The sum of ``terms``, what they share before it; as one ``fraction``, numbers included."""
    parts = [_term(term) for term in terms if term != 0]
    if not parts:
        return sympy.S.Zero
    shared: dict[Any, int] = {}
    first = parts[0][1]
    for base in first:
        found = [powers.get(base, 0) for _, powers in parts]
        common = min(found) if first[base] > 0 else max(found)
        if common * first[base] > 0:
            shared[base] = common
    number = reduce(lambda a, b: a.gcd(b), (coefficient for coefficient, _ in parts))
    if len(parts) == 1:
        shared, number = first, parts[0][0]
    below: dict[Any, int] = {}
    left = []
    for coefficient, powers in parts:
        powers = {b: n - shared.get(b, 0) for b, n in powers.items() if n != shared.get(b, 0)}
        left.append((coefficient / number, powers))
        if fraction:
            for base, n in powers.items():
                if n < 0:
                    below[base] = max(below.get(base, 0), -n)
    numerator = sympy.Add(*(
        _product(c, {b: n for b in {**powers, **below} if (n := powers.get(b, 0) + below.get(b, 0))})
        for c, powers in left
    ))  # fmt: skip
    whole = _product(number, shared)
    if fraction and numerator.is_Add:
        content, numerator = numerator.primitive()
        whole *= content
    coefficient, factors = whole.as_coeff_Mul()
    if not fraction and not coefficient.is_Integer and numerator.is_Add:
        n, d = coefficient.as_numer_denom()
        if any(term.as_coeff_Mul()[0].is_Integer for term in (numerator / d).args):
            numerator, coefficient = numerator / d, n
    return _keep_coeff(
        coefficient, factors * numerator / _product(sympy.S.One, below), clear=fraction
    )


def _term(term: Any) -> _Term:
    coefficient, factors = term.as_coeff_mul()
    powers: dict[Any, int] = {}
    for factor in factors:
        base, n = decompose_power(factor)
        if base.is_Add:
            content, base = base.primitive()
            coefficient *= content**n
        powers[base] = powers.get(base, 0) + n
    return coefficient, powers


def _product(coefficient: Any, powers: dict[Any, int]) -> Any:
    factors = []
    for factor, n in powers.items():
        base, exponent = factor.as_base_exp()
        factors.append(factor if n == 1 else base ** _keep_coeff(sympy.Integer(n), exponent))
    return coefficient * sympy.Mul(*factors)
