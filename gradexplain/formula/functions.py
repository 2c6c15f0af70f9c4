"""The functions that element formulas are made of, each with its kernels.

`PRIMITIVES` is the one list: the name that a record's formula uses, the SymPy function, and how a
value is computed in float64 (NumPy) and with digits to spare (mpmath).  A pointwise operation that
is ``named`` becomes a function too (`named_function`), whose derivative and value come from its
record.
"""

from __future__ import annotations

import ast
import math
import operator
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
from gradexplain.formula.kernels import (
    capped,
    domain,
    erfinv,
    exact_erfc,
    exact_exp,
    exact_lgamma,
    exact_log,
    exact_polygamma,
    exact_sinc_slope,
    guarded,
    lgamma,
    periodic,
    polygamma,
    rounded,
    sign_exact,
    sinc_slope,
    vectorised,
)
from gradexplain.formula.kinds import (
    Bracket,
    Cases,
    FirstGreatest,
    FirstLeast,
    FloorDiv,
    Modulo,
    Nonzero,
    SincSlope,
    isfinite,
    log0,
    replaced,
    rint,
    sinc,
    trunc,
)
from gradexplain.ops.base import Op, by_spelling


@dataclass(frozen=True, slots=True)
class Primitive:
    """``symbolic`` builds the SymPy expression; the kernels compute its value."""

    symbolic: Callable[..., Any]
    numpy: Callable[..., Any] | None = None
    exact: Callable[..., Any] | None = None


PRIMITIVES: Mapping[str, Primitive] = {
    "exp": Primitive(sympy.exp, np.exp, exact_exp),
    "log": Primitive(sympy.log, np.log, guarded(exact_log)),
    "log2": Primitive(
        cfunctions.log2, np.log2, guarded(lambda a: exact_log(a) / mp.ln2 if a else -mp.inf)
    ),
    "log10": Primitive(
        cfunctions.log10, np.log10, guarded(lambda a: exact_log(a) / mp.ln10 if a else -mp.inf)
    ),
    "log1p": Primitive(cfunctions.log1p, np.log1p, guarded(lambda a: exact_log(1 + a))),
    "expm1": Primitive(cfunctions.expm1, np.expm1, capped(mp.expm1, -mp.one, mp.inf)),
    "exp2": Primitive(cfunctions.exp2, np.exp2, capped(lambda a: mp.power(2, a), mp.zero, mp.inf)),
    "sqrt": Primitive(sympy.sqrt),
    "sin": Primitive(sympy.sin, np.sin, periodic(mp.sin)),
    "cos": Primitive(sympy.cos, np.cos, periodic(mp.cos)),
    "tan": Primitive(sympy.tan, np.tan, periodic(mp.tan)),
    "asin": Primitive(sympy.asin, np.arcsin, domain(mp.asin, -1, 1)),
    "acos": Primitive(sympy.acos, np.arccos, domain(mp.acos, -1, 1)),
    "atan": Primitive(sympy.atan, np.arctan, guarded(mp.atan)),
    "atan2": Primitive(sympy.atan2, np.arctan2, guarded(mp.atan2, mp.zero)),
    "sinh": Primitive(sympy.sinh, np.sinh, capped(mp.sinh, -mp.inf, mp.inf)),
    "cosh": Primitive(sympy.cosh, np.cosh, capped(mp.cosh, mp.inf, mp.inf)),
    "tanh": Primitive(sympy.tanh, np.tanh, capped(mp.tanh, -mp.one, mp.one)),
    "asinh": Primitive(sympy.asinh, np.arcsinh, guarded(mp.asinh)),
    "acosh": Primitive(sympy.acosh, np.arccosh, domain(mp.acosh, 1, math.inf)),
    "atanh": Primitive(
        sympy.atanh, np.arctanh, domain(mp.atanh, -1, 1, (-mp.inf, mp.inf))
    ),
    "erf": Primitive(sympy.erf, vectorised(math.erf), capped(mp.erf, -mp.one, mp.one)),
    "erfc": Primitive(sympy.erfc, vectorised(math.erfc), capped(exact_erfc, mp.mpf(2), mp.zero)),
    "erfinv": Primitive(
        sympy.erfinv, erfinv, domain(mp.erfinv, -1, 1, (-mp.inf, mp.inf))
    ),
    "lgamma": Primitive(
        sympy.loggamma,
        vectorised(lgamma),
        guarded(exact_lgamma, mp.inf),
    ),
    "polygamma": Primitive(
        sympy.polygamma,
        polygamma,
        lambda n, a: exact_polygamma(n, a),
    ),
    "sinc": Primitive(sinc, np.sinc, lambda a: mp.one if a == 0 else mp.sincpi(a)),
    "sinc_slope": Primitive(SincSlope, sinc_slope, exact_sinc_slope),
    "log0": Primitive(
        log0, lambda a: np.log(np.where(a == 0, 1.0, a)), lambda a: exact_log(a) if a else mp.zero
    ),
    "abs": Primitive(sympy.Abs, np.abs, abs),
    "sign": Primitive(sympy.sign, np.sign, sign_exact),
    "floor": Primitive(sympy.floor, np.floor, rounded(mp.floor)),
    "ceil": Primitive(sympy.ceiling, np.ceil, rounded(mp.ceil)),
    "round": Primitive(rint, np.round, rounded(mp.nint)),
    "trunc": Primitive(
        trunc, np.trunc, rounded(lambda a: mp.floor(a) if a >= 0 else mp.ceil(a))
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


#: SymPy class -> kernels, for the evaluator.
KERNELS: dict[Any, Primitive] = {
    primitive.symbolic: primitive
    for primitive in PRIMITIVES.values()
    if isinstance(primitive.symbolic, type)
}


# -- formulas as text, of the project's own records ----------------------------------------------

_BINARY: Mapping[type, Callable[[Any, Any], Any]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul,
    ast.Div: operator.truediv, ast.Pow: operator.pow,
}  # fmt: skip
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
            return of_reals(_BINARY[type(op)](_build(left, names), _build(right, names)))
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
                return of_reals(PRIMITIVES[name].symbolic(*values))
            return named_function(by_name(name))(*values)
    raise ValueError(f"a record's formula cannot hold {ast.dump(node)}")


def of_reals(value: Any) -> Any:
    """``value``, unless SymPy has made it of the imaginary unit, which could cancel where PyTorch has nan."""
    if sympy.I in sympy.Mul.make_args(value):
        raise UnsupportedError(
            "a root of what is negative everywhere is no real number: PyTorch computes nan",
            remedy="change the sign of what is under the root",
        )
    return value


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
            isinstance(condition, sympy.Eq)
            and condition.rhs.is_Integer
            and condition.lhs.is_integer
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
