"""Laws that hold for every expression, tried on random ones built from the grammar."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from textbook import Reader, lengths, ranges

import gradexplain
from gradexplain.explanation import Explanation, Formula
from gradexplain.graph import program
from gradexplain.problem import Request, problem_of

SHAPES: dict[str, tuple[int, ...]] = {"a": (2, 3), "b": (2, 3), "c": (3,), "d": (2, 1), "s": ()}

UNARY = (
    "sin({})", "tanh({})", "sigmoid({})", "exp(-({}))", "log(1 + ({})**2)", "relu({})",
    "({})**2", "-({})", "1/(2 + ({})**2)", "sqrt(1 + ({})**2)", "abs({})", "softplus({})",
    "2*({})", "({}) - 0.3",
)  # fmt: skip
BINARY = ("({}) + ({})", "({}) - ({})", "({})*({})", "({})/(1 + ({})**2)")

Typed = tuple[str, tuple[int, ...]]


@st.composite
def expressions(draw: Any, depth: int = 4) -> Typed:
    """An expression over `SHAPES` and its shape."""
    if depth == 0 or draw(st.integers(0, 5)) == 0:
        name = draw(st.sampled_from(sorted(SHAPES)))
        return name, SHAPES[name]
    text, shape = draw(expressions(depth=depth - 1))
    kind = draw(st.sampled_from(["unary", "binary", "reduce", "move", "whole"]))
    if kind == "unary":
        return draw(st.sampled_from(UNARY)).format(text), shape
    if kind == "binary":
        other, theirs = draw(expressions(depth=depth - 1))
        try:
            joint = np.broadcast_shapes(shape, theirs)
        except ValueError:
            return f"sin({text})", shape
        return draw(st.sampled_from(BINARY)).format(text, other), joint
    if not shape:
        return f"cos({text})", shape
    dim = draw(st.integers(0, len(shape) - 1))
    if kind == "reduce":
        keep = draw(st.booleans())
        name = draw(st.sampled_from(["sum", "mean", "logsumexp", "prod"]))
        left = tuple(1 if i == dim else n for i, n in enumerate(shape) if keep or i != dim)
        return f"({text}).{name}(dim={dim}, keepdim={keep})", left
    if kind == "whole":
        name = draw(st.sampled_from(["softmax", "log_softmax"]))
        return f"{name}({text}, dim={dim})", shape
    move = draw(st.sampled_from(["T", "reshape", "index", "slice", "stack", "cat"]))
    if move == "T":
        return f"({text}).T", shape[::-1]
    if move == "reshape":
        return f"({text}).reshape(-1)", (int(np.prod(shape)),)
    if move == "index":
        return f"({text})[{draw(st.integers(-shape[0], shape[0] - 1))}]", shape[1:]
    if move == "slice":
        return f"({text})[::2]", (-(-shape[0] // 2), *shape[1:])
    if move == "stack":
        return f"stack([{text}, 2*({text})])", (2, *shape)
    return f"cat([{text}, {text}], dim={dim})", tuple(
        2 * n if i == dim else n for i, n in enumerate(shape)
    )


def values(seed: int) -> dict[str, Any]:
    source = np.random.default_rng(seed)
    return {name: source.uniform(-2, 2, shape).round(2) for name, shape in SHAPES.items()}


def leaves(text: str) -> set[str]:
    import ast

    return {n.id for n in ast.walk(ast.parse(text)) if isinstance(n, ast.Name)} & set(SHAPES)


def explain(text: str, shape: tuple[int, ...], seed: int, v: Any = None) -> Explanation:
    source = np.random.default_rng(seed + 1)
    given_v = source.uniform(-1, 1, shape).round(2) if v is None else v
    at = {name: value for name, value in values(seed).items() if name in leaves(text)}
    return gradexplain.explain(text, at=at, grad=given_v)


common = settings(
    deadline=None,
    max_examples=60,
    suppress_health_check=list(HealthCheck),
    derandomize=True,
    # Without shrinking: each example takes a tenth of a second, and shrinking tries thousands.
    phases=(Phase.explicit, Phase.generate),
)


@common
@given(expressions(), st.integers(0, 1000))
def test_the_three_routes_agree(expression: Typed, seed: int) -> None:
    text, shape = expression
    x = explain(text, shape, seed)
    assert x.output.shape == shape
    assert x.check is not None
    assert x.check.status in ("agree", "convention"), (x.check.reason, x.check.differences)


@common
@given(expressions(), st.integers(0, 1000))
def test_the_gradient_is_linear_in_v(expression: Typed, seed: int) -> None:
    text, shape = expression
    source = np.random.default_rng(seed)
    v, w = source.uniform(-1, 1, (2, *shape))
    parts = [explain(text, shape, seed, u) for u in (v, w, v + 2 * w)]
    for name, total in parts[2].gradients.items():
        expected = parts[0].gradients[name].value + 2 * parts[1].gradients[name].value
        room = sum(p.gradients[name].tolerance for p in parts) * 3
        close = np.abs(total.value - expected) <= room
        assert (close | ~np.isfinite(expected)).all()


@common
@given(expressions())
def test_printing_and_reading_gives_the_same_graph(expression: Typed) -> None:
    text, shape = expression
    shapes = {name: SHAPES[name] for name in leaves(text)}
    graph = problem_of(Request(text, shapes=shapes, grad=np.ones(shape))).graph
    printed = program(graph)
    again = problem_of(Request(printed, shapes=shapes, grad=np.ones(shape))).graph
    assert program(again) == printed
    assert [n.op for n in again.nodes if n.op] == [
        n.op for n in graph.nodes if n.op and n.id in graph.needed()
    ]


def check_text(x: Explanation) -> int:
    """Every printed formula has the value that is shown for it; returns how many elements."""
    # Names that no line defines are values of the forward table.
    arrays = {row.node: row.value for row in x.forward}
    arrays |= {name: i.value for name, i in x.inputs.items()} | {x.grad.name: x.grad.value}
    checked = 0
    for name, g in x.gradients.items():
        formulas: list[tuple[Formula, np.ndarray[Any, Any]]] = [(g, g.value)]
        jacobian = x.jacobian[name]
        if jacobian.value is not None:
            formulas.append((jacobian, jacobian.value))
        for formula, value in formulas:
            reader = Reader(arrays | lengths(formula.ranges), formula.where, ranges(formula.ranges))
            left, _, right = formula.text.partition(" = ")
            indices = [
                i for group in left.split("[")[1:] for i in group.partition("]")[0].split(",")
            ]
            sizes = ranges(formula.ranges)
            for letter, size in zip(indices, value.shape, strict=True):
                assert size == (1 if letter == "0" else sizes[letter]), formula.text
            for place in np.ndindex(*value.shape):
                if not np.isfinite(value[place]):
                    continue
                letters = {i: p for i, p in zip(indices, place, strict=True) if not i.isdigit()}
                found = reader.value(right, letters)
                # A decimal of the program is printed to six digits.
                assert found == pytest.approx(value[place], rel=5e-6, abs=1e-9), (
                    formula.text, formula.where, place,
                )  # fmt: skip
                checked += 1
    return checked


@common
@given(expressions(depth=3), st.integers(0, 1000))
def test_what_is_printed_has_the_value_that_is_claimed(expression: Typed, seed: int) -> None:
    text, shape = expression
    check_text(explain(text, shape, seed))


def test_a_long_program_is_no_deep_recursion() -> None:
    text = "; ".join(["h0 = x*x", *(f"h{k} = sin(h{k - 1})" for k in range(1, 480)), "h479.sum()"])
    x = gradexplain.explain(text, shapes={"x": (2,)}, check=False)
    assert list(x.gradients) == ["x"]


def test_a_network_is_printed_with_the_values_that_are_claimed() -> None:
    x = gradexplain.explain(
        "h = tanh(x @ w1.T / 100); z = h @ w2.T; -log_softmax(z, dim=1)[:, 0].mean()",
        shapes={"x": (2, 3), "w1": (4, 3), "w2": (2, 4)},
        check=False,
    )
    assert check_text(x) > 20
