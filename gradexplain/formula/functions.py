"""The functions that element formulas are made of, each with its kernels.

`PRIMITIVES` is the one list: the name that a record's formula uses, the SymPy function, and how a
value is computed in float64 (NumPy) and with digits to spare (mpmath).  A pointwise operation that
is ``named`` becomes a function too (`named_function`), whose derivative and value come from its
record.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import sympy
from sympy.codegen import cfunctions
from sympy.logic.boolalg import Boolean

from gradexplain.arithmetic import mp
from gradexplain.errors import UnsupportedError
from gradexplain.ops.base import Op, by_spelling


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


@dataclass(frozen=True, slots=True)
class Primitive:
    """``symbolic`` builds the SymPy expression; the kernels compute its value."""

    symbolic: Callable[..., Any]
    numpy: Callable[..., Any] | None = None
    exact: Callable[..., Any] | None = None


def _vectorised(function: Callable[..., float]) -> Callable[..., Any]:
    def call(*arrays: Any) -> Any:
        return np.asarray(np.frompyfunc(function, len(arrays), 1)(*arrays), dtype=np.float64)

    return call


def _guarded(function: Callable[..., Any], at_pole: Any = None) -> Callable[..., Any]:
    """``function`` in IEEE manners: a pole is ``at_pole``, a value that is not real is nan."""

    def call(*values: Any) -> Any:
        if any(mp.isnan(value) for value in values):
            return mp.nan
        try:
            result = function(*values)
        except ZeroDivisionError:
            return at_pole if at_pole is not None else mp.nan
        except ValueError:
            return mp.nan if at_pole is None else at_pole
        if isinstance(result, mp.mpc):
            return result.real if result.imag == 0 else mp.nan
        return result

    return call


def _erfinv(a: Any) -> Any:
    """Newton's method from Winitzki's approximation; the tails on erfc, which keeps its digits."""
    a = np.asarray(a, dtype=np.float64)
    size = np.abs(a)
    inside = np.where(size < 1, a, 0.0)
    log = np.log1p(-inside * inside)
    half = 2 / (np.pi * 0.147) + log / 2
    x = np.sign(inside) * np.sqrt(np.sqrt(half * half - log / 0.147) - half)
    erf, erfc = _vectorised(math.erf), _vectorised(math.erfc)
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


def _polygamma(n: Any, a: Any) -> Any:
    """digamma and trigamma by recurrence up to 10 and the asymptotic series from there."""
    order = int(np.asarray(n).ravel()[0])
    a = np.asarray(a, dtype=np.float64)
    if order > 1:
        return _vectorised(lambda x: float(_exact_polygamma(order, mp.mpf(float(x)))))(a)
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


def _lgamma(value: float) -> float:
    try:
        return math.lgamma(value)
    except (ValueError, OverflowError):
        return math.inf


#: Beyond ``2^±_FAR`` an exponential's exponent would itself be a number of astronomic length.
_FAR = 60


def _capped(function: Callable[..., Any], below: Any, above: Any) -> Callable[..., Any]:
    """A function that grows as exp, with its limits where no arithmetic reaches."""
    guarded = _guarded(function)

    def call(value: Any) -> Any:
        if mp.isnan(value) or value == 0 or mp.mag(value) <= _FAR:
            return guarded(value)
        return above if value > 0 else below

    return call


def _exact_lgamma(a: Any) -> Any:
    """``log|Γ(a)|``, reflected below 1/2: ``Γ(a)·Γ(1 − a) = π/sin(πa)``."""
    if a >= 0.5:
        return mp.loggamma(a)
    if a == mp.floor(a):
        return mp.inf
    return mp.log(mp.pi / abs(mp.sinpi(a))) - mp.loggamma(1 - a)


def _exact_log(value: Any) -> Any:
    return -mp.inf if value == 0 else mp.nan if value < 0 else mp.log(value)


def _periodic(function: Callable[..., Any]) -> Callable[..., Any]:
    """sin, cos, tan of an infinity are nan, and of what has too many digits before the point."""
    guarded = _guarded(function)

    def call(value: Any) -> Any:
        far = mp.isinf(value) or (mp.isnormal(value) and mp.mag(value) > 100_000)
        return mp.nan if far else guarded(value)

    return call


def _domain(function: Callable[..., Any], low: float, high: float, ends: Any = None) -> Any:
    """``function`` on ``[low, high]``, nan outside; ``ends`` are its values at the two ends."""
    guarded = _guarded(function)

    def call(value: Any) -> Any:
        if mp.isnan(value) or value < low or value > high:
            return mp.nan
        if ends is not None and value in (low, high):
            return ends[0] if value == low else ends[1]
        return guarded(value)

    return call


def _exact_erfc(x: Any) -> Any:
    """erfc; far out by its first term, as mpmath counts the terms that it would need with integers."""
    if x > 1e20:
        return PRIMITIVES["exp"].exact(-x * x) / (x * mp.sqrt(mp.pi))  # type: ignore[misc]
    return mp.erfc(x)


def _sign_exact(value: Any) -> Any:
    return mp.nan if mp.isnan(value) else mp.mpf(int(value > 0) - int(value < 0))


def _rounded(function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda value: value if not mp.isfinite(value) else function(value)


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


def _sinc_slope(n: Any, x: Any, _: Any) -> Any:
    return _vectorised(lambda n, x: float(_exact_sinc_slope(n, mp.mpf(x), x)))(n, x)


def _exact_sinc_slope(n: Any, x: Any, _: Any) -> Any:
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


class log0(sympy.Function):
    """The log that multiplies a power, ``x^y·log(x)``: 0 at 0, where PyTorch returns 0."""

    nargs = 1
    is_real = True

    def fdiff(self, argindex: int = 1) -> Any:
        return 1 / self.args[0]


PRIMITIVES: Mapping[str, Primitive] = {
    "exp": Primitive(sympy.exp, np.exp, _capped(mp.exp, mp.zero, mp.inf)),
    "log": Primitive(sympy.log, np.log, _guarded(_exact_log)),
    "log2": Primitive(
        cfunctions.log2, np.log2, _guarded(lambda a: _exact_log(a) / mp.ln2 if a else -mp.inf)
    ),
    "log10": Primitive(
        cfunctions.log10, np.log10, _guarded(lambda a: _exact_log(a) / mp.ln10 if a else -mp.inf)
    ),
    "log1p": Primitive(cfunctions.log1p, np.log1p, _guarded(lambda a: _exact_log(1 + a))),
    "expm1": Primitive(cfunctions.expm1, np.expm1, _capped(mp.expm1, -mp.one, mp.inf)),
    "exp2": Primitive(cfunctions.exp2, np.exp2, _capped(lambda a: mp.power(2, a), mp.zero, mp.inf)),
    "sqrt": Primitive(sympy.sqrt),
    "sin": Primitive(sympy.sin, np.sin, _periodic(mp.sin)),
    "cos": Primitive(sympy.cos, np.cos, _periodic(mp.cos)),
    "tan": Primitive(sympy.tan, np.tan, _periodic(mp.tan)),
    "asin": Primitive(sympy.asin, np.arcsin, _domain(mp.asin, -1, 1)),
    "acos": Primitive(sympy.acos, np.arccos, _domain(mp.acos, -1, 1)),
    "atan": Primitive(sympy.atan, np.arctan, _guarded(mp.atan)),
    "atan2": Primitive(sympy.atan2, np.arctan2, _guarded(mp.atan2, mp.zero)),
    "sinh": Primitive(sympy.sinh, np.sinh, _capped(mp.sinh, -mp.inf, mp.inf)),
    "cosh": Primitive(sympy.cosh, np.cosh, _capped(mp.cosh, mp.inf, mp.inf)),
    "tanh": Primitive(sympy.tanh, np.tanh, _capped(mp.tanh, -mp.one, mp.one)),
    "asinh": Primitive(sympy.asinh, np.arcsinh, _guarded(mp.asinh)),
    "acosh": Primitive(sympy.acosh, np.arccosh, _domain(mp.acosh, 1, math.inf)),
    "atanh": Primitive(
        sympy.atanh, np.arctanh, _domain(mp.atanh, -1, 1, (-mp.inf, mp.inf))
    ),
    "erf": Primitive(sympy.erf, _vectorised(math.erf), _capped(mp.erf, -mp.one, mp.one)),
    "erfc": Primitive(sympy.erfc, _vectorised(math.erfc), _capped(_exact_erfc, mp.mpf(2), mp.zero)),
    "erfinv": Primitive(
        sympy.erfinv, _erfinv, _domain(mp.erfinv, -1, 1, (-mp.inf, mp.inf))
    ),
    "lgamma": Primitive(
        sympy.loggamma,
        _vectorised(_lgamma),
        _guarded(_exact_lgamma, mp.inf),
    ),
    "polygamma": Primitive(
        sympy.polygamma,
        _polygamma,
        lambda n, a: _exact_polygamma(n, a),
    ),
    "sinc": Primitive(sinc, np.sinc, lambda a: mp.one if a == 0 else mp.sincpi(a)),
    "sinc_slope": Primitive(SincSlope, _sinc_slope, _exact_sinc_slope),
    "log0": Primitive(
        log0, lambda a: np.log(np.where(a == 0, 1.0, a)), lambda a: _exact_log(a) if a else mp.zero
    ),
    "abs": Primitive(sympy.Abs, np.abs, abs),
    "sign": Primitive(sympy.sign, np.sign, _sign_exact),
    "floor": Primitive(sympy.floor, np.floor, _rounded(mp.floor)),
    "ceil": Primitive(sympy.ceiling, np.ceil, _rounded(mp.ceil)),
    "round": Primitive(rint, np.round, _rounded(mp.nint)),
    "trunc": Primitive(
        trunc, np.trunc, _rounded(lambda a: mp.floor(a) if a >= 0 else mp.ceil(a))
    ),
    "isfinite": Primitive(isfinite, np.isfinite, lambda a: mp.mpf(int(mp.isfinite(a)))),
    "replaced": Primitive(
        replaced,
        lambda x, a, b, c: np.where(
            np.isnan(x), a, np.where(x == np.inf, b, np.where(x == -np.inf, c, x))
        ),
        lambda x, a, b, c: a if mp.isnan(x) else b if x == mp.inf else c if x == -mp.inf else x,
    ),
    "nonzero": Primitive(
        Nonzero, lambda a: np.where(a == 0, np.inf, a), lambda a: a if a else mp.inf
    ),
    "max": Primitive(sympy.Max, np.maximum, max),
    "min": Primitive(sympy.Min, np.minimum, min),
}  # fmt: skip


def _exact_polygamma(n: Any, a: Any) -> Any:
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


#: SymPy class -> kernels, for the evaluator.
KERNELS: dict[Any, Primitive] = {
    primitive.symbolic: primitive
    for primitive in PRIMITIVES.values()
    if isinstance(primitive.symbolic, type)
}


# -- formulas as text, of the project's own records ----------------------------------------------

_BINARY: Mapping[type, Callable[[Any, Any], Any]] = {
    ast.Add: lambda a, b: a + b,
    ast.Sub: lambda a, b: a - b,
    ast.Mult: lambda a, b: a * b,
    ast.Div: lambda a, b: a / b,
    ast.Pow: lambda a, b: a**b,
}
_COMPARE: Mapping[type, Any] = {
    ast.Lt: sympy.Lt, ast.LtE: sympy.Le, ast.Gt: sympy.Gt, ast.GtE: sympy.Ge,
    ast.Eq: sympy.Eq, ast.NotEq: sympy.Ne,
}  # fmt: skip


@cache
def _tree(formula: str) -> ast.expr:
    return ast.parse(formula, mode="eval").body


#: The fractions that decimals of the records' formulas are shown as: PyTorch computes with doubles.
DECIMALS: set[Any] = set()


def decimal(value: float) -> Any:
    """A number of a record's formula."""
    found = sympy.Integer(value) if isinstance(value, int) else sympy.Rational(repr(value))
    if found != sympy.Rational(value):
        DECIMALS.add(found)
    return found


def build(formula: str, names: Mapping[str, Any]) -> Any:
    """The SymPy expression (or condition) of a record's ``formula``, with ``names`` put in."""
    return _build(_tree(formula), names)


def _build(node: ast.expr, names: Mapping[str, Any]) -> Any:
    match node:
        case ast.Name(id=name):
            return names[name] if name in names else _CONSTANTS[name]
        case ast.Constant(value=None | str() | bool() as value):
            return value
        case ast.Constant(value=value):
            return decimal(value)  # type: ignore[arg-type]
        case ast.BinOp(left=left, op=op, right=right):
            return _BINARY[type(op)](_build(left, names), _build(right, names))
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_build(operand, names)
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            return sympy.Not(_condition(_build(operand, names)))
        case ast.Compare(left=left, ops=[op], comparators=[right]):
            a, b = _build(left, names), _build(right, names)
            if isinstance(op, (ast.Is, ast.IsNot)):
                return sympy.true if (a is b) == isinstance(op, ast.Is) else sympy.false
            if isinstance(a, str):
                return sympy.true if a == b else sympy.false
            return _COMPARE[type(op)](a, b)
        case ast.BoolOp(op=op, values=values):
            joined = sympy.And if isinstance(op, ast.And) else sympy.Or
            return joined(*(_condition(_build(value, names)) for value in values))
        case ast.IfExp(test=test, body=body, orelse=orelse):
            condition = _condition(_build(test, names))
            if condition in (sympy.true, sympy.false):
                return _build(body if condition else orelse, names)
            return choose(condition, _build(body, names), _build(orelse, names))
        case ast.Call(func=ast.Name(id=name), args=args):
            values = [_build(arg, names) for arg in args]
            if name in PRIMITIVES:
                return PRIMITIVES[name].symbolic(*values)
            return named_function(by_name(name))(*values)
    raise ValueError(f"a record's formula cannot hold {ast.dump(node)}")


_CONSTANTS = {
    "pi": sympy.pi, "e": sympy.E, "inf": sympy.oo,
    # The scale and the alpha of selu, as PyTorch's source has them.
    "selu_scale": sympy.Float("1.0507009873554805", 17),
    "selu_alpha": sympy.Float("1.6732632423543772", 17),
}  # fmt: skip


def by_name(name: str) -> Op:
    """The named pointwise record that a formula calls by ``name``."""
    for home in ("torch", "F", "special"):
        for op in by_spelling(f"{home}.{name}"):
            if op.named:
                return op
    raise KeyError(f"no function {name!r} for formulas")


def choose(condition: Any, then: Any, otherwise: Any) -> Any:
    """``then if condition else otherwise``, as a bracket where one side is a plain 0."""
    condition = _condition(condition)
    if condition in (sympy.true, sympy.false):
        return then if condition else otherwise
    if otherwise == 0:
        return select(condition, then)
    if then == 0:
        return select(negation(condition), otherwise)
    return Cases((then, condition), (otherwise, True))


def negation(condition: Any) -> Any:
    """``not condition``, with the not taken inside."""
    if isinstance(condition, sympy.Or):
        return sympy.And(*map(negation, condition.args))
    if isinstance(condition, sympy.And):
        return sympy.Or(*map(negation, condition.args))
    return sympy.Not(condition)


def select(condition: Any, value: Any) -> Any:
    """``[condition]·value``, the brackets in ``value`` joined with it."""
    brackets = [f for f in sympy.Mul.make_args(value) if isinstance(f, Bracket)]
    if brackets:
        value = sympy.Mul(*(f for f in sympy.Mul.make_args(value) if not isinstance(f, Bracket)))
        condition = sympy.And(condition, *(f.condition for f in brackets))
    return Bracket(condition) * value


def _condition(value: Any) -> Any:
    """What a formula asks about as a condition; a number is true where it is not 0."""
    if isinstance(value, bool):
        return sympy.true if value else sympy.false
    if isinstance(value, Boolean):
        return value
    return value.condition if isinstance(value, Bracket) else sympy.Ne(value, 0)


#: None among the arguments of a `RecordFunction`.
ABSENT = sympy.Symbol("None")


class RecordFunction(sympy.Function):
    """Base of the functions made from named pointwise records: ``sigmoid(x[i])``.

    ``definition`` is the record's formula with the arguments put in.
    """

    is_real = True
    op: Op
    names: tuple[str, ...]

    @property
    def arguments(self) -> dict[str, Any]:
        return {
            name: None if value == ABSENT else value
            for name, value in zip(self.names, self.args, strict=True)
        }

    @property
    def definition(self) -> Any:
        return build(self.op.formula, self.arguments)

    def fdiff(self, argindex: int = 1) -> Any:
        name = self.names[argindex - 1]
        arguments = self.arguments
        if name in self.op.derivatives:
            return build(self.op.derivatives[name], arguments | {"y": self})
        symbols = {
            n: value if value is None or value.is_number else sympy.Symbol(n, real=True)
            for n, value in arguments.items()
        }
        slope = derivative(build(self.op.formula, symbols), symbols[name])
        given = {symbols[n]: value for n, value in arguments.items() if value is not None}
        return slope.xreplace(given)


@cache
def named_function(op: Op) -> type[RecordFunction]:
    """The SymPy function of a named pointwise record."""
    names = tuple(p.name for p in op.parameters if p.kind in ("Tensor", "float"))
    members = {"nargs": len(names), "op": op, "names": names}
    return type(op.name, (RecordFunction,), members)


#: Functions that are constant between their jumps.
_STEPS = (
    sympy.sign, sympy.floor, sympy.ceiling, trunc, rint, isfinite, FirstGreatest, FirstLeast,
    sympy.KroneckerDelta, Bracket, FloorDiv, Modulo,
)  # fmt: skip


def total_derivative(expression: Any, of_atom: Callable[[Any], Any]) -> Any:
    """The derivative of ``expression``, given that of each atom (symbol, element, sum) in it.

    The rules of sum, product, power and chain; a function's own derivative is SymPy's (``fdiff``)
    or its record's.  Where an expression chooses between formulas, so does its derivative.
    """
    if expression.is_number or isinstance(expression, _STEPS):
        return sympy.S.Zero
    if expression.is_Add:
        return sympy.Add(*(total_derivative(term, of_atom) for term in expression.args))
    if expression.is_Mul:
        terms = []
        for place, factor in enumerate(expression.args):
            slope = total_derivative(factor, of_atom)
            if slope != 0:
                others = expression.args[:place] + expression.args[place + 1 :]
                conditions = [other.condition for other in others if isinstance(other, Bracket)]
                term = sympy.Mul(*(o for o in others if not isinstance(o, Bracket)), slope)
                terms.append(select(sympy.And(*conditions), term) if conditions else term)
        return sympy.Add(*terms)
    if expression.is_Pow:
        base, exponent = expression.args
        result = sympy.S.Zero
        slope = total_derivative(base, of_atom)
        if slope != 0:
            result += exponent * base ** (exponent - 1) * slope
        slope = total_derivative(exponent, of_atom)
        if slope != 0:
            logarithm = sympy.log(base) if base.is_positive and base.is_number else log0(base)
            result += expression * logarithm * slope
        return result
    if isinstance(expression, Cases):
        pieces = [(total_derivative(value, of_atom), c) for value, c in expression.args]
        return sum_of_pieces(pieces)
    if isinstance(expression, sympy.Function):
        terms = []
        for place, argument in enumerate(expression.args, start=1):
            slope = total_derivative(argument, of_atom)
            if slope != 0:
                terms.append(_own_slope(expression, place) * slope)
        return sympy.Add(*terms)
    if isinstance(expression, (sympy.Max, sympy.Min)):
        holds = sympy.Ge if isinstance(expression, sympy.Max) else sympy.Le
        return sum_of_pieces(
            [
                (total_derivative(a, of_atom), sympy.And(*(holds(a, b) for b in expression.args)))
                for a in expression.args
            ]
        )
    return of_atom(expression)


def _own_slope(expression: Any, place: int) -> Any:
    """A function's own derivative; SymPy leaves one that it does not know as it is."""
    slope = expression.fdiff(place)
    if slope.has(sympy.Derivative, sympy.Subs):
        name = type(expression).__name__
        raise UnsupportedError(
            f"the derivative of {name} is not supported here",
            remedy=f"leave {name} out, or ask for the first derivative only",
        )
    return slope


def sum_of_pieces(pieces: Sequence[tuple[Any, Any]]) -> Any:
    """A choice between formulas as a sum of formulas in brackets, so that it can be contracted."""
    before: list[Any] = []  # the conditions of the pieces before
    places: set[Any] = set()  # of "i = 2" the left sides
    terms = []
    for value, condition in pieces:
        at = (
            isinstance(condition, sympy.Eq) and condition.rhs.is_Integer and condition.lhs.is_Symbol
        )
        if at and places <= {condition.lhs}:
            # i = 2 says already that i is neither 0 nor 1.
            terms.append(value * sympy.KroneckerDelta(*condition.args))
        elif at:
            rest = sympy.And(*map(negation, before))
            apart = rest.xreplace({condition.lhs: condition.rhs}) is sympy.true
            place = sympy.KroneckerDelta(*condition.args)
            terms.append(value * (place if apart else place * Bracket(rest)))
        elif value != 0:
            terms.append(select(sympy.And(*map(negation, before), condition), value))
        before.append(condition)
        places.add(condition.lhs if at else None)
    return sympy.Add(*terms)


def derivative(expression: Any, symbol: Any) -> Any:
    """The derivative of a scalar expression by one of its symbols."""
    return total_derivative(expression, lambda atom: sympy.Integer(atom == symbol))
