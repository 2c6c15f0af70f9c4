"""Random programs at ordinary and extreme points, against rigorous balls: python-flint's ``arb``.

The evaluator here shares nothing with the package: dual numbers of balls over Python's own syntax tree,
with more bits until the ball is small.
"""

from __future__ import annotations

import ast
import math
import operator
import random
from typing import Any

import flint
import numpy as np
import pytest

import gradexplain
from gradexplain.errors import GradexplainError

UNARY = (
    "exp({})", "log({})", "sqrt({})", "sin({})", "cos({})", "tanh({})", "expm1({})", "log1p({})",
    "({})**2", "({})**3", "1/({})", "-({})", "({}) - 1", "1 + ({})", "cosh({})", "atan({})",
)  # fmt: skip
BINARY = ("({}) + ({})", "({}) - ({})", "({})*({})", "({})/({})")
ORDINARY = (0.3, 1.7, -0.6, 2.25, 0.9)
EXTREME = (1e-30, 1e-9, 1e8, 1e20, 700.0, -800.0, 1e-160, 1e160, 1 + 2**-50, 37.0)

Dual = tuple[Any, Any, Any]


def program(source: random.Random, depth: int) -> str:
    if depth == 0 or source.random() < 0.1:
        return source.choice("xy")
    if source.random() < 0.6:
        return source.choice(UNARY).format(program(source, depth - 1))
    parts = program(source, depth - 1), program(source, depth - 1)
    return source.choice(BINARY).format(*parts)


def dual(text: str, at: dict[str, float]) -> Dual:
    """The value and the derivatives by x and by y, as balls of the context's precision."""
    ball = flint.arb

    def chain(value: Any, slope: Any, inner: Dual) -> Dual:
        return value, slope * inner[1], slope * inner[2]

    def power(a: Dual, n: int) -> Dual:
        return chain(a[0] ** n, n * a[0] ** (n - 1), a)

    def divide(a: Dual, b: Dual) -> Dual:
        q = a[0] / b[0]
        return q, (a[1] - q * b[1]) / b[0], (a[2] - q * b[2]) / b[0]

    functions = {
        "exp": lambda a: chain(a[0].exp(), a[0].exp(), a),
        "log": lambda a: chain(a[0].log(), 1 / a[0], a),
        "sqrt": lambda a: chain(a[0].sqrt(), 1 / (2 * a[0].sqrt()), a),
        "sin": lambda a: chain(a[0].sin(), a[0].cos(), a),
        "cos": lambda a: chain(a[0].cos(), -a[0].sin(), a),
        "tanh": lambda a: chain(a[0].tanh(), 1 / a[0].cosh() ** 2, a),
        "cosh": lambda a: chain(a[0].cosh(), a[0].sinh(), a),
        "atan": lambda a: chain(a[0].atan(), 1 / (1 + a[0] ** 2), a),
        "expm1": lambda a: chain(a[0].expm1(), a[0].exp(), a),
        "log1p": lambda a: chain(a[0].log1p(), 1 / (1 + a[0]), a),
    }
    sums = {ast.Add: operator.add, ast.Sub: operator.sub}

    def value(node: ast.expr) -> Dual:
        match node:
            case ast.Name(id=name):
                return ball(at[name]), ball(name == "x"), ball(name == "y")
            case ast.Constant(value=number):
                return ball(number), ball(0), ball(0)
            case ast.UnaryOp(operand=operand):
                return chain(-value(operand)[0], ball(-1), value(operand))
            case ast.Call(func=ast.Name(id=name), args=[arg]):
                return functions[name](value(arg))  # type: ignore[no-any-return]
            case ast.BinOp(left=left, op=ast.Pow(), right=ast.Constant(value=int(n))):
                return power(value(left), n)
            case ast.BinOp(left=left, op=op, right=right):
                a, b = value(left), value(right)
                if type(op) in sums:
                    return tuple(map(sums[type(op)], a, b))  # type: ignore[return-value, arg-type]
                if isinstance(op, ast.Div):
                    return divide(a, b)
                return a[0] * b[0], a[1] * b[0] + a[0] * b[1], a[2] * b[0] + a[0] * b[2]
        raise AssertionError(ast.dump(node))

    return value(ast.parse(text, mode="eval").body)


def exact(text: str, at: dict[str, float]) -> list[Any] | None:
    """The gradient by x and y to 60 bits, None where there is none or it is beyond reach."""
    for bits in (200, 1000, 5000):
        with flint.ctx.workprec(bits):
            try:
                found = dual(text, at)
            except (OverflowError, ZeroDivisionError, ValueError):
                return None
            if not all(ball.is_finite() for ball in found):
                continue
            if all(ball.is_exact() or ball.rel_accuracy_bits() >= 60 for ball in found[1:]):
                return [ball.mid() for ball in found[1:]]
    return None


def in_float64(number: Any) -> bool:
    size = abs(number)
    return number == 0 or bool(flint.arb(1e-290) < size) and bool(size < flint.arb(1e290))


@pytest.mark.parametrize("points", ["ordinary", "extreme"])
def test_random_programs_against_rigorous_balls(points: str) -> None:
    source = random.Random(7)
    decided = 0
    for _ in range(50):
        text = program(source, 4)
        choice = ORDINARY if points == "ordinary" else EXTREME
        at = {name: source.choice(choice) for name in sorted(set(text) & set("xy"))}
        at = {name: value for name, value in at.items() if name in _names(text)}
        true = exact(text, {"x": 1.0, "y": 1.0, **at})
        if true is None or not all(map(in_float64, true)):
            continue
        try:
            found = gradexplain.explain(text, at=at)
        except GradexplainError:
            continue  # its sizes, or nothing to differentiate by
        assert found.check is not None
        # PyTorch's arithmetic runs out, but it is nowhere wrong.
        assert found.check.status != "mismatch", (text, at, found.check)
        for name, gradient in found.gradients.items():
            number = float(true["xy".index(name)])
            where = text, at, name, found.check.status
            if np.isnan(gradient.value):
                continue  # an exponential beyond any exponent of mpmath's
            np.testing.assert_allclose(gradient.value, number, rtol=1e-14, err_msg=str(where))
            assert gradient.torch is not None
            off = abs(float(gradient.torch) - number)
            if found.check.status == "agree" and not math.isclose(off, 0):
                assert off <= (1e-7 * abs(number) or 1e-12), (where, float(gradient.torch), number)
            decided += 1
    assert decided >= (40 if points == "ordinary" else 15)


def _names(text: str) -> set[str]:
    return {n.id for n in ast.walk(ast.parse(text)) if isinstance(n, ast.Name)}
