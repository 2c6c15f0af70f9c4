"""The order and the signs in which a person writes: rearrangements that SymPy would undo."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import sympy

from gradexplain import arithmetic
from gradexplain.formula.indices import is_size
from gradexplain.formula.kinds import Nonzero, atoms


def radicals(e: Any) -> tuple[Any, Any]:
    """The coefficient of a product and the rest, ``sqrt(2)·…/(2·sqrt(π))`` as ``…/sqrt(2·π)``."""
    coefficient, rest = e.as_coeff_Mul()
    above, below, others = [], [], []
    for factor in sympy.Mul.make_args(rest):
        half = factor.is_Pow and abs(factor.exp) == sympy.S.Half
        if half and (factor.base.is_Integer or factor.base is sympy.pi):
            inside = factor.base
            if factor.exp < 0:
                below.append(inside)
            elif inside.is_Integer and coefficient.is_Rational and coefficient.q % inside == 0:
                coefficient *= inside
                below.append(inside)
            else:
                above.append(inside)
        else:
            others.append(factor)

    def root(parts: list[Any]) -> Any:
        inside = sympy.Mul(*sorted(parts, key=str), evaluate=False)
        return sympy.Pow(inside if len(parts) > 1 else parts[0], sympy.S.Half, evaluate=False)

    if above and below:
        over = sympy.Mul(*above, *(1 / part for part in below), evaluate=False)
        others.append(sympy.Pow(over, sympy.S.Half, evaluate=False))
    elif above:
        others.append(root(above))
    elif below:
        others.append(sympy.Pow(root(below), -1, evaluate=False))
    return coefficient, sympy.Mul(*others, evaluate=False)


def upright(e: Any) -> Any:
    """``−(a + b)·c`` for ``(−a − b)·c``."""
    factors = list(e.args)
    turned = [f for f in factors if f.is_Add and all(t.could_extract_minus_sign() for t in f.args)]
    for factor in turned:
        factors[factors.index(factor)] = sympy.Add(*(-term for term in factor.args))
    if len(turned) % 2:
        sign = [n for n, f in enumerate(factors) if f.is_Rational]
        if sign:
            factors[sign[0]] = -factors[sign[0]]
        else:
            factors.append(sympy.S.NegativeOne)
    return sympy.Mul(*factors, evaluate=False) if turned else e


def under_one_root(e: Any) -> Any:
    """``s/2`` for ``sqrt(2)·sqrt(s)/2``, which SymPy makes of ``sqrt(s/2)``; None for other products."""
    coefficient, rest = e.as_coeff_Mul()
    factors = sympy.Mul.make_args(rest)
    half = sympy.Rational(1, 2)
    if len(factors) != 2 or coefficient < 0 or any(not f.is_Pow or f.exp != half for f in factors):
        return None
    numbers = [f.base for f in factors if f.base.is_Integer]
    if len(numbers) != 1:
        return None
    inside = next(f.base for f in factors if not f.base.is_Integer)
    return (
        sympy.Mul(coefficient**2 * numbers[0], inside, evaluate=False)
        if not inside.is_Mul
        else None
    )


def over_one(e: Any) -> Any:
    """``2·(t − o)/N`` for ``2·t/N − 2·o/N``, which SymPy makes of it, ``2·(t − o)`` for ``2·t − 2·o``;
    other sums as they are."""
    terms, below = [], set()
    for term in e.args:
        number, rest = term.as_coeff_Mul()
        if not number.is_Rational:
            return e
        sizes = [f for f in sympy.Mul.make_args(rest) if f.is_Pow and _is_divisor(f)]
        below.add((number.q, *sorted(sizes, key=str)))
        terms.append((number.p, rest / sympy.Mul(*sizes)))
    common = math.gcd(*(p for p, _ in terms))
    alike = common > 1 and all(abs(p) == common for p, _ in terms)
    if len(below) != 1 or (below == {(1,)} and not alike):
        return e
    ((q, *sizes),) = below
    inner = sympy.Add(*(p // common * rest for p, rest in terms))
    number = sympy.Rational(common, q)
    return sympy.Mul(*[number] * (number != 1), *sizes, inner, evaluate=False)


def sums_over_one(product: Any) -> Any:
    """A product, what stands before and below its sums (`over_one`) among its factors."""
    split = [over_one(f) if f.is_Add else f for f in product.args]
    if all(new is old for new, old in zip(split, product.args, strict=True)):
        return product
    parts = [part for f in split for part in sympy.Mul.make_args(f)]
    number = math.prod(part for part in parts if part.is_Rational)
    rest = [part for part in parts if not part.is_Rational]
    return sympy.Mul(*[number] * (number != 1), *rest, evaluate=False)


def _is_divisor(power: Any) -> bool:
    symbols = power.free_symbols
    return power.exp.is_Integer and power.exp < 0 and symbols and all(map(is_size, symbols))


def plain(c: Any) -> Any:
    """A condition on an index with its constant on the right: ``j − 1 ≥ 0`` as ``j ≥ 1``."""
    if not (c.lhs.is_integer and c.rhs.is_integer):
        if c.lhs.is_number and not c.rhs.is_number:
            return plain(c.reversed)
        constant, rest = c.lhs.as_coeff_Add()
        if constant != 0 and c.rhs.is_number:
            return c.func(rest, c.rhs - constant, evaluate=False)
        return c
    gap = sympy.expand(c.lhs - c.rhs)
    constant, rest = gap.as_coeff_Add()
    if isinstance(c, sympy.Gt):
        return plain(sympy.Ge(c.lhs, c.rhs + 1, evaluate=False))
    positive = sympy.Add(
        *(t for t in sympy.Add.make_args(rest) if not t.could_extract_minus_sign())
    )
    if rest.could_extract_minus_sign() and (positive == 0 or not rest.has(*_sizes(rest))):
        return plain(c.reversed) if c.reversed.lhs != c.lhs and rest.is_Mul else c
    if all(map(is_size, positive.free_symbols)) and rest != positive:
        return plain(c.reversed)  # the letter that runs stands on the left: i ≤ N − 1
    other = positive - rest - constant
    return c.func(positive, other, evaluate=False)


def _sizes(e: Any) -> list[Any]:
    return [symbol for symbol in e.free_symbols if is_size(symbol)]


def facing(c: Any, symbol: Any) -> Any:
    """A condition with ``symbol`` on its left."""
    return c.reversed if isinstance(c, sympy.core.relational.Relational) and c.rhs == symbol else c


def decimal(p: int, q: int) -> str | None:
    """``p/q`` as a finite decimal, one of many digits to six of them; None if none is shorter."""
    value = Fraction(int(p), int(q))
    rest = value.denominator
    for prime in (2, 5):
        while rest % prime == 0:
            rest //= prime
    if rest != 1 or not 1e-300 < abs(value) < 1e300:
        return None
    text = repr(float(value)).removesuffix(".0")
    if Fraction(text) != value and abs(value.numerator) < 10**8:
        return None  # 1/2⁴⁰
    digits = text.partition("e")[0].replace(".", "").strip("-0")
    text = text if len(digits) <= 8 else f"{float(value):.6g}"
    return text if len(text) < len(f"{whole(p)}/{whole(q)}") else None


def whole(n: int) -> str:
    """An integer; one of more digits than Python writes, to six of them."""
    return str(n) if n.bit_length() < 10_000 else arithmetic.mp.nstr(arithmetic.mp.mpf(int(n)), 6)


def joined(e: Any) -> Any:
    """``1/t³`` for ``1/(t²·t)``, one of the two a `Nonzero`: where t is 0 neither is finite.

    ``t/Nonzero(t)`` is 1: what comes with it, the elements of a norm, is 0 where t is.
    """
    held = {product: joined_product(product) for product in atoms(e, sympy.Mul)}
    held = {product: new for product, new in held.items() if new != product}
    return joined(e.xreplace(held)) if held else e


def joined_product(product: Any) -> Any:
    powers = dict(f.as_base_exp() for f in product.args)
    for base, power in powers.items():
        if isinstance(base, Nonzero) and base.args[0] in powers and power.is_negative:
            return product.xreplace({base: base.args[0]})
    return product
