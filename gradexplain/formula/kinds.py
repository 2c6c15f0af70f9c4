"""SymPy's kinds of expression that formulas have beside SymPy's own: brackets, choices, tables, extrema.

`Indexed` and `Sum` are SymPy's own in all but their making: what SymPy works out anew for each one,
that an element of a real tensor is real and which symbols a sum binds, is known here.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import Any

import sympy
from sympy.core.assumptions import _assume_defined

_ONE = sympy.S.One.sort_key(), sympy.S.One


class Indexed(sympy.Indexed):
    """An element of a real tensor."""

    is_real = True

    def __new__(cls, base: Any, *at: Any) -> Any:
        return sympy.Expr.__new__(cls, base, *at)

    def _hashable_content(self) -> tuple[Any, ...]:
        return self._args  # type: ignore[no-any-return]

    def sort_key(self, order: Any = None) -> Any:
        text = f"{self.args[0]}[{', '.join(map(str, self.args[1:]))}]"
        return self.class_key(), (1, (text,)), *_ONE


#: No more is known of an element than that it is real: nobody need ask twice.
for _fact in _assume_defined:
    Indexed.default_assumptions.setdefault(_fact, None)


class Sum(sympy.Sum):
    """A sum over whole axes: no range is empty, and what is summed is no choice of SymPy's."""

    has_empty_sequence = False

    def __new__(cls, function: Any, *limits: Any) -> Any:
        function = sympy.sympify(function)
        if function is sympy.nan:
            return function
        limits = tuple(sympy.Tuple(*limit) for limit in limits)
        if isinstance(function, cls):
            function, limits = function.function, function.limits + limits
        total = sympy.Expr.__new__(cls, function, *limits)
        total.is_commutative = True
        return total

    @property
    def free_symbols(self) -> set[Any]:
        return self.function.free_symbols - {limit[0] for limit in self.limits}  # type: ignore[no-any-return]


@lru_cache(maxsize=4096)
def real(label: str) -> Any:
    """The symbol of a value's name."""
    return sympy.Symbol(label, real=True)


@lru_cache(maxsize=4096)
def names_of(label: str) -> tuple[Any, Any, Any]:
    """What a name is in formulas: of a tensor with elements, of a number, of a table of integers."""
    return sympy.IndexedBase(real(label)), real(label), sympy.Symbol(label)


@lru_cache(maxsize=1 << 14)
def atoms(e: Any, *kinds: Any) -> frozenset[Any]:
    """The parts of a formula that are of these kinds; each is looked at once."""
    seen, pending = {e}, [e]
    while pending:
        new = [part for part in pending.pop().args if part not in seen]
        seen.update(new)
        pending += new
    return frozenset(part for part in seen if isinstance(part, kinds))


#: A formula as SymPy writes it, to sort by.
text_of = lru_cache(maxsize=1 << 14)(str)


def element_symbol(label: str, at: Iterable[Any]) -> Any:
    """``label[at]`` as a real symbol, a plain one for shape ``()``."""
    at = tuple(map(sympy.sympify, at))
    return Indexed(names_of(label)[0], *at) if at else real(label)


def label_of(atom: Any) -> str:
    if isinstance(atom, Lookup):
        return str(atom.args[0].name)
    return str(atom.base.label.name if isinstance(atom, Indexed) else atom.name)


def indices_of(atom: Any) -> tuple[Any, ...]:
    if isinstance(atom, Lookup):
        return tuple(atom.args[1:])
    return tuple(atom.indices) if isinstance(atom, Indexed) else ()


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
        if (
            isinstance(condition, sympy.Ne)
            and condition.rhs == 0
            and isinstance(condition.lhs, cls)
        ):
            return condition.lhs  # [[c] ≠ 0] is [c]
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


class _Real(sympy.Function):
    """A real function of one number."""

    nargs = 1
    is_real = True


class trunc(_Real):
    """``x`` without its fraction, towards 0."""


class rint(_Real):
    """The nearest integer, halves to the even one; `round` in formulas."""


class isfinite(_Real):
    """1 for a number, 0 for an infinity or nan."""


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


class FirstGreatest(Greatest):
    """``argmax_p f(p)``."""

    is_integer = True


class FirstLeast(Greatest):
    """``argmin_p f(p)``."""

    is_integer = True


#: What runs over a bound index: ``function`` is its body, ``limits`` its indices.
BIG = (sympy.Sum, sympy.Product, Greatest)


class sinc(_Real):
    """``sin(πx)/(πx)``, 1 at 0."""

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


class log0(_Real):
    """The log that multiplies a power, ``x^y·log(x)``: 0 at 0, where PyTorch returns 0."""

    def fdiff(self, argindex: int = 1) -> Any:
        return 1 / self.args[0]
