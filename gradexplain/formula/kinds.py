"""SymPy's kinds of expression that formulas have beside SymPy's own: brackets, choices, tables, extrema."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import sympy


class Bracket(sympy.Expr):
    """Iverson's bracket: ``[condition]`` is 1 where the condition holds and 0 where it does not.

    A factor ``[condition]`` selects: where it is 0 the product is 0, whatever the other factors
    are, infinities included.
    """

    is_commutative = True
    is_integer = True
    is_nonnegative = True
    is_real = True

    def __new__(cls, condition: Any) -> Any:
        if condition is sympy.true or condition is True:
            return sympy.S.One
        if condition is sympy.false or condition is False:
            return sympy.S.Zero
        return sympy.Expr.__new__(cls, condition)

    @property
    def condition(self) -> Any:
        return self.args[0]

    def _eval_power(self, exponent: Any) -> Any:
        return self if exponent.is_positive else None

    def _eval_derivative(self, symbol: Any) -> Any:
        return sympy.S.Zero


class Cases(sympy.Expr):
    """The value of the first ``(value, condition)`` whose condition holds.

    SymPy's own ``Piecewise`` will not do: building a sum folds a choice out of it, even one on the
    index that an inner sum binds.
    """

    is_commutative = True
    is_real = True

    def __new__(cls, *pieces: Any) -> Any:
        kept = []
        for value, condition in pieces:
            condition = sympy.sympify(condition)
            if condition is sympy.false:
                continue
            kept.append(sympy.Tuple(value, condition))
            if condition is sympy.true:
                break
        if kept and kept[0][1] is sympy.true:
            return kept[0][0]
        return sympy.Expr.__new__(cls, *kept)


class FloorDiv(sympy.Function):
    """``⌊e/n⌋`` for an index expression and a positive integer, kept as it is."""

    nargs = 2
    is_integer = True


class Modulo(sympy.Function):
    """``e mod n`` for an index expression and a positive integer, kept as it is."""

    nargs = 2
    is_integer = True
    is_nonnegative = True


class Lookup(sympy.Function):
    """``idx[i, …]``: an element of a constant integer tensor, used as an index.

    The first argument is the tensor's label, the others its indices.
    """

    is_integer = True


class trunc(sympy.Function):
    """``x`` without its fraction, towards 0."""

    nargs = 1
    is_real = True


class rint(sympy.Function):
    """The nearest integer, halves to the even one; `round` in formulas."""

    nargs = 1
    is_real = True


class isfinite(sympy.Function):
    """1 for a number, 0 for an infinity or nan."""

    nargs = 1
    is_real = True


class replaced(sympy.Function):
    """``replaced(x, a, b, c)``: ``x``, and ``a`` for nan, ``b`` for inf, ``c`` for -inf."""

    nargs = 4
    is_real = True

    def fdiff(self, argindex: int = 1) -> Any:
        return isfinite(self.args[0]) if argindex == 1 else sympy.S.Zero


class Nonzero(sympy.Function):
    """A denominator: printed as it is, and infinite where it is 0, so that ``0/0`` is 0.

    PyTorch's ``masked_fill(norm == 0, 0)``.
    """

    nargs = 1
    is_positive = True

    @classmethod
    def eval(cls, denominator: Any) -> Any:
        coefficient, rest = denominator.as_coeff_Mul()
        if coefficient.is_Rational and coefficient > 0 and coefficient != 1:
            return coefficient * cls(rest)
        return None

    def fdiff(self, argindex: int = 1) -> Any:
        return Bracket(sympy.Ne(self.args[0], 0))


class Greatest(sympy.Expr):
    """``max_p f(p)``: the largest value over an axis.  Arguments as those of SymPy's ``Sum``.

    Its derivative is the business of the record that uses it.
    """

    is_real = True
    is_commutative = True
    reduce: Any = np.maximum

    def __new__(cls, body: Any, *limits: Any) -> Any:
        return sympy.Expr.__new__(cls, body, *(sympy.Tuple(*limit) for limit in limits))

    @property
    def function(self) -> Any:
        return self.args[0]

    @property
    def limits(self) -> tuple[Any, ...]:
        return tuple(self.args[1:])

    @property
    def free_symbols(self) -> set[Any]:
        return self.function.free_symbols - {limit[0] for limit in self.limits}  # type: ignore[no-any-return]


class Least(Greatest):
    """``min_p f(p)``."""

    reduce = np.minimum


class _Place:
    """``reduce`` of `argmax` and `argmin`: the first index of the extremum along one axis."""

    def __init__(self, find: Callable[..., Any]) -> None:
        self._find = find

    def reduce(self, array: Any, axis: tuple[int, ...]) -> Any:
        return np.asarray(self._find(array, axis=axis[0]), dtype=array.dtype)


class FirstGreatest(Greatest):
    """``argmax_p f(p)``."""

    is_integer = True
    reduce = _Place(np.argmax)


class FirstLeast(Greatest):
    """``argmin_p f(p)``."""

    is_integer = True
    reduce = _Place(np.argmin)


#: What runs over a bound index: ``function`` is its body, ``limits`` its indices.
BIG = (sympy.Sum, sympy.Product, Greatest)


class sinc(sympy.Function):
    """``sin(πx)/(πx)``, 1 at 0."""

    nargs = 1
    is_real = True

    def fdiff(self, argindex: int = 1) -> Any:
        return SincSlope(1, self.args[0], self)


class SincSlope(sympy.Function):
    """The ``n``-th derivative of ``y = sinc(x)``, with its limit at 0; arguments ``(n, x, y)``.

    `written` has the limit nowhere: it is what a person writes, and ``0/0`` at 0.
    """

    nargs = 3
    is_real = True

    def fdiff(self, argindex: int = 1) -> Any:
        n, x, y = tuple(self.args)
        if argindex == 3:
            return sympy.S.Zero  # y is there to be printed: the value is a function of x
        if argindex == 1:
            raise sympy.core.function.ArgumentIndexError(self, argindex)
        return SincSlope(n + 1, x, y)

    def written(self) -> Any:
        """From ``x·sinc(x) = sin(πx)/π``, differentiated n times."""
        order = int(self.args[0])
        x: Any = self.args[1]
        slope: Any = self.args[2]
        for n in range(1, order + 1):
            wave = sympy.pi ** (n - 1) * sympy.sin(sympy.pi * x + n * sympy.pi / 2)
            slope = sympy.expand(wave * x ** (n - 1)) - n * slope
        return slope / Nonzero(x) ** order


class log0(sympy.Function):
    """The log that multiplies a power, ``x^y·log(x)``: 0 at 0, where PyTorch returns 0."""

    nargs = 1
    is_real = True

    def fdiff(self, argindex: int = 1) -> Any:
        return 1 / self.args[0]
