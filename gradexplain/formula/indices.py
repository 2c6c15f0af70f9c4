"""Arithmetic of indices, with the range of each index letter known.

An index expression is affine (``2·i + 1``, ``n − 1 − i``) or made of `FloorDiv` and `Modulo` of affine
ones (a reshape).  Ranges decide what a general computer algebra system cannot: that ``i`` over the
whole axis needs no condition, that ``⌊(3·i + p)/3⌋`` is ``i`` while ``p`` runs over 0…2.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any

import sympy
from sympy.logic.boolalg import And, Not, Or

from gradexplain.formula.kinds import Bracket, FloorDiv, Lookup, Modulo, atoms


@lru_cache(maxsize=4096)
def index(name: str) -> Any:
    """An index letter: a non-negative integer symbol."""
    return sympy.Symbol(name, integer=True, nonnegative=True)


#: Letters for sizes, in order of use.
SIZES = "NMKLPQRSTUVWABCDEFGHIJXYZ"


def size(name: str) -> Any:
    """The letter of a size: a positive integer symbol."""
    return sympy.Symbol(name, integer=True, positive=True)


def is_size(symbol: Any) -> bool:
    """Whether a symbol is a size: indices may be 0, sizes may not."""
    return bool(symbol.is_Symbol and symbol.is_integer and symbol.is_positive)


class Ranges(dict[Any, int]):
    """The size of the axis that each index symbol runs over."""

    def __init__(self, known: Mapping[Any, int] | Iterable[tuple[Any, int]] = ()) -> None:
        super().__init__(known)
        self._fresh = 0
        #: For an integer tensor by its label: its elements are below this.
        self.tables: dict[str, int] = {}
        #: Bound indices that stand for a digit of another index.
        self.digits: set[Any] = set()

    def fresh(self, size: int, hint: str = "b") -> Any:
        """A new bound index over ``size``; the index 0 where the axis has one element."""
        if size == 1:
            return sympy.S.Zero
        self._fresh += 1
        symbol = index(f"{hint}_{self._fresh}")
        self[symbol] = size
        return symbol

    # -- bounds ----------------------------------------------------------------------------------

    def bounds(self, e: Any) -> tuple[int, int] | None:
        """The smallest and the largest value that ``e`` takes, None where that is not known."""
        if e.is_Integer:
            return int(e), int(e)
        if e in self:
            return 0, self[e] - 1
        if e.is_Add:
            parts = [self.bounds(term) for term in e.args]
            if any(part is None for part in parts):
                return None
            return sum(p[0] for p in parts if p), sum(p[1] for p in parts if p)
        if e.is_Mul and len(e.args) == 2 and e.args[0].is_Integer:
            inner = self.bounds(e.args[1])
            if inner is None:
                return None
            ends = int(e.args[0]) * inner[0], int(e.args[0]) * inner[1]
            return min(ends), max(ends)
        if isinstance(e, Lookup) and e.args[0].name in self.tables:
            return 0, self.tables[e.args[0].name] - 1
        if isinstance(e, FloorDiv):
            inner = self.bounds(e.args[0])
            return (
                None if inner is None else (inner[0] // int(e.args[1]), inner[1] // int(e.args[1]))
            )
        if isinstance(e, Modulo):
            inner = self.bounds(e.args[0])
            top = int(e.args[1]) - 1
            if inner is not None and inner[0] >= 0 and inner[1] <= top:
                return inner
            return 0, top
        return None

    # -- quotients and remainders ----------------------------------------------------------------

    def floordiv(self, e: Any, n: int) -> Any:
        """``⌊e/n⌋``, as simple as the ranges allow."""
        multiple, rest = self._split(e, n)
        bounds = self.bounds(rest)
        if bounds is not None and bounds[0] // n == bounds[1] // n:
            return multiple + bounds[0] // n
        if isinstance(rest, FloorDiv):
            return multiple + self.floordiv(rest.args[0], n * int(rest.args[1]))
        constant, letters = e.as_coeff_Add()
        whole = int(constant) // n
        return whole + FloorDiv(letters + constant - n * whole, sympy.Integer(n))

    def modulo(self, e: Any, n: int) -> Any:
        """``e mod n``, as simple as the ranges allow."""
        if n == 1:
            return sympy.S.Zero
        # ((j + 1) mod 3 + 2) mod 3 is j mod 3.
        e = sympy.Add(*(
            t.args[0] if isinstance(t, Modulo) and int(t.args[1]) % n == 0 else t
            for t in sympy.Add.make_args(e)
        ))  # fmt: skip
        _, rest = self._split(e, n)
        bounds = self.bounds(rest)
        if bounds is not None and bounds[0] // n == bounds[1] // n:
            return rest - n * (bounds[0] // n)
        constant, letters = e.as_coeff_Add()
        return Modulo(letters + int(constant) % n, sympy.Integer(n))

    @staticmethod
    def _split(e: Any, n: int) -> tuple[Any, Any]:
        """``e = n·multiple + rest``, ``rest`` with coefficients in [0, n)."""
        multiple, rest = sympy.S.Zero, sympy.S.Zero
        for term in sympy.Add.make_args(e):
            coefficient, symbol = term.as_coeff_Mul()
            if not coefficient.is_Integer:
                rest += term
                continue
            multiple += (int(coefficient) // n) * symbol
            rest += (int(coefficient) % n) * symbol
        return multiple, rest

    def ravel(self, indices: Iterable[Any], shape: Iterable[int]) -> Any:
        """The position in memory order of ``indices`` in a tensor of ``shape``."""
        flat = sympy.S.Zero
        for i, n in zip(indices, shape, strict=True):
            flat = flat * n + i
        return joined(sympy.expand(flat))

    def unravel(self, flat: Any, shape: tuple[int, ...]) -> tuple[Any, ...]:
        """The indices in a tensor of ``shape`` at a position in memory order."""
        indices: list[Any] = []
        stride, total = 1, math.prod(shape)
        for axis in range(len(shape) - 1, -1, -1):
            n = shape[axis]
            if n == 1:
                indices.append(sympy.S.Zero)
                continue
            digit = self.floordiv(flat, stride) if stride > 1 else flat
            indices.append(digit if stride * n >= total else self.modulo(digit, n))
            stride *= n
        return tuple(reversed(indices))

    # -- conditions ------------------------------------------------------------------------------

    def bracket(self, condition: Any) -> Any:
        """``[condition]``, 1 or 0 where the ranges decide it; a delta for two equal indices."""
        condition = self.decide(condition)
        if isinstance(condition, sympy.Eq) and all(side.is_integer for side in condition.args):
            return sympy.KroneckerDelta(*condition.args)
        return Bracket(condition)

    def decide(self, condition: Any) -> Any:
        """``condition`` with every part that the ranges decide put in."""
        if isinstance(condition, (And, Or, Not)):
            decided = condition.func(*(self.decide(part) for part in condition.args))
            return _pinched(decided) if isinstance(decided, And) else decided
        if not isinstance(condition, sympy.core.relational.Relational):
            return condition
        gap = self.bounds(sympy.expand(condition.lhs - condition.rhs))
        if gap is None:
            return condition
        low, high = gap
        always = {
            sympy.Lt: high < 0, sympy.Le: high <= 0, sympy.Gt: low > 0, sympy.Ge: low >= 0,
            sympy.Eq: low == high == 0, sympy.Ne: high < 0 or low > 0,
        }  # fmt: skip
        if always.get(type(condition)):
            return sympy.true
        if always.get(type(condition.negated)):
            return sympy.false
        if (low == 0 and isinstance(condition, sympy.Le)) or (
            high == 0 and isinstance(condition, sympy.Ge)
        ):
            return sympy.Eq(condition.lhs, condition.rhs)
        return condition

    def within(self, e: Any, size: int) -> Any:
        """``[0 ≤ e < size]``, 1 where the ranges see to it."""
        return self.bracket(sympy.And(self.decide(e >= 0), self.decide(e <= size - 1)))


def joined(e: Any) -> Any:
    """``n·⌊f/n⌋ + (f mod n)`` as ``f``, in a sum; other sums as they are."""
    for digit in atoms(e, Modulo):
        number, n = digit.args
        factor = e.coeff(digit)
        whole = FloorDiv(number, n)
        if factor != 0 and e.coeff(whole) == factor * n:
            return joined(sympy.expand(e - factor * (digit + n * whole) + factor * number))
    return e


def _pinched(condition: Any) -> Any:
    """``j ≤ l ≤ j`` as ``l = j``."""
    parts = list(condition.args)
    for low in parts:
        if not isinstance(low, (sympy.Ge, sympy.Le)) or not low.lhs.is_integer:
            continue
        gap = sympy.expand(low.lhs - low.rhs)
        for high in parts:
            same = isinstance(high, (sympy.Ge, sympy.Le)) and high is not low
            if not same or not high.lhs.is_integer:
                continue
            other = sympy.expand(high.lhs - high.rhs)
            if (type(low) is type(high) and other == -gap) or (
                type(low) is not type(high) and other == gap
            ):
                rest = [part for part in parts if part not in (low, high)]
                return And(sympy.Eq(low.lhs, low.rhs), *rest)
    return condition
