"""What a verdict says at extreme points: each case stands for its kind."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

import gradexplain
from gradexplain.arithmetic import mp
from gradexplain.engine import Request, problem_of
from gradexplain.verdict.rewrites import TABLE, rewrites

INF, NAN = math.inf, math.nan


def explained(text: str, at: dict[str, Any], **options: Any) -> Any:
    return gradexplain.explain(text, at=at, **options)


#: The expression, its inputs, options; PyTorch's gradient by x, the exact one, and the verdict.
OVERFLOWS = [
    ("log(exp(x).sum())", [1000.0, 1.0], {}, [NAN, 0], [1, 0], "torch.logsumexp(x, …)"),
    ("exp(x)/exp(x).sum()", [1000.0, 1.0], {"grad": [1, 2]}, [NAN, NAN], [0, 0], "torch.softmax(x, …)"),
    ("1/(1 + exp(-x))", -800.0, {}, NAN, math.exp(-400) ** 2, "torch.sigmoid(x)"),
    ("x.norm()", [1e200, 1e200], {}, [0, 0], [0.5**0.5] * 2, None),
    ("exp(x)", 100.0, {"dtype": "float32"}, INF, math.exp(100), None),
]  # fmt: skip


@pytest.mark.parametrize(("text", "x", "options", "real", "exact", "instead"), OVERFLOWS)
def test_an_overflow_is_no_mismatch(
    text: str, x: Any, options: dict[str, Any], real: Any, exact: Any, instead: str | None
) -> None:
    found = explained(text, {"x": x}, **options)
    gradient = found.gradients["x"]
    np.testing.assert_allclose(gradient.torch, real)
    np.testing.assert_allclose(gradient.value, exact, rtol=1e-12)
    assert found.check.status == "convention", found.check
    (note,) = [n for n in found.notes if n.kind == "overflow"]
    assert note.data.get("instead") == instead
    assert "too large for" in note.text


#: The expression, the input, the dtype; PyTorch's gradient, the exact one.
CANCELLATIONS = [
    ("(exp(x) - 1)/x", 1e-10, "float64", -826.4037, 0.5, "torch.expm1(x)"),
    ("sqrt(x + 1) - sqrt(x)", 1e12, "float32", 0.0, -2.5e-19, "1/(sqrt(x + 1) + sqrt(x))"),
    ("(1 - cos(x))/x**2", 1e-30, "float64", 1e30, -1e-30 / 12, "2*sin(x/2)**2"),
    ("log1p(x)/x", 1e-55, "float64", 0.0, -0.5, None),
]


@pytest.mark.parametrize(("text", "x", "dtype", "real", "exact", "instead"), CANCELLATIONS)
def test_lost_digits_are_said_and_pytorchs_number_is_shown(
    text: str, x: float, dtype: Any, real: float, exact: float, instead: str | None
) -> None:
    found = explained(text, {"x": x}, dtype=dtype)
    gradient = found.gradients["x"]
    assert found.check.status == "convention", found.check
    np.testing.assert_allclose(gradient.torch, real, rtol=1e-3)
    np.testing.assert_allclose(gradient.value, exact, rtol=1e-6)
    assert gradient.digits is not None and gradient.digits < 8
    (note,) = [n for n in found.notes if n.kind == "cancellation"]
    assert note.data.get("instead") == instead


def test_an_operation_without_digits_decides_nothing() -> None:
    x = [1e16, 1.0000000000000002e16, 1.0000000000000004e16, 1e16]
    found = explained("F.layer_norm(x, (4,))", {"x": x}, grad=[1, 2, 3, 5])
    assert found.check.status == "cannot tell"
    assert (found.check.compared, found.check.operations) == (0, 1)
    assert found.check.reason.startswith("in 1 of 1 operations of the backward pass PyTorch's own")


@pytest.mark.parametrize(
    ("text", "x", "value"),
    [("sin(x)", 1e49, -0.38045480), ("log1p(x)/x", 1e-55, -0.5), ("(exp(x)-1-x)/x**2", 1e-60, 1 / 6)],
)  # fmt: skip
def test_digits_are_enough(text: str, x: float, value: float) -> None:
    found = explained(text, {"x": x}, check=False)
    np.testing.assert_allclose(found.gradients["x"].value, value, rtol=1e-6)
    np.testing.assert_allclose(found.gradients["x"].chain_rule, value, rtol=1e-6)


#: Forward values by IEEE's rules, and the verdict on the gradients.
IEEE = [
    ("x - x", {"x": INF}, NAN, "agree"),
    ("exp(log(x))", {"x": -1.0}, NAN, "convention"),
    ("relu(x)", {"x": NAN}, NAN, "convention"),
    ("where(x < y, x, y)", {"x": NAN, "y": 1.0}, 1.0, "convention"),
    ("copysign(x, -0.0)", {"x": 2.0}, -2.0, "convention"),
    ("copysign(x, y)", {"x": 2.0, "y": -0.0}, -2.0, "convention"),
    ("1/x", {"x": -0.0}, -INF, "agree"),
    ("F.cross_entropy(x, [-100])", {"x": [[1.0, 2.0]]}, NAN, "convention"),
    ("(y*0 + 2)**a", {"y": 1.0, "a": 3.0}, 8.0, "agree"),
]


@pytest.mark.parametrize(("text", "at", "value", "status"), IEEE)
def test_forward_values_are_the_dtypes(
    text: str, at: dict[str, Any], value: float, status: str
) -> None:
    found = explained(text, at)
    np.testing.assert_equal(found.output.value, np.array(value))
    assert found.check.status == status, found.check


#: Right but for rounding, or for a coarse kernel: none is a mismatch.
ROUNDED = [
    ("F.layer_norm(x, (1,))", {"x": [[1.0], [2.0]]}, "agree"),
    ("F.group_norm(x, 2)", {"x": [[[1.0], [2.0]], [[1.0], [3.0]]]}, "agree"),
    ("logsumexp(x, 0)", {"x": [1000.0, 1001.0]}, "agree"),
    ("F.celu(x, 0.7)", {"x": [-1.0, 2.0]}, "convention"),
    ("F.kl_div(x, t, reduction='sum')", {"x": [0.1, 0.2], "t": [0.0, 1.0]}, "convention"),
]


@pytest.mark.parametrize(("text", "at", "status"), ROUNDED)
def test_what_is_right_is_no_mismatch(text: str, at: dict[str, Any], status: str) -> None:
    shape = np.shape(next(iter(at.values())))
    options = {} if text.startswith(("log", "F.kl")) else {"grad": np.ones(shape)}
    assert explained(text, at, **options).check.status == status


def test_each_step_has_its_numbers_and_its_bound() -> None:
    found = explained("tanh(x*w).sum()", {"x": [0.5, 2.0], "w": [1.0, 3.0]}, dtype="float32")
    assert (found.check.compared, found.check.operations) == (3, 3)
    for step in found.steps:
        assert step.verdict == "agree" and step.margin > 1
        assert (np.abs(step.torch - step.expected) <= step.tolerance).all()
        # PyTorch's own: a float32.
        np.testing.assert_array_equal(step.torch, step.torch.astype(np.float32))


@pytest.mark.parametrize(("pattern", "instead"), TABLE)
def test_a_rewrite_is_equal(pattern: str, instead: str) -> None:
    """To 40 digits, at values of no pattern; ``…`` stands for the dims."""
    a, b = np.array([0.3, 1.7]), np.array([0.9, 0.4])
    if ".sum()" not in pattern and "softmax" not in pattern:
        a, b = a[:1], b[:1]
    text = instead.replace("…", "0")
    values = []
    for expression in (pattern, text):
        at = {n: v for n, v in (("a", a), ("b", b)) if n in _letters(expression)}
        problem = problem_of(Request(f"({expression}).sum()", at, check=False))
        with mp.workdps(50):
            from gradexplain.routes.chain import ChainRule

            chain = ChainRule(problem.graph, problem.values, exact=True)
            values.append(chain.forward[problem.graph.output][0][()])
    assert abs(values[0] - values[1]) < mp.mpf(10) ** -40


def _letters(text: str) -> set[str]:
    import re

    return set(re.findall(r"\b[ab]\b", text))


def test_a_rewrite_is_found_where_it_is_a_part() -> None:
    problem = problem_of(Request("3*(exp(x/2) - 1)", {"x": np.array(1.0)}, check=False))
    graph = problem.graph
    (node,) = [n for n in graph.nodes if n.op is not None and n.op.name == "sub"]
    assert [r.instead for r in rewrites(graph, node)][0].startswith("torch.expm1(")
