"""Every operation, by the registry: three routes, and central differences in higher precision."""

from __future__ import annotations

import dataclasses
import math
import pickle
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sympy
import torch
from conftest import sample
from test_laws import check_text

import gradexplain
from gradexplain.arithmetic import mp
from gradexplain.catalogue import entries
from gradexplain.errors import GradexplainError
from gradexplain.formula.functions import build, derivative, named_function
from gradexplain.ops import Op, all_ops
from gradexplain.plan.arrays import to_exact, to_float
from gradexplain.plan.evaluate import Evaluator
from gradexplain.problem import Request, problem_of
from gradexplain.reading.arrays import ONES
from gradexplain.reading.language import read
from gradexplain.reading.syntax import parse
from gradexplain.routes import pytorch
from gradexplain.routes.chain import ChainRule
from gradexplain.routes.closed import ClosedForm
from gradexplain.supervisor.helper import Helper
from gradexplain.verdict.compare import COARSE, by_kernel

CASES = [pytest.param(op, text, id=f"{op.name}: {text}") for op in all_ops() for text in op.samples]
#: The families whose records are checked in more ways; the first sample of each record is enough.
LARGE = ("pointwise", "comparison", "activation", "reduction", "loss", "normalisation")
ALL = [case for case in CASES if case.values[0].family in LARGE]
FIRST = [case for case in ALL if case.values[0].samples[0] == case.values[1]]


def uneven(shape: tuple[int, ...], seed: int) -> Any:
    """Values without a pattern, away from integers and from each other, between 0.3 and 3."""
    count = math.prod(shape)
    order = np.random.default_rng(seed).permutation(count)
    values = 0.3 + 2.6 * (order + 0.37) / max(count, 1)
    return values.reshape(shape)


def explained(text: str, **options: Any) -> gradexplain.Explanation:
    expression, shapes = sample(text)
    return gradexplain.explain(expression, shapes=shapes, **options)


def agrees(x: gradexplain.Explanation) -> None:
    assert x.check is not None
    # A coarse kernel of PyTorch's, which its record names, is the only convention at a plain point.
    assert x.check.status == "agree" or x.check.reason == COARSE, [
        x.check.reason,
        x.check.differences,
    ]


# -- every sample --------------------------------------------------------------------------------


@pytest.mark.parametrize(("op", "text"), CASES)
def test_three_routes_agree(op: Op, text: str) -> None:
    """And what is printed has the value that is claimed."""
    x = explained(text, grad="ones")
    agrees(x)
    try:
        check_text(x)
    except KeyError as unknown:
        pytest.skip(f"the routes agree; the reader of formulas does not know {unknown}")


@pytest.mark.parametrize(("op", "text"), FIRST)
def test_float32_agrees(op: Op, text: str) -> None:
    agrees(explained(text, grad="ones", dtype="float32"))


@pytest.mark.parametrize(("op", "text"), ALL)
def test_closed_form_is_the_limit_of_differences(op: Op, text: str) -> None:
    """Jᵀv against central differences of the forward formula, both in 50 digits."""
    expression, shapes = sample(text)
    at = {name: uneven(shape, seed) for seed, (name, shape) in enumerate(shapes.items())}
    try:
        graph = read(parse(expression), lambda name: shapes[name], at)
        v = uneven(graph.out.shape, 99) - 1.3
        x = gradexplain.explain(expression, at=at, grad=v, check=False)
    except GradexplainError as error:
        pytest.skip(f"the sample's parameters do not fit these values: {error}")
    if any(kind in text for kind in ("detach", "//")):
        pytest.skip("backward stops where the function goes on")

    step = mp.mpf(10) ** -12

    def forward(name: str, place: tuple[int, ...], move: Any) -> Any:
        chain = Moved(graph, at, name, place, move)
        return sum(
            (
                a * mp.mpf(float(b))
                for a, b in zip(chain.forward[graph.output][0].ravel(), v.ravel(), strict=True)
            ),
            mp.zero,
        )

    for name, shape in shapes.items():
        if name not in x.gradients:
            continue
        places = list(np.ndindex(*shape))
        for place in places[:: max(1, len(places) // 2)]:
            above, below = forward(name, place, step), forward(name, place, -step)
            expected = float((above - below) / (2 * step))
            found = float(x.gradients[name].value[place])
            assert found == pytest.approx(expected, rel=1e-9, abs=1e-9), (name, place)


class Moved(ChainRule):
    """The forward values with one element moved by less than a float64 can tell."""

    def __init__(self, graph: Any, at: Any, name: str, place: tuple[int, ...], move: Any) -> None:
        self._moved = name, place, move
        super().__init__(graph, at, exact=True)

    def _value(self, node: Any, values: Any) -> Any:
        pair = super()._value(node, values)
        name, place, move = self._moved
        if node.label == name:
            value = pair[0].copy()
            value[place] = value[place] + move
            return value, pair[1]
        return pair


# -- large tensors: the float64 path -------------------------------------------------------------


def grown(text: str) -> Iterator[tuple[str, dict[str, tuple[int, ...]]]]:
    expression, shapes = sample(text)
    fixed = ("[1, ", "[2, ", "[[", "tensor(", "(3, 2)", "_norm(x, 2", "trace", "cumprod(dim")
    if not shapes or any(part in expression for part in fixed):
        return
    size = {1: 1, 2: 40, 3: 60, 4: 44, 5: 50, 7: 7}
    for small in (3, 4):
        expression = expression.replace(f"({small},)", f"({size[small]},)")
        expression = expression.replace(f"[{small}]", f"[{size[small]}]")
    yield expression, {name: tuple(size[n] for n in shape) for name, shape in shapes.items()}


BIG = [
    pytest.param(*found, id=f"{op.name}: {text}")
    for op in all_ops()
    if op.family in LARGE
    for text in op.samples[:2]
    for found in grown(text)
]


@pytest.mark.parametrize(("expression", "shapes"), BIG)
def test_large_tensors_agree(expression: str, shapes: dict[str, tuple[int, ...]]) -> None:
    at = {name: uneven(shape, seed) / 3.1 for seed, (name, shape) in enumerate(shapes.items())}
    agrees(gradexplain.explain(expression, at=at, grad="ones"))


IN_PLACE = ["h = x*2; F.relu(h, inplace=True)", "z = x.clone(); z[0] = x[1]; z*z"]


def test_a_lean_pytorch_answers_as_the_whole_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """PyTorch's process leaves out parts of PyTorch; where an operation needs one, it begins anew.

    And it changes nothing that it was given, even where its tensors share the memory of that: large
    arrays of a question that come back in the answer are named by where they are, and not sent.
    """
    monkeypatch.setattr(pytorch, "_LARGE", 0)
    for text in IN_PLACE:
        _asked_unchanged(problem_of(Request(text, shapes={"x": (2,)}, grad=ONES)).question())
    lean, anew = Helper("torch"), []
    for op in all_ops():
        expression, shapes = sample(op.samples[0])
        question = problem_of(Request(expression, shapes=shapes, grad=ONES)).question()
        lean.send(question.ask, None)
        there, here = lean.receive(60), _asked_unchanged(question)
        assert there.error == here.error
        for name, value in here.gradients.items():
            np.testing.assert_array_equal(there.gradients[name], value, err_msg=op.name)
        environment = Path(f"/proc/{lean._process.pid}/environ")
        if environment.exists() and b"GRADEXPLAIN_ALL" in environment.read_bytes():
            anew.append(op.name)
            lean.stop()
            lean = Helper("torch")
    lean.stop()
    assert set(anew) <= {"cross"}  # PyTorch computes it by a part of its own that is left out


def _asked_unchanged(question: Any) -> Any:
    before = pickle.dumps(question)
    answer = question.ask()
    assert pickle.dumps(question) == before
    return answer


@pytest.mark.parametrize(("op", "text"), FIRST)
def test_values_without_bounds_are_the_same(op: Op, text: str) -> None:
    """Without error bounds arrays are written over where they may be: never one that is in use."""
    expression, shapes = sample(text)
    problem = problem_of(Request(expression, shapes=shapes, grad=ONES))
    kept = {name: value.copy() for name, value in problem.values.items()}
    plain = ClosedForm(problem.graph, problem.values, problem.v, exact=False, magnitudes=False)
    full = ClosedForm(problem.graph, problem.values, problem.v, exact=False)
    for leaf in problem.graph.leaves:
        if leaf.integer:
            continue
        value, size = full.gradient_value(leaf)
        for _ in range(2):
            found, _ = plain.gradient_value(leaf)
            finite = np.isfinite(value)
            assert (abs(found - value)[finite] <= 1e-14 * (abs(value) + size)[finite]).all()
    for name, value in kept.items():
        assert np.array_equal(value, problem.values[name], equal_nan=True)


_ROUNDED_TO_ONE = {("sigmoid(x)", 4), ("tanh(x)", 4), ("expm1(-abs(x))", 4)}


@pytest.mark.parametrize(
    "expression",
    [
        "softmax(x, 0)", "log_softmax(x, 0)", "logsumexp(x, 0)", "logcumsumexp(x, 0)",
        "F.softmin(x, 0)", "sigmoid(x)", "tanh(x)", "F.softplus(x)", "F.logsigmoid(x)", "F.silu(x)",
        "F.gelu(x)", "F.elu(x)", "F.mish(x)", "logaddexp(x, -x)", "logaddexp2(x, -x)",
        "expm1(-abs(x))",
        "F.softsign(x)", "F.binary_cross_entropy_with_logits(x, sigmoid(x).detach())",
        "F.soft_margin_loss(x, sign(x).detach())",
    ],
)  # fmt: skip
@pytest.mark.parametrize("count", [4, 1100])
def test_nothing_overflows(expression: str, count: int) -> None:
    x = np.linspace(-1000, 1000, count)
    found = gradexplain.explain(expression, at={"x": x}, grad="ones")
    assert np.isfinite(found.gradients["x"].value).all()
    assert found.check is not None
    if (expression, count) in _ROUNDED_TO_ONE:
        # PyTorch makes 0 of 1 - y where y rounds to 1, and the largest element is no larger.
        assert found.check.status == "convention"
        assert "every step is right" in found.check.reason
        assert found.gradients["x"].digits == 0 and abs(found.gradients["x"].value).max() < 1e-140
    else:
        agrees(found)


def test_cross_entropy_of_large_scores() -> None:
    for rows in (2, 2000):
        scores = np.tile([1000.0, 0.0, -1000.0], (rows, 1))
        target = np.arange(rows) % 3
        x = gradexplain.explain("F.cross_entropy(x, t)", at={"x": scores, "t": target})
        agrees(x)
        assert np.isfinite(x.output.value).all()


@pytest.mark.parametrize("name", ["erf", "erfc", "erfinv", "lgamma", "digamma"])
def test_special_functions_in_float64(name: str) -> None:
    """The NumPy kernels, which NumPy itself does not have, against mpmath's."""
    points = np.concatenate([np.linspace(-0.999, 0.999, 200), [1 - 1e-12, 1e-300]])
    if name != "erfinv":
        points = np.concatenate([points, np.linspace(-30.3, 60, 200)])
    x = sympy.Indexed(
        sympy.IndexedBase(sympy.Symbol("x", real=True)), sympy.Symbol("i", integer=True)
    )
    formula = build({"digamma": "polygamma(0, x)"}.get(name, f"{name}(x)"), {"x": x})
    found = {}
    for exact in (True, False):
        value = to_exact(points) if exact else points
        pair = value, np.abs(points)
        evaluator = Evaluator(lambda _, p=pair: p, {x.indices[0]: points.size}, exact=exact)
        found[exact] = to_float(evaluator.value(formula, x.indices, (points.size,))[0])
    np.testing.assert_allclose(found[False], found[True], rtol=3e-13, atol=1e-14)


# -- the records ---------------------------------------------------------------------------------

NAMED = [op for op in all_ops() if op.derivatives]


@pytest.mark.parametrize("op", NAMED, ids=lambda op: op.name)
def test_derivatives_are_sympys(op: Op) -> None:
    """A derivative written in a record is that of its formula."""
    names = named_function(op).names
    defaults = {p.name: p.default for p in op.parameters if p.name in names and not p.required}
    for point in (0.31, 0.77):
        arguments: dict[str, Any] = {}
        for place, name in enumerate(names):
            given = defaults.get(name)
            given = given if isinstance(given, (int, float)) else None
            optional = name in defaults and given is None
            value = None if optional else given if given is not None else point + 0.9 * place
            arguments[name] = value if value is None else sympy.Rational(repr(value))
        for name, text in op.derivatives.items():
            symbol = sympy.Symbol(name, real=True)
            at = arguments | {name: symbol}
            y = build(op.formula, at)
            mine, theirs = build(text, at | {"y": y}), derivative(y, symbol)
            values = [_number(e, symbol, float(arguments[name])) for e in (mine, theirs)]
            assert values[0] == pytest.approx(values[1], rel=1e-12), (op.name, name)


def _number(e: Any, symbol: Any, value: float) -> float:
    exact = to_exact(np.array(value)), np.array(abs(value))
    return float(to_float(Evaluator(lambda _: exact, {}, exact=True).value(e, (), ())[0]))


def test_no_operation_is_declared_twice() -> None:
    schemas = [op.schema for op in all_ops()]
    assert len(schemas) == len(set(schemas))


def test_every_spelling_is_pytorchs() -> None:
    homes = {
        "torch": torch, "Tensor": torch.Tensor, "F": torch.nn.functional, "linalg": torch.linalg,
        "special": torch.special,
    }  # fmt: skip
    for op in all_ops():
        for spelling in op.spellings:
            path = spelling.removeprefix("torch.") if spelling.count(".") > 1 else spelling
            home, _, name = path.rpartition(".")
            if home == "operator" or spelling == "torch.positive":
                continue
            assert hasattr(homes[home], name), spelling


# -- kinks, ties and singular points: PyTorch's numbers ------------------------------------------

INF = math.inf
KINKS: list[tuple[str, dict[str, list[float]]]] = [
    ("abs(x)", {"x": [0, -1, 2]}),
    ("sign(x)", {"x": [0, 1]}),
    ("relu(x)", {"x": [0, -1, 1]}),
    ("F.relu6(x)", {"x": [0, 6, 3]}),
    ("F.hardtanh(x)", {"x": [-1, 1, 0]}),
    ("F.hardsigmoid(x)", {"x": [-3, 3, 0]}),
    ("F.hardswish(x)", {"x": [-3, 3, 0]}),
    ("F.hardshrink(x)", {"x": [0.5, -0.5, 1]}),
    ("F.softshrink(x)", {"x": [0.5, -0.5, 1]}),
    ("F.threshold(x, 1, 20)", {"x": [0, 1, 2]}),
    ("F.leaky_relu(x)", {"x": [0, -1]}),
    ("F.elu(x, 0.5)", {"x": [0, -1]}),
    ("F.selu(x)", {"x": [0, -1]}),
    ("F.celu(x, 2)", {"x": [0, -1]}),
    ("F.prelu(x, w)", {"x": [0, -1], "w": [0.25]}),
    ("F.softplus(x, 1, 2)", {"x": [2, 3, 1]}),
    ("clamp(x, 0, 1)", {"x": [0, 1, 0.5, 2, -1]}),
    ("clamp(x, min=y)", {"x": [0, 1], "y": [0, 2]}),
    ("clamp(x, y, z)", {"x": [-1, 0, 0.5, 1, 2], "y": [0] * 5, "z": [1] * 5}),
    ("clamp(x, y, z)", {"x": [-1, 2, 7], "y": [5] * 3, "z": [1] * 3}),
    ("maximum(x, y)", {"x": [1, 2, 3], "y": [2, 2, 2]}),
    ("minimum(x, y)", {"x": [1, 2, 3], "y": [2, 2, 2]}),
    ("fmax(x, y)", {"x": [1, 2, 3], "y": [2, 2, 2]}),
    ("fmin(x, y)", {"x": [1, 2, 3], "y": [2, 2, 2]}),
    ("x.amax()", {"x": [1, 3, 3]}),
    ("x.amin(0)", {"x": [1, 1, 3]}),
    ("x.max()", {"x": [1, 3, 3]}),
    ("x.max(0)[0]", {"x": [1, 3, 3]}),
    ("x.min(dim=0).values", {"x": [1, 1, 3]}),
    ("x.median()", {"x": [1, 2, 2, 3, 2]}),
    ("x.cummax(0)[0]", {"x": [1, 3, 3, 2]}),
    ("x.cummin(0)[0]", {"x": [3, 1, 1, 2]}),
    ("norm(x)", {"x": [0, 0]}),
    ("norm(x, 1)", {"x": [0, 1]}),
    ("norm(x, inf)", {"x": [3, -3, 1]}),
    ("norm(x, -inf)", {"x": [1, -1, 2]}),
    ("norm(x, 0.5)", {"x": [0, 1, 4]}),
    ("norm(x, 1.5)", {"x": [0, 0]}),
    ("norm(x, 3)", {"x": [0, 0]}),
    ("F.normalize(x, dim=0)", {"x": [0, 0]}),
    ("sqrt(x)", {"x": [0, 1]}),
    ("rsqrt(x)", {"x": [0, 1]}),
    ("1/x", {"x": [0, 1]}),
    ("log(x)", {"x": [0, 1]}),
    ("x**0.5", {"x": [0, 1]}),
    ("x**0", {"x": [0, 1]}),
    ("x**1", {"x": [0]}),
    ("x**2", {"x": [0, -1]}),
    ("x**y", {"x": [0, 0, 2], "y": [2, 1, 0]}),
    ("0**x", {"x": [2, 1]}),
    ("atan2(x, y)", {"x": [0], "y": [0]}),
    ("hypot(x, y)", {"x": [0], "y": [0]}),
    ("xlogy(x, y)", {"x": [0, 0, 1], "y": [2, 3, 1]}),
    ("copysign(x, y)", {"x": [0, -1], "y": [1, 2]}),
    ("frac(x)", {"x": [1, -1, 0.5]}),
    ("fmod(x, 2)", {"x": [2, 4, 1]}),
    ("remainder(x, y)", {"x": [2, -4, 1], "y": [2, 2, 3]}),
    ("sinc(x)", {"x": [0, 1]}),
    ("asin(x)", {"x": [1, 0]}),
    ("acosh(x)", {"x": [1, 2]}),
    ("erfinv(x)", {"x": [1, 0]}),
    ("lgamma(x)", {"x": [0, 1]}),
    ("logit(x)", {"x": [0, 0.5]}),
    ("logit(x, 0.1)", {"x": [0.1, 0.9, 0.05]}),
    ("std(x)", {"x": [2, 2]}),
    ("var(x)", {"x": [2, 2]}),
    ("prod(x)", {"x": [0, 2, 0]}),
    ("prod(x)", {"x": [0, 2, 3]}),
    ("cumprod(x, 0)", {"x": [2, 0, 3, 0]}),
    ("dist(x, y)", {"x": [1, 1], "y": [1, 1]}),
    ("dist(x, y, 1)", {"x": [1, 1], "y": [1, 2]}),
    ("F.l1_loss(x, y)", {"x": [1, 1], "y": [1, 2]}),
    ("F.huber_loss(x, y)", {"x": [1, -1, 0], "y": [0, 0, 0]}),
    ("F.smooth_l1_loss(x, y)", {"x": [1, -1, 0], "y": [0, 0, 0]}),
    ("F.hinge_embedding_loss(x, [1, -1, -1])", {"x": [1, 1, 0.5]}),
    ("F.margin_ranking_loss(x, y, [1, -1, -1])", {"x": [1, 1, 0.5], "y": [1, 1, 1]}),
    ("F.binary_cross_entropy(x, [1.0, 0.0, 0.5])", {"x": [0, 1, 0.3]}),
]


@pytest.mark.parametrize(("expression", "at"), KINKS, ids=[str(case) for case in KINKS])
def test_kinks_have_pytorchs_numbers(expression: str, at: dict[str, list[float]]) -> None:
    x = gradexplain.explain(expression, at=at, grad="ones")
    if any(np.isfinite(found.value).any() for found in x.gradients.values()):
        agrees(x)
    else:  # nan on all routes: nothing that could agree
        assert x.check is not None
        assert (x.check.status, x.check.differences) == ("convention", [])
        for found in x.gradients.values():
            assert found.torch is not None and np.isnan(found.torch).all()


def test_a_kink_is_told() -> None:
    def notes(expression: str, values: list[float]) -> str:
        x = gradexplain.explain(expression, at={"x": values}, grad="ones")
        return " ".join(note.text for note in x.notes)

    assert "shares the gradient evenly" in notes("x.amax()", [1, 3, 3])
    assert "shares the gradient evenly" not in notes("x.amax()", [1, 2, 3])
    assert "slope 1" in notes("clamp(x, 0, 1)", [0, 0.5])
    assert "detach takes the value out of the graph" in notes("x*x.detach()", [1, 2])
    assert "derivative is 0" in notes("x*floor(x)", [1, 2])
    assert "1/6 rounded to single precision" in notes("F.hardsigmoid(x)", [1, 2])


def test_where_takes_pytorchs_nan_for_a_convention() -> None:
    x = gradexplain.explain("where(x > 0, log(x), 0)", at={"x": [0, 1]}, grad="ones")
    assert x.check is not None and x.check.status == "convention"
    torch_gradient = x.gradients["x"].torch
    assert torch_gradient is not None and np.isnan(torch_gradient[0])
    assert x.gradients["x"].value.tolist() == [0, 1]


# -- formulas ------------------------------------------------------------------------------------

FORMULAS = {
    "sigmoid(x[3])": "∂y[i]/∂x[j] = y[i]·(1 − y[i])·δ(i,j)",
    "tanh(x[3])": "∂y[i]/∂x[j] = (1 − y[i]²)·δ(i,j)",
    "softmax(x[3], 0)": "∂y[i]/∂x[j] = y[i]·(δ(i,j) − y[j])",
    "log_softmax(x[3], 0)": "∂y[i]/∂x[j] = δ(i,j) − p[j]",
    "logsumexp(x[3], 0)": "∂y/∂x[j] = p[j]",
    "norm(x[3])": "∂y/∂x[j] = x[j]/y",
    "clamp(x[3], 1, 2)": "∂y[i]/∂x[j] = [1 ≤ x[i] ≤ 2]·δ(i,j)",
    "x[3].amax()": "∂y/∂x[j] = [x[j] = y]/Σ_p [x[p] = y]",
    "x[2,3].max(1)[0]": "∂y[i]/∂x[j,l] = δ(idx[i],l)·δ(i,j)",
    "x[3].var()": "∂y/∂x[j] = 2·(x[j] − μ)/(N − 1)",
    "cumsum(x[3], 0)": "∂y[i]/∂x[j] = [j ≤ i]",
    "F.mse_loss(x[3], [1, 2, 4])": "∂y/∂x[j] = 2·(x[j] − t1[j])/3",
    "F.normalize(x[3], dim=0)": "∂y[i]/∂x[j] = (δ(i,j) − y[j]·y[i]·[n[0] > 1e-12])/n[0]",
}


@pytest.mark.parametrize(("text", "formula"), FORMULAS.items(), ids=FORMULAS)
def test_jacobians_read_like_a_textbooks(text: str, formula: str) -> None:
    assert explained(text, grad="ones", check=False).jacobian["x"].text == formula


def test_gradients_read_like_a_textbooks() -> None:
    def gradient(text: str) -> gradexplain.Gradient:
        return explained(text, grad="ones", check=False).gradients["x"]

    loss = gradient("F.cross_entropy(x[2,3], [2, 0])")
    assert loss.text == "x.grad[j,l] = v·(p[j,l] − δ(index[j],l))/2"
    assert loss.where[-1] == "p[j,l] = exp(x[j,l])/Σ_q exp(x[j,q])"
    norm = gradient("F.layer_norm(x[2,3], (3,))")
    assert (
        norm.text == "x.grad[j,l] = (3·v[j,l] − x̂[j,l]·Σ_k v[j,k]·x̂[j,k] − Σ_k v[j,k])/(3·σ[j,0])"
    )


# -- broadcasting and errors ---------------------------------------------------------------------


@pytest.mark.parametrize("shapes", [((2, 1), (3,)), ((), (2, 3)), ((2, 3), (1, 1)), ((1,), (4,))])
@pytest.mark.parametrize(
    "name",
    ["add", "mul", "div", "pow", "atan2", "maximum", "fmin", "logaddexp", "hypot", "xlogy",
     "F.mse_loss", "F.huber_loss"],
)  # fmt: skip
def test_broadcasting(name: str, shapes: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    call = f"{name}(x, y, reduction='none')" if name.startswith("F.") else f"{name}(x, y)"
    x = gradexplain.explain(call, shapes={"x": shapes[0], "y": shapes[1]}, grad="ones")
    # PyTorch's warning is a note; its own line would name this program's.
    assert [n.kind for n in x.notes if n.kind == "broadcast loss"] == ["broadcast loss"] * (
        "F." in name
    )
    agrees(x)


ERRORS = {
    "narrow(x[], 0, 0, 1)": "narrow() cannot be applied to a 0-dim tensor.",
    "cross(x[], y[], dim=0)": "cross needs size 3 in dimension 0",
    "x[2,3].sum(dim=2)": "dimension out of range",
    "x[2,3].amax((0, 0))": "names a dimension twice",
    "softmax(x[3], dim=1)": "dimension out of range",
    "softmax(x[3], wrong=1)": "has no argument wrong=",
    "F.mse_loss(x[3], t[3], reduction='most')": "'most' is not a reduction",
    "F.cross_entropy(x[2,3], [2, 3])": "target 3 is out of bounds for 3 classes",
    "F.cross_entropy(x[2,3], [2])": "has the target shape (2,)",
    "F.nll_loss(x[2,3], t[3])": "integers",
    "F.layer_norm(x[2,3], (2,))": "is not the end of the input's shape",
    "F.layer_norm(x[2,3], (3,), w[2])": "weight must have shape (3,)",
    "F.batch_norm(x[2,3], None, None)": "needs running_mean and running_var",
    "F.batch_norm(x[1,3], None, None, training=True)": "more than one value per channel",
    "F.group_norm(x[2,3], 2)": "a multiple of it",
    "F.glu(x[3])": "must be even",
    "trace(x[3])": "trace takes a matrix",
    "torch.linalg.norm(x[2,3], 3, (0, 1))": "there is no matrix norm ord=3",
    "F.rrelu(x[3], training=True)": "random",
    "x[3] > 2": "integers or true/false",
}


@pytest.mark.parametrize(("text", "message"), ERRORS.items(), ids=ERRORS)
def test_errors_are_one_clear_message(text: str, message: str) -> None:
    with pytest.raises(GradexplainError) as caught:
        explained(text, grad="ones")
    assert message in str(caught.value)
    assert "remedy" in str(caught.value)


def test_a_coarse_kernel_of_pytorch_is_named_and_the_tolerance_stays() -> None:
    x = gradexplain.explain("F.hardsigmoid(x)", at={"x": 1.0})
    assert x.check is not None and x.check.status == "convention" and x.check.reason == COARSE
    found = x.gradients["x"]
    assert found.value == pytest.approx(1 / 6, rel=1e-15)
    assert found.torch == float(np.float32(1 / 6))
    assert found.tolerance < 1e-14
    assert "1/6 rounded to single precision" in x.notes[-1].text
    # Twenty times the kernel's error would be a mistake.
    difference = dataclasses.replace(x.check.differences[0], values=(1 / 6, 1 / 6 + 1e-7))
    assert not by_kernel(difference, 3e-8, "float64")


WEIGHTED = [
    f"F.{loss}, {'' if 'soft' in loss else 'weight=w, '}reduction='{reduction}'{more})"
    for reduction in ("none", "sum", "mean")
    for loss, more in (
        ("nll_loss(x, [2, 0, 1, 2]", ""),
        ("nll_loss(x, [2, 0, 1, 2]", ", ignore_index=1"),
        ("cross_entropy(x, [2, 0, 1, 2]", ""),
        ("cross_entropy(x, [2, 0, 1, 2]", ", ignore_index=1, label_smoothing=0.25"),
        ("binary_cross_entropy(x, t", ""),
        ("soft_margin_loss(x, w", ""),
    )
]


@pytest.mark.parametrize("text", WEIGHTED)
def test_what_pytorch_refuses_to_differentiate_is_right_and_said_to_be_unchecked(
    text: str,
) -> None:
    """By the weights of classes: held against central differences of PyTorch's own values."""
    source = np.random.default_rng(0)
    at = {"x": source.uniform(0.1, 0.9, (4, 3)), "w": source.uniform(0.5, 2, 3)}
    if "x, t" in text:
        at["t"] = source.uniform(0, 1, (4, 3))
    v = source.uniform(
        -1, 1, () if "none" not in text else (4, 3) if "t" in at or "soft" in text else 4
    )
    x = gradexplain.explain(text, at=at, grad=v)
    assert x.check is not None
    assert x.check.status == "cannot tell"
    assert x.check.reason.startswith("PyTorch itself refuses to differentiate this: ")

    def value(w: Any) -> float:
        call = text.replace("[2, 0, 1, 2]", "torch.tensor([2, 0, 1, 2])")
        if "binary" in text:
            call = call.replace("weight=w", "weight=w.expand(4, 3)")
        call = call.replace("(x, w,", "(x, w.expand(4, 3),")
        names = {name: torch.tensor(array) for name, array in at.items()} | {"w": torch.tensor(w)}
        names |= {"F": torch.nn.functional, "torch": torch}
        return float((eval(call, names).numpy() * v).sum())

    slope = [(value(at["w"] + h) - value(at["w"] - h)) / 2e-5 for h in np.eye(3) * 1e-5]
    assert np.allclose(x.gradients["w"].value, slope, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("x.sum(dtype=torch.float64)", "x.sum()"),
        ("torch.softmax(x, 0, torch.double)", "torch.softmax(x, 0)"),
        ("F.softmax(x, dim=0, _stacklevel=3)", "torch.softmax(x, 0)"),
        ("torch.tensor([1, 2], dtype=torch.float64)*x", "torch.tensor([1, 2])*x"),
        ("x[torch.tensor([1, 0], dtype=torch.long)]*x", "x[[1, 0]]*x"),
        ("x.to(torch.float64)**2", "x**2"),
        ("F.relu(x, False)", "F.relu(x)"),
        ("F.elu(2*x, 1.5, True)", "F.elu(2*x, 1.5)"),
        ("h = x - 1; k = F.relu(h, inplace=True); h*k", "h = F.relu(x - 1); h*h"),
        (
            "h = x - 1; F.relu(h[0], inplace=True) + h",
            "h = x - 1; r = F.relu(h[0]); r + cat([r[None], h[1:]])",
        ),
        ("h = 2*x; w = h.clone(); w[0] = 5; h*w", "h = 2*x; h*cat([5 + 0*h[:1], h[1:]])"),
        ("z = x.clone(); z.mul_(x); z", "x*x"),
        ("F.dropout(x, training=False)", "1*x"),
        ("x.reshape(1, 2).swapaxes(axis0=0, axis1=1)", "x.reshape(1, 2).T"),
        ("F.mse_loss(x, 3*x, size_average=None, reduce=None)", "F.mse_loss(x, 3*x)"),
        ("linalg.pinv(x.outer(x) + eye(2), 1e-15, True)", "inverse(x.outer(x) + eye(2))"),
    ],
)
def test_other_forms_of_a_call_are_the_same(text: str, same: str) -> None:
    at = {"x": np.array([0.5, 1.75])}
    shape = gradexplain.explain(same, at=at, grad=ONES).output.shape
    v = np.random.default_rng(1).uniform(-1, 1, shape)
    one, other = (gradexplain.explain(t, at=at, grad=v) for t in (text, same))
    assert one.check is not None
    assert one.check.status == "agree"
    assert one.output.value == pytest.approx(other.output.value, rel=1e-12)
    assert one.gradients["x"].value == pytest.approx(other.gradients["x"].value, rel=1e-12)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x.sum(dtype=torch.float32)", "`torch.float32` is not supported: the dtype is chosen"),
        (
            "F.relu(x, inplace=True)",
            "a leaf Variable that requires grad is being used in an in-place",
        ),
    ],
)
def test_forms_that_would_change_the_numbers_are_refused(text: str, message: str) -> None:
    with pytest.raises(GradexplainError, match=re.escape(message)):
        gradexplain.explain(text, at={"x": np.array([0.5, 1.75])}, grad=ONES)


@pytest.mark.parametrize("at", [[5e-14, 0.0], [0.3, 0.4]])
@pytest.mark.parametrize("expression", ["F.normalize(x, dim=0)", "F.normalize(x, p=3, dim=0)"])
def test_a_norm_below_eps_is_a_constant(expression: str, at: list[float]) -> None:
    agrees(gradexplain.explain(expression, at={"x": at}, grad=[1.0, 2.0]))


def test_the_catalogue_speaks_of_arguments_and_says_what_else_it_names() -> None:
    for entry in entries():
        texts = [entry.formula, *(text for _, text in entry.derivatives), *entry.where]
        known = {name.strip() for name in re.split(r"\W+", entry.signature)} | {"out"}
        known |= {line.partition(" = ")[0] for line in entry.where}
        for text in texts:
            for name in re.findall(r"([^\W\d]\w*)\[", text):
                base = re.sub(r"\d+$", "", name)
                assert name in known or base in known, (entry.name, text)


# -- numbers alone ---------------------------------------------------------------------------------


@pytest.mark.parametrize("family", sorted({op.family for op in all_ops()}))
def test_numbers_alone(family: str) -> None:
    """The first sample of each operation with inputs of shape (): PyTorch's gradient, or a message."""
    for op in (op for op in all_ops() if op.family == family):
        expression, shapes = sample(op.samples[0])
        *before, last = expression.split("; ")
        program = "; ".join([*before, f"y = {last}", "y.sum() + y.mean()"])
        try:
            x = gradexplain.explain(program, shapes=dict.fromkeys(shapes, ()))
        except GradexplainError as error:
            assert str(error)
            continue
        assert x.check is not None
        refused = x.check.reason.startswith("PyTorch itself refuses")
        assert x.check.status in ("agree", "convention") or refused, (program, x.check)
